/* Executions, samples, idempotent answers, usage, buckets. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

static void add_exec(struct support *s, const char *org, const char *id, const char *sandbox, int64_t when)
{
	struct store_exec row = { .request = "req_1", .exit_code = -9, .status = "completed", .started_ms = when };
	char out[] = "out", command[] = "true";

	snprintf(row.org, sizeof(row.org), "%s", org);
	snprintf(row.id, sizeof(row.id), "%s", id);
	snprintf(row.sandbox, sizeof(row.sandbox), "%s", sandbox);
	row.command = command;
	row.out = out;
	row.err_truncated = true;
	ok(store_exec_add(s->store, &row, &s->err));
}

static void two_sandboxes(struct support *s)
{
	struct store_sandbox a = support_sandbox("org_a", "sbx_a", 1), b = support_sandbox("org_b", "sbx_b", 1);

	ok(store_sandbox_add(s->store, &a, &s->err));
	ok(store_sandbox_add(s->store, &b, &s->err));
}

static void execs(void **state)
{
	struct support *s = *state;
	struct store_exec *rows;
	size_t count;
	uint64_t total;

	two_sandboxes(s);
	add_exec(s, "org_a", "exec_1", "sbx_a", 10);
	add_exec(s, "org_a", "exec_2", "sbx_a", 20);
	add_exec(s, "org_a", "exec_3", "sbx_a", 30);
	add_exec(s, "org_b", "exec_4", "sbx_b", 20);

	struct store_exec_filter filter = { .org = "org_a", .from_ms = 11, .limit = 1 };
	ok(store_exec_list(s->store, &filter, &rows, &count, &total, &s->err));
	assert_int_equal(count, 1);
	assert_int_equal(total, 2);
	assert_string_equal(rows[0].id, "exec_3");
	assert_string_equal(rows[0].out, "out");
	assert_null(rows[0].err_out);
	assert_int_equal(rows[0].exit_code, -9);
	assert_true(rows[0].err_truncated);
	store_execs_free(rows, count);
	filter.sandbox = "sbx_b"; /* of the other organisation */
	ok(store_exec_list(s->store, &filter, &rows, &count, &total, &s->err));
	assert_int_equal(total, 0);
	filter = (struct store_exec_filter){ .to_ms = 20, .limit = 9 };
	ok(store_exec_list(s->store, &filter, &rows, &count, &total, &s->err));
	assert_int_equal(count, 3);
	store_execs_free(rows, count);

	ok(store_exec_purge(s->store, 20, &s->err));
	ok(store_exec_list(s->store, &filter, &rows, &count, &total, &s->err));
	assert_int_equal(total, 2);
	store_execs_free(rows, count);
}

static void exec_bounds(void **state)
{
	struct support *s = *state;
	struct store_exec row = { .id = "exec_1", .org = "org_a", .sandbox = "sbx_a", .status = "timeout" };

	two_sandboxes(s);
	row.out = calloc(1, STORE_OUTPUT_MAX + 2);
	assert_non_null(row.out);
	memset(row.out, 'x', STORE_OUTPUT_MAX + 1);
	assert_int_equal(store_exec_add(s->store, &row, &s->err), -EINVAL);
	row.out[STORE_OUTPUT_MAX] = '\0';
	ok(store_exec_add(s->store, &row, &s->err));
	free(row.out);
	row = (struct store_exec){ .id = "exec_2", .org = "org_a", .sandbox = "sbx_x" };
	assert_int_equal(store_exec_add(s->store, &row, &s->err), -ENOENT);
}

static void samples(void **state)
{
	struct support *s = *state;
	struct store_sample *rows;
	size_t count;

	two_sandboxes(s);
	for (int i = 1; i <= 5; i++)
		ok(store_sample_add(s->store, "sbx_a", &(struct store_sample){ i, i * 1.5, UINT64_C(1) << (30 + i) },
				    &s->err));
	ok(store_sample_add(s->store, "sbx_a", &(struct store_sample){ 5, 99.5, 5 },
			    &s->err)); /* the same moment again */
	assert_int_equal(store_sample_add(s->store, "sbx_x", &(struct store_sample){ 1, 1, 1 }, &s->err), -ENOENT);
	ok(store_sample_list(s->store, "sbx_a", 2, 0, 3, &rows, &count, &s->err));
	assert_int_equal(count, 3);
	assert_int_equal(rows[0].when_ms, 3);
	assert_int_equal(rows[0].memory_bytes, UINT64_C(1) << 33);
	assert_true(rows[2].cpu_percent > 99.4);
	free(rows);
	ok(store_sample_purge(s->store, 5, &s->err));
	ok(store_sample_list(s->store, "sbx_a", 0, 5, 3, &rows, &count, &s->err));
	assert_int_equal(count, 1);
	free(rows);
	ok(store_sample_list(s->store, "sbx_b", 0, 0, 3, &rows, &count, &s->err));
	assert_int_equal(count, 0);
}

