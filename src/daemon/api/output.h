/* What a command wrote, within bounds, and as text that JSON can hold. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

#define OUTPUT_HALF_MAX ((size_t)4 << 20) /* the first and the last so many bytes of a stream are kept */

struct output {
	struct buf first, last; /* last: a ring once it is full */
	size_t at;              /* where the ring's oldest byte is */
	bool truncated;
};

/* 0 or -ENOMEM. */
int output_add(struct output *output, const char *data, size_t size);
/* Bytes that are not UTF-8 become U+FFFD. NULL: no memory. */
json_t *output_json(const struct output *output);
void output_free(struct output *output);

/*
 * One stream's pieces as text: a character that a piece cuts in two waits for the next. Returns malloc'ed text (perhaps
 * empty), NULL: no memory. size 0: the end, what waits becomes U+FFFD.
 */
struct output_tail {
	char bytes[4];
	size_t size;
};
char *output_piece(struct output_tail *tail, const char *data, size_t size, size_t *length);
