#include <errno.h>

#include "daemon/store/internal.h"
#include "schema_001.h"

#define APPLICATION_ID 0x416b6972 /* "Akir" */

/* The schema at version n is what steps 1..n make. A released step is never changed: add another. */
static const char *const steps[] = { schema_001 };
#define NEWEST ((int64_t)(sizeof(steps) / sizeof(steps[0])))

static int pragma(struct conn *conn, const char *sql, int64_t *value, struct error *err)
{
	struct query query;

	query_on(&query, conn, sql, err);
	*value = query_step(&query) > 0 ? sqlite3_column_int64(query.stmt, 0) : 0;
	return query_close(&query);
}

static int look(struct conn *conn, const char *path, int64_t *version, struct error *err)
{
	int64_t application = 0, objects = 0;

	int r = pragma(conn, "PRAGMA user_version", version, err);
	if (r == 0)
		r = pragma(conn, "PRAGMA application_id", &application, err);
	if (r == 0)
		r = pragma(conn, "SELECT count(*) FROM sqlite_schema", &objects, err);
	if (r < 0)
		return r;
	if (*version > NEWEST)
		return error_set(
			err, EPROTONOSUPPORT,
			"%s has schema version %lld, this akirad knows up to %lld: install the newer akirad again",
			path, (long long)*version, (long long)NEWEST);
	if (*version < 0 || (*version == 0 ? objects > 0 : application != APPLICATION_ID))
		return error_set(err, EPROTONOSUPPORT, "%s is not a database of akirad", path);
	return 0;
}

static int apply(struct store *store, int64_t version, struct error *err)
{
	struct conn *conn = &store->writer;
	char sql[96];
	int64_t violations = 0;
	int r = 0;

	for (int64_t i = version; i < NEWEST && r == 0; i++)
		r = conn_exec(conn, steps[i], err);
	if (r == 0)
		r = pragma(conn, "SELECT count(*) FROM pragma_foreign_key_check", &violations, err);
	if (r == 0 && violations > 0)
		r = error_set(err, EIO, "the migration would leave %lld rows without their owner",
			      (long long)violations);
	snprintf(sql, sizeof(sql), "PRAGMA application_id = %d; PRAGMA user_version = %lld", APPLICATION_ID,
		 (long long)NEWEST);
	if (r == 0)
		r = conn_exec(conn, sql, err);
	if (r == 0 && version == 0)
		r = audit_start(store, err);
	return r;
}

int migrate(struct store *store, const char *path, struct error *err)
{
	int64_t version = 0;

	/* Look again inside of the transaction: another process may have migrated in the meantime. */
	int r = look(&store->writer, path, &version, err);
	if (r < 0 || version == NEWEST)
		return r;
	r = store_begin(store, err);
	if (r < 0)
		return r;
	r = look(&store->writer, path, &version, err);
	if (r == 0 && version < NEWEST)
		r = apply(store, version, err);
	r = store_end(store, r, err);
	if (r < 0)
		error_prefix(err, "migrate %s", path);
	return r;
}