static void purge_takes_all(void **state)
{
	struct support *s = *state;
	struct store_sandbox row = support_sandbox("org_a", "sbx_a", 1);

	two_sandboxes(s);
	add_exec(s, "org_a", "exec_1", "sbx_a", 10);
	ok(store_sample_add(s->store, "sbx_a", &(struct store_sample){ 1, 1, 1 }, &s->err));
	row.status = SANDBOX_TERMINATED;
	row.terminated_ms = 5;
	ok(store_sandbox_update(s->store, &row, &s->err));
	ok(store_sandbox_purge(s->store, 6, &s->err));
	assert_int_equal(support_sql_int(s, "SELECT (SELECT count(*) FROM exec) + (SELECT count(*) FROM sample)"), 0);
}

static void idempotency(void **state)
{
	struct support *s = *state;
	struct store_idem row = { .org = "org_a", .key = "once", .body_hash = { 1, 2 }, .created_ms = 10 }, found;

	ok(store_idem_claim(s->store, &row, &found, &s->err));
	assert_int_equal(store_idem_claim(s->store, &row, &found, &s->err), -EEXIST);
	assert_int_equal(found.status, 0);
	assert_null(found.answer);
	assert_memory_equal(found.body_hash, row.body_hash, 32);
	struct store_idem other = row;
	snprintf(other.org, sizeof(other.org), "org_b"); /* a key belongs to its organisation */
	ok(store_idem_claim(s->store, &other, &found, &s->err));

	ok(store_idem_target(s->store, "org_a", "once", "sbx_9", &s->err));
	assert_int_equal(store_idem_claim(s->store, &row, &found, &s->err), -EEXIST);
	assert_string_equal(found.target, "sbx_9");
	assert_int_equal(store_idem_claim(s->store, &other, &found, &s->err), -EEXIST);
	assert_string_equal(found.org, "org_b");
	assert_string_equal(found.target, "");
	ok(store_idem_finish(s->store, "org_a", "once", 201, "{\"key\":\"sk_live_x\"}", &s->err));
	assert_int_equal(store_idem_claim(s->store, &row, &found, &s->err), -EEXIST);
	assert_int_equal(found.status, 201);
	assert_string_equal(found.answer, "{\"key\":\"sk_live_x\"}");
	assert_string_equal(found.target, "sbx_9");
	free(found.answer);
	assert_int_equal(
		support_sql_int(s, "SELECT count(*) FROM idempotency WHERE instr(answer, CAST('sk_live' AS BLOB))"), 0);
	assert_int_equal(store_idem_finish(s->store, "org_a", "never", 200, "", &s->err), -ENOENT);

	ok(store_idem_drop(s->store, "org_a", "once", &s->err));
	ok(store_idem_claim(s->store, &row, &found, &s->err));
	ok(store_idem_purge(s->store, 11, &s->err));
	ok(store_idem_claim(s->store, &other, &found, &s->err));
}

static void usage(void **state)
{
	struct support *s = *state;
	struct store_usage more = {
		.org = "org_a", .day = "2026-01-31", .sandbox_s = 1.5, .bytes_in = 7, .creates = 1
	};
	struct store_usage *rows;
	size_t count;

	ok(store_usage_add(s->store, &more, &s->err));
	ok(store_usage_add(s->store, &more, &s->err));
	snprintf(more.day, sizeof(more.day), "2026-02-01");
	ok(store_usage_add(s->store, &more, &s->err));
	snprintf(more.org, sizeof(more.org), "org_b");
	ok(store_usage_add(s->store, &more, &s->err));
	ok(store_usage_list(s->store, "org_a", "2026-01-01", "2026-01-31", &rows, &count, &s->err));
	assert_int_equal(count, 1);
	assert_true(rows[0].sandbox_s > 2.99 && rows[0].sandbox_s < 3.01);
	assert_int_equal(rows[0].bytes_in, 14);
	assert_int_equal(rows[0].creates, 2);
	free(rows);
	ok(store_usage_list(s->store, NULL, NULL, NULL, &rows, &count, &s->err));
	assert_int_equal(count, 3);
	free(rows);
}

static void buckets(void **state)
{
	struct support *s = *state;
	struct store_bucket rows[2] = { { "key_a", 1.25, 5 }, { "key_b", 60, 6 } }, *got;
	size_t count;

	ok(store_bucket_save(s->store, rows, 2, &s->err));
	rows[0].tokens = 0.5;
	ok(store_bucket_save(s->store, rows, 1, &s->err));
	support_reopen(s);
	ok(store_bucket_load(s->store, &got, &count, &s->err));
	assert_int_equal(count, 2);
	assert_string_equal(got[0].key, "key_a");
	assert_true(got[0].tokens > 0.49 && got[0].tokens < 0.51);
	assert_int_equal(got[1].when_ms, 6);
	free(got);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, support_setup, support_teardown)
	const struct CMUnitTest tests[] = {
		T(execs), T(exec_bounds), T(samples), T(purge_takes_all), T(idempotency), T(usage), T(buckets),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
