/*
 * The layer under store.h that alone speaks to SQLite.
 *
 * Theory of operation. There are two connections. The writer serves every change, and every call of a thread that has
 * a transaction open; the reader serves all other reads, so that a list does not wait for somebody's fsync (WAL: it
 * sees the last commit). Each is guarded by a lock that its thread may take again. A table is described once, as an
 * array of `struct field` over its C structure; inserting, updating, reading, listing, sealing and hashing all follow
 * from that description, so a new column is one line here and one in the schema.
 */
#pragma once

#include <pthread.h>
#include <sodium.h>
#include <sqlite3.h>
#include <stdatomic.h>

#include "daemon/store/store.h"

#define STORE_BUSY_MS 5000
#define CONN_CACHE 64 /* prepared statements kept */

struct cached {
	char *sql;
	sqlite3_stmt *stmt;
	uint64_t used;
	bool busy;
};

struct conn {
	sqlite3 *db;
	pthread_mutex_t lock;
	_Atomic(uintptr_t) owner; /* identity of the thread that has the lock */
	unsigned int held;        /* how often it has it */
	unsigned int depth;       /* transactions open, the inner ones as savepoints */
	uint64_t clock;
	struct cached cache[CONN_CACHE];
};

struct store {
	char *path;
	struct conn writer, reader;
	unsigned char secret[32];
	unsigned char seal_key[32], audit_key[32], head_key[32];
};

/* ---- conn.c ---- */
enum conn_mode { CONN_WRITE, CONN_READ };
int conn_open(struct conn *conn, const char *path, enum conn_mode mode, struct error *err);
void conn_close(struct conn *conn);
/* Take the lock; -EAGAIN after STORE_BUSY_MS. */
int conn_enter(struct conn *conn, struct error *err);
void conn_leave(struct conn *conn);
bool conn_mine(const struct conn *conn);
int conn_exec(struct conn *conn, const char *sql, struct error *err);
/* Fill err from what the database last said on this connection; returns -errno. */
int conn_error(struct conn *conn, int code, struct error *err);

/* ---- query.c: one statement. Errors are sticky: bind all, step, close, and look at the end. ---- */
struct query {
	struct conn *conn;
	struct cached *slot; /* NULL: stmt is not from the cache */
	sqlite3_stmt *stmt;
	struct error *err;
	int r;    /* 0 or the first -errno */
	int next; /* last parameter bound */
};
/* On the reader, or on the writer when the thread is in a transaction there. */
void query_read(struct query *query, struct store *store, const char *sql, struct error *err);
void query_write(struct query *query, struct store *store, const char *sql, struct error *err);
void query_on(struct query *query, struct conn *conn, const char *sql, struct error *err);
void query_text(struct query *query, const char *text); /* must live until the query is closed; NULL: NULL */
void query_int(struct query *query, int64_t number);
void query_real(struct query *query, double number);
void query_blob(struct query *query, const void *data, size_t size); /* copied */
/* 1: there is a row; 0: no more; -errno. */
int query_step(struct query *query);
/* Ends it in every case; 0 or the first error. */
int query_close(struct query *query);
/* Run to its end and close; *changes (may be NULL): rows changed. */
int query_run(struct query *query, uint64_t *changes);
/* query_run for what must touch a row: -ENOENT otherwise. */
int query_run_one(struct query *query, const char *what);

/* ---- field.c ---- */
enum field_type {
	FIELD_TEXT,   /* char[size] */
	FIELD_STRING, /* char *, malloc'ed, may be NULL */
	FIELD_JSON,   /* as FIELD_STRING; -EINVAL if it is not well-formed */
	FIELD_SECRET, /* as FIELD_STRING; sealed in the database, bound to the FIELD_KEY columns, which stand before it */
	FIELD_BLOB,   /* unsigned char[size] */
	FIELD_INT,    /* 4 or 8 bytes, signed or not; an unsigned one stays below 2^63 */
	FIELD_BOOL,
	FIELD_REAL,
};
enum { FIELD_KEY = 1, FIELD_SET = 2, FIELD_ADD = 4 }; /* names the row; written by an update; added to by one */
struct field {
	const char *column;
	enum field_type type;
	unsigned int flags;
	size_t offset, size;
};
struct table {
	const char *name;
	const struct field *fields;
	size_t count, row_size;
};
#define FIELD(type_, structure, member, flags_)                                                                 \
	{                                                                                                       \
#member, FIELD_##type_, (flags_), offsetof(structure, member), sizeof(((structure *)0)->member) \
	}
