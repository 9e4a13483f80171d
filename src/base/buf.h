/* A growing run of bytes with a hard bound. Failure is sticky: after it, every append does nothing. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	char *data; /* malloc'ed; terminated by a NUL that size does not count; NULL while empty */
	size_t size;
	size_t room;
	size_t max;  /* most bytes it may hold; 0 means BUF_MAX_DEFAULT */
	bool failed; /* out of memory, or the bound was hit */
};

#define BUF_MAX_DEFAULT ((size_t)64 << 20)

void buf_free(struct buf *buf); /* releases and zeroes the structure */
#define _cleanup_buf_ __attribute__((cleanup(buf_free)))

/* Each returns 0, or -ENOMEM / -EFBIG when it failed now or before. */
int buf_add(struct buf *buf, const void *data, size_t size);
int buf_adds(struct buf *buf, const char *text);
int buf_addf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Room for size more bytes at the end; returns where they go (call buf_grown with what was used) or NULL. */
void *buf_room(struct buf *buf, size_t size);
void buf_grown(struct buf *buf, size_t size);
/* Drop the first size bytes (at most buf->size). */
void buf_drop(struct buf *buf, size_t size);
/* Empty it, keep the memory. Clears failed. */
void buf_clear(struct buf *buf);
/* The text, never NULL; valid until the next change. */
const char *buf_text(const struct buf *buf);
