/* What is known of a saved state without reading all of it. */
#pragma once

#include "daemon/sandbox/internal.h"

struct paused {
	int64_t left_ms;      /* of the sandbox's lifetime */
	uint32_t last_stream; /* of its agent's channel */
	char checksum[65];
	char engine[80]; /* that wrote it: no other is sure to read it */
};

/* The manifest of PAUSED/<id>. -EPROTO: there is none, or not a whole one. */
int paused_read(struct sandboxes *s, const char *id, struct paused *paused, struct error *err);
