/* The audit chain through the eyes of an intruder who can write to the database file but has no secret. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

static int ten_rows(void **state)
{
	int r = support_setup(state);

	for (int i = 1; i <= 10; i++)
		support_audit(*state, i % 2 ? "sandbox.create" : "key.revoke", i * 100);
	return r;
}

static void expect_wrong(struct support *s, uint64_t at, const char *what)
{
	uint64_t rows = 0, seq = 0;

	assert_int_equal(store_audit_verify(s->store, &rows, &seq, &s->err), -EBADMSG);
	assert_int_equal(seq, at);
	if (!strstr(s->err.text, what))
		fail_msg("\"%s\" does not say %s", s->err.text, what);
}

static void expect_whole(struct support *s, uint64_t count)
{
	uint64_t rows = 0, seq = 1;

	ok(store_audit_verify(s->store, &rows, &seq, &s->err));
	assert_int_equal(rows, count);
	assert_int_equal(seq, 0);
}

static void whole(void **state)
{
	struct support *s = *state;

	expect_whole(s, 10);
	support_reopen(s);
	support_audit(s, "again", 0);
	expect_whole(s, 11);
}

static void empty(void **state)
{
	expect_whole(*state, 0);
}

static void altered(void **state)
{
	static const char *const columns[] = { "when_ms = 1", "request = 'x'", "org = 'x'", "key = 'x'",
					       "address = 'x'", "action = 'x'", "target = 'x'", "outcome = 'x'",
					       "status = 5", "duration_us = 5", "detail = 'x'", "hash = 'x'",
					       /* moving a border between two texts must show as well */
					       "org = org || substr(key, 1, 1), key = substr(key, 2)",
					       "detail = printf('%.*c', 5000, 'x')" };
	struct support *s = *state;
	char sql[512];

	support_sql(s, "CREATE TABLE copy AS SELECT * FROM audit");
	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++) {
		snprintf(sql, sizeof(sql), "UPDATE audit SET %s WHERE seq = 4", columns[i]);
		support_sql(s, sql);
		expect_wrong(s, 4, "altered");
		support_sql(s, "DELETE FROM audit; INSERT INTO audit SELECT * FROM copy");
		expect_whole(s, 10);
	}
	support_sql(s, "UPDATE audit SET detail = 'x' WHERE seq = 10");
	expect_wrong(s, 10, "altered");
}

static void removed(void **state)
{
	struct support *s = *state;

	support_sql(s, "DELETE FROM audit WHERE seq = 4");
	expect_wrong(s, 4, "removed");
	support_sql(s, "UPDATE audit SET seq = seq - 1 WHERE seq > 4"); /* numbered anew */
	expect_wrong(s, 4, "altered");
}

static void first_removed(void **state)
{
	support_sql(*state, "DELETE FROM audit WHERE seq <= 3");
	expect_wrong(*state, 1, "removed");
}

static void tail_removed(void **state)
{
	struct support *s = *state;

	support_sql(s, "DELETE FROM audit WHERE seq > 8");
	expect_wrong(s, 9, "removed");
	support_sql(s, "UPDATE audit_head SET seq = 8, hash = (SELECT hash FROM audit WHERE seq = 8)");
	expect_wrong(s, 0, "altered");
	/* Nothing is signed on top of it. */
	assert_int_equal(store_audit_add(s->store, &(struct store_audit){ .action = "x" }, &s->err), -EBADMSG);
	support_sql(s, "DELETE FROM audit_head");
	expect_wrong(s, 0, "removed");
}

static void inserted(void **state)
{
	struct support *s = *state;

	support_sql(
		s, "UPDATE audit SET seq = -seq - 1 WHERE seq >= 5; UPDATE audit SET seq = -seq WHERE seq < 0;"
		   "INSERT INTO audit SELECT 5, when_ms, request, org, key, address, 'forged', target, outcome, status,"
		   " duration_us, detail, hash FROM audit WHERE seq = 4");
	expect_wrong(s, 5, "inserted");
}

static void inserted_at_the_end(void **state)
{
	struct support *s = *state;

	support_sql(
		s,
		"INSERT INTO audit SELECT 11, when_ms, request, org, key, address, 'forged', target, outcome, status,"
		" duration_us, detail, hash FROM audit WHERE seq = 4");
	expect_wrong(s, 11, "inserted");
	assert_int_equal(store_audit_add(s->store, &(struct store_audit){ .action = "x" }, &s->err), -EBADMSG);
}

static void swapped(void **state)
{
	struct support *s = *state;

	support_sql(s, "UPDATE audit SET seq = -1 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = 4;"
		       "UPDATE audit SET seq = 4 WHERE seq = -1");
	expect_wrong(s, 3, "inserted"); /* what was row 3 follows it and fits */
}

