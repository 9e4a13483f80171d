#include "daemon/api/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "daemon/api/scope.h"

#define DAY_MS 86400000LL
#define DAYS 30

/* The day of a time, as the store has it. */
static void day_of(int64_t ms, char day[12])
{
	char text[TIME_TEXT_MAX];
	snprintf(day, 12, "%.10s", time_iso(text, ms));
}

static int read_day(const struct http_request *request, const char *name, char day[12], struct error *err)
{
	const char *text = http_query(request, name);
	char whole[32];
	int64_t ms;

	if (!text)
		return 0;
	snprintf(whole, sizeof(whole), "%.10sT00:00:00Z", text);
	if (strlen(text) != 10 || time_parse_iso(whole, &ms) < 0)
		return error_set(err, EINVAL, "%s: must be a day such as 2026-01-31", name);
	memcpy(day, text, 11);
	return 0;
}

static json_t *view_day(const struct store_usage *row)
{
	return json_pack("{s:s,s:f,s:f,s:f,s:I,s:I,s:I,s:I}", "day", row->day, "sandbox_seconds", row->sandbox_s,
			 "vcpu_seconds", row->vcpu_s, "cpu_seconds", row->cpu_s, "bytes_in", (json_int_t)row->bytes_in,
			 "bytes_out", (json_int_t)row->bytes_out, "executions", (json_int_t)row->execs, "creates",
			 (json_int_t)row->creates);
}

void usage_on_list(struct http_request *request, struct http_response *response)
{
	static const char *const known[] = { "from", "to", "organisation_id", NULL };
	struct store *store = call_of(request)->api->context.store;
	struct store_usage *rows = NULL;
	struct store_totals totals = { 0 };
	struct error err = { 0 };
	const char *org;
	char from[12], to[12];
	size_t count = 0;

	day_of(time_wall_ms() - (DAYS - 1) * DAY_MS, from);
	day_of(time_wall_ms(), to);
	int r = check_query(request, known, &err);
	if (r == 0)
		r = read_day(request, "from", from, &err);
	if (r == 0)
		r = read_day(request, "to", to, &err);
	if (r == 0)
		r = scope_org(request, http_query(request, "organisation_id"), &org, &err);
	if (r == 0)
		r = store_usage_list(store, org, from, to, &rows, &count, &err);
	if (r == 0)
		r = store_totals(store, org, &totals, &err);
	if (r < 0) {
		free(rows);
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *data = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(data, view_day(&rows[i]));
	free(rows);
	json_t *current = json_pack("{s:I,s:I,s:I,s:I,s:I}", "sandboxes", (json_int_t)totals.sandboxes, "cpu_units",
				    (json_int_t)totals.cpu_units, "memory_mib", (json_int_t)totals.memory_mib,
				    "storage_gb", (json_int_t)totals.storage_gb, "snapshots",
				    (json_int_t)totals.snapshots);
	http_reply_json(response, 200,
			json_pack("{s:s,s:o,s:o}", "organisation_id", org, "data", data, "current", current));
}
