/* OPEN_EXEC: a command of the sandbox and its streams. */
#pragma once

#include "agent/agent.h"

int command_open(struct agent *a, struct stream *stream, const struct request *r, struct error *err);
void command_data(struct agent *a, struct stream *stream, const void *data, size_t size);
void command_end(struct agent *a, struct stream *stream); /* no more standard input */
void command_control(struct agent *a, struct stream *stream, const struct request *r);
