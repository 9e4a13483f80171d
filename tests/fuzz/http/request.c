/*
 * One request without a socket: framing checks, target, route, JSON or multipart body. The input is a request as text
 * (request line, headers, empty line, body; lines end with LF), its first byte the size of the pieces in which the body
 * arrives. Beside what the sanitizers see: a request that reaches a handler keeps what handlers rely on.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/str.h"
#include "daemon/http/internal.h"
#include "daemon/http/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct multipart reader;
static bool reading;

static int on_part(void *context, const struct multipart_part *part, struct error *err)
{
	if (!memchr(part->name, 0, sizeof(part->name)))
		abort();
	return 0;
}

static int on_data(void *context, const char *data, size_t size, struct error *err)
{
	volatile char last = size > 0 ? data[size - 1] : 0;
	(void)last;
	return 0;
}

static int on_end(void *context, struct error *err)
{
	return 0;
}

static bool upload_begin(struct http_request *request, struct http_response *response)
{
	struct multipart_events events = { on_part, on_data, on_end, NULL };
	struct error err = { 0 };

	reading = true;
	if (multipart_open(&reader, http_header(request, "content-type"), &events, &err) == 0)
		return true;
	http_reply_error(response, 400, NULL, "%s", err.text);
	return false;
}

static bool upload_data(struct http_request *request, const char *data, size_t size, struct http_response *response)
{
	struct error err = { 0 };

	if (multipart_feed(&reader, data, size, &err) == 0)
		return true;
	http_reply_error(response, 400, NULL, "%s", err.text);
	return false;
}

static const struct http_upload upload = { upload_begin, upload_data };

static void check_handler(struct http_request *request, struct http_response *response)
{
	if (!request->json || !json_is_object(request->json) || !request->path || request->path[0] != '/')
		abort();
	for (const char *p = request->param; *p; p++)
		if (!isalnum((unsigned char)*p) && *p != '_' && *p != '-')
			abort();
	for (size_t i = 0; i < request->query_count; i++) {
		if (!str_is_utf8(request->query[i].value, strlen(request->query[i].value)))
			abort();
		for (size_t k = 0; k < i; k++)
			if (strcmp(request->query[i].name, request->query[k].name) == 0)
				abort();
	}
	if (http_header(request, "content-length") && http_header(request, "transfer-encoding"))
		abort();
	http_reply_json(response, 200, json_incref(request->json));
}

static const struct http_route routes[] = {
	{ "GET", "/v1/sandboxes/list", check_handler, 0, 0, 0, "list", NULL },
	{ "GET", "/v1/sandboxes/{id}", check_handler, 0, 0, 0, "get", NULL },
	{ "POST", "/v1/sandboxes/create", check_handler, 0, 0, 0, "create", NULL },
	{ "DELETE", "/v1/sandboxes/{id}/delete", check_handler, 0, 0, 0, "delete", NULL },
	{ "POST", "/v1/sandboxes/{id}/upload", check_handler, 0, 0, 0, "upload", &upload },
};

static char *take_line(char **rest)
{
	char *line = *rest, *end = strchr(line, '\n');
	if (!end)
		return NULL;
	*end = '\0';
	*rest = end + 1;
	return line;
}

static bool add_headers(struct exchange *exchange, char **rest)
{
	char *line;
	struct error err = { 0 };

	while ((line = take_line(rest)) && *line) {
		char *colon = strchr(line, ':');
		const char *value = colon ? colon + 1 + strspn(colon + 1, " ") : "";
		size_t size = colon ? (size_t)(colon - line) : strlen(line);
		if (headers_add(&exchange->request, line, size, value, strlen(value), &err) < 0)
			return false;
	}
	return line != NULL;
}

static void run(struct http_server *server, char *text, const char *end, size_t piece)
{
	char *rest = text, *line = take_line(&rest), *at = NULL;
	char *method = line ? strtok_r(line, " ", &at) : NULL, *target = method ? strtok_r(NULL, " ", &at) : NULL;
	char *version = target ? strtok_r(NULL, " ", &at) : NULL;
	if (!version)
		return;
	struct exchange *exchange = exchange_new(server, NULL, target);
	if (exchange && add_headers(exchange, &rest)) {
		exchange_begin(exchange, method, version);
		for (; rest < end && !exchange->cut; rest += piece)
			exchange_data(exchange, rest, (size_t)(end - rest) < piece ? (size_t)(end - rest) : piece);
		exchange_end(exchange);
		if (exchange->ready)
			exchange_handle(exchange);
		if (exchange->response.status == 0)
			abort();
	}
	if (exchange)
		exchange_put(exchange);
	if (reading)
		multipart_close(&reader);
	reading = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http_server server = {
		.routes = routes,
		.route_count = sizeof(routes) / sizeof(routes[0]),
		.config = { .body_bytes_max = 1 << 20, .header_bytes_max = 32768, .body_ms = 1000 },
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.idle = PTHREAD_COND_INITIALIZER,
	};
	if (size < 2)
		return 0;
	/* An allocation of exactly this size, so that reading past it is seen. */
	_cleanup_free_ char *text = malloc(size);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	run(&server, text, text + size - 1, (size_t)data[0] + 1);
	return 0;
}
