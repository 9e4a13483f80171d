/*
 * Theory of operation. Each try is one easy handle driven by the multi interface, because curl_multi_poll also wakes
 * for interrupt_fd(): a blocking curl_easy_perform would notice Ctrl-C only when a byte comes.
 */
#include "cli/http.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "cli/interrupt.h"
#include "cli/output.h"

#define TRIES_MAX 3
#define RETRY_AFTER_MAX_S 30
#define TICK_MS 500

struct http {
	CURL *easy;
	CURLM *multi;
	struct config config;
};

/* One try. */
struct exchange {
	struct http *http;
	const struct http_request *request;
	struct http_answer *answer;
	struct buf body;
	struct output_progress progress;
	struct curl_slist *headers;
	curl_mime *mime;
	size_t first_sent;
	int seen;    /* signals before it */
	int failure; /* of a callback: negative errno */
	char *text;  /* the JSON sent */
	char curl_text[CURL_ERROR_SIZE];
};

int http_open(const struct config *config, struct http **http, struct error *err)
{
	if (!config->api_key[0])
		return error_set(err, ENOKEY,
				 "no API key: set AKIRA_API_KEY, or put `api_key = …` into "
				 "~/.config/akira/credentials (akirad's first start writes " CONFIG_SYSTEM_CREDENTIALS
				 ")");
	struct http *new = calloc(1, sizeof(*new));
	if (!new)
		return error_errno(err, ENOMEM, "start");
	new->config = *config;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) {
		new->easy = curl_easy_init();
		new->multi = curl_multi_init();
	}
	if (!new->easy || !new->multi) {
		http_close(new);
		return error_set(err, ENOMEM, "libcurl does not start");
	}
	if (!config->loopback && str_starts(config->base_url, "http://"))
		output_error("warning: the key and all data go unencrypted to %s", config->base_url);
	*http = new;
	return 0;
}

void http_close(struct http *http)
{
	if (!http)
		return;
	if (http->easy)
		curl_easy_cleanup(http->easy);
	if (http->multi)
		curl_multi_cleanup(http->multi);
	explicit_bzero(http->config.api_key, sizeof(http->config.api_key));
	free(http);
	curl_global_cleanup();
}

void http_answer_free(struct http_answer *answer)
{
	json_decref(answer->json);
	*answer = (struct http_answer){ 0 };
}

char *http_path(char to[HTTP_PATH_MAX], const char *format, ...)
{
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-";
	struct buf path = { .max = HTTP_PATH_MAX - 1 };
	va_list args;
	va_start(args, format);
	for (; *format; format++) {
		if (format[0] != '%' || format[1] != 's') {
			buf_add(&path, format, 1);
			continue;
		}
		format++;
		const char *part = va_arg(args, const char *);
		/* "." and ".." are taken out of a path by whoever reads it, however they are written. */
		if (strcmp(part, ".") == 0 || strcmp(part, "..") == 0)
			path.failed = true;
		for (; *part; part++)
			buf_addf(&path, strchr(plain, *part) ? "%c" : "%%%02X", (unsigned char)*part);
	}
	va_end(args);
	if (path.failed || str_copy(to, HTTP_PATH_MAX, buf_text(&path)) < 0)
		to[0] = '\0';
	buf_free(&path);
	return to;
}

static size_t on_header(char *line, size_t size, size_t count, void *context)
{
	struct exchange *exchange = context;
	char text[256];
	size_t length = size * count;
	if (length < sizeof(text)) {
		memcpy(text, line, length);
		text[length] = '\0';
		text[strcspn(text, "\r\n")] = '\0';
		char *value = strchr(text, ':');
		if (value) {
			*value++ = '\0';
			value += strspn(value, " \t");
			uint64_t seconds;
			if (strcasecmp(text, "x-request-id") == 0)
				(void)str_copy(exchange->answer->request_id, sizeof(exchange->answer->request_id),
					       value);
			else if (strcasecmp(text, "retry-after") == 0 && str_u64(value, 0, 86400, &seconds) == 0)
				exchange->answer->retry_after_s = (int64_t)seconds;
		}
	}
	return length;
}

