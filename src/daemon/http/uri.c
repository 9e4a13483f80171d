#include "daemon/http/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/str.h"

#define TARGET_MAX 16384

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static char *refuse(char *text)
{
	free(text);
	errno = EINVAL;
	return NULL;
}

/* Decode into a new string; NULL with errno EINVAL for what no honest client sends. */
static char *decode(const char *from, size_t size, bool plus)
{
	char *to = malloc(size + 1);
	size_t used = 0;
	if (!to)
		return NULL;
	for (size_t i = 0; i < size; i++) {
		char c = from[i];
		if (c == '%') {
			int high = size - i > 2 ? hex_value(from[i + 1]) : -1;
			int low = size - i > 2 ? hex_value(from[i + 2]) : -1;
			if (high < 0 || low < 0 || (high == 0 && low == 0))
				return refuse(to);
			c = (char)(high << 4 | low);
			i += 2;
		} else if (c == '+' && plus) {
			c = ' ';
		} else if ((unsigned char)c <= ' ' || (unsigned char)c >= 0x7f) {
			return refuse(to);
		}
		to[used++] = c;
	}
	to[used] = '\0';
	return str_is_utf8(to, used) ? to : refuse(to);
}

static int undecoded(const char *why, struct error *err)
{
	return errno == ENOMEM ? error_set(err, ENOMEM, "out of memory") : error_set(err, EINVAL, "%s", why);
}

static int add_parameter(struct http_request *request, const char *text, size_t size, struct error *err)
{
	const char *equals = memchr(text, '=', size);
	size_t name_size = equals ? (size_t)(equals - text) : size;
	if (name_size == 0)
		return error_set(err, EINVAL, "query: a parameter has no name");
	if (request->query_count == HTTP_QUERY_MAX)
		return error_set(err, EINVAL, "query: more than %d parameters", HTTP_QUERY_MAX);

	_cleanup_free_ char *name = decode(text, name_size, true);
	_cleanup_free_ char *value = equals ? decode(equals + 1, size - name_size - 1, true) : strdup("");
	if (!name || !value)
		return undecoded("query: not valid percent-encoded UTF-8", err);
	for (size_t i = 0; i < request->query_count; i++)
		if (strcmp(request->query[i].name, name) == 0)
			return error_set(err, EINVAL, "query: %.64s stands twice", name);
	request->query[request->query_count++] = (struct http_pair){ name, value };
	name = value = NULL;
	return 0;
}

static int parse_query(struct http_request *request, const char *query, struct error *err)
{
	request->query = calloc(HTTP_QUERY_MAX, sizeof(*request->query));
	if (!request->query)
		return error_set(err, ENOMEM, "out of memory");
	while (*query) {
		size_t size = strcspn(query, "&");
		if (size > 0) {
			int r = add_parameter(request, query, size, err);
			if (r < 0)
				return r;
		}
		query += size;
		if (*query == '&')
			query++;
	}
	return 0;
}

int uri_parse(const char *raw, struct http_request *request, struct error *err)
{
	if (strnlen(raw, TARGET_MAX + 1) > TARGET_MAX)
		return error_set(err, EINVAL, "the request's target is longer than %d bytes", TARGET_MAX);
	if (raw[0] != '/')
		return error_set(err, EINVAL, "the request's target must start with /");
	size_t size = strcspn(raw, "?");
	request->path = decode(raw, size, false);
	if (!request->path)
		return undecoded("the path is not valid percent-encoded UTF-8", err);
	return raw[size] == '?' ? parse_query(request, raw + size + 1, err) : 0;
}
