/*
 * The seccomp filters of a VM process, compiled once at the launcher's start into plain BPF: the jail's child and the
 * shim then install them with one system call. What is not allowed kills the process, unless the table says that
 * the program copes with an error. See docs in filter.c for the two stages.
 */
#pragma once

#include <stddef.h>

#include "base/error.h"

enum filter_stage {
	FILTER_START, /* from exec until the main loop runs */
	FILTER_RUN,   /* for good: no exec, no new files, no settings */
	FILTER_STAGES
};

struct filter {
	void *code;  /* struct sock_filter[], malloc'ed */
	size_t size; /* bytes */
};

int filter_build(enum filter_stage stage, struct filter *filter, struct error *err);
void filter_free(struct filter *filter);
/* For the calling thread; no_new_privs must be set. 0 or -errno. */
int filter_install(const struct filter *filter);
