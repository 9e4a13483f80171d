#include "daemon/api/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "base/time.h"

static struct sandboxes *domain(const struct http_request *request)
{
	return call_of(request)->api->context.sandboxes;
}

static const struct sandbox_actor *actor(const struct http_request *request)
{
	return &call_of(request)->actor;
}

/* A call that answers with the sandbox as it now is. */
static void reply_info(struct http_request *request, struct http_response *response, int status, int result,
		       struct sandbox_info *info, const struct error *err)
{
	if (result < 0) {
		reply_failure(request, response, result, err);
		return;
	}
	call_target(request, info->row.id);
	http_reply_json(response, status, status == 201 ? view_sandbox(&info->row) : view_sandbox_full(&info->row));
	sandbox_info_free(info);
}

static bool no_fields(struct http_request *request, struct http_response *response)
{
	struct error err = { 0 };
	int r = check_object(request->json, "", NULL, 0, NULL, &err);
	if (r < 0)
		reply_failure(request, response, r, &err);
	return r == 0;
}

void sandbox_on_create(struct http_request *request, struct http_response *response)
{
	_cleanup_spec_ struct spec spec;
	struct sandbox_info info = { 0 };
	struct error err = { 0 };
	int64_t start = time_mono_us();

	int r = spec_parse(request, SPEC_CREATE, &spec, &err);
	if (r == 0) {
		r = sandbox_create(domain(request), actor(request), &spec.domain, &info, &err);
		if (r == 0)
			metrics_time(call_of(request)->api->metrics, METRICS_CREATE, time_mono_us() - start);
	}
	reply_info(request, response, 201, r, &info, &err);
}

/* metadata.KEY=VALUE, at most 8, all must match. */
static int read_filter(const struct http_request *request, struct store_sandbox_filter *filter, struct error *err)
{
	for (size_t i = 0; i < request->query_count; i++) {
		const struct http_pair *pair = &request->query[i];
		if (str_starts(pair->name, "metadata.") && pair->name[9]) {
			if (filter->metadata_count == 8)
				return error_set(err, EINVAL, "metadata: at most 8 filters");
			filter->metadata_key[filter->metadata_count] = pair->name + 9;
			filter->metadata_value[filter->metadata_count++] = pair->value;
		} else if (strcmp(pair->name, "page") != 0 && strcmp(pair->name, "page_size") != 0 &&
			   strcmp(pair->name, "api_key") != 0) {
			return error_set(err, EINVAL, "%.64s: there is no such query parameter", pair->name);
		}
	}
	return 0;
}

