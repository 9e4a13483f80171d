#include "daemon/api/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/time.h"
#include "daemon/api/output.h"
#include "daemon/json/text.h"

#define COMMAND_MAX 131072
#define KEEPALIVE_MS 10000
#define CHECK_MS 1000 /* a command ends this soon after its key was revoked */

struct wanted {
	const char *command, *cwd;
	json_t *env;
	int64_t timeout_s;
};

static const struct check_field fields[] = {
	{ "command", CHECK_TEXT, offsetof(struct wanted, command), 1, COMMAND_MAX, true },
	{ "working_dir", CHECK_TEXT, offsetof(struct wanted, cwd), 1, 4096, false },
	{ "env", CHECK_OBJECT, offsetof(struct wanted, env), 0, 0, false },
	{ "timeout", CHECK_INTEGER, offsetof(struct wanted, timeout_s), 1, 300,
	  false }, /* the last: execute alone has it */
};

static int start(struct http_request *request, bool stream, struct sandbox_exec **exec, struct error *err)
{
	struct call *call = call_of(request);
	struct wanted wanted = { .timeout_s = 30 };
	struct sandbox_exec_spec spec = { .stream = stream };
	struct sandbox_pair *env = NULL;

	int r = check_object(request->json, "", fields, CHECK_COUNT(fields) - stream, &wanted, err);
	if (r == 0 && wanted.env)
		r = spec_env(wanted.env, "env", &env, &spec.env_count, err);
	if (r == 0) {
		spec.command = wanted.command;
		spec.cwd = wanted.cwd;
		spec.env = env;
		spec.timeout_ms = stream ? 0 : wanted.timeout_s * 1000;
		r = sandbox_exec_start(call->api->context.sandboxes, &call->actor, request->param, &spec, exec, err);
	}
	free(env);
	if (r == 0)
		call_detail(request, "%s", sandbox_exec_id(*exec));
	return r;
}

/* sandbox_exec_next, and is the key still good? -EKEYREVOKED when it is not. *checked_ms: 0 at first. */
static int next_event(struct http_request *request, struct sandbox_exec *exec, int64_t *checked_ms,
		      struct sandbox_exec_event *event, struct error *err)
{
	struct call *call = call_of(request);
	bool live = true;

	int r = sandbox_exec_next(exec, CHECK_MS, request->watch, event, err);
	int64_t now = time_mono_ms();
	if (r < 0 || now - *checked_ms < CHECK_MS)
		return r;
	*checked_ms = now;
	/* A database that does not answer is no reason to kill what runs. */
	if (store_key_live(call->api->context.store, call->key.id, time_wall_ms(), &live, NULL) == 0 && !live)
		return error_set(err, EKEYREVOKED, "the API key is no longer good");
	return 0;
}

/* ---- execute ---- */

static int run(struct http_request *request, struct sandbox_exec *exec, struct output *out, struct output *err_out,
	       struct sandbox_exec_event *event, struct error *err)
{
	int64_t checked_ms = 0;

	for (;;) {
		int r = next_event(request, exec, &checked_ms, event, err);
		if (r == 0 && event->kind == EXEC_ENDED)
			return 0;
		if (r == 0 && event->kind == EXEC_STDOUT)
			r = output_add(out, event->data, event->size);
		if (r == 0 && event->kind == EXEC_STDERR)
			r = output_add(err_out, event->data, event->size);
		if (r < 0)
			return r;
	}
}

static json_t *view_execution(const char *id, const struct sandbox_exec_event *event, const struct output *out,
			      const struct output *err_out)
{
	static const char *const names[] = {
		[EXEC_EXITED] = "completed", [EXEC_TIMED_OUT] = "timeout", [EXEC_FAILED] = "error"
	};
	json_t *body = json_object();

	view_set(body, "id", json_string(id));
	view_set(body, "status", json_string(names[event->end]));
	view_set(body, "exit_code", json_integer(event->exit_code));
	view_set(body, "stdout", output_json(out));
	view_set(body, "stderr", output_json(err_out));
	view_set(body, "stdout_truncated", json_boolean(out->truncated));
	view_set(body, "stderr_truncated", json_boolean(err_out->truncated));
	view_set(body, "execution_time_ms", json_integer(event->duration_ms));
	view_set(body, "created_at", view_time(event->started_ms));
	view_set(body, "completed_at", view_time(event->started_ms + event->duration_ms));
	if (event->end == EXEC_FAILED)
		view_set(body, "message", json_string(event->message));
	/* A stream that found no memory is missing: then it is no answer. */
	if (json_object_get(body, "stdout") && json_object_get(body, "stderr"))
		return body;
	json_decref(body);
	return NULL;
}

