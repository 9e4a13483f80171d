#include "daemon/api/internal.h"

#include <assert.h>

#include "base/time.h"

json_t *view_time(int64_t ms)
{
	char text[TIME_TEXT_MAX];
	return ms > 0 ? json_string(time_iso(text, ms)) : json_null();
}

void view_set(json_t *object, const char *name, json_t *value)
{
	json_object_set_new(object, name, value);
}

const char *view_sandbox_status(enum sandbox_status status)
{
	static const char *const names[] = { "creating", "running", "paused", "stopping", "terminated", "error" };
	static_assert(sizeof(names) / sizeof(names[0]) == SANDBOX_ERROR + 1, "one name a status");
	return (unsigned)status <= SANDBOX_ERROR ? names[status] : "error";
}

const char *view_snapshot_status(enum snapshot_status status)
{
	static const char *const names[] = { "creating", "ready", "error", "pending_deletion" };
	static_assert(sizeof(names) / sizeof(names[0]) == SNAPSHOT_PENDING_DELETION + 1, "one name a status");
	return (unsigned)status <= SNAPSHOT_PENDING_DELETION ? names[status] : "error";
}

/* What we kept as text comes back as the object that it was. */
static json_t *kept(const char *text, json_t *otherwise)
{
	json_t *value = text ? json_loads(text, 0, NULL) : NULL;
	if (!value)
		return otherwise;
	json_decref(otherwise);
	return value;
}

json_t *view_sandbox_brief(const struct store_sandbox *row)
{
	json_t *object = json_object();
	view_set(object, "id", json_string(row->id));
	view_set(object, "name", json_string(row->name));
	view_set(object, "status", json_string(view_sandbox_status(row->status)));
	view_set(object, "cpu", json_integer(row->cpu_units));
	view_set(object, "memory", json_integer(row->memory_mib));
	view_set(object, "disk_size", json_integer(row->storage_gb));
	view_set(object, "created_at", view_time(row->created_ms));
	return object;
}

json_t *view_sandbox(const struct store_sandbox *row)
{
	json_t *object = view_sandbox_brief(row);
	view_set(object, "storage", json_integer(row->storage_gb));
	view_set(object, "image", json_string(row->image));
	view_set(object, "timeout_seconds", json_integer(row->timeout_s));
	view_set(object, "idle_timeout_seconds", json_integer(row->idle_timeout_s));
	view_set(object, "on_idle", json_string(row->idle_pause ? "pause" : "terminate"));
	view_set(object, "expires_at", view_time(row->expires_ms));
	view_set(object, "network", kept(row->network, json_pack("{s:s}", "outbound", "allow")));
	view_set(object, "metadata", kept(row->metadata, json_object()));
	if (row->snapshot[0])
		view_set(object, "source_snapshot_id", json_string(row->snapshot));
	return object;
}

json_t *view_sandbox_full(const struct store_sandbox *row)
{
	json_t *object = view_sandbox(row);
	json_t *termination = json_null();
	if (row->reason[0]) {
		termination = json_object();
		view_set(termination, "reason", json_string(row->reason));
		view_set(termination, "message", json_string(row->message));
		view_set(termination, "at", view_time(row->terminated_ms));
	}
	view_set(object, "termination", termination);
	return object;
}

json_t *view_snapshot(const struct store_snapshot *row)
{
	json_t *object = json_object();
	view_set(object, "id", json_string(row->id));
	view_set(object, "name", json_string(row->name));
	view_set(object, "status", json_string(view_snapshot_status(row->status)));
	view_set(object, "consistency", json_string(row->quick ? "crash" : "application"));
	view_set(object, "created_at", view_time(row->created_ms));
	view_set(object, "source_sandbox_id", json_string(row->source));
	view_set(object, "source_sandbox_name", json_string(row->source_name));
	view_set(object, "size", json_integer((json_int_t)row->size));
	if (row->status == SNAPSHOT_ERROR)
		view_set(object, "message", json_string(row->message));
	return object;
}

json_t *view_page(json_t *data, uint32_t page, uint32_t size, uint64_t total)
{
	json_t *object = json_object();
	view_set(object, "data", data);
	view_set(object, "pagination",
		 json_pack("{s:I,s:I,s:I,s:I}", "page", (json_int_t)page, "page_size", (json_int_t)size, "total_items",
			   (json_int_t)total, "total_pages", (json_int_t)((total + size - 1) / size)));
	return object;
}
