#include "daemon/api/internal.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

#include "base/str.h"
#include "base/time.h"
#include "daemon/api/scope.h"
#include "daemon/auth/auth.h"

#define GRACE_DEFAULT_S 86400

static struct auth_actor actor_of(const struct http_request *request)
{
	const struct call *call = call_of(request);
	return (struct auth_actor){ request->id, call->org.id, call->key.id, request->address };
}

/* auth/ writes the record of what it did or forbade, in the transaction that does it. */
static void note_audited(struct http_request *request, int result)
{
	call_of(request)->audited = result == 0 || result == -EACCES;
}

static json_t *view_key(const struct store_key *key)
{
	int64_t now = time_wall_ms();
	bool expired = key->expires_ms > 0 && key->expires_ms <= now;
	json_t *object = json_object();

	view_set(object, "id", json_string(key->id));
	view_set(object, "organisation_id", json_string(key->org));
	view_set(object, "name", json_string(key->name));
	view_set(object, "prefix", json_string(key->prefix));
	view_set(object, "scopes", scope_names(key->scopes));
	view_set(object, "status", json_string(key->revoked_ms ? "revoked" : expired ? "expired" : "active"));
	view_set(object, "created_at", view_time(key->created_ms));
	view_set(object, "last_used_at", view_time(key->last_used_ms));
	view_set(object, "expires_at", view_time(key->expires_ms));
	view_set(object, "revoked_at", view_time(key->revoked_ms));
	if (key->rotated_to[0])
		view_set(object, "rotated_to", json_string(key->rotated_to));
	return object;
}

/* The one answer that holds the key itself. */
static void reply_made(struct http_request *request, struct http_response *response, int result,
		       const struct store_key *made, char text[AUTH_KEY_MAX], const struct error *err)
{
	note_audited(request, result);
	if (result < 0) {
		reply_failure(request, response, result, err);
		return;
	}
	call_target(request, made->id);
	json_t *body = view_key(made);
	view_set(body, "key", json_string(text));
	sodium_memzero(text, AUTH_KEY_MAX);
	http_reply_json(response, 201, body);
}

struct wanted {
	const char *name, *org, *expires;
	json_t *scopes;
};

void keys_on_create(struct http_request *request, struct http_response *response)
{
	static const struct check_field fields[] = {
		{ "name", CHECK_NAME, offsetof(struct wanted, name), 0, 0, true },
		{ "scopes", CHECK_ARRAY, offsetof(struct wanted, scopes), 1, 5, true },
		{ "expires_at", CHECK_TEXT, offsetof(struct wanted, expires), 1, 64, false },
		{ "organisation_id", CHECK_TEXT, offsetof(struct wanted, org), 1, STORE_ID_MAX - 1, false },
	};
	struct wanted wanted = { 0 };
	struct auth_new_key key = { 0 };
	struct store_key made = { 0 };
	struct error err = { 0 };
	char text[AUTH_KEY_MAX] = "";

	int r = check_object(request->json, "", fields, CHECK_COUNT(fields), &wanted, &err);
	if (r == 0)
		r = scope_parse(wanted.scopes, &key.scopes, &err);
	if (r == 0 && wanted.expires && time_parse_iso(wanted.expires, &key.expires_ms) < 0)
		r = error_set(&err, EINVAL, "expires_at: must be an ISO 8601 time such as 2027-01-31T12:34:56Z");
	if (r == 0)
		r = scope_org(request, wanted.org, &key.org, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	key.name = wanted.name;
	struct auth_actor actor = actor_of(request);
	r = auth_key_create(call_of(request)->api->context.auth, &actor, &key, &made, text, &err);
	reply_made(request, response, r, &made, text, &err);
}

void keys_on_list(struct http_request *request, struct http_response *response)
{
	static const char *const known[] = { "page", "page_size", "organisation_id", NULL };
	struct store_key *rows = NULL;
	struct error err = { 0 };
	uint32_t page, size;
	uint64_t total = 0;
	size_t count = 0;
	const char *org;

	int r = check_query(request, known, &err);
	if (r == 0)
		r = check_page(request, &page, &size, &err);
	if (r == 0)
		r = scope_org(request, http_query(request, "organisation_id"), &org, &err);
	if (r == 0)
		r = store_key_list(call_of(request)->api->context.store, org, page, size, &rows, &count, &total, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *data = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(data, view_key(&rows[i]));
	free(rows);
	http_reply_json(response, 200, view_page(data, page, size, total));
}

struct change {
	const char *org;
	int64_t grace_s;
};

static const struct check_field change_fields[] = {
	{ "organisation_id", CHECK_TEXT, offsetof(struct change, org), 1, STORE_ID_MAX - 1, false },
	{ "grace_seconds", CHECK_INTEGER, offsetof(struct change, grace_s), 0, AUTH_GRACE_S_MAX,
	  false }, /* rotate alone */
};

void keys_on_rotate(struct http_request *request, struct http_response *response)
{
	struct change change = { .grace_s = GRACE_DEFAULT_S };
	struct store_key made = { 0 };
	struct error err = { 0 };
	char text[AUTH_KEY_MAX] = "";
	const char *org;

	int r = check_object(request->json, "", change_fields, CHECK_COUNT(change_fields), &change, &err);
	if (r == 0)
		r = scope_org(request, change.org, &org, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	struct auth_actor actor = actor_of(request);
	r = auth_key_rotate(call_of(request)->api->context.auth, &actor, org, request->param, change.grace_s, &made,
			    text, &err);
	reply_made(request, response, r, &made, text, &err);
}

void keys_on_revoke(struct http_request *request, struct http_response *response)
{
	struct change change = { 0 };
	struct store_key revoked = { 0 };
	struct error err = { 0 };
	const char *org;

	int r = check_object(request->json, "", change_fields, 1, &change, &err);
	if (r == 0)
		r = scope_org(request, change.org, &org, &err);
	if (r == 0) {
		struct auth_actor actor = actor_of(request);
		r = auth_key_revoke(call_of(request)->api->context.auth, &actor, org, request->param, &revoked, &err);
		note_audited(request, r);
	}
	if (r < 0)
		reply_failure(request, response, r, &err);
	else
		http_reply_json(response, 200, view_key(&revoked));
}