/* A row that was once signed (and rolled back, or taken from an old backup) does not fit into another history. */
static void other_history(void **state)
{
	struct support *s = *state;
	struct store_audit_filter filter = { .limit = 1 };
	struct store_audit *once;
	size_t count;
	char sql[256];

	ok(store_begin(s->store, &s->err));
	support_audit(s, "harmless", 1100);
	ok(store_audit_list(s->store, &filter, &once, &count, &s->err));
	store_rollback(s->store);
	support_audit(s, "harmful", 1100);
	support_audit(s, "later", 1200);
	snprintf(sql, sizeof(sql), "UPDATE audit SET action = 'harmless', hash = '%s' WHERE seq = 11", once->hash);
	free(once);
	support_sql(s, sql);
	expect_wrong(s, 12, "altered"); /* 11 verifies by itself; what follows was not built on it */
}

static void pruned(void **state)
{
	struct support *s = *state;
	uint64_t removed;

	ok(store_audit_prune(s->store, 401, &removed, &s->err));
	assert_int_equal(removed, 4);
	expect_whole(s, 6);
	support_audit(s, "after", 0);
	expect_whole(s, 7);
	ok(store_audit_prune(s->store, 401, &removed, &s->err));
	assert_int_equal(removed, 0);

	support_sql(
		s, "INSERT INTO audit SELECT 2, when_ms, request, org, key, address, 'forged', target, outcome, status,"
		   " duration_us, detail, hash FROM audit WHERE seq = 6");
	expect_wrong(s, 2, "inserted");
	support_sql(
		s,
		"DELETE FROM audit WHERE seq = 2; UPDATE audit_head SET base_seq = 5; DELETE FROM audit WHERE seq = 5");
	expect_wrong(s, 0, "altered");
}

static void prune_all(void **state)
{
	struct support *s = *state;
	uint64_t removed;

	ok(store_audit_prune(s->store, INT64_MAX, &removed, &s->err));
	assert_int_equal(removed, 10);
	expect_whole(s, 0);
	support_audit(s, "after", 0);
	expect_whole(s, 1);
	assert_int_equal(support_sql_int(s, "SELECT seq FROM audit"), 11);
}

static void prune_hides_nothing(void **state)
{
	struct support *s = *state;
	uint64_t removed;

	support_sql(s, "UPDATE audit SET outcome = 'ok ' WHERE seq = 2");
	assert_int_equal(store_audit_prune(s->store, 501, &removed, &s->err), -EBADMSG);
	assert_int_equal(removed, 0);
	assert_int_equal(support_sql_int(s, "SELECT count(*) FROM audit"), 10);
}

static void prune_in_steps(void **state)
{
	struct support *s = *state;
	uint64_t removed;

	ok(store_begin(s->store, &s->err));
	for (int i = 0; i < 9000; i++)
		support_audit(s, "many", 5);
	ok(store_commit(s->store, &s->err));
	expect_whole(s, 9010);
	/* Rows are removed as they stand: the tenth (1000) keeps those behind it that are older. */
	ok(store_audit_prune(s->store, 1000, &removed, &s->err));
	assert_int_equal(removed, 9);
	ok(store_audit_prune(s->store, 1001, &removed, &s->err));
	assert_int_equal(removed, 9001);
	expect_whole(s, 0);
}

static void expect_list(struct support *s, const struct store_audit_filter *filter, const char *numbers)
{
	struct store_audit *rows;
	char got[128] = "";
	size_t count;

	ok(store_audit_list(s->store, filter, &rows, &count, &s->err));
	for (size_t i = 0; i < count; i++) {
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%d ", (int)rows[i].seq);
		assert_int_equal(strlen(rows[i].hash), 64);
	}
	free(rows);
	assert_string_equal(got, numbers);
}

static void lists(void **state)
{
	struct support *s = *state;
	struct store_audit row = { .org = "org_b", .action = "auth.refused", .outcome = "refused", .key = "key_b" };

	ok(store_audit_add(s->store, &row, &s->err));
	struct store_audit_filter filter = { .limit = 3 };
	expect_list(s, &filter, "11 10 9 ");
	filter.before_seq = 9;
	expect_list(s, &filter, "8 7 6 ");
	filter = (struct store_audit_filter){ .org = "org_a", .action = "key.revoke", .limit = 2 };
	expect_list(s, &filter, "10 8 ");
	filter = (struct store_audit_filter){ .org = "org_b", .limit = 100 };
	expect_list(s, &filter, "11 ");
	filter = (struct store_audit_filter){ .outcome = "refused", .key = "key_b", .limit = 100 };
	expect_list(s, &filter, "11 ");
	filter = (struct store_audit_filter){ .target = "sbx_1", .from_ms = 200, .to_ms = 400, .limit = 100 };
	expect_list(s, &filter, "4 3 2 ");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, ten_rows, support_teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(empty, support_setup, support_teardown),
		T(whole),
		T(altered),
		T(removed),
		T(first_removed),
		T(tail_removed),
		T(inserted),
		T(inserted_at_the_end),
		T(swapped),
		T(other_history),
		T(pruned),
		T(prune_all),
		T(prune_hides_nothing),
		T(prune_in_steps),
		T(lists),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