void execute_on_call(struct http_request *request, struct http_response *response)
{
	struct sandbox_exec *exec = NULL;
	struct sandbox_exec_event event = { 0 };
	struct output out = { 0 }, err_out = { 0 };
	struct error err = { 0 };

	int r = start(request, false, &exec, &err);
	if (r == 0)
		r = run(request, exec, &out, &err_out, &event, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
	} else {
		metrics_time(call_of(request)->api->metrics, METRICS_EXEC, event.duration_ms * 1000);
		http_reply_json(response, 200, view_execution(sandbox_exec_id(exec), &event, &out, &err_out));
	}
	sandbox_exec_close(exec, response->status);
	output_free(&out);
	output_free(&err_out);
}

/* ---- execute_async ---- */

struct stream {
	struct http_request *request; /* outlives the stream */
	struct sandbox_exec *exec;
	struct output_tail out, err_out;
	struct buf line; /* what is not sent yet */
	int64_t checked_ms, sent_ms;
	bool ended;
};

static int add_line(struct stream *stream, json_t *object)
{
	_cleanup_free_ char *text = object ? json_text(object, JSON_COMPACT) : NULL;

	json_decref(object);
	if (!text)
		return -ENOMEM;
	buf_adds(&stream->line, text);
	return buf_adds(&stream->line, "\n");
}

static int add_text(struct stream *stream, const char *name, struct output_tail *tail, const char *data, size_t size)
{
	size_t length = 0;
	_cleanup_free_ char *text = output_piece(tail, data, size, &length);

	if (!text)
		return -ENOMEM;
	if (length == 0)
		return 0;
	return add_line(stream, json_pack("{s:o}", name, json_stringn_nocheck(text, length)));
}

/* Logged and recorded before the client sees its end. */
static void close_exec(struct stream *stream)
{
	sandbox_exec_close(stream->exec, 200);
	stream->exec = NULL;
}

static int add_end(struct stream *stream, const struct sandbox_exec_event *event)
{
	stream->ended = true;
	close_exec(stream);
	metrics_time(call_of(stream->request)->api->metrics, METRICS_EXEC, event->duration_ms * 1000);
	int r = add_text(stream, "stdout", &stream->out, NULL, 0);
	if (r == 0)
		r = add_text(stream, "stderr", &stream->err_out, NULL, 0);
	if (r == 0 && event->end == EXEC_FAILED)
		r = add_line(stream, json_pack("{s:s,s:i}", "error", event->message, "exit_code", event->exit_code));
	else if (r == 0)
		r = add_line(stream, json_pack("{s:i}", "exit_code", event->exit_code));
	return r;
}

static int next_line(struct stream *stream)
{
	struct sandbox_exec_event event = { 0 };
	struct error err = { 0 };

	int r = next_event(stream->request, stream->exec, &stream->checked_ms, &event, &err);
	if (r == -EKEYREVOKED) {
		stream->ended = true;
		return add_line(stream, json_pack("{s:s}", "error", err.text));
	}
	if (r < 0)
		return r;
	switch (event.kind) {
	case EXEC_NOTHING: return time_mono_ms() - stream->sent_ms < KEEPALIVE_MS ? 0 : buf_adds(&stream->line, "{}\n");
	case EXEC_STDOUT: return add_text(stream, "stdout", &stream->out, event.data, event.size);
	case EXEC_STDERR: return add_text(stream, "stderr", &stream->err_out, event.data, event.size);
	case EXEC_ENDED: return add_end(stream, &event);
	}
	return -EPROTO;
}

static ssize_t stream_read(void *context, char *data, size_t size)
{
	struct stream *stream = context;

	while (stream->line.size == 0 && !stream->ended) {
		int r = next_line(stream);
		if (r < 0)
			return r;
	}
	stream->sent_ms = time_mono_ms();
	size_t part = stream->line.size < size ? stream->line.size : size;
	if (part > 0)
		memcpy(data, stream->line.data, part);
	buf_drop(&stream->line, part);
	return (ssize_t)part;
}

static void stream_done(void *context)
{
	struct stream *stream = context;

	close_exec(stream);
	buf_free(&stream->line);
	free(stream);
}

void execute_on_async(struct http_request *request, struct http_response *response)
{
	struct error err = { 0 };
	struct stream *stream = calloc(1, sizeof(*stream));
	if (!stream) {
		http_reply_error(response, 500, NULL, "out of memory");
		return;
	}
	stream->request = request;
	stream->sent_ms = time_mono_ms();
	int r = start(request, true, &stream->exec, &err);
	if (r < 0) {
		free(stream);
		reply_failure(request, response, r, &err);
		return;
	}
	http_add_header(request, "x-execution-id", "%s", sandbox_exec_id(stream->exec));
	http_reply_stream(response, 200, "application/x-ndjson", UINT64_MAX, stream_read, stream_done, stream);
}
