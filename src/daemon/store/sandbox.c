#include <errno.h>

#include "daemon/store/internal.h"

#define F(type, member, flags) FIELD(type, struct store_sandbox, member, flags)
static const struct field fields[] = {
	F(TEXT, id, FIELD_KEY),
	F(TEXT, org, 0),
	F(TEXT, key, 0),
	F(TEXT, name, 0),
	F(TEXT, image, 0),
	F(TEXT, image_digest, FIELD_SET),
	F(INT, status, FIELD_SET),
	F(INT, cpu_units, 0),
	F(INT, memory_mib, 0),
	F(INT, storage_gb, 0),
	F(INT, created_ms, 0),
	F(INT, started_ms, FIELD_SET),
	F(INT, expires_ms, FIELD_SET),
	F(INT, terminated_ms, FIELD_SET),
	F(INT, timeout_s, FIELD_SET),
	F(INT, idle_timeout_s, 0),
	F(BOOL, idle_pause, 0),
	F(TEXT, snapshot, 0),
	F(TEXT, reason, FIELD_SET),
	F(TEXT, message, FIELD_SET),
	F(JSON, network, FIELD_SET),
	F(JSON, metadata, FIELD_SET),
	F(SECRET, env, 0),
};
static const struct table table = TABLE("sandbox", struct store_sandbox, fields);

/* Literals, so that the partial index is used; the asserts tie them to the enum. */
#define LIVE "status < 4"
_Static_assert(SANDBOX_STOPPING < 4 && SANDBOX_TERMINATED == 4 && SANDBOX_ERROR == 5, "LIVE and the schema name these");

void store_sandbox_free(struct store_sandbox *row)
{
	row_free(&table, row);
}

void store_sandboxes_free(struct store_sandbox *rows, size_t count)
{
	rows_free(&table, rows, count);
}

int store_sandbox_add(struct store *store, const struct store_sandbox *row, struct error *err)
{
	return table_insert(store, &table, row, "", NULL, err);
}

int store_sandbox_get(struct store *store, const char *org, const char *id, struct store_sandbox *row,
		      struct error *err)
{
	struct list list = { .table = &table };

	list_text(&list, "id = ?", id ? id : "");
	list_text(&list, "org = ?", org);
	return list_one(store, &list, row, err);
}

int store_sandbox_update(struct store *store, const struct store_sandbox *row, struct error *err)
{
	return table_update(store, &table, row, err);
}

int store_sandbox_list(struct store *store, const struct store_sandbox_filter *filter, uint32_t page, uint32_t size,
		       struct store_sandbox **rows, size_t *count, uint64_t *total, struct error *err)
{
	struct list list = { .table = &table };
	struct list_range range = list_page(page, size, "created_ms DESC, rowid DESC");
	void *got;

	*rows = NULL;
	*count = 0;
	list_text(&list, "org = ?", filter->org);
	if (filter->live)
		list_number(&list, LIVE " AND status >= ?", 0);
	for (size_t i = 0; i < filter->metadata_count; i++) {
		if (i >= 8 || !filter->metadata_key[i] || !filter->metadata_value[i])
			return error_set(err, EINVAL,
					 "a metadata filter has no key or no value, or there are more than 8");
		/* Two parameters: the condition is and-ed in halves, the second closing the bracket. */
		list_text(&list,
			  "EXISTS (SELECT 1 FROM json_each(sandbox.metadata) WHERE type = 'text' AND json_each.key = ?",
			  filter->metadata_key[i]);
		list_text(&list, "json_each.value = ?)", filter->metadata_value[i]);
	}
	int r = list_fetch(store, &list, &range, &got, count, total, err);
	*rows = got;
	return r;
}

static int sum(struct store *store, const char *sql, const char *org, uint64_t *const to[], int count,
	       struct error *err)
{
	struct query query;

	query_read(&query, store, sql, err);
	query_text(&query, org);
	if (query_step(&query) > 0)
		for (int i = 0; i < count; i++)
			*to[i] = (uint64_t)sqlite3_column_int64(query.stmt, i);
	return query_close(&query);
}

int store_totals(struct store *store, const char *org, struct store_totals *totals, struct error *err)
{
	uint64_t *const live[] = { &totals->sandboxes, &totals->cpu_units, &totals->memory_mib, &totals->storage_gb };
	uint64_t *const kept[] = { &totals->snapshots, &totals->snapshot_bytes };

	int r = sum(store,
		    org ? "SELECT count(*), total(cpu_units), total(memory_mib), total(storage_gb) FROM sandbox"
			  " WHERE " LIVE " AND org = ?"
			: "SELECT count(*), total(cpu_units), total(memory_mib), total(storage_gb) FROM sandbox"
			  " WHERE " LIVE " AND ? IS NULL",
		    org, live, 4, err);
	if (r < 0)
		return r;
	return sum(store,
		   org ? "SELECT count(*), total(size) FROM snapshot WHERE org = ?"
		       : "SELECT count(*), total(size) FROM snapshot WHERE ? IS NULL",
		   org, kept, 2, err);
}

int store_sandbox_purge(struct store *store, int64_t before_ms, struct error *err)
{
	return table_purge(store, "DELETE FROM sandbox WHERE status >= 4 AND terminated_ms > 0 AND terminated_ms < ?",
			   before_ms, err);
}
