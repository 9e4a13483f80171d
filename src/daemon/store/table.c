#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fd.h"
#include "daemon/store/internal.h"

#define SQL_MAX 4096

/* The columns that have one of these flags (0: all), each between `before` and `after`. */
static void add_columns(struct buf *sql, const struct table *table, unsigned int flags, const char *before,
			const char *after, const char *between)
{
	const char *gap = "";

	for (size_t i = 0; i < table->count; i++) {
		if (flags && !(table->fields[i].flags & flags))
			continue;
		buf_addf(sql, "%s%s\"%s\"%s", gap, before, table->fields[i].column, after);
		gap = between;
	}
}

static int run(struct store *store, const struct buf *sql, const struct table *table, const unsigned int flags[2],
	       const void *row, uint64_t *changes, struct error *err)
{
	struct query query;

	if (sql->failed)
		return error_set(err, ENOMEM, "no memory for a statement on %s", table->name);
	query_write(&query, store, buf_text(sql), err);
	for (size_t pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < table->count; i++)
			if (table->fields[i].flags & flags[pass] || (pass == 0 && flags[0] == 0))
				field_bind(&query, store, table, &table->fields[i], row);
	return query_run(&query, changes);
}

static void add_insert(struct buf *sql, const struct table *table)
{
	buf_addf(sql, "INSERT INTO %s (", table->name);
	add_columns(sql, table, 0, "", "", ", ");
	buf_adds(sql, ") VALUES (");
	for (size_t i = 0; i < table->count; i++)
		buf_adds(sql, i ? ", ?" : "?");
	buf_adds(sql, ") ");
}

static const unsigned int every_field[2] = { 0, 0 };

int table_insert(struct store *store, const struct table *table, const void *row, const char *conflict,
		 uint64_t *changes, struct error *err)
{
	_cleanup_buf_ struct buf sql = { .max = SQL_MAX };

	add_insert(&sql, table);
	buf_adds(&sql, conflict);
	return run(store, &sql, table, every_field, row, changes, err);
}

int table_update(struct store *store, const struct table *table, const void *row, struct error *err)
{
	static const unsigned int order[2] = { FIELD_SET, FIELD_KEY };
	_cleanup_buf_ struct buf sql = { .max = SQL_MAX };
	uint64_t changes = 0;

	buf_addf(&sql, "UPDATE %s SET ", table->name);
	add_columns(&sql, table, FIELD_SET, "", " = ?", ", ");
	buf_adds(&sql, " WHERE ");
	add_columns(&sql, table, FIELD_KEY, "", " = ?", " AND ");
	int r = run(store, &sql, table, order, row, &changes, err);
	if (r == 0 && changes == 0)
		return error_set(err, ENOENT, "no such %s", table->name);
	return r;
}

int table_merge(struct store *store, const struct table *table, const void *row, struct error *err)
{
	_cleanup_buf_ struct buf sql = { .max = SQL_MAX };
	const char *gap = "";

	add_insert(&sql, table);
	buf_adds(&sql, "ON CONFLICT (");
	add_columns(&sql, table, FIELD_KEY, "", "", ", ");
	buf_adds(&sql, ") DO UPDATE SET ");
	for (size_t i = 0; i < table->count; i++) {
		const char *column = table->fields[i].column;
		if (table->fields[i].flags & FIELD_ADD)
			buf_addf(&sql, "%s\"%s\" = \"%s\" + excluded.\"%s\"", gap, column, column, column);
		else if (table->fields[i].flags & FIELD_SET)
			buf_addf(&sql, "%s\"%s\" = excluded.\"%s\"", gap, column, column);
		else
			continue;
		gap = ", ";
	}
	return run(store, &sql, table, every_field, row, NULL, err);
}

int table_purge(struct store *store, const char *sql, int64_t before_ms, struct error *err)
{
	struct query query;

	query_write(&query, store, sql, err);
	query_int(&query, before_ms);
	return query_run(&query, NULL);
}

static void list_add(struct list *list, const char *condition, struct list_arg arg)
{
	size_t used = strlen(list->where), need = strlen(condition) + 8;

	if (list->count == LIST_ARGS || used + need > sizeof(list->where)) {
		list->overflow = true;
		return;
	}
	snprintf(list->where + used, sizeof(list->where) - used, "%s%s", used ? " AND " : " WHERE ", condition);
	list->args[list->count++] = arg;
}

