/* Requests that take long: SYNC, FREEZE, THAW, GROW, WARM. Each runs in a process of its own, so that the loop goes on. */
#pragma once

#include "agent/agent.h"

/* As session_ops.request. */
int work_request(struct agent *a, struct stream *stream, const struct request *r, struct error *err);
/* A new HELLO: nobody waits for the work under way, and the file system thaws. */
void work_forget(struct agent *a);
