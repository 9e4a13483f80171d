/*
 * What akirad remembers: organisations, keys, sandboxes, snapshots, executions, samples, idempotent answers, usage and
 * the audit log. Only the .c files of this folder name a database (SQLite, WAL, synchronous=FULL: what a call has answered
 * survives kill -9 and a power cut).
 *
 * Threads: every call may be made from any thread. store_begin .. store_commit makes the calls between them one
 * transaction of the calling thread; others wait for it (bound: 5 s, then -EAGAIN), so it must be short and make no
 * other blocking call. Calls outside of one are transactions of their own. Errors: -ENOENT (no such row in this
 * organisation, or a row that this one must refer to), -EEXIST, -EINVAL (a value that the schema does not allow), -EAGAIN,
 * -ENOSPC (disk full), -ENOMEM, -EIO (the database's own message is in err, for the log alone).
 *
 * A list gives NULL and 0 when it is empty. Rows without pointers are freed with free(3).
 *
 * Strings are NUL-terminated UTF-8. Times are wall-clock milliseconds (UTC); 0 = none.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define STORE_ID_MAX 40
#define STORE_NAME_MAX 64
#define STORE_TEXT_MAX 256

struct store;

/*
 * Opens or creates DIR/akira.db (0600), migrates an older schema forward in one transaction, refuses a newer one
 * (-EPROTONOSUPPORT), a damaged one (-EIO), and a database whose secret is missing, readable by others or another's.
 */
int store_open(const char *dir, struct store **store, struct error *err);
void store_close(struct store *store);
int store_begin(struct store *store, struct error *err);
int store_commit(struct store *store, struct error *err); /* on failure everything is rolled back */
void store_rollback(struct store *store);                 /* nothing to roll back: does nothing */
/*
 * They nest: an inner begin .. commit is part of the outer transaction, and an inner rollback undoes the inner calls
 * alone. Each begin is ended by exactly one commit (failed or not) or rollback, by the thread that began. When the
 * database itself has thrown a transaction away (disk full), all later calls in it give -ECANCELED until its end.
 */
bool store_in_tx(const struct store *store); /* of the calling thread */
/* A consistent copy of the running database into a new file (0600), which must not exist. */
int store_backup(struct store *store, const char *path, struct error *err);
/* 32 bytes made at first open, kept in DIR/akira.secret (0600): the key of the keyed hashes, not in the database. */
const unsigned char *store_secret(const struct store *store);
/* A key of 32 bytes for one purpose ("akira.store.seal.v1"): keyed BLAKE2b of the purpose. Nothing uses the secret itself. */
void store_subkey(const unsigned char secret[32], const char *purpose, unsigned char key[32]);

/* ---- organisations ---- */
struct store_org {
	char id[STORE_ID_MAX]; /* org_… */
	char name[STORE_NAME_MAX];
	char tier[16]; /* beta, pro, enterprise */
	bool suspended;
	bool log_output;   /* keep commands' output in the execution log */
	bool log_commands; /* keep the command lines themselves (else redacted) */
	/* Limits; -1 = none (unlimited). */
	int64_t requests_per_minute, sandboxes_max, cpu_units_max, memory_mib_max, storage_gb_max, snapshots_max;
	int64_t lifetime_s_max, execs_max, upload_bytes_max;
	int64_t created_ms;
};
int store_org_add(struct store *store, const struct store_org *org, struct error *err);
int store_org_get(struct store *store, const char *id, struct store_org *org, struct error *err);
int store_org_update(struct store *store, const struct store_org *org, struct error *err); /* all but id, created_ms */
/* Page (1-based) of organisations, oldest first; *rows malloc'ed, *count of them, *total in all. Same for all lists. */
int store_org_list(struct store *store, uint32_t page, uint32_t size, struct store_org **rows, size_t *count,
		   uint64_t *total, struct error *err);

