/* epoll, edge-triggered: a watch is told once when its descriptor becomes ready and has to remember it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct loop {
	int epoll;
};

struct watch {
	void (*ready)(struct watch *watch, uint32_t events); /* NULL: nothing is watched */
	int fd;                                              /* owned; -1 when none */
};

int loop_init(struct loop *loop);
/* Takes the descriptor. 0, or -errno (the descriptor is closed). */
int loop_add(struct loop *loop, struct watch *watch, int fd, uint32_t events, void (*ready)(struct watch *, uint32_t));
/* Hear of these events only from now on; one that is there already is told at once. */
void loop_change(struct loop *loop, struct watch *watch, uint32_t events);
/* Close the descriptor and hear no more of it. The watch's memory must live until loop_wait returns. */
void loop_drop(struct watch *watch);
/* Wait at most timeout_ms (-1: for ever) and call what became ready. */
void loop_wait(struct loop *loop, int timeout_ms);
