#include <errno.h>
#include <string.h>

#include "base/str.h"
#include "daemon/store/internal.h"

#define F(type, member, flags) FIELD(type, struct store_snapshot, member, flags)
static const struct field fields[] = {
	F(TEXT, id, FIELD_KEY),    F(TEXT, org, 0),       F(TEXT, name, 0),
	F(INT, status, FIELD_SET), F(BOOL, quick, 0),     F(TEXT, source, 0),
	F(TEXT, source_name, 0),   F(TEXT, image, 0),     F(TEXT, image_digest, 0),
	F(INT, cpu_units, 0),      F(INT, memory_mib, 0), F(INT, storage_gb, 0),
	F(INT, size, FIELD_SET),   F(INT, created_ms, 0), F(TEXT, message, FIELD_SET),
	F(JSON, network, 0),       F(JSON, metadata, 0),  F(SECRET, env, 0),
};
static const struct table table = TABLE("snapshot", struct store_snapshot, fields);

void store_snapshot_free(struct store_snapshot *row)
{
	row_free(&table, row);
}

void store_snapshots_free(struct store_snapshot *rows, size_t count)
{
	rows_free(&table, rows, count);
}

int store_snapshot_add(struct store *store, const struct store_snapshot *row, struct error *err)
{
	return table_insert(store, &table, row, "", NULL, err);
}

int store_snapshot_get(struct store *store, const char *org, const char *id, struct store_snapshot *row,
		       struct error *err)
{
	struct list list = { .table = &table };

	list_text(&list, "id = ?", id ? id : "");
	list_text(&list, "org = ?", org);
	return list_one(store, &list, row, err);
}

int store_snapshot_update(struct store *store, const struct store_snapshot *row, struct error *err)
{
	return table_update(store, &table, row, err);
}

int store_snapshot_remove(struct store *store, const char *id, struct error *err)
{
	struct query query;

	query_write(&query, store, "DELETE FROM snapshot WHERE id = ?", err);
	query_text(&query, id);
	return query_run_one(&query, "snapshot");
}

int store_snapshot_list(struct store *store, const char *org, uint32_t page, uint32_t size,
			struct store_snapshot **rows, size_t *count, uint64_t *total, struct error *err)
{
	struct list list = { .table = &table };
	struct list_range range = list_page(page, size, "created_ms DESC, rowid DESC");
	void *got;

	list_text(&list, "org = ?", org);
	int r = list_fetch(store, &list, &range, &got, count, total, err);
	*rows = got;
	return r;
}

int store_snapshot_users(struct store *store, const char *id, char (*ids)[STORE_ID_MAX], size_t max, size_t *count,
			 struct error *err)
{
	struct query query;
	size_t used = 0;

	query_read(
		&query, store,
		"SELECT id FROM sandbox WHERE snapshot = ? AND snapshot <> '' AND status < 4 ORDER BY created_ms, rowid"
		" LIMIT ?",
		err);
	query_text(&query, id);
	query_int(&query, max > INT64_MAX ? INT64_MAX : (int64_t)max);
	while (query_step(&query) > 0) {
		const char *text = (const char *)sqlite3_column_text(query.stmt, 0);
		if (!text) {
			query.r = error_set(err, ENOMEM, "no memory for the users of a snapshot");
			break;
		}
		if (str_copy(ids[used], STORE_ID_MAX, text) == 0)
			used++;
	}
	*count = used;
	return query_close(&query);
}
