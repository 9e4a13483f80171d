/* Transactions: together or not at all, across threads, nested. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "daemon/store/internal.h"
#include "support.h"

static uint64_t org_count(struct support *s)
{
	struct store_org *rows;
	size_t count;
	uint64_t total;

	ok(store_org_list(s->store, 1, 1, &rows, &count, &total, &s->err));
	free(rows);
	return total;
}

static void add_org(struct support *s, const char *id)
{
	struct store_org org = support_org(id);
	ok(store_org_add(s->store, &org, &s->err));
}

static void commit_and_rollback(void **state)
{
	struct support *s = *state;

	assert_false(store_in_tx(s->store));
	ok(store_begin(s->store, &s->err));
	assert_true(store_in_tx(s->store));
	add_org(s, "org_c");
	assert_int_equal(org_count(s), 3); /* its own thread sees it */
	store_rollback(s->store);
	assert_int_equal(org_count(s), 2);
	store_rollback(s->store); /* nothing to roll back */

	ok(store_begin(s->store, &s->err));
	add_org(s, "org_c");
	support_audit(s, "org.create", 0);
	ok(store_commit(s->store, &s->err));
	assert_int_equal(org_count(s), 3);
	assert_int_equal(store_commit(s->store, &s->err), -EINVAL);
}

static void nested(void **state)
{
	struct support *s = *state;

	ok(store_begin(s->store, &s->err));
	add_org(s, "org_c");
	ok(store_begin(s->store, &s->err));
	add_org(s, "org_d");
	store_rollback(s->store); /* org_d alone */
	ok(store_begin(s->store, &s->err));
	add_org(s, "org_e");
	ok(store_commit(s->store, &s->err));
	assert_int_equal(org_count(s), 4);
	ok(store_commit(s->store, &s->err));
	assert_int_equal(org_count(s), 4);

	ok(store_begin(s->store, &s->err));
	ok(store_begin(s->store, &s->err));
	add_org(s, "org_f");
	ok(store_commit(s->store, &s->err));
	store_rollback(s->store); /* the inner commit goes with the outer */
	assert_int_equal(org_count(s), 4);
}

/* A statement that fails leaves the rest of its transaction as it is. */
static void failure_inside(void **state)
{
	struct support *s = *state;
	struct store_org org = support_org("org_a");

	ok(store_begin(s->store, &s->err));
	add_org(s, "org_c");
	assert_int_equal(store_org_add(s->store, &org, &s->err), -EEXIST);
	ok(store_commit(s->store, &s->err));
	assert_int_equal(org_count(s), 3);
}

/* SQLite throws a transaction away by itself when a disk is full. What follows must not be written outside of it. */
static void thrown_away(void **state)
{
	struct support *s = *state;
	struct store_org org = support_org("org_d"), got;

	ok(store_begin(s->store, &s->err));
	add_org(s, "org_c");
	ok(conn_exec(&s->store->writer, "ROLLBACK", &s->err));
	assert_int_equal(store_org_add(s->store, &org, &s->err), -ECANCELED);
	assert_int_equal(store_org_get(s->store, "org_a", &got, &s->err), -ECANCELED);
	assert_int_equal(store_begin(s->store, &s->err), -ECANCELED);
	assert_int_equal(store_audit_add(s->store, &(struct store_audit){ .action = "x" }, &s->err), -ECANCELED);
	assert_int_equal(store_commit(s->store, &s->err), -ECANCELED);
	assert_false(store_in_tx(s->store));
	assert_int_equal(org_count(s), 2);
	add_org(s, "org_d");
	assert_int_equal(org_count(s), 3);
}

static void *add_keys(void *data)
{
	struct support *s = data;

	for (int i = 0; i < 200; i++) {
		struct store_key key = support_key("org_a", "", 0);
		snprintf(key.id, sizeof(key.id), "key_%d", i);
		memcpy(key.hash, key.id, sizeof(key.hash));
		if (store_key_add(s->store, &key, NULL) < 0)
			return data;
	}
	return NULL;
}

