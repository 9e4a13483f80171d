#include <errno.h>

#include "base/fault.h"
#include "daemon/store/internal.h"

int store_begin(struct store *store, struct error *err)
{
	struct conn *conn = &store->writer;

	int r = conn_enter(conn, err);
	if (r < 0)
		return r;
	if (conn->depth > 0 && sqlite3_get_autocommit(conn->db))
		r = error_set(err, ECANCELED, "the transaction was rolled back by an earlier failure");
	else
		r = conn_exec(conn, conn->depth == 0 ? "BEGIN IMMEDIATE" : "SAVEPOINT inner_tx", err);
	if (r < 0) {
		conn_leave(conn);
		return r;
	}
	conn->depth++;
	return 0;
}

/* SQLite may have rolled the transaction back by itself; then the statement's failure is no news. */
static void undo(struct conn *conn)
{
	if (sqlite3_get_autocommit(conn->db))
		return;
	conn_exec(conn, conn->depth == 0 ? "ROLLBACK" : "ROLLBACK TO inner_tx; RELEASE inner_tx", NULL);
}

void store_rollback(struct store *store)
{
	struct conn *conn = &store->writer;

	if (!conn_mine(conn) || conn->depth == 0)
		return;
	conn->depth--;
	undo(conn);
	conn_leave(conn);
}

int store_commit(struct store *store, struct error *err)
{
	struct conn *conn = &store->writer;

	if (!conn_mine(conn) || conn->depth == 0)
		return error_set(err, EINVAL, "no transaction to commit");
	conn->depth--;
	int r = FAULT("store-commit");
	if (r < 0)
		error_set(err, -r, "a fault was asked for");
	else if (sqlite3_get_autocommit(conn->db))
		r = error_set(err, ECANCELED, "the transaction was rolled back by an earlier failure");
	else
		r = conn_exec(conn, conn->depth == 0 ? "COMMIT" : "RELEASE inner_tx", err);
	if (r < 0)
		undo(conn);
	conn_leave(conn);
	return r;
}

bool store_in_tx(const struct store *store)
{
	return conn_mine(&store->writer) && store->writer.depth > 0;
}

int store_end(struct store *store, int r, struct error *err)
{
	if (r == 0)
		return store_commit(store, err);
	store_rollback(store);
	return r;
}
