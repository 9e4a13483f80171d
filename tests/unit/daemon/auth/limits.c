/* Buckets and the guard of addresses, on clocks of the test's own. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "daemon/auth/guard.h"
#include "support.h"

#define now support_mono

static int drain(struct limit *limit, const char *name, int64_t per_minute, struct limit_answer *answer)
{
	int taken = 0;

	for (;; taken++) {
		limit_take(limit, name, per_minute, now, answer);
		if (!answer->allowed || taken > 100000)
			return taken;
	}
}

static void bucket(void **state)
{
	struct support *s = *state;
	struct limit *limit;
	struct limit_answer answer;

	ok(limit_new(100, &limit, &s->err));
	limit_take(limit, "k", 60, now, &answer);
	assert_true(answer.allowed);
	assert_int_equal(answer.limit, 60);
	assert_int_equal(answer.remaining, 59);
	assert_int_equal(answer.reset_s, 1);
	assert_int_equal(answer.retry_after_s, 0);
	assert_int_equal(drain(limit, "k", 60, &answer), 59);
	assert_int_equal(answer.remaining, 0);
	assert_int_equal(answer.reset_s, 60);
	assert_int_equal(answer.retry_after_s, 1);
	limit_take(limit, "other", 60, now, &answer);
	assert_true(answer.allowed);

	now += 999;
	limit_take(limit, "k", 60, now, &answer);
	assert_false(answer.allowed);
	assert_int_equal(answer.retry_after_s, 1);
	now += 1;
	limit_take(limit, "k", 60, now, &answer);
	assert_true(answer.allowed);
	now += 10 * 60000; /* never more than a minute's worth */
	assert_int_equal(drain(limit, "k", 60, &answer), 60);
	now += 10000;
	assert_int_equal(drain(limit, "k", 60, &answer), 10);
	now -= 5000; /* a clock that goes back gives nothing and takes nothing */
	limit_take(limit, "k", 60, now, &answer);
	assert_false(answer.allowed);
	limit_free(limit);
}

static void edges(void **state)
{
	struct support *s = *state;
	struct limit *limit;
	struct limit_answer answer;

	ok(limit_new(1, &limit, &s->err));
	for (int i = 0; i < 1000; i++) {
		limit_take(limit, "k", -1, now, &answer);
		assert_true(answer.allowed);
		assert_int_equal(answer.limit, -1);
	}
	limit_take(limit, "k", 0, now, &answer);
	assert_false(answer.allowed);
	assert_int_equal(answer.retry_after_s, 60);
	limit_take(limit, "k1", 1, now, &answer);
	assert_true(answer.allowed);
	limit_take(limit, "k1", 1, now, &answer);
	assert_false(answer.allowed);
	assert_int_equal(answer.retry_after_s, 60);
	assert_int_equal(drain(limit, "k2", 300, &answer), 300);
	/* A lower tier from now on. */
	now += 60000;
	assert_int_equal(drain(limit, "k2", 60, &answer), 60);
	limit_free(limit);
}

static void saved(void **state)
{
	struct support *s = *state;
	struct limit *limit;
	struct limit_answer answer;

	ok(limit_new(100, &limit, &s->err));
	drain(limit, "k", 60, &answer);
	drain(limit, "gone", 60, &answer);
	ok(limit_save(limit, s->store, now, support_wall, &s->err));
	limit_free(limit);

	ok(limit_new(100, &limit, &s->err)); /* 20 s later, after a restart of the machine */
	now = 50;
	ok(limit_load(limit, s->store, now, support_wall + 20000, &s->err));
	assert_int_equal(drain(limit, "k", 60, &answer), 20);
	limit_free(limit);

	ok(limit_new(100, &limit, &s->err)); /* the wall clock was set back */
	ok(limit_load(limit, s->store, now, support_wall - 3600000, &s->err));
	assert_int_equal(drain(limit, "k", 60, &answer), 0);
	now += 30000; /* and nobody waits for it to come round again */
	assert_int_equal(drain(limit, "k", 60, &answer), 30);
	limit_free(limit);

	ok(limit_new(100, &limit, &s->err)); /* long after */
	ok(limit_load(limit, s->store, now, support_wall + 60000, &s->err));
	assert_int_equal(drain(limit, "k", 60, &answer), 60);
	limit_free(limit);
}

static void save_many(void **state)
{
	struct support *s = *state;
	struct limit *limit;
	struct limit_answer answer;
	struct store_bucket *rows;
	size_t count;
	char name[16];

	ok(limit_new(64000, &limit, &s->err));
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "key_%d", i);
		limit_take(limit, name, 60, now, &answer);
	}
	ok(limit_save(limit, s->store, now, support_wall, &s->err));
	ok(store_bucket_load(s->store, &rows, &count, &s->err));
	assert_int_equal(count, 1000);
	free(rows);
	limit_free(limit);
}

#define TAKERS 4
struct taker {
	struct limit *limit;
	int taken;
	pthread_t thread;
};

static void *take_all(void *data)
{
	struct taker *taker = data;
	struct limit_answer answer;

	for (int i = 0; i < 3000; i++) {
		limit_take(taker->limit, "shared", 5000, 1000, &answer);
		taker->taken += answer.allowed;
	}
	return NULL;
}

static void threads_share(void **state)
{
	struct support *s = *state;
	struct taker takers[TAKERS];
	struct limit *limit;
	int taken = 0;

	ok(limit_new(100, &limit, &s->err));
	for (int i = 0; i < TAKERS; i++) {
		takers[i] = (struct taker){ .limit = limit };
		assert_int_equal(pthread_create(&takers[i].thread, NULL, take_all, &takers[i]), 0);
	}
	for (int i = 0; i < TAKERS; i++) {
		pthread_join(takers[i].thread, NULL);
		taken += takers[i].taken;
	}
	assert_int_equal(taken, 5000);
	limit_free(limit);
}

