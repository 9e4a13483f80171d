/*
 * JSON as text. jansson's own json_dumps (2.14) goes on when memory runs out in the middle of an object's name, and gives
 * a text with a hole, which would be stored or sent as if it were good.
 */
#pragma once

#include <jansson.h>

#include "base/buf.h"

static inline int json_text_add(const char *bytes, size_t size, void *buf)
{
	return buf_add(buf, bytes, size) < 0 ? -1 : 0;
}

/* malloc'ed and whole; NULL without memory, and for NULL. flags: jansson's JSON_COMPACT and so on. */
static inline char *json_text(const json_t *json, size_t flags)
{
	struct buf buf = { .max = SIZE_MAX / 4 };

	if (json_dump_callback(json, json_text_add, &buf, flags) == 0 && !buf.failed)
		return buf.data;
	buf_free(&buf);
	return NULL;
}
