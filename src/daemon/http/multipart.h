/*
 * multipart/form-data (RFC 7578, RFC 2046 section 5.1), read as it comes. No body is kept: data is passed on at once,
 * and what is held back is at most one delimiter or one block of part headers.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/error.h"

#define MULTIPART_PARTS_MAX 16
#define MULTIPART_HEADERS_MAX 8192 /* bytes of one part's headers */
#define MULTIPART_NAME_MAX 256

struct multipart_part {
	char name[MULTIPART_NAME_MAX];
	bool has_filename;
};

/* Each returns 0, or -errno which multipart_feed hands on (err filled by the callback). */
struct multipart_events {
	int (*begin)(void *context, const struct multipart_part *part, struct error *err);
	int (*data)(void *context, const char *data, size_t size, struct error *err);
	int (*end)(void *context, struct error *err);
	void *context;
};

struct multipart {
	struct multipart_events events;
	char delimiter[80]; /* CR LF -- boundary */
	size_t delimiter_size;
	enum { MULTIPART_START, MULTIPART_AFTER, MULTIPART_HEADERS, MULTIPART_DATA, MULTIPART_END } state;
	unsigned parts;
	struct buf held;
};

/* content_type: the request's. -ENOTSUP: not multipart/form-data (415). -EINVAL: no usable boundary. */
int multipart_open(struct multipart *multipart, const char *content_type, const struct multipart_events *events,
		   struct error *err);
/* -EINVAL: malformed. After a failure only multipart_close may be called. */
int multipart_feed(struct multipart *multipart, const char *data, size_t size, struct error *err);
/* The body is over: was the closing delimiter there? */
int multipart_finish(const struct multipart *multipart, struct error *err);
void multipart_close(struct multipart *multipart);
