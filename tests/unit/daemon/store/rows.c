/* Organisations, keys, sandboxes, snapshots: what is written comes back, in order, within its organisation. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

static void orgs(void **state)
{
	struct support *s = *state;
	struct store_org org, want = support_org("org_c"), *rows;
	size_t count;
	uint64_t total;

	want.suspended = true;
	want.created_ms = 2000;
	ok(store_org_add(s->store, &want, &s->err));
	assert_int_equal(store_org_add(s->store, &want, &s->err), -EEXIST);
	ok(store_org_get(s->store, "org_c", &org, &s->err));
	assert_memory_equal(&org, &want, sizeof(org));
	assert_int_equal(store_org_get(s->store, "org_x", &org, &s->err), -ENOENT);

	want.suspended = false;
	want.sandboxes_max = -1;
	snprintf(want.tier, sizeof(want.tier), "enterprise");
	ok(store_org_update(s->store, &want, &s->err));
	ok(store_org_get(s->store, "org_c", &org, &s->err));
	assert_memory_equal(&org, &want, sizeof(org));
	snprintf(want.tier, sizeof(want.tier), "gold");
	assert_int_equal(store_org_update(s->store, &want, &s->err), -EINVAL);
	snprintf(want.id, sizeof(want.id), "org_x");
	snprintf(want.tier, sizeof(want.tier), "beta");
	assert_int_equal(store_org_update(s->store, &want, &s->err), -ENOENT);

	ok(store_org_list(s->store, 2, 2, &rows, &count, &total, &s->err));
	assert_int_equal(count, 1);
	assert_int_equal(total, 3);
	assert_string_equal(rows[0].id, "org_c");
	free(rows);
	ok(store_org_list(s->store, UINT32_MAX, UINT32_MAX, &rows, &count, &total, &s->err));
	assert_null(rows);
	assert_int_equal(count, 0);
	assert_int_equal(total, 3);
}

static void keys(void **state)
{
	struct support *s = *state;
	struct store_key key, want = support_key("org_a", "key_a", 1), other = support_key("org_b", "key_b", 2), *rows;
	unsigned char nobody[32] = { 9 };
	size_t count;
	uint64_t total;

	ok(store_key_add(s->store, &want, &s->err));
	ok(store_key_add(s->store, &other, &s->err));
	struct store_key twin = support_key("org_b", "key_c", 1);
	assert_int_equal(store_key_add(s->store, &twin, &s->err), -EEXIST); /* the same hash */
	struct store_key lost = support_key("org_x", "key_d", 4);
	assert_int_equal(store_key_add(s->store, &lost, &s->err), -ENOENT);

	ok(store_key_get(s->store, "org_a", "key_a", &key, &s->err));
	assert_memory_equal(&key, &want, sizeof(key));
	assert_int_equal(store_key_get(s->store, "org_b", "key_a", &key, &s->err), -ENOENT);
	ok(store_key_by_hash(s->store, other.hash, &key, &s->err));
	assert_string_equal(key.id, "key_b");
	assert_int_equal(store_key_by_hash(s->store, nobody, &key, &s->err), -ENOENT);

	want.expires_ms = 70;
	memset(want.name, 0, sizeof(want.name));
	snprintf(want.name, sizeof(want.name), "desk");
	snprintf(want.rotated_to, sizeof(want.rotated_to), "key_b");
	ok(store_key_update(s->store, &want, &s->err));
	ok(store_key_used(s->store, "key_a", 60, &s->err));
	ok(store_key_used(s->store, "key_a", 50, &s->err)); /* late news does not turn it back */
	want.last_used_ms = 60;
	ok(store_key_list(s->store, "org_a", 1, 10, &rows, &count, &total, &s->err));
	assert_int_equal(count, 1);
	assert_int_equal(total, 1);
	assert_memory_equal(&rows[0], &want, sizeof(want));
	free(rows);
	assert_int_equal(store_key_used(s->store, "key_x", 1, &s->err), -ENOENT);
	snprintf(want.org, sizeof(want.org), "org_b");
	assert_int_equal(store_key_update(s->store, &want, &s->err), -ENOENT); /* another organisation's */
}

static void key_live(void **state)
{
	struct support *s = *state;
	struct store_key key = support_key("org_a", "key_a", 1);
	struct store_org org = support_org("org_a");
	bool live;

	key.expires_ms = 100;
	ok(store_key_add(s->store, &key, &s->err));
	ok(store_key_live(s->store, "key_a", 99, &live, &s->err));
	assert_true(live);
	ok(store_key_live(s->store, "key_a", 100, &live, &s->err));
	assert_false(live);
	org.suspended = true;
	ok(store_org_update(s->store, &org, &s->err));
	ok(store_key_live(s->store, "key_a", 99, &live, &s->err));
	assert_false(live);
	org.suspended = false;
	key.revoked_ms = 50;
	ok(store_org_update(s->store, &org, &s->err));
	ok(store_key_update(s->store, &key, &s->err));
	ok(store_key_live(s->store, "key_a", 99, &live, &s->err));
	assert_false(live);
	assert_int_equal(store_key_live(s->store, "key_x", 1, &live, &s->err), -ENOENT);
}