static void list_is_one_snapshot(void **state)
{
	struct support *s = *state;
	struct store_key *rows;
	size_t count = 0;
	uint64_t total;
	pthread_t thread;
	void *failed;

	assert_int_equal(pthread_create(&thread, NULL, add_keys, s), 0);
	for (int64_t end = time_mono_ms() + 60000; count < 200;) {
		assert_true(time_mono_ms() < end);
		ok(store_key_list(s->store, "org_a", 1, 1000, &rows, &count, &total, &s->err));
		free(rows);
		assert_int_equal(count, total);
	}
	pthread_join(thread, &failed);
	assert_null(failed);
}

#define THREADS 6
#define ROUNDS 25

struct worker {
	struct support *s;
	pthread_t thread;
	int number, failures;
};

/* Each transaction reads a count and writes it plus one: a lost update would show. */
static int count_up(struct store *store, int number, bool give_up)
{
	struct store_org org;
	struct store_audit row = { .action = "count", .outcome = "ok", .org = "org_a" };
	struct store_key key = support_key("org_a", "", 0);

	if (store_begin(store, NULL) < 0)
		return -1;
	int r = store_org_get(store, "org_a", &org, NULL);
	org.execs_max++;
	if (r == 0)
		r = store_org_update(store, &org, NULL);
	snprintf(key.id, sizeof(key.id), "key_%d_%d", number, (int)org.execs_max);
	memcpy(key.hash, key.id, sizeof(key.hash));
	if (r == 0)
		r = store_key_add(store, &key, NULL);
	if (r == 0)
		r = store_audit_add(store, &row, NULL);
	if (r == 0 && !give_up)
		return store_commit(store, NULL);
	store_rollback(store);
	return r;
}

static void *work(void *data)
{
	struct worker *worker = data;
	struct store_key *rows;
	size_t count;
	uint64_t total;

	for (int i = 0; i < ROUNDS; i++) {
		if (i % 5 == 4)
			worker->failures += store_audit_add(worker->s->store,
							    &(struct store_audit){ .action = "alone" }, NULL) < 0;
		else
			worker->failures += count_up(worker->s->store, worker->number, i % 5 == 3) < 0;
		worker->failures += store_key_list(worker->s->store, "org_a", 1, 1000, &rows, &count, &total, NULL) < 0;
		worker->failures += count != total; /* one snapshot */
		free(rows);
	}
	return NULL;
}

static void threads(void **state)
{
	struct support *s = *state;
	struct worker workers[THREADS];
	uint64_t rows, seq;

	support_sql(s, "UPDATE org SET execs_max = 0 WHERE id = 'org_a'");
	for (int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .s = s, .number = i };
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		assert_int_equal(workers[i].failures, 0);
	}
	assert_int_equal(support_sql_int(s, "SELECT count(*) FROM key"), THREADS * ROUNDS / 5 * 3);
	assert_int_equal(support_sql_int(s, "SELECT execs_max FROM org WHERE id = 'org_a'"), THREADS * ROUNDS / 5 * 3);
	ok(store_audit_verify(s->store, &rows, &seq, &s->err));
	assert_int_equal(rows, THREADS * ROUNDS / 5 * 4);
}

static void *try_write(void *data)
{
	struct support *s = data;
	struct store_org org = support_org("org_z"), got;

	int read = store_org_get(s->store, "org_a", &got, NULL); /* readers do not wait */
	int write = store_org_add(s->store, &org, NULL);
	return (void *)(intptr_t)(read == 0 ? write : 1);
}

/* A transaction that is held too long: the other thread gives up after 5 s instead of waiting for ever. */
static void others_give_up(void **state)
{
	struct support *s = *state;
	pthread_t thread;
	void *result;

	ok(store_begin(s->store, &s->err));
	add_org(s, "org_c");
	assert_int_equal(pthread_create(&thread, NULL, try_write, s), 0);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, -EAGAIN);
	ok(store_commit(s->store, &s->err));
	assert_int_equal(pthread_create(&thread, NULL, try_write, s), 0);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, support_setup, support_teardown)
	const struct CMUnitTest tests[] = {
		T(commit_and_rollback),  T(nested),  T(failure_inside), T(thrown_away),
		T(list_is_one_snapshot), T(threads), T(others_give_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
