#include "daemon/http/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void http_response_clear(struct http_response *response)
{
	json_decref(response->json);
	free(response->text);
	if (response->stream) {
		if (response->stream->done)
			response->stream->done(response->stream->context);
		free(response->stream);
	}
	*response = (struct http_response){ 0 };
}

void http_reply_json(struct http_response *response, int status, json_t *json)
{
	http_response_clear(response);
	response->status = status;
	response->json = json;
	if (!json)
		http_reply_error(response, 500, NULL, "out of memory");
}

void http_reply_text(struct http_response *response, int status, const char *type, const char *text, size_t size)
{
	http_response_clear(response);
	response->text = malloc(size + 1);
	if (!response->text) {
		http_reply_error(response, 500, NULL, "out of memory");
		return;
	}
	memcpy(response->text, text, size);
	response->text[size] = '\0';
	response->text_size = size;
	response->status = status;
	response->type = type;
}

void http_reply_stream(struct http_response *response, int status, const char *type, uint64_t size,
		       ssize_t (*read)(void *, char *, size_t), void (*done)(void *), void *context)
{
	http_response_clear(response);
	response->stream = malloc(sizeof(*response->stream));
	if (!response->stream) {
		done(context);
		http_reply_error(response, 500, NULL, "out of memory");
		return;
	}
	*response->stream = (struct http_stream){ .read = read, .done = done, .context = context, .size = size };
	response->status = status;
	response->type = type;
}

const char *http_error_code(int status)
{
	static const struct {
		int status;
		const char *code;
	} codes[] = {
		{ 400, "invalid_request" }, { 401, "unauthorized" },    { 403, "forbidden" },
		{ 404, "not_found" },       { 405, "not_found" },       { 409, "conflict" },
		{ 413, "invalid_request" }, { 415, "invalid_request" }, { 422, "unprocessable" },
		{ 431, "invalid_request" }, { 429, "rate_limited" },    { 503, "capacity" },
		{ 504, "timeout" },         { 507, "capacity" },
	};
	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (codes[i].status == status)
			return codes[i].code;
	return "internal";
}

void http_reply_error(struct http_response *response, int status, const char *code, const char *format, ...)
{
	char message[ERROR_TEXT_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof(message), format, args);
	va_end(args);
	http_response_clear(response);
	response->status = status;
	/* The name of a field can be cut within a character: then it is told without the text. */
	json_t *text = json_string(message);
	response->json = json_pack("{s:{s:s,s:o}}", "error", "code", code ? code : http_error_code(status), "message",
				   text ? text : json_string("invalid request"));
}

void http_add_header(struct http_request *request, const char *name, const char *format, ...)
{
	struct exchange *exchange = (struct exchange *)request;
	va_list args;
	size_t i = 0;

	pthread_mutex_lock(&exchange->lock);
	while (i < exchange->out_count && strcasecmp(exchange->out[i].name, name) != 0)
		i++;
	if (i < OUT_HEADERS_MAX) {
		exchange->out[i].name = name;
		va_start(args, format);
		vsnprintf(exchange->out[i].value, OUT_VALUE_MAX, format, args);
		va_end(args);
		if (i == exchange->out_count)
			exchange->out_count++;
	}
	pthread_mutex_unlock(&exchange->lock);
}