void list_text(struct list *list, const char *condition, const char *value)
{
	if (value)
		list_add(list, condition, (struct list_arg){ .text = value });
}

void list_number(struct list *list, const char *condition, int64_t value)
{
	list_add(list, condition, (struct list_arg){ .number = value });
}

void list_blob(struct list *list, const char *condition, const void *data, size_t size)
{
	list_add(list, condition, (struct list_arg){ .blob = data, .size = size });
}

static void list_bind(struct query *query, const struct list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		const struct list_arg *arg = &list->args[i];
		if (arg->text)
			query_text(query, arg->text);
		else if (arg->blob)
			query_blob(query, arg->blob, arg->size);
		else
			query_int(query, arg->number);
	}
}

static int list_total(struct store *store, const struct list *list, uint64_t *total, struct error *err)
{
	char sql[SQL_MAX];
	struct query query;

	snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s%s", list->table->name, list->where);
	query_read(&query, store, sql, err);
	list_bind(&query, list);
	if (query_step(&query) > 0)
		*total = (uint64_t)sqlite3_column_int64(query.stmt, 0);
	return query_close(&query);
}

static void list_open(struct query *query, struct store *store, const struct list *list, const char *order,
		      struct error *err)
{
	_cleanup_buf_ struct buf sql = { .max = SQL_MAX };

	buf_adds(&sql, "SELECT ");
	add_columns(&sql, list->table, 0, "", "", ", ");
	buf_addf(&sql, " FROM %s%s%s", list->table->name, list->where, order);
	query_read(query, store, buf_text(&sql), err);
	if (query->r == 0 && list->overflow)
		query->r = error_set(err, EINVAL, "too many conditions on %s", list->table->name);
	else if (query->r == 0 && sql.failed)
		query->r = error_set(err, ENOMEM, "no memory for a query of %s", list->table->name);
	list_bind(query, list);
}

static int list_rows(struct query *query, struct store *store, const struct table *table, void **rows, size_t *count)
{
	size_t room = 0, used = 0;
	char *all = NULL;

	while (query_step(query) > 0) {
		if (used == room) {
			room = room ? room * 2 : 16;
			char *more = reallocarray(all, room, table->row_size);
			if (!more) {
				query->r = error_set(query->err, ENOMEM, "no memory for the rows of %s", table->name);
				break;
			}
			all = more;
		}
		if (row_read(query, store, table, all + used * table->row_size) < 0)
			break;
		used++;
	}
	if (query->r < 0) {
		rows_free(table, all, used);
		return query->r;
	}
	*rows = all;
	*count = used;
	return 0;
}

int list_fetch(struct store *store, const struct list *list, const struct list_range *range, void **rows, size_t *count,
	       uint64_t *total, struct error *err)
{
	struct conn *conn = conn_mine(&store->writer) ? &store->writer : &store->reader;
	char order[256];
	struct query query;

	*rows = NULL;
	*count = 0;
	int r = conn_enter(conn, err);
	if (r < 0)
		return r;
	/* One snapshot for the rows and their number; inside a transaction there is one already. */
	bool snapshot = total && sqlite3_get_autocommit(conn->db) && conn->depth == 0;
	if (snapshot)
		r = conn_exec(conn, "BEGIN", err);
	if (r == 0 && total)
		r = list_total(store, list, total, err);
	if (r == 0) {
		snprintf(order, sizeof(order), " ORDER BY %s LIMIT ? OFFSET ?", range->order);
		list_open(&query, store, list, order, err);
		query_int(&query, range->limit);
		query_int(&query, range->offset > INT64_MAX ? INT64_MAX : (int64_t)range->offset);
		list_rows(&query, store, list->table, rows, count);
		r = query_close(&query);
	}
	if (snapshot)
		conn_exec(conn, "COMMIT", NULL);
	conn_leave(conn);
	return r;
}

int list_one(struct store *store, const struct list *list, void *row, struct error *err)
{
	struct query query;

	list_open(&query, store, list, "", err);
	int found = query_step(&query);
	if (found > 0)
		row_read(&query, store, list->table, row);
	int r = query_close(&query);
	if (r == 0 && found == 0)
		return error_set(err, ENOENT, "no such %s", list->table->name);
	return r;
}

struct list_range list_page(uint32_t page, uint32_t size, const char *order)
{
	uint64_t before = page > 0 ? page - 1 : 0;
	return (struct list_range){ .order = order, .offset = before * size, .limit = size };
}
