#include "agent/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int queue_add(struct queue *q, const void *data, size_t size)
{
	if (q->room - q->end < size && q->start > 0) {
		memmove(q->data, q->data + q->start, q->end - q->start);
		q->end -= q->start;
		q->start = 0;
	}
	if (q->room - q->end < size) {
		unsigned char *grown = realloc(q->data, q->end + size);
		if (!grown)
			return -ENOMEM;
		q->data = grown;
		q->room = q->end + size;
	}
	memcpy(q->data + q->end, data, size);
	q->end += size;
	return 0;
}

void queue_drop(struct queue *q, size_t size)
{
	q->start += size;
	if (q->start == q->end)
		queue_free(q); /* standard input comes in bursts: do not hold memory in between */
}

void queue_free(struct queue *q)
{
	free(q->data);
	*q = (struct queue){ 0 };
}
