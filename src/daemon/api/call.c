/*
 * Theory of operation. Each request passes here on its way to a handler and back: admission (gate.c: key, scope,
 * suspension, rate), the Idempotency-Key (idem.c), the handler, and then the audit record of what is not recorded yet, one
 * line of access log, and the metrics. The query is in no log, since a key may stand in it.
 *
 * The audit log. A change of an organisation, a key, a sandbox, a snapshot or the execution log is committed in one
 * transaction with its record, by auth/ and sandbox/ (sandbox/record.h): if the record cannot be written, nothing is
 * changed and the call fails. It has the route's action where it is what the call was for, with the status to come and the
 * time until then; steps on the way (sandbox.admitted, snapshot.admitted, a resume that a command needed) and consequences
 * (sandbox.terminated, snapshot.removed) have actions of their own, and without a key akirad did it by itself. What is
 * left to record here, after the handler, is what changed no such row: calls that failed or were refused, uploads,
 * downloads, what was so already, and a call whose answer turned out another than its record says.
 *
 * No change in this sense is bookkeeping: Idempotency-Keys, usage, samples, rate buckets, the last use of keys, and the
 * forgetting of what has ended long ago.
 */
#include "daemon/api/internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "daemon/api/gate.h"

#define RETRY_CAPACITY_S 5
#define RETRY_QUOTA_S 10

static const struct {
	int result, status;
} statuses[] = {
	{ -EINVAL, 400 },    { -EACCES, 403 }, { -ENOENT, 404 },      { -EBUSY, 409 },    { -EEXIST, 409 },
	{ -EFBIG, 413 },     { -EPROTO, 422 }, { -EDQUOT, 429 },      { -EAGAIN, 503 },   { -ENOSPC, 507 },
	{ -ETIMEDOUT, 504 }, { -EPIPE, 499 },  { -EKEYREVOKED, 401 }, { -EALREADY, 409 },
};

void reply_refusal(struct http_request *request, struct http_response *response, int status, const char *code,
		   int64_t retry_after_s, const char *message)
{
	/* Clients resend a 409, which would be no other the next time. */
	if (status == 409)
		http_add_header(request, "x-should-retry", "false");
	if (retry_after_s > 0)
		http_add_header(request, "Retry-After", "%lld", (long long)retry_after_s);
	http_reply_error(response, status, code, "%s", message);
}

static int status_of(int result)
{
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (statuses[i].result == result)
			return statuses[i].status;
	return 500;
}

const char *failure_text(const struct http_request *request, int result, const struct error *err)
{
	if (status_of(result) != 500)
		return err->text[0] ? err->text : "the call failed";
	log_error("request_failed", "request", request->id, "route", request->route->pattern, "error", err->text);
	return "internal error; the server's log says more under this request's id";
}

void reply_failure(struct http_request *request, struct http_response *response, int result, const struct error *err)
{
	int status = status_of(result);

	reply_refusal(request, response, status, status == 429 ? "quota_exceeded" : NULL,
		      status == 503   ? RETRY_CAPACITY_S
		      : status == 429 ? RETRY_QUOTA_S
				      : 0,
		      failure_text(request, result, err));
}

void reply_deleted(struct http_request *request, struct http_response *response, const char *what, json_t *deleted,
		   json_t *errors)
{
	size_t failed = json_array_size(errors);

	call_detail(request, "%zu deleted, %zu failed", json_array_size(deleted), failed);
	if (failed) /* each deletion has its record; that some failed is in none */
		call_of(request)->recorded = 0;
	json_t *body = json_pack("{s:I,s:o}", "deleted_count", (json_int_t)json_array_size(deleted), "deleted_ids",
				 deleted);
	view_set(body, "message", json_sprintf(failed ? "some %s could not be deleted" : "all %s are deleted", what));
	if (failed)
		view_set(body, "errors", json_incref(errors));
	json_decref(errors);
	http_reply_json(response, 200, body);
}

void call_target(struct http_request *request, const char *id)
{
	str_copy(call_of(request)->target, sizeof(call_of(request)->target), id);
}

