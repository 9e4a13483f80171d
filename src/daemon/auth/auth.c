#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "daemon/auth/internal.h"

#define ADDRESS_PER_MINUTE 600
#define LIMITED_KEYS 65536

int auth_new(struct store *store, const struct auth_config *config, struct auth **result, struct error *err)
{
	struct auth *auth = calloc(1, sizeof(*auth));

	if (!auth)
		return error_set(err, ENOMEM, "no memory for the keys");
	auth->store = store;
	if (config)
		auth->config = *config;
	if (auth->config.address_per_minute == 0)
		auth->config.address_per_minute = ADDRESS_PER_MINUTE;
	if (!auth->config.mono_ms)
		auth->config.mono_ms = time_mono_ms;
	if (!auth->config.wall_ms)
		auth->config.wall_ms = time_wall_ms;

	int r = cache_new(&auth->cache, err);
	if (r == 0)
		r = used_new(&auth->used, err);
	if (r == 0)
		r = guard_new(auth->config.address_per_minute, &auth->guard, err);
	if (r == 0)
		r = limit_new(LIMITED_KEYS, &auth->limit, err);
	if (r == 0)
		r = limit_load(auth->limit, store, auth->config.mono_ms(), auth->config.wall_ms(), err);
	if (r < 0) {
		auth->store = NULL;
		auth_free(auth);
		return r;
	}
	*result = auth;
	return 0;
}

static int flush(struct auth *auth, bool all, struct error *err)
{
	int64_t wall_ms = auth->config.wall_ms();

	int r = used_flush(&auth->used, auth->store, wall_ms, all, err);
	return r < 0 ? r : limit_save(auth->limit, auth->store, auth->config.mono_ms(), wall_ms, err);
}

int auth_flush(struct auth *auth, struct error *err)
{
	return flush(auth, false, err);
}

void auth_free(struct auth *auth)
{
	if (!auth)
		return;
	if (auth->store)
		flush(auth, true, NULL);
	limit_free(auth->limit);
	guard_free(auth->guard);
	used_free(&auth->used);
	cache_free(&auth->cache);
	free(auth);
}

const char *auth_result_name(enum auth_result result)
{
	static const char *const names[] = { "ok",      "missing",   "malformed", "unknown", "revoked",
					     "expired", "suspended", "slowed",    "failed" };
	_Static_assert(sizeof(names) / sizeof(names[0]) == AUTH_RESULTS, "a name for each result");
	return result < AUTH_RESULTS ? names[result] : "failed";
}

/* An unknown key costs what a known one does: a look for its organisation and a comparison. */
static int load(struct auth *auth, const unsigned char hash[32], struct auth_identity *identity, struct error *err)
{
	int key = store_key_by_hash(auth->store, hash, &identity->key, err);
	if (key < 0)
		memset(&identity->key, 0, sizeof(identity->key));
	if (key < 0 && key != -ENOENT)
		return key;
	int org = store_org_get(auth->store, identity->key.org, &identity->org, err);
	if (sodium_memcmp(identity->key.hash, hash, 32) != 0 || key < 0)
		return -ENOENT;
	return org == -ENOENT ? error_set(err, EIO, "a key without an organisation") : org;
}

static enum auth_result judge(const struct auth_identity *identity, int64_t wall_ms)
{
	if (identity->key.revoked_ms != 0)
		return AUTH_REVOKED;
	if (identity->key.expires_ms != 0 && identity->key.expires_ms <= wall_ms)
		return AUTH_EXPIRED;
	if (identity->org.suspended)
		return AUTH_SUSPENDED;
	return AUTH_OK;
}

static enum auth_result check_key(struct auth *auth, const char *text, int64_t now_ms, struct auth_identity *identity,
				  struct error *err)
{
	unsigned char hash[32];

	if (!text || !*text)
		return AUTH_MISSING;
	if (!auth_key_wellformed(text))
		return AUTH_MALFORMED;
	auth_key_hash(store_secret(auth->store), text, hash);
	if (!cache_get(&auth->cache, hash, now_ms, identity)) {
		uint64_t generation = atomic_load(&auth->cache.generation);
		int r = load(auth, hash, identity, err);
		if (r < 0) {
			memset(identity, 0, sizeof(*identity));
			return r == -ENOENT ? AUTH_UNKNOWN : AUTH_FAILED;
		}
		cache_put(&auth->cache, identity, generation, now_ms);
	}
	return judge(identity, auth->config.wall_ms());
}

enum auth_result auth_check(struct auth *auth, const char *text, const char *address, struct auth_identity *identity,
			    struct error *err)
{
	int64_t now_ms = auth->config.mono_ms();

	memset(identity, 0, sizeof(*identity));
	if (!guard_enter(auth->guard, address, now_ms, &identity->retry_after_s))
		return AUTH_SLOWED;
	enum auth_result result = check_key(auth, text, now_ms, identity, err);
	switch (result) {
	case AUTH_OK:
		guard_passed(auth->guard, address, now_ms);
		used_mark(&auth->used, &identity->key, auth->config.wall_ms());
		break;
	case AUTH_MALFORMED:
	case AUTH_UNKNOWN:
	case AUTH_REVOKED:
	case AUTH_EXPIRED: guard_failed(auth->guard, address, now_ms); break;
	default: /* no guess: a browser without a key, a tenant that is known, our own trouble */ break;
	}
	return result;
}

int64_t auth_requests_per_minute(const struct store_org *org)
{
	if (strcmp(org->tier, "beta") == 0)
		return 60;
	if (strcmp(org->tier, "pro") == 0)
		return 300;
	return org->requests_per_minute;
}

void auth_take(struct auth *auth, const struct auth_identity *identity, struct limit_answer *answer)
{
	limit_take(auth->limit, identity->key.id, auth_requests_per_minute(&identity->org), auth->config.mono_ms(),
		   answer);
}