#define TABLE(name_, structure, fields_)                                                  \
	{                                                                                 \
		name_, fields_, sizeof(fields_) / sizeof((fields_)[0]), sizeof(structure) \
	}

void field_bind(struct query *query, struct store *store, const struct table *table, const struct field *field,
		const void *row);
/* Columns in the order of the table, from 0. Zeroes the row first; on failure nothing is left to free. */
int row_read(struct query *query, struct store *store, const struct table *table, void *row);
void row_free(const struct table *table, void *row);                 /* the strings it points to */
void rows_free(const struct table *table, void *rows, size_t count); /* and the array */
/* Canonical encoding: size (8 bytes, little-endian) and bytes. Fields with any of the flags, or all when flags = 0. */
void row_digest(crypto_generichash_state *state, const struct table *table, unsigned int flags, const void *row);
void digest_part(crypto_generichash_state *state, const void *data, size_t size);

/* ---- table.c ---- */
int table_insert(struct store *store, const struct table *table, const void *row, const char *conflict,
		 uint64_t *changes, struct error *err);
/* Writes the FIELD_SET columns of the row that the FIELD_KEY columns name; -ENOENT. */
int table_update(struct store *store, const struct table *table, const void *row, struct error *err);
/* INSERT that adds the FIELD_ADD columns to a row that exists and overwrites the FIELD_SET ones. */
int table_merge(struct store *store, const struct table *table, const void *row, struct error *err);
int table_purge(struct store *store, const char *sql, int64_t before_ms, struct error *err);

#define LIST_ARGS 24
struct list {
	const struct table *table;
	char where[2048];
	struct list_arg {
		const char *text;
		const void *blob;
		size_t size;
		int64_t number;
	} args[LIST_ARGS];
	size_t count;
	bool overflow;
};
/* Each condition holds one `?`; they are and-ed. A NULL text adds nothing. */
void list_text(struct list *list, const char *condition, const char *value);
void list_number(struct list *list, const char *condition, int64_t value);
void list_blob(struct list *list, const char *condition, const void *data, size_t size);
struct list_range {
	const char *order;
	uint64_t offset;
	uint32_t limit;
};
/* *rows: malloc'ed array (NULL when there are none). total (may be NULL): rows without the limit, same snapshot. */
int list_fetch(struct store *store, const struct list *list, const struct list_range *range, void **rows, size_t *count,
	       uint64_t *total, struct error *err);
/* The one row that the conditions name; -ENOENT. */
int list_one(struct store *store, const struct list *list, void *row, struct error *err);
/* A page of an organisation's (NULL: all) rows. */
struct list_range list_page(uint32_t page, uint32_t size, const char *order);

/* ---- secret.c ---- */
/* folder: dir, opened and locked. */
int secret_load(int folder, const char *dir, bool database_exists, unsigned char secret[32], struct error *err);
int secret_check(struct store *store, struct error *err);
int secret_seal(const unsigned char key[32], const char *text, unsigned char **box, size_t *size);
int secret_unseal(const unsigned char key[32], const unsigned char *box, size_t size, char **text);

/* ---- migrate.c ---- */
int migrate(struct store *store, const char *path, struct error *err);

/* ---- tx.c ---- */
/* Ends a store_begin: commits when r is 0, else rolls back; returns r or the failure of the commit. */
int store_end(struct store *store, int r, struct error *err);

/* ---- audit.c ---- */
struct audit_head {
	int64_t seq;
	char hash[65];
	int64_t base_seq;
	char base_hash[65];
	unsigned char mac[32];
};
extern const struct table audit_table;
int audit_start(struct store *store, struct error *err); /* writes the first head of an empty chain */
int audit_head_read(struct store *store, struct conn *conn, struct audit_head *head, struct error *err);
int audit_head_write(struct store *store, struct audit_head *head, struct error *err);
void audit_hash(const struct store *store, const struct store_audit *row, const char *before, char hash[65]);