static size_t on_body(char *data, size_t size, size_t count, void *context)
{
	struct exchange *exchange = context;
	long status = 0;
	curl_easy_getinfo(exchange->http->easy, CURLINFO_RESPONSE_CODE, &status);
	output_progress_end(&exchange->progress);
	if (exchange->request->sink && status / 100 == 2) {
		exchange->progress.doing = NULL;
		exchange->failure = exchange->request->sink(exchange->request->context, data, size * count);
	} else {
		exchange->failure = buf_add(&exchange->body, data, size * count);
	}
	return exchange->failure < 0 ? 0 : size * count;
}

static size_t on_upload(char *data, size_t size, size_t count, void *context)
{
	struct exchange *exchange = context;
	const struct http_upload *upload = exchange->request->upload;
	size_t room = size * count, left = upload->first_size - exchange->first_sent;
	if (left > 0) {
		size_t part = left < room ? left : room;
		memcpy(data, upload->first + exchange->first_sent, part);
		exchange->first_sent += part;
		return part;
	}
	exchange->failure = interrupt_wait(upload->fd, POLLIN, exchange->seen);
	ssize_t got = exchange->failure < 0 ? -1 : read(upload->fd, data, room);
	if (got < 0 && exchange->failure == 0)
		exchange->failure = -errno;
	return got < 0 ? CURL_READFUNC_ABORT : (size_t)got;
}

static int add_header(struct exchange *exchange, const char *name, const char *value)
{
	char line[512];
	snprintf(line, sizeof(line), "%s: %s", name, value);
	struct curl_slist *longer = curl_slist_append(exchange->headers, line);
	explicit_bzero(line, sizeof(line));
	if (!longer)
		return -ENOMEM;
	exchange->headers = longer;
	return 0;
}

static int prepare_headers(struct exchange *exchange)
{
	int r = add_header(exchange, "x-api-key", exchange->http->config.api_key);
	if (r == 0)
		r = add_header(exchange, "accept", "application/json, application/x-ndjson, application/octet-stream");
	if (r == 0 && !exchange->request->upload)
		r = add_header(exchange, "content-type", "application/json");
	if (r == 0 && exchange->request->once)
		r = add_header(exchange, "Idempotency-Key", exchange->request->once);
	return r;
}

static int prepare_body(struct exchange *exchange)
{
	CURL *easy = exchange->http->easy;
	const struct http_request *request = exchange->request;
	if (request->upload) {
		exchange->mime = curl_mime_init(easy);
		curl_mimepart *path = curl_mime_addpart(exchange->mime), *file = curl_mime_addpart(exchange->mime);
		if (!path || !file)
			return -ENOMEM;
		curl_mime_name(path, "path");
		curl_mime_data(path, request->upload->path, CURL_ZERO_TERMINATED);
		curl_mime_name(file, "file");
		curl_mime_filename(file, "file");
		curl_mime_type(file, "application/octet-stream");
		curl_mime_data_cb(file, request->upload->size, on_upload, NULL, NULL, exchange);
		curl_easy_setopt(easy, CURLOPT_MIMEPOST, exchange->mime);
		return 0;
	}
	bool body = request->body || strcmp(request->method, "POST") == 0;
	if (body) {
		exchange->text = request->body ? json_dumps(request->body, JSON_COMPACT) : strdup("{}");
		if (!exchange->text)
			return -ENOMEM;
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, exchange->text);
	}
	return 0;
}

