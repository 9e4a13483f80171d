#include "daemon/store/internal.h"

#define F(type, member, flags) FIELD(type, struct store_org, member, flags)
static const struct field fields[] = {
	F(TEXT, id, FIELD_KEY),
	F(TEXT, name, FIELD_SET),
	F(TEXT, tier, FIELD_SET),
	F(BOOL, suspended, FIELD_SET),
	F(BOOL, log_output, FIELD_SET),
	F(BOOL, log_commands, FIELD_SET),
	F(INT, requests_per_minute, FIELD_SET),
	F(INT, sandboxes_max, FIELD_SET),
	F(INT, cpu_units_max, FIELD_SET),
	F(INT, memory_mib_max, FIELD_SET),
	F(INT, storage_gb_max, FIELD_SET),
	F(INT, snapshots_max, FIELD_SET),
	F(INT, lifetime_s_max, FIELD_SET),
	F(INT, execs_max, FIELD_SET),
	F(INT, upload_bytes_max, FIELD_SET),
	F(INT, created_ms, 0),
};
static const struct table table = TABLE("org", struct store_org, fields);

int store_org_add(struct store *store, const struct store_org *org, struct error *err)
{
	return table_insert(store, &table, org, "", NULL, err);
}

int store_org_get(struct store *store, const char *id, struct store_org *org, struct error *err)
{
	struct list list = { .table = &table };

	list_text(&list, "id = ?", id ? id : "");
	return list_one(store, &list, org, err);
}

int store_org_update(struct store *store, const struct store_org *org, struct error *err)
{
	return table_update(store, &table, org, err);
}

int store_org_list(struct store *store, uint32_t page, uint32_t size, struct store_org **rows, size_t *count,
		   uint64_t *total, struct error *err)
{
	struct list list = { .table = &table };
	struct list_range range = list_page(page, size, "created_ms, rowid");
	void *got;

	int r = list_fetch(store, &list, &range, &got, count, total, err);
	*rows = got;
	return r;
}