static void sandboxes(void **state)
{
	struct support *s = *state;
	struct store_sandbox row, want = support_sandbox("org_a", "sbx_1", 10);

	want.metadata = strdup("{\"team\":\"a\"}");
	want.env = strdup("{\"TOKEN\":\"hunter2 \xc3\xa9\"}");
	want.idle_pause = true;
	ok(store_sandbox_add(s->store, &want, &s->err));
	assert_int_equal(store_sandbox_add(s->store, &want, &s->err), -EEXIST);
	assert_int_equal(store_sandbox_get(s->store, "org_b", "sbx_1", &row, &s->err), -ENOENT);
	ok(store_sandbox_get(s->store, NULL, "sbx_1", &row, &s->err));
	assert_string_equal(row.env, want.env);
	assert_string_equal(row.metadata, want.metadata);
	assert_null(row.network);
	assert_true(row.idle_pause);
	store_sandbox_free(&row);
	assert_null(row.env);

	want.status = SANDBOX_TERMINATED;
	want.terminated_ms = 99;
	want.network = strdup("{\"outbound\":\"deny\"}");
	snprintf(want.reason, sizeof(want.reason), "deleted");
	ok(store_sandbox_update(s->store, &want, &s->err));
	ok(store_sandbox_get(s->store, "org_a", "sbx_1", &row, &s->err));
	assert_int_equal(row.status, SANDBOX_TERMINATED);
	assert_int_equal(row.terminated_ms, 99);
	assert_string_equal(row.reason, "deleted");
	assert_string_equal(row.network, want.network);
	assert_string_equal(row.env, want.env);
	store_sandbox_free(&row);

	memcpy(want.network, "not json", 9);
	assert_int_equal(store_sandbox_update(s->store, &want, &s->err), -EINVAL);
	store_sandbox_free(&want);
}

static void env_is_sealed(void **state)
{
	struct support *s = *state;
	struct store_sandbox row, a = support_sandbox("org_a", "sbx_1", 1), b = support_sandbox("org_b", "sbx_2", 1);

	a.env = strdup("{\"K\":\"a secret value\"}");
	ok(store_sandbox_add(s->store, &a, &s->err));
	ok(store_sandbox_add(s->store, &b, &s->err));
	assert_int_equal(support_sql_int(s, "SELECT count(*) FROM sandbox WHERE instr(env, CAST('a secret' AS BLOB))"),
			 0);
	assert_int_equal(support_sql_int(s, "SELECT length(env) FROM sandbox WHERE id = 'sbx_1'"),
			 1 + 24 + 16 + (int64_t)strlen(a.env));
	/* Another tenant's row does not open with it. */
	support_sql(s, "UPDATE sandbox SET env = (SELECT env FROM sandbox WHERE id = 'sbx_1') WHERE id = 'sbx_2'");
	assert_int_equal(store_sandbox_get(s->store, NULL, "sbx_2", &row, &s->err), -EIO);
	support_sql(s, "UPDATE sandbox SET env = x'01' WHERE id = 'sbx_1'");
	assert_int_equal(store_sandbox_get(s->store, NULL, "sbx_1", &row, &s->err), -EIO);
	store_sandbox_free(&a);
}

static void add_with(struct support *s, const char *org, const char *id, int64_t created, enum sandbox_status status,
		     const char *metadata)
{
	struct store_sandbox row = support_sandbox(org, id, created);

	row.status = status;
	row.terminated_ms = status >= SANDBOX_TERMINATED ? created : 0;
	row.metadata = metadata ? strdup(metadata) : NULL;
	ok(store_sandbox_add(s->store, &row, &s->err));
	store_sandbox_free(&row);
}