void call_detail(struct http_request *request, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(call_of(request)->detail, sizeof(call_of(request)->detail), format, args);
	va_end(args);
}

bool call_admit(void *context, struct http_request *request, struct http_response *response)
{
	struct call *call = calloc(1, sizeof(*call));
	if (!call) {
		http_reply_error(response, 500, NULL, "out of memory");
		return false;
	}
	call->api = context;
	request->user = call;
	str_copy(call->target, sizeof(call->target), request->param);
	if (request->route->flags & HTTP_OPEN)
		return true;
	if (!gate_check(call, request, response))
		return false;
	call->actor = (struct sandbox_actor){
		.org = &call->org,
		.key = call->key.id,
		.request = request->id,
		.address = request->address,
		.action = request->route->action,
		.status = request->route->early_status ? request->route->early_status : 200,
		.started_us = request->started_us,
		.recorded = &call->recorded,
	};
	return true;
}

void call_handle(void *context, struct http_request *request, struct http_response *response)
{
	if (!idem_begin(request, response))
		return;
	request->route->handler(request, response);
	idem_end(request, response);
}

/* A cut in the middle of a character would make the record unreadable. */
static void copy_text(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%s", from);
	while (to[0] && !str_is_utf8(to, strlen(to)))
		to[strlen(to) - 1] = '\0';
}

static void write_audit(struct api_server *api, const struct http_request *request, int status, int64_t duration_us,
			uint64_t suppressed)
{
	struct call *call = request->user;
	struct store_audit row = { .status = status, .duration_us = duration_us };
	struct error err = { 0 };

	str_copy(row.request, sizeof(row.request), request->id);
	str_copy(row.org, sizeof(row.org), call->org.id);
	str_copy(row.key, sizeof(row.key), call->key.id);
	str_copy(row.address, sizeof(row.address), request->address);
	str_copy(row.action, sizeof(row.action), request->route->action);
	str_copy(row.target, sizeof(row.target), call->target);
	bool refused = status == 401 || status == 403 || status == 429;
	str_copy(row.outcome, sizeof(row.outcome), status < 400 ? "ok" : refused ? "refused" : "failed");
	copy_text(row.detail, sizeof(row.detail), call->detail);
	if (suppressed > 0) {
		size_t used = strlen(row.detail);
		snprintf(row.detail + used, sizeof(row.detail) - used,
			 "%s%llu more refusals of this address unrecorded", used ? "; " : "",
			 (unsigned long long)suppressed);
	}
	if (store_audit_add(api->context.store, &row, &err) == 0)
		return;
	metrics_audit_failed(api->metrics);
	log_error("audit_record_lost", "request", request->id, "action", row.action, "target", row.target, "outcome",
		  row.outcome, "error", err.text);
}

static void audit(struct api_server *api, const struct http_request *request, int status, int64_t duration_us)
{
	const struct http_route *route = request->route;
	uint64_t suppressed = 0;

	const struct call *call = request->user;
	if (!route || !call || (route->flags & HTTP_OPEN) || call->audited || call->recorded == status)
		return;
	bool refusal = status == 401 || status == 403 || status == 429;
	if (!refusal && !(route->flags & HTTP_MUTATES))
		return;
	/* Whoever hammers at the door must not be able to fill the disk with records of it. */
	if (refusal && !refusals_admit(api->refusals, request->address, &suppressed))
		return;
	write_audit(api, request, status, duration_us, suppressed);
}

void call_done(void *context, struct http_request *request, int status, int64_t duration_us)
{
	struct api_server *api = context;
	const struct call *call = request->user;

	metrics_request(api->metrics, request->route, status, duration_us);
	audit(api, request, status, duration_us);
	log_info("http_request", "request", request->id, "method", request->method, "path",
		 request->path ? request->path : "", "status", LOG_INT(status), "us", LOG_INT(duration_us), "address",
		 request->address, "org", call && call->authenticated ? call->org.id : NULL, "key",
		 call && call->authenticated ? call->key.id : NULL);
}

void call_release(void *context, struct http_request *request)
{
	struct call *call = request->user;

	if (!call)
		return;
	upload_free(call->upload);
	free(call);
	request->user = NULL;
}
