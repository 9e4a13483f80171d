#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/auth/internal.h"

static bool is_host(const struct auth_actor *actor)
{
	return !actor->key || !*actor->key;
}

static int64_t clock_of(const struct auth *auth)
{
	return auth ? auth->config.wall_ms() : time_wall_ms();
}

int change_begin(struct store *store, struct error *err)
{
	if (store_in_tx(store))
		return error_set(err, EINVAL, "keys and organisations change in transactions of their own");
	return store_begin(store, err);
}

int change_allowed(struct store *store, const struct auth_change *change, uint32_t needs, uint32_t scopes,
		   struct error *err)
{
	const struct auth_actor *actor = change->actor;
	struct store_key key;
	bool live = false;

	if (is_host(actor))
		return 0;
	int r = store_key_get(store, actor->org ? actor->org : "", actor->key, &key, err);
	if (r == 0)
		r = store_key_live(store, key.id, change->now_ms, &live, err);
	if (r < 0 && r != -ENOENT)
		return r;
	if (!live)
		return error_set(err, EACCES, "the key is no longer valid");
	if (!(key.scopes & needs))
		return error_set(err, EACCES, "the key lacks the scope for this");
	if (change->org && strcmp(change->org, key.org) != 0 && !(key.scopes & SCOPE_ADMIN))
		return error_set(err, ENOENT, "no such organisation or key");
	if (scopes & ~key.scopes)
		return error_set(err, EACCES, "a key cannot hand out a scope that it has not itself");
	return 0;
}

static int add_audit(struct store *store, const struct auth_change *change, const char *outcome, int32_t status,
		     const char *detail, struct error *err)
{
	const struct auth_actor *actor = change->actor;
	struct store_audit row = { .status = status };
	/* Done: the tenant whom it concerns reads it. Refused: the one who tried, whatever organisation was named. */
	const char *org = change->org && (is_host(actor) || status < 400) ? change->org : actor->org;
	const struct {
		char *to;
		size_t size;
		const char *from;
	} parts[] = {
		{ row.request, sizeof(row.request), actor->request },
		{ row.org, sizeof(row.org), org },
		{ row.key, sizeof(row.key), actor->key },
		{ row.address, sizeof(row.address), actor->address },
		{ row.action, sizeof(row.action), change->action },
		{ row.target, sizeof(row.target), change->target },
		{ row.outcome, sizeof(row.outcome), outcome },
		{ row.detail, sizeof(row.detail), detail },
	};

	/* Longer than its column (an address with a scope): cut, rather than a change without its row. */
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (parts[i].from)
			strncpy(parts[i].to, parts[i].from, parts[i].size - 1);
	return store_audit_add(store, &row, err);
}

int change_end(struct store *store, struct auth *auth, const struct auth_change *change, int r, struct error *err)
{
	if (r == 0)
		r = add_audit(store, change, "ok", change->status, change->detail, err);
	if (r == 0) {
		r = store_commit(store, err);
		/* Also when the commit failed: it may yet have reached the disk. */
		if (auth)
			auth_invalidate(auth);
		return r;
	}
	store_rollback(store);
	if (r == -EACCES) {
		struct error lost;
		int written = add_audit(store, change, "refused", 403, err ? err->text : "", &lost);
		if (written < 0) {
			if (err)
				*err = lost;
			return written;
		}
	}
	return r;
}

/* The key in the transaction; wanted: org, name, scopes, expires. Fills the rest and the text. */
static int make_key(struct store *store, struct store_key *key, int64_t now_ms, char text[AUTH_KEY_MAX],
		    struct error *err)
{
	str_random_id(key->id, "key");
	key->created_ms = now_ms;
	auth_key_make(text, key->prefix);
	auth_key_hash(store_secret(store), text, key->hash);
	return store_key_add(store, key, err);
}

static void describe(struct auth_change *change, const struct store_key *key)
{
	snprintf(change->target, sizeof(change->target), "%s", key->id);
	snprintf(change->detail, sizeof(change->detail), "name=%s prefix=%s scopes=%u expires_ms=%lld", key->name,
		 key->prefix, key->scopes, (long long)key->expires_ms);
}

static void hand_over(int r, const struct store_key *key, struct store_key *made, char text[AUTH_KEY_MAX])
{
	if (r < 0)
		sodium_memzero(text, AUTH_KEY_MAX);
	else if (made)
		*made = *key;
}