static int prepare(struct exchange *exchange)
{
	CURL *easy = exchange->http->easy;
	const struct config *config = &exchange->http->config;
	char url[CONFIG_URL_MAX + HTTP_PATH_MAX];
	snprintf(url, sizeof(url), "%s%s", config->base_url, exchange->request->path);
	curl_easy_reset(easy);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
	/* A redirect would carry the key to wherever it points. */
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_USERAGENT, "akira-cli/" AKIRA_VERSION);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)HTTP_CONNECT_MS);
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, exchange->curl_text);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, exchange);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, exchange);
	if (config->loopback)
		curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
	int r = prepare_headers(exchange);
	if (r == 0)
		r = prepare_body(exchange);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, exchange->headers);
	curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, exchange->request->method);
	return r;
}

/* Until curl is done, the time is over or a signal came. 0: curl is done, *result is its word. */
static int drive(struct exchange *exchange, int64_t deadline, CURLcode *result)
{
	int patience = exchange->request->patient ? 1 : 0;
	for (;;) {
		int running = 0, left = 0;
		curl_multi_perform(exchange->http->multi, &running);
		CURLMsg *message = curl_multi_info_read(exchange->http->multi, &left);
		if (message && message->msg == CURLMSG_DONE) {
			*result = message->data.result;
			return 0;
		}
		if (interrupt_count() > exchange->seen + patience)
			return -EINTR;
		int wait = time_left_ms(deadline);
		if (wait == 0)
			return -ETIMEDOUT;
		struct curl_waitfd extra = { .fd = interrupt_fd(), .events = CURL_WAIT_POLLIN };
		curl_multi_poll(exchange->http->multi, &extra, 1, wait < 0 || wait > TICK_MS ? TICK_MS : wait, NULL);
		if (extra.revents)
			interrupt_drain();
		output_progress(&exchange->progress);
	}
}

static int explain_curl(const struct exchange *exchange, CURLcode result, struct error *err)
{
	const char *text = exchange->curl_text[0] ? exchange->curl_text : curl_easy_strerror(result);
	if (exchange->failure < 0)
		return exchange->failure == -EINTR
			       ? error_set(err, EINTR, "interrupted")
			       : error_errno(err, -exchange->failure, "the data could not be passed on");
	if (result == CURLE_COULDNT_CONNECT || result == CURLE_COULDNT_RESOLVE_HOST)
		return error_set(err, ECONNREFUSED, "cannot reach %s: %s (is akirad running? see `akira doctor`)",
				 exchange->http->config.base_url, text);
	if (result == CURLE_OPERATION_TIMEDOUT)
		return error_set(err, EIO, "%s does not answer: %s", exchange->http->config.base_url, text);
	return error_set(err, EIO, "the connection to %s broke: %s", exchange->http->config.base_url, text);
}

static int explain_refusal(struct exchange *exchange, struct error *err)
{
	struct http_answer *answer = exchange->answer;
	const json_t *error = json_object_get(answer->json, "error");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *message = json_string_value(json_object_get(error, "message"));
	if (code)
		(void)str_copy(answer->code, sizeof(answer->code), code);
	if (!message)
		return error_set(err, EREMOTEIO, "the server answered %ld without a reason: is %s Akira's address?",
				 answer->status, exchange->http->config.base_url);
	if (answer->status >= 500 && answer->request_id[0])
		return error_set(err, EREMOTEIO, "%s (%s, request %s)", message, code ? code : "error",
				 answer->request_id);
	return error_set(err, EREMOTEIO, "%s (%s)", message, code ? code : "error");
}

