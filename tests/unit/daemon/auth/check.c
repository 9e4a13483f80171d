#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/auth/internal.h"
#include "support.h"

static const struct auth_actor host = { .request = "req_h" };

static void results(void **state)
{
	struct support *s = *state;
	struct auth_identity identity;
	char unknown[AUTH_KEY_MAX], prefix[AUTH_PREFIX_MAX];

	assert_int_equal(auth_check(s->auth, s->admin, "192.0.2.1", &identity, &s->err), AUTH_OK);
	assert_string_equal(identity.org.name, "default");
	assert_int_equal(identity.key.scopes, SCOPE_ALL);
	assert_int_equal(support_check(s, NULL), AUTH_MISSING);
	assert_int_equal(support_check(s, ""), AUTH_MISSING);
	assert_int_equal(support_check(s, "sk_live_nonsense"), AUTH_MALFORMED);
	auth_key_make(unknown, prefix);
	assert_int_equal(auth_check(s->auth, unknown, "192.0.2.1", &identity, &s->err), AUTH_UNKNOWN);
	assert_string_equal(identity.key.id, "");
	for (int i = 0; i < AUTH_RESULTS; i++)
		assert_non_null(auth_result_name((enum auth_result)i));
	assert_string_equal(auth_result_name(AUTH_SLOWED), "slowed");
}

static void expiry(void **state)
{
	struct support *s = *state;
	struct auth_new_key wanted = {
		.org = s->identity.org.id, .name = "short", .scopes = 1, .expires_ms = support_wall + 1000
	};
	char text[AUTH_KEY_MAX];

	ok(auth_key_create(s->auth, &host, &wanted, NULL, text, &s->err));
	assert_int_equal(support_check(s, text), AUTH_OK);
	support_wall += 999;
	assert_int_equal(support_check(s, text), AUTH_OK);
	support_wall += 1; /* also when it is in the cache */
	assert_int_equal(support_check(s, text), AUTH_EXPIRED);
}

static void suspended(void **state)
{
	struct support *s = *state;
	struct store_org org = s->identity.org;

	assert_int_equal(support_check(s, s->admin), AUTH_OK);
	org.suspended = true;
	ok(auth_org_update(s->auth, &host, &org, &s->err));
	assert_int_equal(support_check(s, s->admin), AUTH_SUSPENDED);
	org.suspended = false;
	ok(auth_org_update(s->auth, &host, &org, &s->err));
	assert_int_equal(support_check(s, s->admin), AUTH_OK);
}

static void other_process(void **state)
{
	struct support *s = *state;
	struct store *other;
	char text[AUTH_KEY_MAX];

	assert_int_equal(support_check(s, s->admin), AUTH_OK);
	ok(store_open(s->dir, &other, &s->err)); /* as `akirad reset-key` beside a running one */
	ok(auth_reset_key(other, NULL, &host, text, &s->err));
	store_close(other);
	assert_int_equal(support_check(s, text), AUTH_OK);
	support_mono += 5000;
	assert_int_equal(support_check(s, s->admin), AUTH_REVOKED);
}

static void slowed(void **state)
{
	struct support *s = *state;
	struct auth_identity identity;
	char unknown[AUTH_KEY_MAX], prefix[AUTH_PREFIX_MAX];

	for (int i = 0; i < 10; i++) {
		auth_key_make(unknown, prefix);
		assert_int_equal(support_check(s, unknown), AUTH_UNKNOWN);
	}
	assert_int_equal(auth_check(s->auth, s->admin, "192.0.2.1", &identity, &s->err), AUTH_SLOWED);
	assert_int_equal(identity.retry_after_s, 5);
	assert_int_equal(auth_check(s->auth, s->admin, "192.0.2.2", &identity, &s->err), AUTH_OK);
	support_mono += 5000;
	assert_int_equal(support_check(s, s->admin), AUTH_OK);
	for (int i = 0; i < 700; i++) /* good keys take nothing from the address */
		assert_int_equal(auth_check(s->auth, s->admin, "192.0.2.4", &identity, &s->err), AUTH_OK);
	for (int i = 0; i < 600; i++) /* no key at all: no guess, but not for ever */
		assert_int_equal(auth_check(s->auth, NULL, "192.0.2.3", &identity, &s->err), AUTH_MISSING);
	assert_int_equal(auth_check(s->auth, NULL, "192.0.2.3", &identity, &s->err), AUTH_SLOWED);
}

static void tiers(void **state)
{
	struct support *s = *state;
	struct auth_identity identity = s->identity;
	struct limit_answer answer;

	auth_take(s->auth, &identity, &answer);
	assert_true(answer.allowed);
	assert_int_equal(answer.limit, -1);
	identity.org.requests_per_minute = 7;
	auth_take(s->auth, &identity, &answer);
	assert_int_equal(answer.limit, 7);
	snprintf(identity.org.tier, sizeof(identity.org.tier), "pro");
	auth_take(s->auth, &identity, &answer);
	assert_int_equal(answer.limit, 300);
	snprintf(identity.org.tier, sizeof(identity.org.tier), "beta");
	for (int i = 0; i < 61; i++)
		auth_take(s->auth, &identity, &answer);
	assert_int_equal(answer.limit, 60);
	assert_false(answer.allowed);
	support_restart(s); /* a restart is no way around it */
	auth_take(s->auth, &identity, &answer);
	assert_false(answer.allowed);
}

