#include "daemon/http/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cond.h"
#include "base/str.h"
#include "base/time.h"

/* A refused request's body up to this is read and thrown away, so that the client sees the answer. */
#define DRAIN_MAX ((uint64_t)8 << 20)
/* Of an upload that was let in and failed on the way, say for want of space: its sender is to learn why. */
#define DRAIN_UPLOAD_MAX ((uint64_t)4 << 30)

struct exchange *exchange_new(struct http_server *server, struct http_conn *conn, const char *raw)
{
	struct exchange *exchange = calloc(1, sizeof(*exchange));
	if (!exchange)
		return NULL;
	exchange->raw = strdup(raw);
	exchange->request.watch = conn ? http_conn_watch(conn) : -1;
	if (!exchange->raw || (conn && exchange->request.watch < 0)) {
		free(exchange->raw);
		free(exchange);
		return NULL;
	}
	exchange->server = server;
	exchange->references = 1;
	exchange->drain_max = DRAIN_MAX;
	if (conn)
		exchange->conn = http_conn_get(conn);
	pthread_mutex_init(&exchange->lock, NULL);
	pthread_cond_init(&exchange->changed, NULL);
	exchange->request.started_us = time_mono_us();
	str_random_id(exchange->request.id, "req");
	pthread_mutex_lock(&server->lock);
	server->active++;
	pthread_mutex_unlock(&server->lock);
	return exchange;
}

struct exchange *exchange_get(struct exchange *exchange)
{
	pthread_mutex_lock(&exchange->lock);
	exchange->references++;
	pthread_mutex_unlock(&exchange->lock);
	return exchange;
}

void exchange_put(struct exchange *exchange)
{
	pthread_mutex_lock(&exchange->lock);
	bool last = --exchange->references == 0;
	pthread_mutex_unlock(&exchange->lock);
	if (!last)
		return;

	struct http_server *server = exchange->server;
	http_response_clear(&exchange->response); /* ends a stream, before its end is told */
	if (exchange->begun)
		exchange_told(exchange, 499);
	if (server->hooks.release)
		server->hooks.release(server->hooks.context, &exchange->request);
	request_clear(&exchange->request);
	http_conn_put(exchange->conn);
	explicit_bzero(exchange->raw, strlen(exchange->raw));
	free(exchange->raw);
	buf_free(&exchange->body);
	pthread_cond_destroy(&exchange->changed);
	pthread_mutex_destroy(&exchange->lock);
	free(exchange);
	pthread_mutex_lock(&server->lock);
	server->active--;
	pthread_cond_broadcast(&server->idle);
	pthread_mutex_unlock(&server->lock);
}

void exchange_told(struct exchange *exchange, int status)
{
	struct http_server *server = exchange->server;

	pthread_mutex_lock(&exchange->lock);
	bool told = exchange->told;
	exchange->told = true;
	pthread_mutex_unlock(&exchange->lock);
	if (!told && server->hooks.done)
		server->hooks.done(server->hooks.context, &exchange->request, status,
				   time_mono_us() - exchange->request.started_us);
}

bool exchange_wait(struct exchange *exchange, unsigned ms)
{
	int64_t deadline = time_mono_ms() + ms;
	int code = 0;

	pthread_mutex_lock(&exchange->lock);
	while (!exchange->finished && code == 0)
		code = cond_wait_until(&exchange->changed, &exchange->lock, deadline);
	bool finished = exchange->finished;
	pthread_mutex_unlock(&exchange->lock);
	return finished;
}

static void refuse(struct exchange *exchange, int status, bool close, const char *text)
{
	http_reply_error(&exchange->response, status, NULL, "%s", text);
	exchange->response.close = close;
	exchange->refused = true;
}

static void add_cors(struct exchange *exchange)
{
	const char *origin = http_header(&exchange->request, "origin");
	if (!origin || !server_origin_allowed(exchange->server, origin))
		return;
	http_add_header(&exchange->request, "Access-Control-Allow-Origin", "%s", origin);
	http_add_header(&exchange->request, "Access-Control-Expose-Headers",
			"x-request-id, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After");
	http_add_header(&exchange->request, "Vary", "Origin");
}

/* The browser's question before a call from another origin; only configured ones get a yes. */
static bool preflight(struct exchange *exchange, const char *allow)
{
	struct http_request *request = &exchange->request;
	const char *origin = http_header(request, "origin");

	if (strcmp(request->method, "OPTIONS") != 0 || !origin || !server_origin_allowed(exchange->server, origin))
		return false;
	http_add_header(request, "Access-Control-Allow-Methods", "%s", allow);
	http_add_header(request, "Access-Control-Allow-Headers", "content-type, x-api-key, idempotency-key");
	http_add_header(request, "Access-Control-Max-Age", "600");
	http_reply_text(&exchange->response, 204, NULL, "", 0);
	exchange->refused = true;
	return true;
}

static void find_route(struct exchange *exchange)
{
	struct http_request *request = &exchange->request;
	struct http_server *server = exchange->server;
	char allow[64];

	request->route = route_find(server->routes, server->route_count, request->method, request->path, request->param,
				    allow);
	if (request->route)
		return;
	if (allow[0] == '\0') {
		refuse(exchange, 404, false, "there is no such route");
	} else if (!preflight(exchange, allow)) {
		http_add_header(request, "Allow", "%s", allow);
		refuse(exchange, 405, false, "the route exists, but not with this method");
	}
}

