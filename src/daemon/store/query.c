#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/store/internal.h"

static struct cached *cache_find(struct conn *conn, const char *sql)
{
	for (size_t i = 0; i < CONN_CACHE; i++)
		if (conn->cache[i].sql && !conn->cache[i].busy && strcmp(conn->cache[i].sql, sql) == 0)
			return &conn->cache[i];
	return NULL;
}

static struct cached *cache_room(struct conn *conn)
{
	struct cached *oldest = NULL;

	for (size_t i = 0; i < CONN_CACHE; i++) {
		struct cached *slot = &conn->cache[i];
		if (!slot->busy && (!oldest || slot->used < oldest->used))
			oldest = slot;
	}
	if (oldest && oldest->sql) {
		sqlite3_finalize(oldest->stmt);
		free(oldest->sql);
		memset(oldest, 0, sizeof(*oldest));
	}
	return oldest;
}

static int prepare(struct query *query, const char *sql)
{
	struct conn *conn = query->conn;

	query->slot = cache_find(conn, sql);
	if (!query->slot) {
		int code = sqlite3_prepare_v3(conn->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &query->stmt, NULL);
		if (code != SQLITE_OK)
			return conn_error(conn, code, query->err);
		if (!query->stmt) /* the text is empty: there was no memory to make it */
			return error_set(query->err, ENOMEM, "no memory for a query");
		query->slot = cache_room(conn);
		if (!query->slot)
			return 0;
		query->slot->sql = strdup(sql);
		if (!query->slot->sql) {
			query->slot = NULL;
			return 0;
		}
		query->slot->stmt = query->stmt;
	}
	query->stmt = query->slot->stmt;
	query->slot->busy = true;
	query->slot->used = ++conn->clock;
	return 0;
}

void query_on(struct query *query, struct conn *conn, const char *sql, struct error *err)
{
	*query = (struct query){ .conn = conn, .err = err };
	query->r = conn_enter(conn, err);
	if (query->r < 0) {
		query->conn = NULL;
		return;
	}
	/* SQLite itself rolls back when a disk is full: what follows must not run outside of its transaction. */
	if (conn->depth > 0 && sqlite3_get_autocommit(conn->db))
		query->r = error_set(err, ECANCELED, "the transaction was rolled back by an earlier failure");
	else
		query->r = prepare(query, sql);
}

void query_read(struct query *query, struct store *store, const char *sql, struct error *err)
{
	query_on(query, conn_mine(&store->writer) ? &store->writer : &store->reader, sql, err);
}

void query_write(struct query *query, struct store *store, const char *sql, struct error *err)
{
	query_on(query, &store->writer, sql, err);
}

static void bound(struct query *query, int code)
{
	if (code != SQLITE_OK)
		query->r = conn_error(query->conn, code, query->err);
}

void query_text(struct query *query, const char *text)
{
	if (query->r < 0)
		return;
	query->next++;
	if (text)
		bound(query, sqlite3_bind_text(query->stmt, query->next, text, -1, SQLITE_STATIC));
	else
		bound(query, sqlite3_bind_null(query->stmt, query->next));
}

void query_int(struct query *query, int64_t number)
{
	if (query->r == 0)
		bound(query, sqlite3_bind_int64(query->stmt, ++query->next, number));
}

void query_real(struct query *query, double number)
{
	if (query->r == 0)
		bound(query, sqlite3_bind_double(query->stmt, ++query->next, number));
}

void query_blob(struct query *query, const void *data, size_t size)
{
	if (query->r == 0)
		bound(query, sqlite3_bind_blob64(query->stmt, ++query->next, data, size, SQLITE_TRANSIENT));
}

int query_step(struct query *query)
{
	if (query->r < 0)
		return query->r;
	int code = sqlite3_step(query->stmt);
	if (code == SQLITE_ROW || code == SQLITE_DONE)
		return code == SQLITE_ROW;
	query->r = conn_error(query->conn, code, query->err);
	return query->r;
}

int query_close(struct query *query)
{
	if (!query->conn)
		return query->r;
	if (query->slot) {
		sqlite3_reset(query->stmt);
		sqlite3_clear_bindings(query->stmt);
		query->slot->busy = false;
	} else {
		sqlite3_finalize(query->stmt);
	}
	conn_leave(query->conn);
	query->conn = NULL;
	return query->r;
}

int query_run(struct query *query, uint64_t *changes)
{
	int r;

	while ((r = query_step(query)) > 0)
		;
	if (r == 0 && changes)
		*changes = (uint64_t)sqlite3_changes64(query->conn->db);
	return query_close(query);
}

int query_run_one(struct query *query, const char *what)
{
	struct error *err = query->err;
	uint64_t changes = 0;
	int r = query_run(query, &changes);

	if (r == 0 && changes == 0)
		return error_set(err, ENOENT, "no such %s", what);
	return r;
}
