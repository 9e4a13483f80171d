/*
 * Sandboxes: the domain, without HTTP. Life cycle, commands, files, templates, pool, snapshots, pause, limits of
 * sandboxes, the reaper. Calls block and may be made from any thread; they take no longer than the bounds given.
 *
 * Errors are negative errno and the API layer maps them so:
 *   -EINVAL 400 invalid_request      -EACCES 403 forbidden          -ENOENT 404 not_found
 *   -EBUSY, -EEXIST 409 conflict     -EFBIG 413                     -EPROTO 422 unprocessable
 *   -EDQUOT 429 quota_exceeded       -EAGAIN 503 capacity (Retry-After)
 *   -ENOSPC 507                      -ETIMEDOUT 504 timeout         -EPIPE client went away
 *   -EKEYREVOKED 401                 anything else: 500 internal (the text goes to the log alone)
 * For all but 500 err->text is for the client: it names the field and the bound and holds no path of the host.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/store/store.h"
#include "proto/policy.h"

struct sandboxes;

/*
 * Who asks, by which call; for ownership, limits, usage and the audit log. What a call changes in the store is there
 * together with its record (never one without the other), named `action` where it is what the call was for.
 */
struct sandbox_actor {
	const struct store_org *org;
	const char *key;     /* id of the API key */
	const char *request; /* req_… */
	const char *address;
	const char *action; /* sandbox.create, …; NULL: none */
	int32_t status;     /* HTTP, when it is done */
	int64_t started_us; /* CLOCK_MONOTONIC */
	int32_t *recorded;  /* set to the status in the call's own record once that is in the store; may be NULL */
};

/* ---- life cycle ---- */

#define SANDBOX_ENV_MAX 256         /* variables */
#define SANDBOX_ENV_BYTES_MAX 65536 /* names and values together */

struct sandbox_pair {
	const char *key, *value;
};

struct sandbox_network { /* the contract's `network` object, split; NULL lists when absent */
	bool deny;
	const char *const *allow;
	size_t allow_count; /* CIDRs and domains, mixed */
	const char *const *denied;
	size_t denied_count;
	uint32_t bandwidth_mbps; /* 0 = none */
};

struct sandbox_spec { /* 0 or NULL = the default */
	const char *image;
	const char *image_digest; /* that build of it */
	const char *name;
	const struct sandbox_pair *env;
	size_t env_count;
	const char *env_json; /* the same as JSON text, for keeping */
	const struct sandbox_pair *metadata;
	size_t metadata_count;
	const char *metadata_json;
	const struct sandbox_network *network;
	const char *network_json;
	uint32_t cpu_units, memory_mib, storage_gb;
	int64_t timeout_s;      /* -1 = the default (3600) */
	int64_t idle_timeout_s; /* 0 = off */
	bool idle_pause;
	bool wait; /* wait_for_ready */
	/*
	 * Called when the id is certain and before anything is made (may be NULL): the API ties an Idempotency-Key
	 * to it.
	 */
	void (*named)(const char *id, void *context);
	void *context;
};

/* A copy of what the store knows plus what only the running process does. Free with sandbox_info_free. */
struct sandbox_info {
	struct store_sandbox row;
	int64_t now_ms;
	struct policy_counters network; /* zeros when unknown */
	bool has_network;
	char snapshot_id[STORE_ID_MAX];
};
void sandbox_info_free(struct sandbox_info *info);

/* Bounds: 60 s with wait. */
int sandbox_create(struct sandboxes *s, const struct sandbox_actor *actor, const struct sandbox_spec *spec,
		   struct sandbox_info *info, struct error *err);
int sandbox_get(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		struct error *err);
/* Rows as of store_sandbox_list (live ones); free with store_sandboxes_free. */
int sandbox_list(struct sandboxes *s, const struct store_sandbox_filter *filter, uint32_t page, uint32_t size,
		 struct store_sandbox **rows, size_t *count, uint64_t *total, struct error *err);
/* snapshot_name: NULL = delete only; else snapshot first ("" = automatic name) into *snapshot (id and name filled). */
int sandbox_delete(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *snapshot_name,
		   struct store_snapshot *snapshot, struct error *err);
/* New lifetime counted from now. 1..limit of the organisation. */
int sandbox_set_timeout(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, int64_t timeout_s,
			struct sandbox_info *info, struct error *err);
int sandbox_set_network(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
			const struct sandbox_network *network, const char *network_json, struct sandbox_info *info,
			struct error *err);
int sandbox_pause(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		  struct error *err);
int sandbox_resume(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		   struct error *err);
/* The serial console's last bytes (at most 64 KiB), malloc'ed. */
int sandbox_console(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, char **text, size_t *size,
		    struct error *err);
/* Stop, or keep, what an organisation has running (suspension). Returns how many were stopped. */
int sandbox_stop_all(struct sandboxes *s, const struct sandbox_actor *actor, const char *org, const char *why,
		     struct error *err);

/* ---- commands ---- */

struct sandbox_exec;

struct sandbox_exec_spec {
	const char *command; /* a shell line, 1..131,072 bytes */
	const struct sandbox_pair *env;
	size_t env_count;
	const char *cwd;    /* NULL: the image's */
	int64_t timeout_ms; /* counted by the host; 0 = none */
	bool input;         /* stdin is a pipe that sandbox_exec_write feeds; else /dev/null */
	bool pty;
	uint16_t rows, cols;
	bool stream; /* for the log: execute_async */
};

