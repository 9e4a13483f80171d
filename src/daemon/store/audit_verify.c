#include <errno.h>
#include <string.h>

#include "daemon/store/internal.h"

#define PRUNE_STEP 4096 /* rows a transaction: others wait for it */

static const char walk_sql[] =
	"SELECT seq, when_ms, request, org, key, address, action, target, outcome, status, duration_us, detail, hash"
	" FROM audit WHERE seq BETWEEN ? AND ? ORDER BY seq";

struct walk {
	struct store *store;
	struct conn *conn;
	int64_t seq; /* of the last good row */
	char hash[65];
	int64_t wrong;
	struct error *err;
};

/* Two rows of which the first does not fit: does the second, with the number of the first? Then that came in between. */
static bool was_inserted(struct walk *walk, struct query *query)
{
	struct store_audit next;
	char hash[65];

	if (query_step(query) <= 0 || row_read(query, walk->store, &audit_table, &next) < 0)
		return false;
	next.seq = (uint64_t)walk->seq + 1;
	audit_hash(walk->store, &next, walk->hash, hash);
	return strcmp(hash, next.hash) == 0;
}

static int wrong(struct walk *walk, int64_t seq, const char *what)
{
	walk->wrong = seq;
	return error_set(walk->err, EBADMSG, "the audit log's row %lld was %s", (long long)seq, what);
}

static int check_row(struct walk *walk, struct query *query, const struct store_audit *row)
{
	int64_t expected = walk->seq + 1;
	char hash[65];

	if ((int64_t)row->seq != expected)
		return wrong(walk, expected, "removed");
	audit_hash(walk->store, row, walk->hash, hash);
	if (sodium_memcmp(hash, row->hash, sizeof(hash)) != 0)
		return wrong(walk, expected, was_inserted(walk, query) ? "inserted" : "altered");
	walk->seq = expected;
	memcpy(walk->hash, hash, sizeof(hash));
	return 0;
}

/* Rows after walk->seq up to and with last. */
static int walk_to(struct walk *walk, int64_t last)
{
	struct store_audit row;
	struct query query;
	struct error unread;
	int r = 0;

	if (walk->seq >= last)
		return 0;
	query_on(&query, walk->conn, walk_sql, walk->err);
	query_int(&query, walk->seq + 1);
	query_int(&query, last + 1); /* one more, for was_inserted */
	query.err = query.r < 0 ? walk->err : &unread;
	while (r == 0 && (r = query_step(&query)) > 0) {
		/* A value that no row of ours can hold (a text too long) is an alteration too. */
		r = row_read(&query, walk->store, &audit_table, &row) < 0 ? wrong(walk, walk->seq + 1, "altered")
									  : check_row(walk, &query, &row);
		if (r < 0 || walk->seq == last)
			break;
	}
	if (r < 0 && r != -EBADMSG && query.err == &unread && walk->err)
		*walk->err = unread;
	query_close(&query);
	return r;
}

static int seq_of(struct walk *walk, const char *sql, int64_t arg, int64_t *seq)
{
	struct query query;

	query_on(&query, walk->conn, sql, walk->err);
	query_int(&query, arg);
	*seq = query_step(&query) > 0 ? sqlite3_column_int64(query.stmt, 0) : -1;
	return query_close(&query);
}

/* Rows that the head does not know: before the checkpoint, or after the end. */
static int check_outside(struct walk *walk, const struct audit_head *head)
{
	int64_t seq;

	int r = seq_of(walk, "SELECT seq FROM audit WHERE seq <= ? ORDER BY seq LIMIT 1", head->base_seq, &seq);
	if (r == 0 && seq < 0)
		r = seq_of(walk, "SELECT seq FROM audit WHERE seq > ? ORDER BY seq LIMIT 1", head->seq, &seq);
	return r == 0 && seq >= 0 ? wrong(walk, seq, "inserted") : r;
}

static void walk_start(struct walk *walk, const struct audit_head *head)
{
	walk->seq = head->base_seq;
	memcpy(walk->hash, head->base_hash, sizeof(walk->hash));
}

static int verify(struct walk *walk, struct audit_head *head)
{
	int r = audit_head_read(walk->store, walk->conn, head, walk->err);
	if (r < 0)
		return r;
	walk_start(walk, head);
	r = walk_to(walk, head->seq);
	if (r == 0 && walk->seq < head->seq)
		r = wrong(walk, walk->seq + 1, "removed");
	if (r == 0 && strcmp(walk->hash, head->hash) != 0)
		r = wrong(walk, walk->seq, "altered");
	return r == 0 ? check_outside(walk, head) : r;
}

int store_audit_verify(struct store *store, uint64_t *rows, uint64_t *seq, struct error *err)
{
	struct conn conn = { 0 };
	struct walk walk = { .store = store, .conn = &conn, .err = err };
	struct audit_head head = { 0 };

	/* A connection of its own: a long walk keeps nobody waiting. */
	int r = conn_open(&conn, store->path, CONN_READ, err);
	if (r < 0)
		return r;
	r = conn_exec(&conn, "BEGIN", err);
	if (r == 0)
		r = verify(&walk, &head);
	conn_close(&conn);
	*rows = (uint64_t)(walk.seq - head.base_seq);
	*seq = (uint64_t)walk.wrong;
	return r;
}

static int delete_to(struct walk *walk, uint64_t *removed)
{
	struct query query;

	query_on(&query, walk->conn, "DELETE FROM audit WHERE seq <= ?", walk->err);
	query_int(&query, walk->seq);
	return query_run(&query, removed);
}

static int prune_step(struct walk *walk, int64_t before_ms, uint64_t *removed)
{
	struct audit_head head;
	int64_t keep, last;

	int r = audit_head_read(walk->store, walk->conn, &head, walk->err);
	if (r == 0)
		r = seq_of(walk, "SELECT seq FROM audit WHERE when_ms >= ? ORDER BY seq LIMIT 1", before_ms, &keep);
	if (r < 0)
		return r;
	last = keep < 0 ? head.seq : keep - 1;
	if (last > head.base_seq + PRUNE_STEP)
		last = head.base_seq + PRUNE_STEP;
	if (last <= head.base_seq)
		return 0;
	walk_start(walk, &head);
	r = walk_to(walk, last);
	if (r == 0 && walk->seq < last)
		r = wrong(walk, walk->seq + 1, "removed");
	if (r == 0)
		r = delete_to(walk, removed);
	if (r < 0)
		return r;
	head.base_seq = walk->seq;
	memcpy(head.base_hash, walk->hash, sizeof(head.base_hash));
	return audit_head_write(walk->store, &head, walk->err);
}

int store_audit_prune(struct store *store, int64_t before_ms, uint64_t *removed, struct error *err)
{
	struct walk walk = { .store = store, .conn = &store->writer, .err = err };
	uint64_t step;

	*removed = 0;
	do {
		step = 0;
		int r = store_begin(store, err);
		if (r == 0)
			r = store_end(store, prune_step(&walk, before_ms, &step), err);
		if (r < 0)
			return r;
		*removed += step;
	} while (step > 0);
	return 0;
}