void sandbox_on_list(struct http_request *request, struct http_response *response)
{
	struct store_sandbox_filter filter = { .org = call_of(request)->org.id, .live = true };
	struct store_sandbox *rows = NULL;
	struct error err = { 0 };
	uint32_t page, size;
	uint64_t total = 0;
	size_t count = 0;

	int r = check_page(request, &page, &size, &err);
	if (r == 0)
		r = read_filter(request, &filter, &err);
	if (r == 0)
		r = sandbox_list(domain(request), &filter, page, size, &rows, &count, &total, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *data = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(data, view_sandbox_brief(&rows[i]));
	store_sandboxes_free(rows, count);
	http_reply_json(response, 200, view_page(data, page, size, total));
}

void sandbox_on_get(struct http_request *request, struct http_response *response)
{
	struct sandbox_info info = { 0 };
	struct error err = { 0 };

	int r = sandbox_get(domain(request), actor(request), request->param, &info, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *body = view_sandbox_full(&info.row);
	if (info.has_network) {
		const struct policy_counters *n = &info.network;
		view_set(body, "network_usage",
			 json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "bytes_out", (json_int_t)n->bytes_out, "bytes_in",
				   (json_int_t)n->bytes_in, "refused_private", (json_int_t)n->refused_private,
				   "refused_policy", (json_int_t)n->refused_policy, "refused_spoofed",
				   (json_int_t)n->refused_spoofed, "refused_limited", (json_int_t)n->refused_limited));
	}
	sandbox_info_free(&info);
	http_reply_json(response, 200, body);
}

struct deletion {
	bool create_snapshot, keep_storage;
	const char *snapshot_name;
};

void sandbox_on_delete(struct http_request *request, struct http_response *response)
{
	static const struct check_field fields[] = {
		{ "create_snapshot", CHECK_BOOLEAN, offsetof(struct deletion, create_snapshot), 0, 0, false },
		{ "snapshot_name", CHECK_NAME, offsetof(struct deletion, snapshot_name), 0, 0, false },
		{ "keep_storage", CHECK_BOOLEAN, offsetof(struct deletion, keep_storage), 0, 0, false },
	};
	struct deletion asked = { 0 };
	struct store_snapshot snapshot = { 0 };
	struct error err = { 0 };

	int r = check_object(request->json, "", fields, CHECK_COUNT(fields), &asked, &err);
	if (r == 0 && asked.snapshot_name && !asked.create_snapshot)
		r = error_set(&err, EINVAL, "snapshot_name: needs create_snapshot to be true");
	const char *name = !asked.create_snapshot ? NULL : asked.snapshot_name ? asked.snapshot_name : "";
	if (r == 0)
		r = sandbox_delete(domain(request), actor(request), request->param, name, &snapshot, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *body = json_pack("{s:s,s:s,s:b}", "id", request->param, "message", "the sandbox was deleted",
				 "snapshot_created", name != NULL);
	if (name) {
		view_set(body, "snapshot_id", json_string(snapshot.id));
		view_set(body, "snapshot_name", json_string(snapshot.name));
		call_detail(request, "snapshot %s", snapshot.id);
		store_snapshot_free(&snapshot);
	}
	http_reply_json(response, 200, body);
}

/* ---- delete-all ---- */

static int collect_live(struct http_request *request, struct buf *ids, struct error *err)
{
	struct store_sandbox_filter filter = { .org = call_of(request)->org.id, .live = true };

	/* All ids first: deleting moves the pages. */
	for (uint32_t page = 1;; page++) {
		struct store_sandbox *rows = NULL;
		size_t count = 0;
		uint64_t total = 0;
		int r = sandbox_list(domain(request), &filter, page, 100, &rows, &count, &total, err);
		if (r < 0)
			return r;
		for (size_t i = 0; i < count && r == 0; i++)
			r = buf_add(ids, rows[i].id, sizeof(rows[i].id));
		store_sandboxes_free(rows, count);
		if (r < 0)
			return error_set(err, ENOMEM, "out of memory");
		if (count < 100)
			return 0;
	}
}

void sandbox_on_delete_all(struct http_request *request, struct http_response *response)
{
	_cleanup_buf_ struct buf ids = { 0 };
	struct error err = { 0 };

	if (!no_fields(request, response))
		return;
	int r = collect_live(request, &ids, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *deleted = json_array(), *errors = json_array();
	for (size_t at = 0; at < ids.size; at += STORE_ID_MAX) {
		const char *id = ids.data + at;
		err = (struct error){ 0 };
		r = sandbox_delete(domain(request), actor(request), id, NULL, NULL, &err);
		if (r == 0)
			json_array_append_new(deleted, json_string(id));
		else if (r != -ENOENT) /* somebody was quicker: gone is gone */
			json_array_append_new(
				errors, json_pack("{s:s,s:s}", "id", id, "error", failure_text(request, r, &err)));
	}
	reply_deleted(request, response, "sandboxes", deleted, errors);
}

/* ---- pause, resume, timeout, console, network ---- */

void sandbox_on_pause(struct http_request *request, struct http_response *response)
{
	struct sandbox_info info = { 0 };
	struct error err = { 0 };

	if (no_fields(request, response))
		reply_info(request, response, 200,
			   sandbox_pause(domain(request), actor(request), request->param, &info, &err), &info, &err);
}

void sandbox_on_resume(struct http_request *request, struct http_response *response)
{
	struct sandbox_info info = { 0 };
	struct error err = { 0 };

	if (no_fields(request, response))
		reply_info(request, response, 200,
			   sandbox_resume(domain(request), actor(request), request->param, &info, &err), &info, &err);
}

void sandbox_on_timeout(struct http_request *request, struct http_response *response)
{
	static const struct check_field fields[] = { { "timeout_seconds", CHECK_INTEGER, 0, 1, 31536000, true } };
	struct sandbox_info info = { 0 };
	struct error err = { 0 };
	int64_t seconds = 0;

	int r = check_object(request->json, "", fields, CHECK_COUNT(fields), &seconds, &err);
	if (r == 0)
		r = sandbox_set_timeout(domain(request), actor(request), request->param, seconds, &info, &err);
	call_detail(request, "%lld s", (long long)seconds);
	reply_info(request, response, 200, r, &info, &err);
}

void sandbox_on_network(struct http_request *request, struct http_response *response)
{
	_cleanup_spec_ struct spec spec = { 0 };
	struct sandbox_info info = { 0 };
	struct error err = { 0 };

	int r = spec_network(request->json, &spec, &err);
	if (r == 0)
		r = sandbox_set_network(domain(request), actor(request), request->param, &spec.network,
					spec.network_json, &info, &err);
	reply_info(request, response, 200, r, &info, &err);
}

void sandbox_on_console(struct http_request *request, struct http_response *response)
{
	struct error err = { 0 };
	char *raw = NULL;
	size_t size = 0, length = 0;

	int r = sandbox_console(domain(request), actor(request), request->param, &raw, &size, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	char *text = str_to_utf8(raw, size, &length);
	free(raw);
	if (text)
		http_reply_text(response, 200, "text/plain; charset=utf-8", text, length);
	else
		http_reply_error(response, 500, NULL, "out of memory");
	free(text);
}
