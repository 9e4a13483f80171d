/*
 * Makes one allocation of a process fail: N10 of the attack list.
 *
 * alloc.c replaces malloc and its like. Linked into a test program, or as a library that LD_PRELOAD brings into akirad
 * and akira-launch; then the environment's AKIRA_FAIL_ALLOC names a file of ALLOC_FILE bytes that is mapped by both
 * sides, so that the test says at any moment which allocation shall fail, and sees what has happened.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

struct alloc_control {
	_Atomic int64_t count;   /* allocations that were asked for so far */
	_Atomic int64_t fail_at; /* the one of this number fails; 0: none */
	_Atomic int64_t burst;   /* and as many after it */
	_Atomic int64_t failed;  /* how many have failed */
	_Atomic int64_t live;    /* given out and not yet given back */
	int64_t unused[3];
};

/* A file holds two of them: akirad's and akira-launch's. Any other program that inherits the library is left alone. */
#define ALLOC_FILE (2 * sizeof(struct alloc_control))

extern struct alloc_control *alloc_control;
