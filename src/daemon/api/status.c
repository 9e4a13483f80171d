/* How a sandbox does, and what ran in it. */
#include "daemon/api/internal.h"

#include <stdlib.h>

#include "base/time.h"

#define HOUR_MS 3600000

static double percent(uint64_t part, uint64_t whole)
{
	double value = whole > 0 ? 100.0 * (double)part / (double)whole : 0;
	return value > 100 ? 100 : value;
}

static double mebibytes(uint64_t bytes)
{
	return (double)bytes / 1048576.0;
}

static json_t *view_history(const struct sandbox_metrics *metrics)
{
	json_t *list = json_array();
	for (size_t i = 0; i < metrics->history_count; i++) {
		const struct store_sample *sample = &metrics->history[i];
		json_t *entry = json_object();
		view_set(entry, "timestamp", view_time(sample->when_ms));
		view_set(entry, "cpu_percent", json_real(sample->cpu_percent));
		view_set(entry, "memory_mb", json_real(mebibytes(sample->memory_bytes)));
		json_array_append_new(list, entry);
	}
	return list;
}

void sandbox_on_status(struct http_request *request, struct http_response *response)
{
	static const char *const known[] = { "from", "to", NULL };
	struct call *call = call_of(request);
	struct sandbox_info info = { 0 };
	struct sandbox_metrics metrics = { 0 };
	struct error err = { 0 };
	int64_t now = time_wall_ms(), from = now - HOUR_MS, to = now;

	int r = check_query(request, known, &err);
	if (r == 0)
		r = check_time(request, "from", &from, &err);
	if (r == 0)
		r = check_time(request, "to", &to, &err);
	if (r == 0)
		r = sandbox_get(call->api->context.sandboxes, &call->actor, request->param, &info, &err);
	if (r == 0)
		r = sandbox_metrics(call->api->context.sandboxes, &call->actor, request->param, from, to, &metrics,
				    &err);
	if (r < 0) {
		sandbox_info_free(&info);
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *body = json_object();
	view_set(body, "sandbox_name", json_string(info.row.name));
	view_set(body, "timestamp", view_time(now));
	if (metrics.current)
		view_set(body, "current",
			 json_pack("{s:f,s:f,s:f}", "cpu_percent", metrics.cpu_percent, "memory_mb",
				   mebibytes(metrics.memory_bytes), "memory_percent",
				   percent(metrics.memory_bytes, metrics.memory_total_bytes)));
	if (http_query(request, "from") || http_query(request, "to"))
		view_set(body, "history", view_history(&metrics));
	free(metrics.history);
	sandbox_info_free(&info);
	http_reply_json(response, 200, body);
}

static json_t *view_entry(const struct store_exec *row)
{
	json_t *entry = json_object();
	view_set(entry, "request_id", json_string(row->request));
	view_set(entry, "sandbox_id", json_string(row->sandbox));
	view_set(entry, "execution_id", json_string(row->id));
	view_set(entry, "command", json_string(row->command ? row->command : ""));
	view_set(entry, "exit_code", json_integer(row->exit_code));
	view_set(entry, "status", json_string(row->status));
	view_set(entry, "execution_time_ms", json_integer(row->duration_ms));
	view_set(entry, "timestamp", view_time(row->started_ms));
	view_set(entry, "source", json_string(row->stream ? "stream" : "sync"));
	if (row->out) {
		view_set(entry, "stdout", json_string(row->out));
		view_set(entry, "stdout_truncated", json_boolean(row->out_truncated));
	}
	if (row->err_out) {
		view_set(entry, "stderr", json_string(row->err_out));
		view_set(entry, "stderr_truncated", json_boolean(row->err_truncated));
	}
	if (row->cwd)
		view_set(entry, "working_dir", json_string(row->cwd));
	return entry;
}

void sandbox_on_logs(struct http_request *request, struct http_response *response)
{
	static const char *const known[] = { "sandbox_id", "from", "to", "limit", NULL };
	struct call *call = call_of(request);
	struct store_exec_filter filter = { .org = call->org.id, .sandbox = http_query(request, "sandbox_id") };
	struct store_exec *rows = NULL;
	struct error err = { 0 };
	uint64_t limit = 100, total = 0;
	size_t count = 0;

	filter.to_ms = time_wall_ms();
	filter.from_ms = filter.to_ms - HOUR_MS;
	int r = check_query(request, known, &err);
	if (r == 0)
		r = check_time(request, "from", &filter.from_ms, &err);
	if (r == 0)
		r = check_time(request, "to", &filter.to_ms, &err);
	if (r == 0)
		r = check_number(request, "limit", 1, 1000, &limit, &err);
	filter.limit = (uint32_t)limit;
	if (r == 0)
		r = store_exec_list(call->api->context.store, &filter, &rows, &count, &total, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *logs = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(logs, view_entry(&rows[i]));
	store_execs_free(rows, count);
	http_reply_json(response, 200, json_pack("{s:o,s:I}", "logs", logs, "total", (json_int_t)total));
}
