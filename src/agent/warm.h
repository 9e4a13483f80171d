/* WARM: bring what most commands need into the page cache, before a template is stopped. */
#pragma once

/* To be called in a process of its own. Returns an errno. */
int warm_base(void);
