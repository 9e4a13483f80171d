/* Idempotent answers, usage, request buckets. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/str.h"
#include "daemon/store/internal.h"

#define I(type, member, flags) FIELD(type, struct store_idem, member, flags)
static const struct field idem_fields[] = {
	I(TEXT, org, FIELD_KEY),      I(TEXT, key, FIELD_KEY),    I(BLOB, body_hash, 0), I(INT, status, FIELD_SET),
	I(SECRET, answer, FIELD_SET), I(TEXT, target, FIELD_SET), I(INT, created_ms, 0),
};
static const struct table idem_table = TABLE("idempotency", struct store_idem, idem_fields);

#define U(type, member, flags) FIELD(type, struct store_usage, member, flags)
static const struct field usage_fields[] = {
	U(TEXT, org, FIELD_KEY),      U(TEXT, day, FIELD_KEY),   U(REAL, sandbox_s, FIELD_ADD),
	U(REAL, vcpu_s, FIELD_ADD),   U(REAL, cpu_s, FIELD_ADD), U(INT, bytes_in, FIELD_ADD),
	U(INT, bytes_out, FIELD_ADD), U(INT, execs, FIELD_ADD),  U(INT, creates, FIELD_ADD),
};
static const struct table usage_table = TABLE("usage", struct store_usage, usage_fields);

#define B(type, member, flags) FIELD(type, struct store_bucket, member, flags)
static const struct field bucket_fields[] = { B(TEXT, key, FIELD_KEY), B(REAL, tokens, FIELD_SET),
					      B(INT, when_ms, FIELD_SET) };
static const struct table bucket_table = TABLE("bucket", struct store_bucket, bucket_fields);

static int idem_find(struct store *store, const char *org, const char *key, struct store_idem *found, struct error *err)
{
	struct list list = { .table = &idem_table };

	list_text(&list, "org = ?", org ? org : "");
	list_text(&list, "key = ?", key ? key : "");
	return list_one(store, &list, found, err);
}

int store_idem_claim(struct store *store, const struct store_idem *row, struct store_idem *found, struct error *err)
{
	uint64_t changes = 0;

	int r = store_begin(store, err);
	if (r < 0)
		return r;
	r = table_insert(store, &idem_table, row, "ON CONFLICT DO NOTHING", &changes, err);
	bool there = r == 0 && changes == 0;
	if (there)
		r = idem_find(store, row->org, row->key, found, err);
	r = store_end(store, r, err);
	if (r == 0 && there)
		return error_set(err, EEXIST, "this idempotency key was used before");
	return r;
}

/* Changes one row; answer and target NULL: left as they are. */
static int idem_change(struct store *store, const char *org, const char *key, const struct store_idem *change,
		       struct error *err)
{
	struct store_idem row;

	int r = store_begin(store, err);
	if (r < 0)
		return r;
	r = idem_find(store, org, key, &row, err);
	if (r < 0)
		return store_end(store, r, err);
	char *old = row.answer;
	if (change->target[0])
		memcpy(row.target, change->target, sizeof(row.target));
	if (change->status)
		row.status = change->status;
	if (change->answer)
		row.answer = change->answer;
	r = table_update(store, &idem_table, &row, err);
	row.answer = old;
	row_free(&idem_table, &row);
	return store_end(store, r, err);
}

int store_idem_target(struct store *store, const char *org, const char *key, const char *target, struct error *err)
{
	struct store_idem change = { 0 };

	if (str_copy(change.target, sizeof(change.target), target) < 0)
		return error_set(err, EINVAL, "the target of an idempotency key is too long");
	return idem_change(store, org, key, &change, err);
}

int store_idem_finish(struct store *store, const char *org, const char *key, int32_t status, const char *answer,
		      struct error *err)
{
	struct store_idem change = { .status = status };
	_cleanup_free_ char *copy = strdup(answer ? answer : "");

	if (!copy)
		return error_set(err, ENOMEM, "no memory for an answer");
	change.answer = copy;
	return idem_change(store, org, key, &change, err);
}

int store_idem_drop(struct store *store, const char *org, const char *key, struct error *err)
{
	struct query query;

	query_write(&query, store, "DELETE FROM idempotency WHERE org = ? AND key = ?", err);
	query_text(&query, org);
	query_text(&query, key);
	return query_run(&query, NULL);
}

int store_idem_purge(struct store *store, int64_t before_ms, struct error *err)
{
	return table_purge(store, "DELETE FROM idempotency WHERE created_ms < ?", before_ms, err);
}

int store_usage_add(struct store *store, const struct store_usage *more, struct error *err)
{
	return table_merge(store, &usage_table, more, err);
}

int store_usage_list(struct store *store, const char *org, const char *from_day, const char *to_day,
		     struct store_usage **rows, size_t *count, struct error *err)
{
	struct list list = { .table = &usage_table };
	struct list_range range = { .order = "day, org", .limit = UINT32_MAX };
	void *got;

	list_text(&list, "org = ?", org);
	list_text(&list, "day >= ?", from_day);
	list_text(&list, "day <= ?", to_day);
	int r = list_fetch(store, &list, &range, &got, count, NULL, err);
	*rows = got;
	return r;
}

int store_bucket_save(struct store *store, const struct store_bucket *rows, size_t count, struct error *err)
{
	int r = store_begin(store, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count && r == 0; i++)
		r = table_merge(store, &bucket_table, &rows[i], err);
	return store_end(store, r, err);
}

int store_bucket_load(struct store *store, struct store_bucket **rows, size_t *count, struct error *err)
{
	struct list list = { .table = &bucket_table };
	struct list_range range = { .order = "key", .limit = UINT32_MAX };
	void *got;

	int r = list_fetch(store, &list, &range, &got, count, NULL, err);
	*rows = got;
	return r;
}
