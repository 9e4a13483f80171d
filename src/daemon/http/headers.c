#include "daemon/http/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/fd.h"
#include "base/str.h"

static bool is_token(const char *text, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c <= ' ' || c >= 0x7f || strchr("\"(),/:;<=>?@[\\]{}", c))
			return false;
	}
	return size > 0;
}

static bool is_value(const char *text, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		unsigned char c = (unsigned char)text[i];
		if ((c < ' ' && c != '\t') || c == 0x7f)
			return false;
	}
	return true;
}

int headers_add(struct http_request *request, const char *name, size_t name_size, const char *value, size_t value_size,
		struct error *err)
{
	if (!is_token(name, name_size))
		return error_set(err, EINVAL, "a header's name is not a token");
	if (!is_value(value ? value : "", value_size))
		return error_set(err, EINVAL, "header %.40s holds a control character", name);
	if (request->header_count == HTTP_HEADERS_MAX)
		return error_set(err, EFBIG, "more than %d headers", HTTP_HEADERS_MAX);
	if (!request->headers)
		request->headers = calloc(HTTP_HEADERS_MAX, sizeof(*request->headers));
	if (!request->headers)
		return error_set(err, ENOMEM, "out of memory");
	struct http_pair pair = { strndup(name, name_size), value ? strndup(value, value_size) : strdup("") };
	if (!pair.name || !pair.value) {
		free(pair.name);
		free(pair.value);
		return error_set(err, ENOMEM, "out of memory");
	}
	request->headers[request->header_count++] = pair;
	return 0;
}

static size_t count_header(const struct http_request *request, const char *name)
{
	size_t count = 0;
	for (size_t i = 0; i < request->header_count; i++)
		count += strcasecmp(request->headers[i].name, name) == 0;
	return count;
}

/* RFC 9112, section 6.3: where two readers could see two lengths, there is no answer but 400 and the end. */
static int check_length(struct http_request *request, struct error *err)
{
	const char *length = http_header(request, "content-length");
	const char *coding = http_header(request, "transfer-encoding");

	if (length && coding)
		return error_set(err, EINVAL, "content-length and transfer-encoding together");
	if (count_header(request, "content-length") > 1 || count_header(request, "transfer-encoding") > 1)
		return error_set(err, EINVAL, "more than one content-length or transfer-encoding");
	request->content_length = 0;
	if (coding) {
		if (strcasecmp(coding, "chunked") != 0)
			return error_set(err, EINVAL, "transfer-encoding: only chunked is understood");
		request->content_length = UINT64_MAX;
	} else if (length && str_u64(length, 0, INT64_MAX, &request->content_length) < 0) {
		return error_set(err, EINVAL, "content-length: not a decimal number");
	}
	return 0;
}

int headers_check(struct http_request *request, const char *version, struct error *err)
{
	if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
		return error_set(err, EINVAL, "only HTTP/1.1 and HTTP/1.0 are spoken here");
	if (strcmp(version, "HTTP/1.1") == 0 && count_header(request, "host") != 1)
		return error_set(err, EINVAL, "exactly one host header is needed");
	if (count_header(request, "content-type") > 1)
		return error_set(err, EINVAL, "more than one content-type");
	return check_length(request, err);
}

const char *http_header(const struct http_request *request, const char *name)
{
	for (size_t i = 0; i < request->header_count; i++)
		if (strcasecmp(request->headers[i].name, name) == 0)
			return request->headers[i].value;
	return NULL;
}

const char *http_query(const struct http_request *request, const char *name)
{
	for (size_t i = 0; i < request->query_count; i++)
		if (strcmp(request->query[i].name, name) == 0)
			return request->query[i].value;
	return NULL;
}

static void pairs_free(struct http_pair *pairs, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		/* Keys travel in both headers and query: leave none behind in freed memory. */
		if (pairs[i].value)
			explicit_bzero(pairs[i].value, strlen(pairs[i].value));
		free(pairs[i].name);
		free(pairs[i].value);
	}
	free(pairs);
}

void request_clear(struct http_request *request)
{
	pairs_free(request->headers, request->header_count);
	pairs_free(request->query, request->query_count);
	free(request->path);
	json_decref(request->json);
	*request = (struct http_request){ .watch = -1 };
}
