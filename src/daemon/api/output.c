#include "daemon/api/output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/str.h"

static int add_last(struct output *output, const char *data, size_t size)
{
	struct buf *last = &output->last;

	if (size >= OUTPUT_HALF_MAX) {
		output->truncated |= last->size > 0 || size > OUTPUT_HALF_MAX;
		data += size - OUTPUT_HALF_MAX;
		size = OUTPUT_HALF_MAX;
		last->size = 0;
		output->at = 0;
	}
	size_t room = OUTPUT_HALF_MAX - last->size, part = size < room ? size : room;
	if (part > 0 && buf_add(last, data, part) < 0)
		return -ENOMEM;
	/* Full: the rest overwrites the oldest bytes. */
	for (data += part, size -= part; size > 0; data += part, size -= part) {
		part = OUTPUT_HALF_MAX - output->at < size ? OUTPUT_HALF_MAX - output->at : size;
		memcpy(last->data + output->at, data, part);
		output->at = (output->at + part) % OUTPUT_HALF_MAX;
		output->truncated = true;
	}
	return 0;
}

int output_add(struct output *output, const char *data, size_t size)
{
	size_t room = OUTPUT_HALF_MAX - output->first.size, part = size < room ? size : room;

	if (part > 0 && buf_add(&output->first, data, part) < 0)
		return -ENOMEM;
	return size > part ? add_last(output, data + part, size - part) : 0;
}

json_t *output_json(const struct output *output)
{
	_cleanup_buf_ struct buf all = { .max = 2 * OUTPUT_HALF_MAX };
	size_t length;

	buf_add(&all, output->first.data, output->first.size);
	if (output->last.size > 0) {
		buf_add(&all, output->last.data + output->at, output->last.size - output->at);
		buf_add(&all, output->last.data, output->at);
	}
	_cleanup_free_ char *text = all.failed ? NULL : str_to_utf8(buf_text(&all), all.size, &length);
	return text ? json_stringn_nocheck(text, length) : NULL;
}

void output_free(struct output *output)
{
	buf_free(&output->first);
	buf_free(&output->last);
}

/* How many bytes at the end are the beginning of a character that could still become whole. */
static size_t open_end(const char *data, size_t size)
{
	for (size_t back = 1; back <= 3 && back <= size; back++) {
		unsigned char c = (unsigned char)data[size - back];
		if ((c & 0xc0) == 0x80)
			continue;
		size_t need = c >= 0xf0 && c <= 0xf4 ? 4 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xc2 && c < 0xe0 ? 2 : 1;
		return need > back ? back : 0;
	}
	return 0;
}

char *output_piece(struct output_tail *tail, const char *data, size_t size, size_t *length)
{
	_cleanup_buf_ struct buf all = { 0 };
	size_t keep = 0;

	buf_add(&all, tail->bytes, tail->size);
	buf_add(&all, data, size);
	if (all.failed)
		return NULL;
	if (size > 0)
		keep = open_end(all.data, all.size);
	tail->size = keep;
	if (keep > 0)
		memcpy(tail->bytes, all.data + all.size - keep, keep);
	return str_to_utf8(buf_text(&all), all.size - keep, length);
}
