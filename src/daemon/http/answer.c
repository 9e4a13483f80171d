#include "daemon/http/internal.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/json/text.h"

#define BLOCK 32768

static void add(struct MHD_Response *response, const char *name, const char *value)
{
	MHD_add_response_header(response, name, value);
}

static void add_headers(struct exchange *exchange, struct MHD_Response *response, const char *type)
{
	if (type)
		add(response, "Content-Type", type);
	add(response, "Cache-Control", "no-store");
	add(response, "X-Content-Type-Options", "nosniff");
	add(response, "X-Frame-Options", "DENY");
	add(response, "Referrer-Policy", "no-referrer");
	add(response, "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'");
	if (exchange->server->tls)
		add(response, "Strict-Transport-Security", "max-age=31536000");
	pthread_mutex_lock(&exchange->lock);
	for (size_t i = 0; i < exchange->out_count; i++)
		add(response, exchange->out[i].name, exchange->out[i].value);
	pthread_mutex_unlock(&exchange->lock);
}

/* How long a client may take over an answer of known size: the stall bound and 1 s for each 8 KiB. */
static int64_t send_ms(const struct exchange *exchange, uint64_t size)
{
	uint64_t extra = size / 8 < (uint64_t)86400000 ? size / 8 : (uint64_t)86400000;
	return (int64_t)exchange->server->config.stall_ms + (int64_t)extra;
}

static int queue(struct exchange *exchange, struct MHD_Connection *connection, int status, const char *type,
		 struct MHD_Response *response, bool close)
{
	if (!response)
		return -ENOMEM;
	add_headers(exchange, response, type);
	if (close || __atomic_load_n(&exchange->server->stopping, __ATOMIC_RELAXED))
		add(response, "Connection", "close");
	enum MHD_Result queued = MHD_queue_response(connection, (unsigned)status, response);
	MHD_destroy_response(response);
	exchange->queued = true;
	return queued == MHD_YES ? 0 : -EIO;
}

/* ---- streams ---- */

static ssize_t stream_read(void *context, uint64_t position, char *data, size_t size)
{
	struct exchange *exchange = context;
	struct http_stream *stream = exchange->response.stream;

	http_conn_deadline(exchange->conn, 0);
	ssize_t got = stream->read(stream->context, data, size);
	http_conn_deadline(exchange->conn, exchange->server->config.stall_ms);
	if (got > 0)
		return got;
	return got == 0 ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void stream_free(void *context)
{
	struct exchange *exchange = context;
	int status = exchange->response.status;

	http_response_clear(&exchange->response); /* calls the stream's done: the record below comes after it */
	exchange->response.status = status;
	exchange_told(exchange, status);
	exchange_put(exchange);
}

static int queue_stream(struct exchange *exchange, struct MHD_Connection *connection)
{
	struct http_response *answer = &exchange->response;
	uint64_t size = answer->stream->size == UINT64_MAX ? MHD_SIZE_UNKNOWN : answer->stream->size;

	exchange_get(exchange);
	struct MHD_Response *response = MHD_create_response_from_callback(size, BLOCK, stream_read, exchange,
									  stream_free);
	if (!response)
		exchange_put(exchange);
	return queue(exchange, connection, answer->status, answer->type, response, answer->close);
}

/* ---- early headers ---- */

struct early {
	struct exchange *exchange;
	bool greeted;
	char *text;
	size_t size, sent;
};

static int early_text(struct early *early)
{
	struct http_response *answer = &early->exchange->response;

	if (!answer->json)
		return -EIO;
	if (answer->status >= 400)
		json_object_set_new(answer->json, "status", json_string("error"));
	early->text = json_text(answer->json, JSON_COMPACT);
	early->size = early->text ? strlen(early->text) : 0;
	return early->text ? 0 : -ENOMEM;
}

static ssize_t early_read(void *context, uint64_t position, char *data, size_t size)
{
	struct early *early = context;
	struct exchange *exchange = early->exchange;

	http_conn_deadline(exchange->conn, 0);
	if (!early->text) {
		/* The first space at once: it takes the headers with it. White space may precede JSON. */
		bool finished = early->greeted && exchange_wait(exchange, exchange->server->config.keepalive_ms);
		early->greeted = true;
		if (!finished) {
			data[0] = ' ';
			return 1;
		}
		if (early_text(early) < 0)
			return MHD_CONTENT_READER_END_WITH_ERROR;
	}
	http_conn_deadline(exchange->conn, send_ms(exchange, early->size));
	size_t left = early->size - early->sent;
	if (left == 0)
		return MHD_CONTENT_READER_END_OF_STREAM;
	size_t part = left < size ? left : size;
	memcpy(data, early->text + early->sent, part);
	early->sent += part;
	return (ssize_t)part;
}

static void early_free(void *context)
{
	struct early *early = context;

	exchange_put(early->exchange);
	free(early->text);
	free(early);
}

int answer_queue_early(struct exchange *exchange, struct MHD_Connection *connection)
{
	struct early *early = calloc(1, sizeof(*early));
	if (!early)
		return -ENOMEM;
	early->exchange = exchange_get(exchange);
	struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, early_read, early,
									  early_free);
	if (!response)
		early_free(early);
	return queue(exchange, connection, exchange->request.route->early_status, "application/json", response, false);
}

/* ---- whole answers ---- */

int answer_queue(struct exchange *exchange, struct MHD_Connection *connection)
{
	struct http_response *answer = &exchange->response;
	const char *type = answer->type;
	char *text = answer->text;
	size_t size = answer->text_size;

	if (answer->stream)
		return queue_stream(exchange, connection);
	if (answer->json) {
		text = json_text(answer->json, JSON_COMPACT);
		size = text ? strlen(text) : 0;
		type = "application/json";
	} else {
		answer->text = NULL;
	}
	exchange_told(exchange, answer->status);
	if (!text)
		return -ENOMEM;
	http_conn_deadline(exchange->conn, send_ms(exchange, size));
	struct MHD_Response *response = MHD_create_response_from_buffer(size, text, MHD_RESPMEM_MUST_FREE);
	if (!response)
		free(text);
	return queue(exchange, connection, answer->status, type, response, answer->close);
}