static int64_t last_used(struct support *s)
{
	struct store_key key;
	ok(store_key_get(s->store, NULL, s->identity.key.id, &key, &s->err));
	return key.last_used_ms;
}

static void last_used_in_batches(void **state)
{
	struct support *s = *state;

	assert_int_equal(last_used(s), 0); /* nothing is written by a check */
	ok(auth_flush(s->auth, &s->err));
	assert_int_equal(last_used(s), SUPPORT_WALL);
	support_wall += 59000;
	assert_int_equal(support_check(s, s->admin), AUTH_OK);
	ok(auth_flush(s->auth, &s->err));
	assert_int_equal(last_used(s), SUPPORT_WALL); /* not again within the minute */
	support_wall += 1000;
	ok(auth_flush(s->auth, &s->err));
	assert_int_equal(last_used(s), SUPPORT_WALL + 59000);
	support_wall += 1000;
	assert_int_equal(support_check(s, s->admin), AUTH_OK);
	support_restart(s); /* the end writes what is left */
	assert_int_equal(last_used(s), SUPPORT_WALL + 61000);
}

/* The order that the race below only meets by chance: read, revoke elsewhere, put. */
static void stale_row_stays_out(void **state)
{
	struct support *s = *state;
	struct auth_identity got;
	struct cache *cache = &s->auth->cache;
	uint64_t before = atomic_load(&cache->generation);

	cache_put(cache, &s->identity, before, support_mono);
	assert_true(cache_get(cache, s->identity.key.hash, support_mono, &got));
	assert_false(cache_get(cache, s->identity.key.hash, support_mono + CACHE_AGE_MS, &got));
	auth_invalidate(s->auth);
	assert_false(cache_get(cache, s->identity.key.hash, support_mono, &got));
	cache_put(cache, &s->identity, before, support_mono);
	assert_false(cache_get(cache, s->identity.key.hash, support_mono, &got));
}

static void cache_evicts(void **state)
{
	struct support *s = *state;
	struct auth_identity one = s->identity, got;
	struct cache *cache = &s->auth->cache;

	for (unsigned char i = 0; i < 20; i++) { /* all in one set */
		one.key.hash[31] = i;
		cache_put(cache, &one, atomic_load(&cache->generation), support_mono + i);
		assert_true(cache_get(cache, one.key.hash, support_mono + i, &got));
	}
	int kept = 0;
	for (unsigned char i = 0; i < 20; i++) {
		one.key.hash[31] = i;
		kept += cache_get(cache, one.key.hash, support_mono + 20, &got);
	}
	assert_int_equal(kept, CACHE_WAYS);
}

#define CHECKERS 3
#define ROUNDS 40

struct round { /* one key */
	char text[AUTH_KEY_MAX];
	atomic_bool revoked; /* the call has returned */
	atomic_int good, wrong;
};

struct race {
	struct support *s;
	_Atomic(struct round *) current; /* NULL: the end */
	atomic_uint addresses;           /* a new one each time, or refusals would be slowed */
};

static enum auth_result check_from_anywhere(struct race *race, const char *text)
{
	struct auth_identity identity;
	unsigned int n = atomic_fetch_add(&race->addresses, 1);
	char address[32];

	snprintf(address, sizeof(address), "10.%u.%u.%u", n >> 16 & 255, n >> 8 & 255, n & 255);
	return auth_check(race->s->auth, text, address, &identity, NULL);
}

/* Whatever begins after the revocation has returned must be refused, however it raced with the cache. */
static void *check_for_ever(void *data)
{
	struct race *race = data;
	struct round *round;

	while ((round = atomic_load(&race->current))) {
		bool after = atomic_load(&round->revoked);
		enum auth_result result = check_from_anywhere(race, round->text);
		bool right = after ? result == AUTH_REVOKED : result == AUTH_OK || result == AUTH_REVOKED;
		atomic_fetch_add(&round->wrong, !right);
		atomic_fetch_add(&round->good, result == AUTH_OK);
	}
	return NULL;
}

static void revoke_races(void **state)
{
	struct support *s = *state;
	static struct round rounds[ROUNDS];
	struct race race = { .s = s };
	pthread_t threads[CHECKERS];

	for (int i = 0; i < ROUNDS; i++) {
		struct store_key key = support_key(s, "racer", 1, rounds[i].text);
		atomic_store(&race.current, &rounds[i]);
		for (int t = 0; i == 0 && t < CHECKERS; t++)
			assert_int_equal(pthread_create(&threads[t], NULL, check_for_ever, &race), 0);
		while (atomic_load(&rounds[i].good) < 3 + i)
			sched_yield();
		ok(auth_key_revoke(s->auth, &host, key.org, key.id, NULL, &s->err));
		atomic_store(&rounds[i].revoked, true);
		assert_int_equal(check_from_anywhere(&race, rounds[i].text), AUTH_REVOKED);
	}
	atomic_store(&race.current, NULL);
	for (int t = 0; t < CHECKERS; t++)
		pthread_join(threads[t], NULL);
	for (int i = 0; i < ROUNDS; i++)
		assert_int_equal(atomic_load(&rounds[i].wrong), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, support_setup, support_teardown)
	const struct CMUnitTest tests[] = {
		T(results),
		T(expiry),
		T(suspended),
		T(other_process),
		T(slowed),
		T(tiers),
		T(last_used_in_batches),
		T(stale_row_stays_out),
		T(cache_evicts),
		T(revoke_races),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