static void expect_list(struct support *s, const struct store_sandbox_filter *filter, uint32_t page, uint32_t size,
			const char *ids, uint64_t all)
{
	struct store_sandbox *rows;
	char got[256] = "";
	size_t count;
	uint64_t total;

	ok(store_sandbox_list(s->store, filter, page, size, &rows, &count, &total, &s->err));
	for (size_t i = 0; i < count; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s ", rows[i].id);
	store_sandboxes_free(rows, count);
	assert_string_equal(got, ids);
	assert_int_equal(total, all);
}

static void sandbox_lists(void **state)
{
	struct support *s = *state;
	struct store_totals totals;

	add_with(s, "org_a", "s1", 1, SANDBOX_RUNNING, "{\"team\":\"a\",\"n\":\"1\"}");
	add_with(s, "org_a", "s2", 2, SANDBOX_PAUSED, "{\"team\":\"a\",\"n\":2}");
	add_with(s, "org_a", "s3", 2, SANDBOX_TERMINATED, "{\"team\":\"b\"}");
	add_with(s, "org_a", "s4", 4, SANDBOX_ERROR, NULL);
	add_with(s, "org_b", "s5", 5, SANDBOX_CREATING, "{\"team\":\"a\"}");

	struct store_sandbox_filter filter = { .org = "org_a" };
	expect_list(s, &filter, 1, 20, "s4 s3 s2 s1 ", 4);
	expect_list(s, &filter, 2, 3, "s1 ", 4);
	expect_list(s, &filter, 3, 3, "", 4);
	filter.live = true;
	expect_list(s, &filter, 1, 20, "s2 s1 ", 2);
	filter.org = NULL;
	expect_list(s, &filter, 1, 20, "s5 s2 s1 ", 3);
	filter.metadata_key[0] = "team";
	filter.metadata_value[0] = "a";
	filter.metadata_count = 1;
	expect_list(s, &filter, 1, 20, "s5 s2 s1 ", 3);
	filter.metadata_key[1] = "n";
	filter.metadata_value[1] = "1";
	filter.metadata_count = 2;
	expect_list(s, &filter, 1, 20, "s1 ", 1);
	filter.metadata_value[1] = "1' OR '1'='1";
	expect_list(s, &filter, 1, 20, "", 0);

	ok(store_totals(s->store, "org_a", &totals, &s->err));
	assert_int_equal(totals.sandboxes, 2);
	assert_int_equal(totals.cpu_units, 4);
	assert_int_equal(totals.memory_mib, 1024);
	assert_int_equal(totals.storage_gb, 20);
	ok(store_totals(s->store, NULL, &totals, &s->err));
	assert_int_equal(totals.sandboxes, 3);

	ok(store_sandbox_purge(s->store, 4, &s->err)); /* s3 ended at 2, s4 at 4 */
	filter = (struct store_sandbox_filter){ .org = "org_a" };
	expect_list(s, &filter, 1, 20, "s4 s2 s1 ", 3);
}

static void snapshots(void **state)
{
	struct support *s = *state;
	struct store_snapshot row, want = { .id = "snap_1",
					    .org = "org_a",
					    .name = "one",
					    .quick = true,
					    .source = "sbx_1",
					    .source_name = "web",
					    .image = "default",
					    .cpu_units = 1,
					    .created_ms = 7 };
	struct store_snapshot *rows;
	struct store_totals totals;
	char ids[4][STORE_ID_MAX];
	size_t count;
	uint64_t total;

	want.env = strdup("{\"A\":\"b\"}");
	ok(store_snapshot_add(s->store, &want, &s->err));
	assert_int_equal(store_snapshot_get(s->store, "org_b", "snap_1", &row, &s->err), -ENOENT);
	want.status = SNAPSHOT_READY;
	want.size = UINT64_C(5) << 32;
	ok(store_snapshot_update(s->store, &want, &s->err));
	ok(store_snapshot_get(s->store, "org_a", "snap_1", &row, &s->err));
	assert_int_equal(row.status, SNAPSHOT_READY);
	assert_int_equal(row.size, want.size);
	assert_string_equal(row.env, want.env);
	assert_true(row.quick);
	store_snapshot_free(&row);
	ok(store_snapshot_list(s->store, "org_a", 1, 5, &rows, &count, &total, &s->err));
	assert_int_equal(count, 1);
	assert_int_equal(total, 1);
	store_snapshots_free(rows, count);
	ok(store_snapshot_list(s->store, "org_b", 1, 5, &rows, &count, &total, &s->err));
	assert_int_equal(total, 0);
	ok(store_totals(s->store, "org_a", &totals, &s->err));
	assert_int_equal(totals.snapshots, 1);
	assert_int_equal(totals.snapshot_bytes, want.size);

	struct store_sandbox user = support_sandbox("org_a", "sbx_2", 1);
	snprintf(user.snapshot, sizeof(user.snapshot), "snap_1");
	ok(store_sandbox_add(s->store, &user, &s->err));
	snprintf(user.id, sizeof(user.id), "sbx_3");
	user.status = SANDBOX_TERMINATED;
	ok(store_sandbox_add(s->store, &user, &s->err));
	ok(store_snapshot_users(s->store, "snap_1", ids, 4, &count, &s->err));
	assert_int_equal(count, 1);
	assert_string_equal(ids[0], "sbx_2");
	ok(store_snapshot_users(s->store, "snap_1", ids, 0, &count, &s->err));
	assert_int_equal(count, 0);

	ok(store_snapshot_remove(s->store, "snap_1", &s->err));
	assert_int_equal(store_snapshot_remove(s->store, "snap_1", &s->err), -ENOENT);
	assert_int_equal(store_snapshot_update(s->store, &want, &s->err), -ENOENT);
	store_snapshot_free(&want);
}

static void unterminated_text(void **state)
{
	struct support *s = *state;
	struct store_key key = support_key("org_a", "key_a", 1);

	memset(key.name, 'x', sizeof(key.name));
	assert_int_equal(store_key_add(s->store, &key, &s->err), -EINVAL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, support_setup, support_teardown)
	const struct CMUnitTest tests[] = {
		T(orgs),          T(keys),          T(key_live),  T(sandboxes),
		T(env_is_sealed), T(sandbox_lists), T(snapshots), T(unterminated_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