/* ---- keys ---- */
enum store_scope {
	SCOPE_SANDBOXES_READ = 1,
	SCOPE_SANDBOXES_WRITE = 2,
	SCOPE_KEYS_MANAGE = 4,
	SCOPE_AUDIT_READ = 8,
	SCOPE_ADMIN = 16,
	SCOPE_ALL = 31,
};
struct store_key {
	char id[STORE_ID_MAX]; /* key_… */
	char org[STORE_ID_MAX];
	char name[STORE_NAME_MAX];
	char prefix[20];                                          /* shown part: sk_live_ and 6 characters */
	unsigned char hash[32];                                   /* keyed BLAKE2b of the whole key */
	uint32_t scopes;                                          /* enum store_scope, or-ed */
	int64_t created_ms, last_used_ms, expires_ms, revoked_ms; /* expires_ms also set by rotation */
	char rotated_to[STORE_ID_MAX];
};
int store_key_add(struct store *store, const struct store_key *key, struct error *err);
/* org NULL: any. */
int store_key_get(struct store *store, const char *org, const char *id, struct store_key *key, struct error *err);
int store_key_by_hash(struct store *store, const unsigned char hash[32], struct store_key *key, struct error *err);
int store_key_update(struct store *store, const struct store_key *key,
		     struct error *err); /* name, expires, revoked, rotated_to */
int store_key_used(struct store *store, const char *id, int64_t when_ms, struct error *err); /* may be batched */
/* Is the key neither revoked nor expired, its organisation not suspended, at now_ms? Inside a create's transaction. */
int store_key_live(struct store *store, const char *id, int64_t now_ms, bool *live, struct error *err);
int store_key_list(struct store *store, const char *org, uint32_t page, uint32_t size, struct store_key **rows,
		   size_t *count, uint64_t *total, struct error *err);

/* ---- sandboxes ---- */
enum sandbox_status {
	SANDBOX_CREATING,
	SANDBOX_RUNNING,
	SANDBOX_PAUSED,
	SANDBOX_STOPPING,
	SANDBOX_TERMINATED,
	SANDBOX_ERROR
};
struct store_sandbox {
	char id[STORE_ID_MAX]; /* sbx_… */
	char org[STORE_ID_MAX];
	char key[STORE_ID_MAX]; /* which made it */
	char name[STORE_NAME_MAX];
	char image[STORE_TEXT_MAX];
	char image_digest[80];
	enum sandbox_status status;
	uint32_t cpu_units; /* of 0.25 vCPU */
	uint32_t memory_mib;
	uint32_t storage_gb;
	int64_t created_ms, started_ms, expires_ms, terminated_ms;
	int64_t timeout_s, idle_timeout_s;
	bool idle_pause;             /* on_idle: pause instead of terminate */
	char snapshot[STORE_ID_MAX]; /* restored from; "" */
	char reason[24];             /* termination; "" while alive */
	char message[STORE_TEXT_MAX];
	char *network;  /* JSON text, malloc'ed; NULL = default */
	char *metadata; /* JSON object text, malloc'ed; NULL = {} */
	char *env;      /* JSON object text, malloc'ed; NULL = {}; encrypted at rest by the store */
};
void store_sandbox_free(struct store_sandbox *row); /* what it points to */
void store_sandboxes_free(struct store_sandbox *rows, size_t count);
int store_sandbox_add(struct store *store, const struct store_sandbox *row, struct error *err);
/* org NULL: any. */
int store_sandbox_get(struct store *store, const char *org, const char *id, struct store_sandbox *row,
		      struct error *err);
/* Writes status, image_digest, started_ms, expires_ms, terminated_ms, reason, message, network, metadata, timeout_s. */
int store_sandbox_update(struct store *store, const struct store_sandbox *row, struct error *err);
struct store_sandbox_filter {
	const char *org;                                 /* NULL: all */
	bool live;                                       /* not terminated and not error */
	const char *metadata_key[8], *metadata_value[8]; /* all must match */
	size_t metadata_count;
};
/* Newest first. */
int store_sandbox_list(struct store *store, const struct store_sandbox_filter *filter, uint32_t page, uint32_t size,
		       struct store_sandbox **rows, size_t *count, uint64_t *total, struct error *err);