static int wanted_key(const struct auth_new_key *wanted, int64_t now_ms, struct store_key *key, struct error *err)
{
	if (!wanted->name || !str_is_name(wanted->name))
		return error_set(err, EINVAL, "name: 1-63 characters, A-Z a-z 0-9 . _ -, the first a letter or digit");
	if (strcmp(wanted->name, AUTH_BOOTSTRAP) == 0)
		return error_set(err, EINVAL, "name: \"%s\" is reserved", AUTH_BOOTSTRAP);
	if (wanted->scopes == 0 || wanted->scopes & ~(uint32_t)SCOPE_ALL)
		return error_set(err, EINVAL, "scopes: at least one, and only known ones");
	if (wanted->expires_ms != 0 && wanted->expires_ms <= now_ms)
		return error_set(err, EINVAL, "expires_at: must be in the future");
	if (!wanted->org || str_copy(key->org, sizeof(key->org), wanted->org) < 0)
		return error_set(err, ENOENT, "no such organisation");
	str_copy(key->name, sizeof(key->name), wanted->name);
	key->scopes = wanted->scopes;
	key->expires_ms = wanted->expires_ms;
	return 0;
}

int auth_key_create(struct auth *auth, const struct auth_actor *actor, const struct auth_new_key *wanted,
		    struct store_key *made, char text[AUTH_KEY_MAX], struct error *err)
{
	struct auth_change change = {
		.actor = actor, .action = "key.create", .org = wanted->org, .status = 201, .now_ms = clock_of(auth)
	};
	struct store_key key = { 0 };

	text[0] = '\0';
	int r = wanted_key(wanted, change.now_ms, &key, err);
	if (r == 0)
		r = change_begin(auth->store, err);
	if (r < 0)
		return r;
	r = change_allowed(auth->store, &change, SCOPE_KEYS_MANAGE | SCOPE_ADMIN, key.scopes, err);
	if (r == 0)
		r = make_key(auth->store, &key, change.now_ms, text, err);
	describe(&change, &key);
	r = change_end(auth->store, auth, &change, r, err);
	hand_over(r, &key, made, text);
	return r;
}

static int rotate(struct auth *auth, struct auth_change *change, struct store_key *old, int64_t grace_s,
		  struct store_key *key, char text[AUTH_KEY_MAX], struct error *err)
{
	int64_t now_ms = change->now_ms, end_ms = now_ms + grace_s * 1000;

	int r = change_allowed(auth->store, change, SCOPE_KEYS_MANAGE | SCOPE_ADMIN, old->scopes, err);
	if (r < 0)
		return r;
	if (old->revoked_ms || old->rotated_to[0] || (old->expires_ms && old->expires_ms <= now_ms))
		return error_set(err, EALREADY, "the key is revoked, expired or rotated already");
	*key = (struct store_key){ .scopes = old->scopes };
	memcpy(key->org, old->org, sizeof(key->org));
	memcpy(key->name, old->name, sizeof(key->name));
	if (old->expires_ms)
		key->expires_ms = now_ms + (old->expires_ms - old->created_ms);
	r = make_key(auth->store, key, now_ms, text, err);
	if (r < 0)
		return r;
	if (!old->expires_ms || end_ms < old->expires_ms)
		old->expires_ms = end_ms;
	memcpy(old->rotated_to, key->id, sizeof(old->rotated_to));
	snprintf(change->detail, sizeof(change->detail), "to=%s prefix=%s grace_s=%lld", key->id, key->prefix,
		 (long long)grace_s);
	return store_key_update(auth->store, old, err);
}

int auth_key_rotate(struct auth *auth, const struct auth_actor *actor, const char *org, const char *id, int64_t grace_s,
		    struct store_key *made, char text[AUTH_KEY_MAX], struct error *err)
{
	struct auth_change change = {
		.actor = actor, .action = "key.rotate", .org = org, .status = 201, .now_ms = clock_of(auth)
	};
	struct store_key old, key = { 0 };

	text[0] = '\0';
	if (grace_s < 0 || grace_s > AUTH_GRACE_S_MAX)
		return error_set(err, EINVAL, "grace_seconds: 0-%d", AUTH_GRACE_S_MAX);
	int r = change_begin(auth->store, err);
	if (r < 0)
		return r;
	snprintf(change.target, sizeof(change.target), "%s", id);
	r = store_key_get(auth->store, org ? org : "", id, &old, err);
	if (r == 0)
		r = rotate(auth, &change, &old, grace_s, &key, text, err);
	r = change_end(auth->store, auth, &change, r, err);
	hand_over(r, &key, made, text);
	return r;
}

static int revoke(struct store *store, struct store_key *key, int64_t now_ms, struct error *err)
{
	if (key->revoked_ms)
		return 0;
	key->revoked_ms = now_ms;
	return store_key_update(store, key, err);
}

