#include "daemon/api/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "daemon/auth/auth.h"

#define NONE (-1)

/* What a tier grants where the body says nothing (the contract's table; the rest is ours). */
static const struct store_org tiers[] = {
	{ .tier = "beta",
	  .requests_per_minute = 60,
	  .sandboxes_max = 10,
	  .cpu_units_max = 16,
	  .memory_mib_max = 8192,
	  .storage_gb_max = 100,
	  .snapshots_max = 50,
	  .lifetime_s_max = 86400,
	  .execs_max = 32,
	  .upload_bytes_max = (int64_t)1 << 30 },
	{ .tier = "pro",
	  .requests_per_minute = 300,
	  .sandboxes_max = 50,
	  .cpu_units_max = 64,
	  .memory_mib_max = 32768,
	  .storage_gb_max = 500,
	  .snapshots_max = 500,
	  .lifetime_s_max = 86400,
	  .execs_max = 32,
	  .upload_bytes_max = (int64_t)10 << 30 },
	{ .tier = "enterprise",
	  .requests_per_minute = NONE,
	  .sandboxes_max = NONE,
	  .cpu_units_max = NONE,
	  .memory_mib_max = NONE,
	  .storage_gb_max = NONE,
	  .snapshots_max = NONE,
	  .lifetime_s_max = 86400,
	  .execs_max = NONE,
	  .upload_bytes_max = NONE },
};

static const struct check_field limit_fields[] = {
#define LIMIT(name, member)                                                                     \
	{                                                                                       \
		name, CHECK_INTEGER, offsetof(struct store_org, member), NONE, INT64_MAX, false \
	}
	LIMIT("requests_per_minute", requests_per_minute),
	LIMIT("sandboxes", sandboxes_max),
	LIMIT("cpu_units", cpu_units_max),
	LIMIT("memory_mib", memory_mib_max),
	LIMIT("storage_gb", storage_gb_max),
	LIMIT("snapshots", snapshots_max),
	LIMIT("lifetime_seconds", lifetime_s_max),
	LIMIT("executions", execs_max),
	LIMIT("upload_bytes", upload_bytes_max),
#undef LIMIT
};

static json_t *view_org(const struct store_org *org)
{
	json_t *object = json_object(), *limits = json_object();

	for (size_t i = 0; i < CHECK_COUNT(limit_fields); i++) {
		int64_t value;
		memcpy(&value, (const char *)org + limit_fields[i].offset, sizeof(value));
		view_set(limits, limit_fields[i].name, json_integer(value));
	}
	view_set(object, "id", json_string(org->id));
	view_set(object, "name", json_string(org->name));
	view_set(object, "tier", json_string(org->tier));
	view_set(object, "suspended", json_boolean(org->suspended));
	view_set(object, "log_output", json_boolean(org->log_output));
	view_set(object, "log_commands", json_boolean(org->log_commands));
	view_set(object, "limits", limits);
	view_set(object, "created_at", view_time(org->created_ms));
	return object;
}

struct wish {
	const char *name, *tier, *running;
	json_t *limits;
	bool log_output, log_commands, suspended;
};

static const struct check_field fields[] = {
	{ "name", CHECK_NAME, offsetof(struct wish, name), 0, 0, false },
	{ "tier", CHECK_TEXT, offsetof(struct wish, tier), 1, 15, false },
	{ "limits", CHECK_OBJECT, offsetof(struct wish, limits), 0, 0, false },
	{ "log_output", CHECK_BOOLEAN, offsetof(struct wish, log_output), 0, 0, false },
	{ "log_commands", CHECK_BOOLEAN, offsetof(struct wish, log_commands), 0, 0, false },
	{ "suspended", CHECK_BOOLEAN, offsetof(struct wish, suspended), 0, 0, false }, /* these two: update alone */
	{ "running", CHECK_TEXT, offsetof(struct wish, running), 1, 8, false },
};

/* A tier brings its limits; what the body names beside it overrides them. */
static int set_tier(struct store_org *org, const char *tier, struct error *err)
{
	for (size_t i = 0; i < sizeof(tiers) / sizeof(tiers[0]); i++) {
		if (strcmp(tiers[i].tier, tier) != 0)
			continue;
		struct store_org kept = *org;
		*org = tiers[i];
		memcpy(org->id, kept.id, sizeof(org->id));
		memcpy(org->name, kept.name, sizeof(org->name));
		org->suspended = kept.suspended;
		org->log_output = kept.log_output;
		org->log_commands = kept.log_commands;
		org->created_ms = kept.created_ms;
		return 0;
	}
	return error_set(err, EINVAL, "tier: must be beta, pro or enterprise");
}