struct store_totals {
	uint64_t sandboxes, cpu_units, memory_mib, storage_gb, snapshots, snapshot_bytes;
};
/* Of the live sandboxes (paused ones included; storage_gb: their disks alone) and the snapshots of an organisation (NULL: all). */
int store_totals(struct store *store, const char *org, struct store_totals *totals, struct error *err);
/* Forget terminated sandboxes (with their executions and samples) that ended before this. */
int store_sandbox_purge(struct store *store, int64_t before_ms, struct error *err);

/* ---- snapshots ---- */
enum snapshot_status { SNAPSHOT_CREATING, SNAPSHOT_READY, SNAPSHOT_ERROR, SNAPSHOT_PENDING_DELETION };
struct store_snapshot {
	char id[STORE_ID_MAX]; /* snap_… */
	char org[STORE_ID_MAX];
	char name[STORE_NAME_MAX];
	enum snapshot_status status;
	bool quick; /* consistency: crash, else application */
	char source[STORE_ID_MAX], source_name[STORE_NAME_MAX];
	char image[STORE_TEXT_MAX], image_digest[80];
	uint32_t cpu_units, memory_mib, storage_gb;
	uint64_t size; /* bytes on disk */
	int64_t created_ms;
	char message[STORE_TEXT_MAX];
	char *network, *metadata, *env; /* as in store_sandbox */
};
void store_snapshot_free(struct store_snapshot *row);
void store_snapshots_free(struct store_snapshot *rows, size_t count);
int store_snapshot_add(struct store *store, const struct store_snapshot *row, struct error *err);
int store_snapshot_get(struct store *store, const char *org, const char *id, struct store_snapshot *row,
		       struct error *err);
int store_snapshot_update(struct store *store, const struct store_snapshot *row,
			  struct error *err); /* status, size, message */
int store_snapshot_remove(struct store *store, const char *id, struct error *err);
int store_snapshot_list(struct store *store, const char *org, uint32_t page, uint32_t size,
			struct store_snapshot **rows, size_t *count, uint64_t *total, struct error *err);
/* Ids of live sandboxes restored from this snapshot (depends_on), at most max. */
int store_snapshot_users(struct store *store, const char *id, char (*ids)[STORE_ID_MAX], size_t max, size_t *count,
			 struct error *err);

/* ---- executions: /v1/sandboxes/logs ---- */
#define STORE_OUTPUT_MAX 16384 /* bytes of each stream kept in the log */
struct store_exec {
	char id[STORE_ID_MAX]; /* exec_… */
	char request[STORE_ID_MAX];
	char org[STORE_ID_MAX], sandbox[STORE_ID_MAX];
	char *command, *cwd, *out, *err_out; /* malloc'ed or NULL; out, err_out: at most STORE_OUTPUT_MAX, UTF-8 */
	bool out_truncated, err_truncated;
	int32_t exit_code;
	char status[12]; /* completed, timeout, error, running */
	bool stream;
	int64_t started_ms, duration_ms;
};
void store_execs_free(struct store_exec *rows, size_t count);
int store_exec_add(struct store *store, const struct store_exec *row, struct error *err);
struct store_exec_filter {
	const char *org, *sandbox;
	int64_t from_ms, to_ms;
	uint32_t limit;
}; /* NULL: any; to_ms 0: open; from <= t <= to */
int store_exec_list(struct store *store, const struct store_exec_filter *filter, struct store_exec **rows,
		    size_t *count, uint64_t *total, struct error *err); /* newest first */
int store_exec_purge(struct store *store, int64_t before_ms, struct error *err);

/* ---- samples: status history ---- */
struct store_sample {
	int64_t when_ms;
	double cpu_percent;
	uint64_t memory_bytes;
};
int store_sample_add(struct store *store, const char *sandbox, const struct store_sample *sample, struct error *err);
/* to_ms 0: open. */
int store_sample_list(struct store *store, const char *sandbox, int64_t from_ms, int64_t to_ms, uint32_t limit,
		      struct store_sample **rows, size_t *count,
		      struct error *err); /* the newest limit, oldest first */
int store_sample_purge(struct store *store, int64_t before_ms, struct error *err);

