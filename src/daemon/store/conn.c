#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/store/internal.h"

static _Thread_local char thread_mark; /* its address tells threads apart */

static uintptr_t thread_self(void)
{
	return (uintptr_t)&thread_mark;
}

static int code_of(sqlite3 *db, int extended)
{
	switch (extended) {
	case SQLITE_CONSTRAINT_PRIMARYKEY:
	case SQLITE_CONSTRAINT_UNIQUE:
	case SQLITE_CONSTRAINT_ROWID: return EEXIST;
	case SQLITE_CONSTRAINT_FOREIGNKEY: return ENOENT;
	}
	switch (extended & 0xff) {
	case SQLITE_CONSTRAINT:
	case SQLITE_RANGE:
	case SQLITE_MISMATCH: return EINVAL;
	case SQLITE_BUSY:
	case SQLITE_LOCKED: return EAGAIN;
	case SQLITE_FULL: return ENOSPC;
	case SQLITE_NOMEM: return ENOMEM;
	case SQLITE_TOOBIG: return EFBIG;
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
		return db && (sqlite3_system_errno(db) == ENOSPC || sqlite3_system_errno(db) == EDQUOT) ? ENOSPC : EIO;
	default: return EIO;
	}
}

/* A client reads this. */
static int busy(struct error *err)
{
	return error_set(err, EAGAIN, "the database was in use for %d s; try again", STORE_BUSY_MS / 1000);
}

int conn_error(struct conn *conn, int code, struct error *err)
{
	int extended = conn->db ? sqlite3_extended_errcode(conn->db) : code;
	if ((extended & 0xff) != (code & 0xff))
		extended = code;

	int number = code_of(conn->db, extended);
	if (number == EAGAIN)
		return busy(err);
	const char *text = conn->db ? sqlite3_errmsg(conn->db) : sqlite3_errstr(code);
	if ((code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB)
		return error_set(err, number, "the database is damaged (%s): stop akirad and put a backup in its place",
				 text);
	return error_set(err, number, "database: %s (%d)", text, extended);
}

int conn_exec(struct conn *conn, const char *sql, struct error *err)
{
	int code = sqlite3_exec(conn->db, sql, NULL, NULL, NULL);
	return code == SQLITE_OK ? 0 : conn_error(conn, code, err);
}

static int configure(struct conn *conn, enum conn_mode mode, struct error *err)
{
	sqlite3_extended_result_codes(conn->db, 1);
	sqlite3_busy_timeout(conn->db, STORE_BUSY_MS);
	sqlite3_db_config(conn->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	int r = conn_exec(conn, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;", err);
	if (r < 0)
		return r;
	if (mode == CONN_READ)
		return conn_exec(conn, "PRAGMA query_only = ON;", err);
	return conn_exec(conn,
			 "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;"
			 "PRAGMA journal_size_limit = 16777216;",
			 err);
}

int conn_open(struct conn *conn, const char *path, enum conn_mode mode, struct error *err)
{
	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
	pthread_mutex_init(&conn->lock, &attributes);
	pthread_mutexattr_destroy(&attributes);

	/* Our own lock serialises each connection. A reader opens for writing too: WAL needs its shared memory. */
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_PRIVATECACHE;
	int code = sqlite3_open_v2(path, &conn->db, flags, NULL);
	int r = code == SQLITE_OK ? configure(conn, mode, err) : conn_error(conn, code, err);
	if (r < 0) {
		error_prefix(err, "open %s", path);
		conn_close(conn);
	}
	return r;
}

void conn_close(struct conn *conn)
{
	if (!conn->db)
		return;
	for (size_t i = 0; i < CONN_CACHE; i++) {
		sqlite3_finalize(conn->cache[i].stmt);
		free(conn->cache[i].sql);
	}
	sqlite3_close(conn->db);
	pthread_mutex_destroy(&conn->lock);
	memset(conn, 0, sizeof(*conn));
}

bool conn_mine(const struct conn *conn)
{
	return atomic_load(&conn->owner) == thread_self();
}

static int timed_lock(pthread_mutex_t *lock)
{
	struct timespec until;

#ifdef __SANITIZE_THREAD__ /* it does not know pthread_mutex_clocklock */
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STORE_BUSY_MS / 1000;
	return pthread_mutex_timedlock(lock, &until);
#else
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += STORE_BUSY_MS / 1000;
	return pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &until);
#endif
}

int conn_enter(struct conn *conn, struct error *err)
{
	if (conn_mine(conn)) {
		conn->held++;
		return 0;
	}
	if (timed_lock(&conn->lock) != 0)
		return busy(err);
	atomic_store(&conn->owner, thread_self());
	conn->held = 1;
	/* The last to be here had no memory for its ROLLBACK: what we write would never be committed. */
	int r = conn->db && !sqlite3_get_autocommit(conn->db) ? conn_exec(conn, "ROLLBACK", err) : 0;
	if (r < 0)
		conn_leave(conn);
	return r;
}

void conn_leave(struct conn *conn)
{
	if (--conn->held > 0)
		return;
	atomic_store(&conn->owner, 0);
	pthread_mutex_unlock(&conn->lock);
}
