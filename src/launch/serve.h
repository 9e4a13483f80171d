/* The requests of akirad: each message is decoded, done and answered before the next is read. */
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "launch/vm.h"

struct serve {
	int socket;
	struct vms vms;
	bool configured, net;
	int lock; /* held on run_dir/lock */
	char tag[8];
};

/* Take one message. False: akirad is gone, or the launcher cannot go on. */
bool serve_message(struct serve *s);
/* Once a second. */
void serve_tick(struct serve *s);
void serve_end(struct serve *s);
