#include <errno.h>

#include "daemon/store/internal.h"

#define F(type, member, flags) FIELD(type, struct store_key, member, flags)
static const struct field fields[] = {
	F(TEXT, id, FIELD_KEY),
	F(TEXT, org, FIELD_KEY),
	F(TEXT, name, FIELD_SET),
	F(TEXT, prefix, 0),
	F(BLOB, hash, 0),
	F(INT, scopes, 0),
	F(INT, created_ms, 0),
	F(INT, last_used_ms, 0),
	F(INT, expires_ms, FIELD_SET),
	F(INT, revoked_ms, FIELD_SET),
	F(TEXT, rotated_to, FIELD_SET),
};
static const struct table table = TABLE("key", struct store_key, fields);

int store_key_add(struct store *store, const struct store_key *key, struct error *err)
{
	return table_insert(store, &table, key, "", NULL, err);
}

int store_key_get(struct store *store, const char *org, const char *id, struct store_key *key, struct error *err)
{
	struct list list = { .table = &table };

	list_text(&list, "org = ?", org);
	list_text(&list, "id = ?", id ? id : "");
	return list_one(store, &list, key, err);
}

int store_key_by_hash(struct store *store, const unsigned char hash[32], struct store_key *key, struct error *err)
{
	struct list list = { .table = &table };

	list_blob(&list, "hash = ?", hash, 32);
	return list_one(store, &list, key, err);
}

int store_key_update(struct store *store, const struct store_key *key, struct error *err)
{
	return table_update(store, &table, key, err);
}

int store_key_used(struct store *store, const char *id, int64_t when_ms, struct error *err)
{
	struct query query;

	query_write(&query, store, "UPDATE key SET last_used_ms = max(last_used_ms, ?) WHERE id = ?", err);
	query_int(&query, when_ms);
	query_text(&query, id);
	return query_run_one(&query, "key");
}

int store_key_live(struct store *store, const char *id, int64_t now_ms, bool *live, struct error *err)
{
	struct query query;

	query_read(&query, store,
		   "SELECT key.revoked_ms = 0 AND (key.expires_ms = 0 OR key.expires_ms > ?) AND NOT org.suspended"
		   " FROM key JOIN org ON org.id = key.org WHERE key.id = ?",
		   err);
	query_int(&query, now_ms);
	query_text(&query, id);
	int found = query_step(&query);
	*live = found > 0 && sqlite3_column_int(query.stmt, 0) != 0;
	int r = query_close(&query);
	return r == 0 && found == 0 ? error_set(err, ENOENT, "no such key") : r;
}

int store_key_list(struct store *store, const char *org, uint32_t page, uint32_t size, struct store_key **rows,
		   size_t *count, uint64_t *total, struct error *err)
{
	struct list list = { .table = &table };
	struct list_range range = list_page(page, size, "created_ms, rowid");
	void *got;

	list_text(&list, "org = ?", org);
	int r = list_fetch(store, &list, &range, &got, count, total, err);
	*rows = got;
	return r;
}