static int read_body(const struct http_request *request, size_t count, struct store_org *org, struct wish *wish,
		     struct error *err)
{
	wish->log_output = org->log_output;
	wish->log_commands = org->log_commands;
	wish->suspended = org->suspended;
	int r = check_object(request->json, "", fields, count, wish, err);
	if (r == 0 && wish->tier)
		r = set_tier(org, wish->tier, err);
	if (r == 0 && wish->limits)
		r = check_object(wish->limits, "limits.", limit_fields, CHECK_COUNT(limit_fields), org, err);
	if (r == 0 && wish->running && strcmp(wish->running, "stop") != 0 && strcmp(wish->running, "keep") != 0)
		r = error_set(err, EINVAL, "running: must be stop or keep");
	if (r == 0 && wish->running && !wish->suspended)
		r = error_set(err, EINVAL, "running: goes with suspended alone");
	if (wish->name)
		str_copy(org->name, sizeof(org->name), wish->name);
	org->log_output = wish->log_output;
	org->log_commands = wish->log_commands;
	org->suspended = wish->suspended;
	return r;
}

static struct auth_actor actor_of(const struct http_request *request)
{
	const struct call *call = call_of(request);
	return (struct auth_actor){ request->id, call->org.id, call->key.id, request->address };
}

void orgs_on_create(struct http_request *request, struct http_response *response)
{
	struct store_org org = { .log_output = true, .log_commands = true };
	struct wish wish = { 0 };
	struct error err = { 0 };

	int r = set_tier(&org, "beta", &err);
	if (r == 0)
		r = read_body(request, CHECK_COUNT(fields) - 2, &org, &wish, &err);
	if (r == 0 && !wish.name)
		r = error_set(&err, EINVAL, "name: is required");
	if (r == 0) {
		struct auth_actor actor = actor_of(request);
		r = auth_org_create(call_of(request)->api->context.auth, &actor, &org, &err);
		call_of(request)->audited = r == 0 || r == -EACCES;
	}
	if (r < 0)
		reply_failure(request, response, r, &err);
	else
		http_reply_json(response, 201, view_org(&org));
}

void orgs_on_list(struct http_request *request, struct http_response *response)
{
	static const char *const known[] = { "page", "page_size", NULL };
	struct store_org *rows = NULL;
	struct error err = { 0 };
	uint32_t page, size;
	uint64_t total = 0;
	size_t count = 0;

	int r = check_query(request, known, &err);
	if (r == 0)
		r = check_page(request, &page, &size, &err);
	if (r == 0)
		r = store_org_list(call_of(request)->api->context.store, page, size, &rows, &count, &total, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *data = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(data, view_org(&rows[i]));
	free(rows);
	http_reply_json(response, 200, view_page(data, page, size, total));
}

void orgs_on_get(struct http_request *request, struct http_response *response)
{
	struct store_org org;
	struct error err = { 0 };

	int r = store_org_get(call_of(request)->api->context.store, request->param, &org, &err);
	if (r < 0)
		reply_failure(request, response, r, &err);
	else
		http_reply_json(response, 200, view_org(&org));
}

void orgs_on_update(struct http_request *request, struct http_response *response)
{
	struct api_context *context = &call_of(request)->api->context;
	struct store_org org = { 0 };
	struct wish wish = { 0 };
	struct error err = { 0 };
	int stopped = 0;

	int r = store_org_get(context->store, request->param, &org, &err);
	bool suspended_before = org.suspended;
	if (r == 0)
		r = read_body(request, CHECK_COUNT(fields), &org, &wish, &err);
	if (r == 0) {
		struct auth_actor actor = actor_of(request);
		r = auth_org_update(context->auth, &actor, &org, &err);
		call_of(request)->audited = r == 0 || r == -EACCES;
	}
	/* Suspended means that nothing of it goes on, unless whoever suspends says keep. */
	bool stop = org.suspended && (wish.running ? strcmp(wish.running, "stop") == 0 : !suspended_before);
	if (r == 0 && stop)
		r = stopped = sandbox_stop_all(context->sandboxes, &call_of(request)->actor, org.id,
					       "the organisation was suspended", &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *body = view_org(&org);
	if (stop)
		view_set(body, "stopped_count", json_integer(stopped));
	http_reply_json(response, 200, body);
}