static bool enter(struct guard *guard, const char *address, int64_t *retry)
{
	*retry = 0;
	return guard_enter(guard, address, now, retry);
}

static void failures_slow_down(void **state)
{
	struct support *s = *state;
	struct guard *guard;
	int64_t retry;

	ok(guard_new(-1, &guard, &s->err));
	for (int i = 0; i < GUARD_FAILURES; i++) {
		assert_true(enter(guard, "192.0.2.7", &retry));
		guard_failed(guard, "192.0.2.7", now);
	}
	/* 5, 10, 20, … 900: each further failure doubles it. */
	for (int64_t want = GUARD_WAIT_S, round = 0; round < 12; round++) {
		assert_false(enter(guard, "192.0.2.7", &retry));
		assert_int_equal(retry, want);
		assert_true(enter(guard, "192.0.2.8", &retry)); /* not its neighbour */
		now += want * 1000 - 1;
		assert_false(enter(guard, "192.0.2.7", &retry));
		assert_int_equal(retry, 1);
		now += 1;
		for (int i = 0; i < GUARD_FAILURES; i++) {
			assert_true(enter(guard, "192.0.2.7", &retry));
			guard_failed(guard, "192.0.2.7", now);
			if (!enter(guard, "192.0.2.7", &retry))
				break;
		}
		want = want * 2 < GUARD_WAIT_S_MAX ? want * 2 : GUARD_WAIT_S_MAX;
	}
	now += 3 * 3600000; /* forgotten */
	for (int i = 0; i < GUARD_FAILURES; i++) {
		assert_true(enter(guard, "192.0.2.7", &retry));
		guard_failed(guard, "192.0.2.7", now);
	}
	assert_false(enter(guard, "192.0.2.7", &retry));
	assert_int_equal(retry, GUARD_WAIT_S);
	guard_free(guard);
}

static void few_failures_do_not(void **state)
{
	struct support *s = *state;
	struct guard *guard;
	int64_t retry;

	ok(guard_new(-1, &guard, &s->err));
	for (int i = 0; i < 100; i++) { /* nine a minute */
		assert_true(enter(guard, "192.0.2.7", &retry));
		guard_failed(guard, "192.0.2.7", now);
		now += 60000 / 9 + 1;
	}
	guard_free(guard);
}

static void address_bucket(void **state)
{
	struct support *s = *state;
	struct guard *guard;
	int64_t retry;

	ok(guard_new(60, &guard, &s->err));
	for (int i = 0; i < 500; i++) { /* good keys cost nothing */
		assert_true(enter(guard, "192.0.2.7", &retry));
		guard_passed(guard, "192.0.2.7", now);
	}
	for (int i = 0; i < 60; i++)
		assert_true(enter(guard, "192.0.2.7", &retry));
	assert_false(enter(guard, "192.0.2.7", &retry));
	assert_in_range(retry, 1, 2);
	assert_true(enter(guard, "192.0.2.8", &retry));
	now += 2000;
	assert_true(enter(guard, "192.0.2.7", &retry));
	assert_true(enter(guard, "192.0.2.7", &retry));
	assert_false(enter(guard, "192.0.2.7", &retry));
	guard_free(guard);
}

static void address_names(void **state)
{
	static const struct {
		const char *a, *b;
		bool same;
	} pairs[] = {
		{ "192.0.2.1", "192.0.2.2", false },
		{ "192.0.2.1", "::ffff:192.0.2.1", true },
		{ "::ffff:192.0.2.1", "::ffff:192.0.2.2", false },
		{ "2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true },
		{ "2001:db8:1:2::1", "2001:db8:1:3::1", false },
		{ "fe80::1%eth0", "fe80::1", true },
		{ "unix", "unix", true },
		{ "unix", "", false },
		{ NULL, "", true },
	};
	unsigned char a[16], b[16];

	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		guard_name(pairs[i].a, a);
		guard_name(pairs[i].b, b);
		assert_int_equal(memcmp(a, b, 16) == 0, pairs[i].same);
	}
	char longest[4096];
	memset(longest, 'x', sizeof(longest));
	longest[sizeof(longest) - 1] = '\0';
	guard_name(longest, a);
}

static long resident_kib(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_maxrss;
}

/* A million addresses: memory stays as it was made, and the one that is being slowed is still known. */
static void flood(void **state)
{
	struct support *s = *state;
	struct guard *guard;
	char address[32];
	int64_t retry;

	ok(guard_new(600, &guard, &s->err));
	for (int i = 0; i < 16; i++)
		guard_failed(guard, "198.51.100.1", now);
	long before = resident_kib();
	for (uint32_t i = 0; i < 1000000; i++) {
		snprintf(address, sizeof(address), "10.%u.%u.%u", i >> 16, i >> 8 & 255, i & 255);
		assert_true(enter(guard, address, &retry));
		guard_failed(guard, address, now);
		now += i % 128 == 0;
	}
	assert_true(resident_kib() - before < 16384);
	assert_false(enter(guard, "198.51.100.1", &retry));
	guard_free(guard);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, support_setup, support_teardown)
	const struct CMUnitTest tests[] = {
		T(bucket),
		T(edges),
		T(saved),
		T(save_many),
		T(threads_share),
		T(failures_slow_down),
		T(few_failures_do_not),
		T(address_bucket),
		cmocka_unit_test(address_names),
		T(flood),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
