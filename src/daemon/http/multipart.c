#include "daemon/http/multipart.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"

#define FEED_MAX 65536 /* taken at a time, so that the held part stays small */

/*
 * The value of parameter `name` in "type; a=b; c=\"d\"" into to. 0, -ENOENT, or -EINVAL (malformed, too long).
 * Backslash escapes as RFC 9110; browsers' %22 is left as it is.
 */
static int parameter(const char *text, const char *name, char *to, size_t room)
{
	const char *p = text + strcspn(text, ";");

	while (*p == ';') {
		p += 1 + strspn(p + 1, " \t");
		size_t length = strcspn(p, "=; \t");
		bool wanted = length == strlen(name) && strncasecmp(p, name, length) == 0;
		p += length;
		if (*p != '=')
			return *p == '\0' ? -ENOENT : -EINVAL;
		p++;
		size_t used = 0;
		bool quoted = *p == '"';
		p += quoted;
		while (*p && (quoted ? *p != '"' : *p != ';' && *p != ' ' && *p != '\t')) {
			if (quoted && *p == '\\' && p[1])
				p++;
			if (wanted && used + 1 >= room)
				return -EINVAL;
			if (wanted)
				to[used++] = *p;
			p++;
		}
		if (quoted && *p++ != '"')
			return -EINVAL;
		if (wanted) {
			to[used] = '\0';
			return 0;
		}
		p += strspn(p, " \t");
	}
	return *p == '\0' ? -ENOENT : -EINVAL;
}

static bool is_boundary(const char *text)
{
	size_t size = strlen(text);
	if (size < 1 || size > 70 || text[size - 1] == ' ')
		return false;
	for (size_t i = 0; i < size; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("'()+_,-./:=? ", text[i]))
			return false;
	return true;
}

int multipart_open(struct multipart *multipart, const char *content_type, const struct multipart_events *events,
		   struct error *err)
{
	char boundary[72];

	*multipart = (struct multipart){ .events = *events };
	if (!content_type || strncasecmp(content_type, "multipart/form-data", 19) != 0 ||
	    !strchr("; \t", content_type[19]))
		return error_set(err, ENOTSUP, "content-type must be multipart/form-data");
	if (parameter(content_type, "boundary", boundary, sizeof(boundary)) < 0 || !is_boundary(boundary))
		return error_set(err, EINVAL, "content-type has no usable boundary");
	int size = snprintf(multipart->delimiter, sizeof(multipart->delimiter), "\r\n--%s", boundary);
	multipart->delimiter_size = (size_t)size;
	multipart->held.max = FEED_MAX + MULTIPART_HEADERS_MAX + sizeof(multipart->delimiter);
	return 0;
}

/* One header line of a part; only content-disposition matters. */
static int part_header(const char *line, struct multipart_part *part, bool *found, struct error *err)
{
	char ignored[4096];

	if (strncasecmp(line, "content-disposition:", 20) != 0)
		return 0;
	line += 20 + strspn(line + 20, " \t");
	if (*found || strncasecmp(line, "form-data", 9) != 0 || !strchr("; \t", line[9]))
		return error_set(err, EINVAL, "multipart: content-disposition must be form-data, once");
	if (parameter(line, "name", part->name, sizeof(part->name)) < 0)
		return error_set(err, EINVAL, "multipart: a part has no usable name");
	int r = parameter(line, "filename", ignored, sizeof(ignored));
	if (r < 0 && r != -ENOENT)
		return error_set(err, EINVAL, "multipart: filename is malformed or too long");
	part->has_filename = r == 0;
	*found = true;
	return 0;
}

static int part_headers(struct multipart *multipart, char *text, size_t size, struct error *err)
{
	struct multipart_part part = { 0 };
	bool found = false;

	if (!str_is_utf8(text, size))
		return error_set(err, EINVAL, "multipart: a part's headers are not UTF-8");
	for (char *line = text; line < text + size;) {
		char *end = strstr(line, "\r\n");
		if (!end)
			break;
		*end = '\0';
		int r = part_header(line, &part, &found, err);
		if (r < 0)
			return r;
		line = end + 2;
	}
	if (!found)
		return error_set(err, EINVAL, "multipart: a part has no content-disposition");
	return multipart->events.begin(multipart->events.context, &part, err);
}

