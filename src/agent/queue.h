/* Bytes from the host that their receiver cannot take yet. Bounded by the window of the stream. */
#pragma once

#include <stddef.h>

struct queue {
	unsigned char *data;
	size_t start, end, room;
};

/* 0 or -ENOMEM. */
int queue_add(struct queue *q, const void *data, size_t size);
void queue_drop(struct queue *q, size_t size); /* the first size bytes */
void queue_free(struct queue *q);

static inline size_t queue_size(const struct queue *q)
{
	return q->end - q->start;
}
