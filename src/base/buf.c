#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_free(struct buf *buf)
{
	free(buf->data);
	*buf = (struct buf){ 0 };
}

static int fail(struct buf *buf, int code)
{
	buf->failed = true;
	return -code;
}

void *buf_room(struct buf *buf, size_t size)
{
	size_t max = buf->max ? buf->max : BUF_MAX_DEFAULT;

	if (buf->failed)
		return NULL;
	if (size > max || buf->size > max - size) {
		fail(buf, EFBIG);
		return NULL;
	}
	size_t need = buf->size + size + 1;
	if (need > buf->room) {
		size_t room = buf->room ? buf->room : 64;
		while (room < need)
			room *= 2;
		char *data = realloc(buf->data, room);
		if (!data) {
			fail(buf, ENOMEM);
			return NULL;
		}
		buf->data = data;
		buf->room = room;
	}
	return buf->data + buf->size;
}

void buf_grown(struct buf *buf, size_t size)
{
	buf->size += size;
	buf->data[buf->size] = '\0';
}

int buf_add(struct buf *buf, const void *data, size_t size)
{
	void *to = buf_room(buf, size);
	if (!to)
		return -EFBIG;
	if (size > 0)
		memcpy(to, data, size);
	buf_grown(buf, size);
	return 0;
}

int buf_adds(struct buf *buf, const char *text)
{
	return buf_add(buf, text, strlen(text));
}

int buf_addf(struct buf *buf, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int need = vsnprintf(NULL, 0, format, args);
	va_end(args);
	if (need < 0)
		return fail(buf, EINVAL);

	char *to = buf_room(buf, (size_t)need);
	if (!to)
		return -EFBIG;
	va_start(args, format);
	vsnprintf(to, (size_t)need + 1, format, args);
	va_end(args);
	buf->size += (size_t)need;
	return 0;
}

void buf_drop(struct buf *buf, size_t size)
{
	if (size > buf->size)
		size = buf->size;
	if (size == 0)
		return;
	memmove(buf->data, buf->data + size, buf->size - size);
	buf->size -= size;
	buf->data[buf->size] = '\0';
}

void buf_clear(struct buf *buf)
{
	buf->size = 0;
	buf->failed = false;
	if (buf->data)
		buf->data[0] = '\0';
}

const char *buf_text(const struct buf *buf)
{
	return buf->data ? buf->data : "";
}