enum sandbox_exec_kind { EXEC_NOTHING, EXEC_STDOUT, EXEC_STDERR, EXEC_ENDED };
enum sandbox_exec_end { EXEC_EXITED, EXEC_TIMED_OUT, EXEC_FAILED };
struct sandbox_exec_event {
	enum sandbox_exec_kind kind;
	const char *data;
	size_t size;                  /* STDOUT, STDERR: valid until the next call */
	enum sandbox_exec_end end;    /* ENDED */
	int32_t exit_code;            /* 0..255; 124 when timed out; -1 when FAILED */
	char message[STORE_TEXT_MAX]; /* FAILED: why, for the client ("the sandbox was deleted") */
	int64_t started_ms, duration_ms;
};
/*
 * A paused sandbox is resumed first. -EDQUOT: too many commands at once (32 a sandbox unless the organisation says).
 * The actor must stay until sandbox_exec_close.
 */
int sandbox_exec_start(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
		       const struct sandbox_exec_spec *spec, struct sandbox_exec **exec, struct error *err);
const char *sandbox_exec_id(const struct sandbox_exec *exec);
/*
 * Wait for the next event, at most wait_ms (EXEC_NOTHING when none came). watch: the client's socket, or -1; when
 * its peer has gone: -EPIPE. After EXEC_ENDED only sandbox_exec_close may be called. When the time is over the host
 * kills the command's processes itself, whether anybody waits here or not.
 */
int sandbox_exec_next(struct sandbox_exec *exec, int wait_ms, int watch, struct sandbox_exec_event *event,
		      struct error *err);
/* Blocks while the guest does not read (bound by the command's end). size 0: end of input. */
int sandbox_exec_write(struct sandbox_exec *exec, const void *data, size_t size, struct error *err);
int sandbox_exec_resize(struct sandbox_exec *exec, uint16_t rows, uint16_t cols, struct error *err);
/*
 * Kills the whole process group and its descendants unless it ended; writes the log entry and with it the call's record,
 * both or neither; frees. status: what the call answers (HTTP). NULL is fine.
 */
void sandbox_exec_close(struct sandbox_exec *exec, int32_t status);

/* ---- files ---- */

struct sandbox_file;
/* Reading. *size: what the guest says it is, UINT64_MAX if unknown; the stream may still be shorter (then -EIO). */
int sandbox_file_read_open(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *path,
			   struct sandbox_file **file, uint64_t *size, struct error *err);
/* Returns bytes (0 = end) or -errno. */
int64_t sandbox_file_read(struct sandbox_file *file, void *data, size_t size, struct error *err);
/* Writing: the old file stays until sandbox_file_finish. mode: permission bits, 0 = 0644 (or the old file's). */
int sandbox_file_write_open(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *path,
			    uint32_t mode, struct sandbox_file **file, struct error *err);
int sandbox_file_write(struct sandbox_file *file, const void *data, size_t size, struct error *err);
int sandbox_file_finish(struct sandbox_file *file, uint64_t *size, struct error *err);
/* Gives up unless finished (nothing is left of it in the sandbox); frees. NULL is fine. */
void sandbox_file_close(struct sandbox_file *file);

/* ---- metrics ---- */

struct sandbox_metrics {
	bool current;                              /* the rest is filled: it runs */
	double cpu_percent;                        /* of what was granted, 0..100, host's figure */
	uint64_t memory_bytes, memory_total_bytes; /* guest's use as the guest says (bounded by the host's figures) */
	struct store_sample *history;
	size_t history_count; /* malloc'ed */
};
int sandbox_metrics(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, int64_t from_ms,
		    int64_t to_ms, struct sandbox_metrics *metrics, struct error *err);

/* ---- snapshots ---- */

/* *snapshot filled as of the store (store_snapshot_free). Bound: 10 min. */
int sandbox_snapshot(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *name,
		     bool quick, struct store_snapshot *snapshot, struct error *err);
int sandbox_clone(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
		  const struct sandbox_spec *spec, const char *snapshot_name, struct sandbox_info *info,
		  struct store_snapshot *snapshot, struct error *err);
/* spec: name is required; 0 / NULL values are taken from the snapshot. storage_gb below the snapshot's: -EINVAL. */
int sandbox_restore(struct sandboxes *s, const struct sandbox_actor *actor, const char *snapshot_id,
		    const struct sandbox_spec *spec, struct sandbox_info *info, struct error *err);
/* pending_deletion at once, the file goes in the background (or when the last reader ended). */
int sandbox_snapshot_delete(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
			    struct store_snapshot *snapshot, struct error *err);

/* ---- the whole ---- */

struct sandboxes_figures {
	uint64_t by_status[6]; /* indexed by enum sandbox_status, live process's view */
	uint64_t pool_ready, pool_hits, pool_misses, template_hits, template_builds;
	uint64_t creates, create_failures, execs;
	uint64_t memory_committed_bytes, memory_budget_bytes;
	uint64_t disk_free_bytes;
};
void sandboxes_figures(struct sandboxes *s, struct sandboxes_figures *figures);

struct sandboxes_org_figures {
	char org[STORE_ID_MAX];
	uint64_t sandboxes;                  /* live, paused ones included */
	uint64_t memory_bytes, cpu_units;    /* granted to those that run */
	uint64_t disk_bytes, snapshot_bytes; /* allocated */
	double cpu_s;                        /* since the start of this process, as all that follow */
	uint64_t bytes_in, bytes_out, refused;
};
/* Of each organisation that has had a sandbox; *rows to be freed. -ENOMEM. */
int sandboxes_org_figures(struct sandboxes *s, struct sandboxes_org_figures **rows, size_t *count);
/* "kvm" or "tcg"; why: one sentence for people. Strings live as long as s. */
const char *sandboxes_acceleration(const struct sandboxes *s, const char **why);
