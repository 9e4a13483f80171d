#include "support.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

int support_setup(void **state)
{
	struct support *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	snprintf(s->dir, sizeof(s->dir), "/tmp/akira-store-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	ok(store_open(s->dir, &s->store, &s->err));
	struct store_org a = support_org("org_a"), b = support_org("org_b");
	ok(store_org_add(s->store, &a, &s->err));
	ok(store_org_add(s->store, &b, &s->err));
	*state = s;
	return 0;
}

int support_teardown(void **state)
{
	struct support *s = *state;

	store_close(s->store);
	int r = fd_remove_tree(AT_FDCWD, s->dir, NULL);
	free(s);
	return r;
}

void support_reopen(struct support *s)
{
	store_close(s->store);
	s->store = NULL;
	ok(store_open(s->dir, &s->store, &s->err));
}

struct store_org support_org(const char *id)
{
	struct store_org org = {
		.tier = "pro",
		.log_output = true,
		.requests_per_minute = 300,
		.sandboxes_max = 50,
		.cpu_units_max = -1,
		.memory_mib_max = 4096,
		.storage_gb_max = 100,
		.snapshots_max = 7,
		.lifetime_s_max = 86400,
		.execs_max = 8,
		.upload_bytes_max = INT64_C(1) << 40,
		.created_ms = 1000,
	};
	snprintf(org.id, sizeof(org.id), "%s", id);
	snprintf(org.name, sizeof(org.name), "name of %s", id);
	return org;
}

struct store_key support_key(const char *org, const char *id, unsigned char hash)
{
	struct store_key key = { .name = "laptop", .prefix = "sk_live_abcdef", .scopes = SCOPE_ALL, .created_ms = 5 };

	snprintf(key.id, sizeof(key.id), "%s", id);
	snprintf(key.org, sizeof(key.org), "%s", org);
	memset(key.hash, hash, sizeof(key.hash));
	return key;
}

struct store_sandbox support_sandbox(const char *org, const char *id, int64_t created_ms)
{
	struct store_sandbox row = {
		.key = "key_a",
		.name = "web",
		.image = "default",
		.status = SANDBOX_CREATING,
		.cpu_units = 2,
		.memory_mib = 512,
		.storage_gb = 10,
		.created_ms = created_ms,
		.timeout_s = 3600,
	};
	snprintf(row.id, sizeof(row.id), "%s", id);
	snprintf(row.org, sizeof(row.org), "%s", org);
	return row;
}

void support_audit(struct support *s, const char *action, int64_t when_ms)
{
	struct store_audit row = {
		.when_ms = when_ms,
		.request = "req_1",
		.org = "org_a",
		.key = "key_a",
		.address = "192.0.2.1",
		.target = "sbx_1",
		.outcome = "ok",
		.status = 201,
		.duration_us = 15,
	};
	snprintf(row.action, sizeof(row.action), "%s", action);
	ok(store_audit_add(s->store, &row, &s->err));
}

static sqlite3 *intruder(struct support *s)
{
	char path[128];
	sqlite3 *db;

	snprintf(path, sizeof(path), "%s/akira.db", s->dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	sqlite3_busy_timeout(db, 5000);
	return db;
}

void support_sql(struct support *s, const char *sql)
{
	sqlite3 *db = intruder(s);
	char *why = NULL;

	if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
		fail_msg("%s: %s", sql, why);
	sqlite3_close(db);
}

int64_t support_sql_int(struct support *s, const char *sql)
{
	sqlite3 *db = intruder(s);
	sqlite3_stmt *stmt;

	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	int64_t number = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	sqlite3_close(db);
	return number;
}