/* ---- idempotency (24 h) ---- */
struct store_idem {
	char org[STORE_ID_MAX];
	char key[STORE_TEXT_MAX];
	unsigned char body_hash[32]; /* of method, path and body */
	int32_t status;              /* 0 = still under way (or a crash cut it short) */
	char *answer;                /* malloc'ed JSON; NULL while under way */
	char target[STORE_ID_MAX];   /* id of what it made, known before the answer is: for recovery after a crash */
	int64_t created_ms;
};
/* Claims (org, key): 0 = claimed now; -EEXIST = there already, *found filled (free found->answer). */
int store_idem_claim(struct store *store, const struct store_idem *row, struct store_idem *found, struct error *err);
int store_idem_target(struct store *store, const char *org, const char *key, const char *target, struct error *err);
int store_idem_finish(struct store *store, const char *org, const char *key, int32_t status, const char *answer,
		      struct error *err);
int store_idem_drop(struct store *store, const char *org, const char *key,
		    struct error *err); /* the call failed: may be retried */
int store_idem_purge(struct store *store, int64_t before_ms, struct error *err);

/* ---- usage: one row an organisation and UTC day, added to ---- */
struct store_usage {
	char org[STORE_ID_MAX];
	char day[12]; /* 2026-01-31 */
	double sandbox_s, vcpu_s, cpu_s;
	uint64_t bytes_in, bytes_out, execs, creates;
};
int store_usage_add(struct store *store, const struct store_usage *more, struct error *err);
/* Oldest day first; NULL: any. */
int store_usage_list(struct store *store, const char *org, const char *from_day, const char *to_day,
		     struct store_usage **rows, size_t *count, struct error *err);

/* ---- request buckets: limits survive a restart ---- */
struct store_bucket {
	char key[STORE_ID_MAX];
	double tokens;
	int64_t when_ms;
};
int store_bucket_save(struct store *store, const struct store_bucket *rows, size_t count, struct error *err);
int store_bucket_load(struct store *store, struct store_bucket **rows, size_t *count, struct error *err);

/* ---- audit: append-only, hash-chained ---- */
struct store_audit {
	uint64_t seq; /* given by the store, 1, 2, 3, … without gaps */
	int64_t when_ms;
	char request[STORE_ID_MAX]; /* "" for what akirad does by itself */
	char org[STORE_ID_MAX], key[STORE_ID_MAX];
	char address[48];
	char action[48]; /* sandbox.create, key.revoke, auth.refused, … */
	char target[STORE_ID_MAX];
	char outcome[16]; /* ok, refused, failed */
	int32_t status;   /* HTTP; 0 = none */
	int64_t duration_us;
	char detail[STORE_TEXT_MAX]; /* never a secret: no key, no value of env, no data */
	char hash[65];               /* hex; BLAKE2b keyed by the secret over the row and the hash before it */
};
/* seq and hash are the store's. when_ms = 0: now. Inside a transaction it is part of it. */
int store_audit_add(struct store *store, const struct store_audit *row, struct error *err);
struct store_audit_filter {
	const char *org;                             /* NULL: all */
	const char *action, *target, *key, *outcome; /* NULL: any */
	int64_t from_ms, to_ms;                      /* 0: open */
	uint64_t before_seq;                         /* 0: from the newest */
	uint32_t limit;
};
/* seq of the newest record; 0: there is none. */
int store_audit_last(struct store *store, uint64_t *seq, struct error *err);
int store_audit_list(struct store *store, const struct store_audit_filter *filter, struct store_audit **rows,
		     size_t *count, struct error *err); /* newest first */
/* Walks the whole chain from the last checkpoint. 0 = whole; -EBADMSG: *seq is the first row that is wrong (0: the
 * record of the chain's end and checkpoint), err says whether it was altered, removed or inserted. *rows: good rows.
 * What it cannot see: the whole database put back to an earlier state. */
int store_audit_verify(struct store *store, uint64_t *rows, uint64_t *seq, struct error *err);
/* Removes the rows before the first that is not older than this and leaves a signed checkpoint (number, hash) from
 * which verification starts. Removes none that does not verify (-EBADMSG). In steps that are transactions of their own. */
int store_audit_prune(struct store *store, int64_t before_ms, uint64_t *removed, struct error *err);