/* Each step: 1 = go on, 0 = needs more bytes, -errno. */
static int step_start(struct multipart *multipart, struct error *err)
{
	const char *delimiter = multipart->delimiter + 2; /* no CR LF before the first */
	size_t size = multipart->delimiter_size - 2;

	if (multipart->held.size < size)
		return 0;
	if (memcmp(multipart->held.data, delimiter, size) != 0)
		return error_set(err, EINVAL, "multipart: the body does not begin with its boundary");
	buf_drop(&multipart->held, size);
	multipart->state = MULTIPART_AFTER;
	return 1;
}

static int step_after(struct multipart *multipart, struct error *err)
{
	if (multipart->held.size < 2)
		return 0;
	bool last = memcmp(multipart->held.data, "--", 2) == 0;
	if (!last && memcmp(multipart->held.data, "\r\n", 2) != 0)
		return error_set(err, EINVAL, "multipart: malformed boundary");
	buf_drop(&multipart->held, 2);
	if (!last && multipart->parts++ == MULTIPART_PARTS_MAX)
		return error_set(err, EINVAL, "multipart: more than %d parts", MULTIPART_PARTS_MAX);
	multipart->state = last ? MULTIPART_END : MULTIPART_HEADERS;
	return 1;
}

static int step_headers(struct multipart *multipart, struct error *err)
{
	struct buf *held = &multipart->held;
	char *end = held->size ? memmem(held->data, held->size, "\r\n\r\n", 4) : NULL;

	if ((end ? (size_t)(end - held->data) : held->size) > MULTIPART_HEADERS_MAX)
		return error_set(err, EINVAL, "multipart: a part's headers are longer than %d bytes",
				 MULTIPART_HEADERS_MAX);
	if (!end)
		return 0;
	size_t size = (size_t)(end - held->data) + 2;
	char after = held->data[size];
	held->data[size] = '\0';
	int r = part_headers(multipart, held->data, size, err);
	held->data[size] = after;
	if (r < 0)
		return r;
	buf_drop(held, size + 2);
	multipart->state = MULTIPART_DATA;
	return 1;
}

static int pass_on(struct multipart *multipart, size_t size, struct error *err)
{
	if (size == 0)
		return 0;
	int r = multipart->events.data(multipart->events.context, multipart->held.data, size, err);
	buf_drop(&multipart->held, size);
	return r;
}

static int step_data(struct multipart *multipart, struct error *err)
{
	struct buf *held = &multipart->held;

	char *at = held->size ? memmem(held->data, held->size, multipart->delimiter, multipart->delimiter_size) : NULL;
	if (!at) {
		size_t keep = multipart->delimiter_size - 1;
		return pass_on(multipart, held->size > keep ? held->size - keep : 0, err);
	}
	int r = pass_on(multipart, (size_t)(at - held->data), err);
	if (r < 0)
		return r;
	buf_drop(held, multipart->delimiter_size);
	multipart->state = MULTIPART_AFTER;
	r = multipart->events.end(multipart->events.context, err);
	return r < 0 ? r : 1;
}

static int step(struct multipart *multipart, struct error *err)
{
	switch (multipart->state) {
	case MULTIPART_START: return step_start(multipart, err);
	case MULTIPART_AFTER: return step_after(multipart, err);
	case MULTIPART_HEADERS: return step_headers(multipart, err);
	case MULTIPART_DATA: return step_data(multipart, err);
	case MULTIPART_END: buf_clear(&multipart->held); return 0;
	}
	return error_set(err, EINVAL, "multipart: impossible state");
}

int multipart_feed(struct multipart *multipart, const char *data, size_t size, struct error *err)
{
	while (size > 0) {
		size_t part = size < FEED_MAX ? size : FEED_MAX;
		if (buf_add(&multipart->held, data, part) < 0)
			return error_set(err, ENOMEM, "out of memory");
		data += part;
		size -= part;
		int r;
		while ((r = step(multipart, err)) > 0)
			;
		if (r < 0)
			return r;
	}
	return 0;
}

int multipart_finish(const struct multipart *multipart, struct error *err)
{
	if (multipart->state == MULTIPART_END)
		return 0;
	return error_set(err, EINVAL, "multipart: the closing boundary is missing");
}

void multipart_close(struct multipart *multipart)
{
	buf_free(&multipart->held);
}