static int conclude(struct exchange *exchange, CURLcode result, struct error *err)
{
	struct http_answer *answer = exchange->answer;
	curl_easy_getinfo(exchange->http->easy, CURLINFO_RESPONSE_CODE, &answer->status);
	/* A server that refuses an upload before its end may close while we still send: its answer is what counts. */
	bool answered = result == CURLE_OK || (result == CURLE_SEND_ERROR && answer->status >= 400);
	if (!answered)
		return explain_curl(exchange, result, err);
	if (exchange->body.size > 0)
		answer->json = json_loadb(exchange->body.data, exchange->body.size, JSON_ALLOW_NUL, NULL);
	/* A call that takes long sends its status before it knows how it ends: then the body tells. */
	bool failed_late = json_is_string(json_object_get(json_object_get(answer->json, "error"), "message"));
	if (answer->status / 100 != 2 || failed_late)
		return explain_refusal(exchange, err);
	if (!exchange->request->sink && !answer->json && answer->status != 204)
		return error_set(err, EIO, "the server's answer is not JSON: is %s Akira's address?",
				 exchange->http->config.base_url);
	return 0;
}

static int try_once(struct http *http, const struct http_request *request, int64_t deadline, int seen,
		    struct http_answer *answer, struct error *err)
{
	struct exchange exchange = {
		.http = http,
		.request = request,
		.answer = answer,
		.seen = seen,
		.body.max = HTTP_ANSWER_MAX,
		.progress = { .doing = request->doing, .since = time_mono_ms() },
	};
	CURLcode result = CURLE_OK;
	int r = prepare(&exchange);
	if (r < 0) {
		error_errno(err, -r, "preparing the request");
	} else {
		curl_multi_add_handle(http->multi, http->easy);
		r = drive(&exchange, deadline, &result);
		if (r == 0)
			r = conclude(&exchange, result, err);
		else if (r == -EINTR)
			error_set(err, EINTR, "interrupted");
		else
			error_set(err, ETIMEDOUT, "%s did not answer in time", http->config.base_url);
		curl_multi_remove_handle(http->multi, http->easy);
	}
	output_progress_end(&exchange.progress);
	curl_easy_reset(http->easy);
	curl_slist_free_all(exchange.headers);
	curl_mime_free(exchange.mime);
	buf_free(&exchange.body);
	free(exchange.text);
	return r;
}

/* Seconds to wait before another try, or -1: this was the last. */
static int64_t retry_after(const struct http_request *request, const struct http_answer *answer, int r)
{
	if (request->upload)
		return -1; /* what was read from the descriptor is gone */
	if (r == -EIO && request->once && answer->status == 0)
		return 0;
	bool busy = r == -EREMOTEIO && (answer->status == 429 || answer->status == 503);
	if (!busy || answer->retry_after_s <= 0 || answer->retry_after_s > RETRY_AFTER_MAX_S)
		return -1;
	return strcmp(answer->code, "quota_exceeded") == 0 ? -1 : answer->retry_after_s;
}

static int sleep_s(int64_t seconds, int64_t deadline, int seen)
{
	int64_t until = time_mono_ms() + seconds * 1000;
	while (time_mono_ms() < until) {
		struct pollfd wait = { .fd = interrupt_fd(), .events = POLLIN };
		if (poll(&wait, 1, time_left_ms(until)) > 0)
			interrupt_drain();
		if (interrupt_count() > seen)
			return -EINTR;
		if (time_left_ms(deadline) == 0)
			return -ETIMEDOUT;
	}
	return 0;
}

int http_call(struct http *http, const struct http_request *request, struct http_answer *answer, struct error *err)
{
	int64_t bound = request->timeout_ms ? request->timeout_ms : HTTP_CALL_MS;
	int64_t deadline = bound == HTTP_FOREVER ? -1 : time_mono_ms() + bound;
	int seen = interrupt_count();
	*answer = (struct http_answer){ 0 };
	if (!request->path[0])
		return error_set(err, EINVAL, "an argument is too long, or no name that can be asked for");
	for (int tries = 1;; tries++) {
		int r = try_once(http, request, deadline, seen, answer, err);
		int64_t wait = r < 0 && tries < TRIES_MAX ? retry_after(request, answer, r) : -1;
		if (wait < 0 || sleep_s(wait, deadline, seen) < 0)
			return r;
		http_answer_free(answer);
	}
}