int auth_key_revoke(struct auth *auth, const struct auth_actor *actor, const char *org, const char *id,
		    struct store_key *revoked, struct error *err)
{
	struct auth_change change = {
		.actor = actor, .action = "key.revoke", .org = org, .status = 200, .now_ms = clock_of(auth)
	};
	struct store_key key;

	int r = change_begin(auth->store, err);
	if (r < 0)
		return r;
	snprintf(change.target, sizeof(change.target), "%s", id);
	r = store_key_get(auth->store, org ? org : "", id, &key, err);
	if (r == 0)
		r = change_allowed(auth->store, &change, SCOPE_KEYS_MANAGE | SCOPE_ADMIN, 0, err);
	if (r == 0)
		r = revoke(auth->store, &key, change.now_ms, err);
	r = change_end(auth->store, auth, &change, r, err);
	if (r == 0 && revoked)
		*revoked = key;
	return r;
}

static int add_bootstrap_key(struct store *store, const char *org, int64_t now_ms, struct auth_change *change,
			     char text[AUTH_KEY_MAX], struct error *err)
{
	struct store_key key = { .name = AUTH_BOOTSTRAP, .scopes = SCOPE_ALL };

	str_copy(key.org, sizeof(key.org), org);
	int r = make_key(store, &key, now_ms, text, err);
	describe(change, &key);
	return r;
}

static int first_org(struct store *store, struct store_org *org, struct error *err)
{
	_cleanup_free_ struct store_org *rows = NULL;
	uint64_t total;
	size_t count;

	int r = store_org_list(store, 1, 1, &rows, &count, &total, err);
	if (r == 0 && count == 0)
		return error_set(err, ENOENT, "there is no organisation yet");
	if (r == 0)
		*org = rows[0];
	return r;
}

int auth_bootstrap(struct store *store, const struct auth_actor *actor, bool *made, char text[AUTH_KEY_MAX],
		   struct error *err)
{
	struct store_org org = {
		.name = "default",
		.tier = "enterprise",
		.log_output = true,
		.log_commands = true,
		.requests_per_minute = -1,
		.sandboxes_max = -1,
		.cpu_units_max = -1,
		.memory_mib_max = -1,
		.storage_gb_max = -1,
		.snapshots_max = -1,
		.lifetime_s_max = -1,
		.execs_max = -1,
		.upload_bytes_max = -1,
		.created_ms = time_wall_ms(),
	};
	struct auth_change change = { .actor = actor, .action = "auth.bootstrap", .org = org.id };
	struct store_org there;

	*made = false;
	text[0] = '\0';
	int r = change_begin(store, err);
	if (r < 0)
		return r;
	r = first_org(store, &there, err);
	if (r != -ENOENT) {
		store_rollback(store);
		return r;
	}
	str_random_id(org.id, "org");
	r = store_org_add(store, &org, err);
	if (r == 0)
		r = add_bootstrap_key(store, org.id, org.created_ms, &change, text, err);
	r = change_end(store, NULL, &change, r, err);
	*made = r == 0;
	hand_over(r, NULL, NULL, text);
	return r;
}

static int revoke_bootstrap_keys(struct store *store, const char *org, int64_t now_ms, struct error *err)
{
	uint64_t seen = 0, total = 1;
	int r = 0;

	for (uint32_t page = 1; seen < total && r == 0; page++) {
		_cleanup_free_ struct store_key *rows = NULL;
		size_t count = 0;

		r = store_key_list(store, org, page, 100, &rows, &count, &total, err);
		for (size_t i = 0; i < count && r == 0; i++)
			if (strcmp(rows[i].name, AUTH_BOOTSTRAP) == 0)
				r = revoke(store, &rows[i], now_ms, err);
		seen += 100;
	}
	return r;
}

int auth_reset_key(struct store *store, struct auth *auth, const struct auth_actor *actor, char text[AUTH_KEY_MAX],
		   struct error *err)
{
	struct auth_change change = { .actor = actor, .action = "auth.reset_key" };
	struct store_org org;
	int64_t now_ms = clock_of(auth);

	text[0] = '\0';
	int r = change_begin(store, err);
	if (r < 0)
		return r;
	r = first_org(store, &org, err);
	if (r == 0)
		r = revoke_bootstrap_keys(store, org.id, now_ms, err);
	if (r == 0 && org.suspended) {
		org.suspended = false;
		r = store_org_update(store, &org, err);
	}
	if (r == 0)
		r = add_bootstrap_key(store, org.id, now_ms, &change, text, err);
	change.org = org.id;
	r = change_end(store, auth, &change, r, err);
	hand_over(r, NULL, NULL, text);
	return r;
}
