/* OPEN_READ, OPEN_WRITE, STAT: regular files of the sandbox. */
#pragma once

#include "agent/agent.h"

int files_open_read(struct agent *a, struct stream *stream, const struct request *r, struct error *err);
int files_open_write(struct agent *a, struct stream *stream, const struct request *r, struct error *err);
int files_stat(struct agent *a, struct stream *stream, const struct request *r, struct error *err);
void files_data(struct agent *a, struct stream *stream, const void *data, size_t size);
void files_end(struct agent *a, struct stream *stream);
void files_close(struct agent *a, struct stream *stream); /* CLOSE from the host: ERROR ECANCELED, a write is undone */
