/*
 * Theory of operation. Row n carries H(n) = BLAKE2b(audit_key, row n without its hash || H(n-1)), so nobody without
 * akira.secret can alter, remove, insert or renumber a row. One more row, audit_head, says where the chain ends (so
 * that cutting its tail shows) and where it starts (the checkpoint that pruning leaves), under a MAC of its own; it
 * changes in the transaction that adds the row.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/store/internal.h"

#define F(type, member, flags) FIELD(type, struct store_audit, member, flags)
enum { HASHED = FIELD_SET };
static const struct field audit_fields[] = {
	F(INT, seq, HASHED),      F(INT, when_ms, HASHED),  F(TEXT, request, HASHED),    F(TEXT, org, HASHED),
	F(TEXT, key, HASHED),     F(TEXT, address, HASHED), F(TEXT, action, HASHED),     F(TEXT, target, HASHED),
	F(TEXT, outcome, HASHED), F(INT, status, HASHED),   F(INT, duration_us, HASHED), F(TEXT, detail, HASHED),
	F(TEXT, hash, 0),
};
const struct table audit_table = TABLE("audit", struct store_audit, audit_fields);

#define H(type, member, flags) FIELD(type, struct audit_head, member, flags)
static const struct field head_fields[] = {
	H(INT, seq, HASHED),        H(TEXT, hash, HASHED), H(INT, base_seq, HASHED),
	H(TEXT, base_hash, HASHED), H(BLOB, mac, 0),
};
static const struct table head_table = TABLE("audit_head", struct audit_head, head_fields);

void audit_hash(const struct store *store, const struct store_audit *row, const char *before, char hash[65])
{
	crypto_generichash_state state;
	unsigned char sum[32];

	crypto_generichash_init(&state, store->audit_key, sizeof(store->audit_key), sizeof(sum));
	row_digest(&state, &audit_table, HASHED, row);
	digest_part(&state, before, strlen(before));
	crypto_generichash_final(&state, sum, sizeof(sum));
	str_hex(hash, sum, sizeof(sum));
}

static void head_mac(const struct store *store, const struct audit_head *head, unsigned char mac[32])
{
	crypto_generichash_state state;

	crypto_generichash_init(&state, store->head_key, sizeof(store->head_key), 32);
	row_digest(&state, &head_table, HASHED, head);
	crypto_generichash_final(&state, mac, 32);
}

int audit_head_read(struct store *store, struct conn *conn, struct audit_head *head, struct error *err)
{
	unsigned char mac[32];
	struct query query;

	query_on(&query, conn, "SELECT seq, hash, base_seq, base_hash, mac FROM audit_head WHERE id = 1", err);
	int found = query_step(&query);
	if (found > 0)
		row_read(&query, store, &head_table, head);
	int r = query_close(&query);
	if (r < 0)
		return r;
	if (found == 0)
		return error_set(err, EBADMSG, "the record of the audit log's end was removed");
	head_mac(store, head, mac);
	if (sodium_memcmp(mac, head->mac, sizeof(mac)) != 0)
		return error_set(err, EBADMSG, "the record of the audit log's end was altered");
	return 0;
}

int audit_head_write(struct store *store, struct audit_head *head, struct error *err)
{
	struct query query;

	head_mac(store, head, head->mac);
	query_write(&query, store,
		    "UPDATE audit_head SET seq = ?, hash = ?, base_seq = ?, base_hash = ?, mac = ? WHERE id = 1", err);
	for (size_t i = 0; i < head_table.count; i++)
		field_bind(&query, store, &head_table, &head_fields[i], head);
	return query_run_one(&query, "record of the audit log's end");
}

int audit_start(struct store *store, struct error *err)
{
	struct audit_head head = { 0 };
	struct query query;

	audit_hash(store, &(struct store_audit){ 0 }, "", head.hash);
	memcpy(head.base_hash, head.hash, sizeof(head.base_hash));
	query_write(&query, store, "INSERT INTO audit_head VALUES (1, 0, '', 0, '', zeroblob(32))", err);
	int r = query_run(&query, NULL);
	return r < 0 ? r : audit_head_write(store, &head, err);
}

static int add(struct store *store, struct store_audit *row, struct error *err)
{
	struct audit_head head;

	if (FAULT_OF("audit-add", row->action) < 0)
		return error_set(err, EIO, "injected: audit-add");
	/* A head that does not verify is never signed anew: that would hide what was done to it. */
	int r = audit_head_read(store, &store->writer, &head, err);
	if (r < 0)
		return r;
	row->seq = (uint64_t)head.seq + 1;
	audit_hash(store, row, head.hash, row->hash);
	r = table_insert(store, &audit_table, row, "", NULL, err);
	if (r == -EEXIST)
		return error_set(err, EBADMSG, "the audit log holds a row %llu that was not written by akirad",
				 (unsigned long long)row->seq);
	if (r < 0)
		return r;
	head.seq++;
	memcpy(head.hash, row->hash, sizeof(head.hash));
	return audit_head_write(store, &head, err);
}

int store_audit_add(struct store *store, const struct store_audit *row, struct error *err)
{
	struct store_audit full = *row;

	if (full.when_ms == 0)
		full.when_ms = time_wall_ms();
	int r = store_begin(store, err);
	return r < 0 ? r : store_end(store, add(store, &full, err), err);
}

int store_audit_list(struct store *store, const struct store_audit_filter *filter, struct store_audit **rows,
		     size_t *count, struct error *err)
{
	struct list list = { .table = &audit_table };
	struct list_range range = { .order = "seq DESC", .limit = filter->limit };
	void *got;

	list_text(&list, "org = ?", filter->org);
	list_text(&list, "action = ?", filter->action);
	list_text(&list, "target = ?", filter->target);
	list_text(&list, "key = ?", filter->key);
	list_text(&list, "outcome = ?", filter->outcome);
	if (filter->from_ms)
		list_number(&list, "when_ms >= ?", filter->from_ms);
	if (filter->to_ms)
		list_number(&list, "when_ms <= ?", filter->to_ms);
	if (filter->before_seq)
		list_number(&list, "seq < ?", filter->before_seq > INT64_MAX ? INT64_MAX : (int64_t)filter->before_seq);
	int r = list_fetch(store, &list, &range, &got, count, NULL, err);
	*rows = got;
	return r;
}

int store_audit_last(struct store *store, uint64_t *seq, struct error *err)
{
	struct store_audit_filter newest = { .limit = 1 };
	struct store_audit *rows = NULL;
	size_t count = 0;

	int r = store_audit_list(store, &newest, &rows, &count, err);
	*seq = r == 0 && count > 0 ? rows[0].seq : 0;
	free(rows);
	return r;
}