static uint64_t body_max(const struct exchange *exchange)
{
	bool upload = exchange->request.route && exchange->request.route->upload;
	return upload ? UINT64_MAX : exchange->server->config.body_bytes_max;
}

static void check_body(struct exchange *exchange)
{
	struct http_request *request = &exchange->request;
	const char *type = http_header(request, "content-type");

	if (request->content_length == 0 || request->route->upload)
		return;
	if (request->content_length != UINT64_MAX && request->content_length > body_max(exchange)) {
		refuse(exchange, 413, false, "the body is larger than the server takes");
		return;
	}
	if (!type || strncasecmp(type, "application/json", 16) != 0 || (type[16] && !strchr("; \t", type[16])))
		refuse(exchange, 415, false, "content-type must be application/json");
}

static void admit(struct exchange *exchange)
{
	struct http_server *server = exchange->server;

	find_route(exchange);
	/* Routes that do not exist are answered without a key as well: they tell nothing. */
	if (!exchange->refused && server->hooks.admit &&
	    !server->hooks.admit(server->hooks.context, &exchange->request, &exchange->response))
		exchange->refused = true;
	if (!exchange->refused)
		check_body(exchange);
	if (!exchange->refused && exchange->request.route->upload &&
	    !exchange->request.route->upload->begin(&exchange->request, &exchange->response))
		exchange->refused = true;
}

void exchange_begin(struct exchange *exchange, const char *method, const char *version)
{
	struct http_request *request = &exchange->request;
	struct http_server *server = exchange->server;
	struct error err = { 0 };

	exchange->begun = true;
	http_add_header(request, "x-request-id", "%s", request->id);
	if (exchange->conn)
		http_address_client(&exchange->conn->address, http_header(request, "x-forwarded-for"), server->trusted,
				    server->trusted_count, request->address);
	size_t size = strlen(exchange->raw);
	for (size_t i = 0; i < request->header_count; i++)
		size += strlen(request->headers[i].name) + strlen(request->headers[i].value) + 4;
	if (size > server->config.header_bytes_max) {
		refuse(exchange, 431, true, "the request's headers are too large");
		return;
	}
	bool method_fits = str_copy(request->method, sizeof(request->method), method) == 0;
	int r = headers_check(request, version, &err);
	if (r < 0) {
		refuse(exchange, 400, true, err.text);
		return;
	}
	if (uri_parse(exchange->raw, request, &err) < 0) {
		refuse(exchange, err.code == ENOMEM ? 500 : 400, true, err.text);
		return;
	}
	add_cors(exchange);
	if (!method_fits)
		refuse(exchange, 405, true, "there is no such method");
	else
		admit(exchange);
	uint64_t length = request->content_length;
	/* Without a length the body may still turn out small; exchange_data ends it at DRAIN_MAX. */
	if (exchange->refused && length != UINT64_MAX && length > DRAIN_MAX)
		exchange->response.close = true;
	exchange->body_deadline = time_mono_ms() + server->config.body_ms;
}

static void take_json(struct exchange *exchange, const char *data, size_t size)
{
	if (exchange->received > body_max(exchange)) {
		buf_free(&exchange->body);
		refuse(exchange, 413, true, "the body is larger than the server takes");
		return;
	}
	exchange->body.max = exchange->server->config.body_bytes_max;
	if (buf_add(&exchange->body, data, size) < 0)
		refuse(exchange, 500, true, "out of memory");
}

void exchange_data(struct exchange *exchange, const char *data, size_t size)
{
	const struct http_route *route = exchange->request.route;

	exchange->received += size;
	if (exchange->refused) {
		/* No answer can be sent in the middle of a body: cut the connection when it is not worth the wait. */
		exchange->drained += size;
		exchange->cut = exchange->drained > exchange->drain_max;
		return;
	}
	if (!route->upload) {
		take_json(exchange, data, size);
	} else if (!route->upload->data(&exchange->request, data, size, &exchange->response)) {
		exchange->refused = true;
		exchange->drain_max = DRAIN_UPLOAD_MAX;
	}
}

void exchange_end(struct exchange *exchange)
{
	struct http_request *request = &exchange->request;
	struct error err = { 0 };

	if (exchange->refused)
		return;
	request->body = buf_text(&exchange->body);
	request->body_size = exchange->body.size;
	if (exchange->body.size > 0 &&
	    http_json_parse(exchange->body.data, exchange->body.size, &request->json, &err) < 0) {
		refuse(exchange, err.code == ENOMEM ? 500 : 400, false, err.text);
		return;
	}
	if (!request->json)
		request->json = json_object();
	exchange->ready = request->json != NULL;
	if (!exchange->ready)
		refuse(exchange, 500, true, "out of memory");
}

void exchange_handle(struct exchange *exchange)
{
	struct http_server *server = exchange->server;
	struct http_response *response = &exchange->response;

	if (server->hooks.handle)
		server->hooks.handle(server->hooks.context, &exchange->request, response);
	else
		exchange->request.route->handler(&exchange->request, response);
	if (response->status == 0)
		http_reply_error(response, 500, NULL, "the call gave no answer");
}
