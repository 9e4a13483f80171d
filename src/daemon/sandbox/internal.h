/*
 * Theory of operation.
 *
 * A `machine` is a VM with what belongs to it: a network slot, a scratch disk, a name. It is made by machine_start
 * from a template (or by cold boot, to make one). The pool keeps machines that belong to nobody. A `box` is a live
 * sandbox: the store's row, and a machine while it runs; a paused box has none. Boxes are reference-counted and found
 * in a table by id. The id of a sandbox is the name of its machine.
 *
 * Calls that need the guest `box_use` the box (resuming it if need be) and `box_done` it. Calls that change its state
 * (snapshot, pause, resume, network) hold it exclusively besides. Nobody waits with s->lock or box->lock held.
 *
 * When a VM process ends, its thread hands the machine to whoever owns it: for a box that queues it to the janitor,
 * which alone terminates boxes: it writes the reason to the store, gives slot, memory and files back and wakes those
 * who wait. Lifetimes are enforced by the reaper with the host's monotonic clock.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "daemon/sandbox/record.h"
#include "daemon/sandbox/service.h"

#define DEFAULT_CPU_UNITS 1
#define DEFAULT_MEMORY_MIB 512
#define DEFAULT_STORAGE_GB 10
#define DEFAULT_TIMEOUT_S 3600
#define LIFETIME_MAX_S 86400
#define CPU_UNITS_MAX 64
#define MEMORY_MIB_MIN 128
#define MEMORY_MIB_MAX 65536
#define STORAGE_GB_MAX 1024
#define EXECS_PER_BOX 64
#define GUEST_MS 20000    /* for one request to an agent */
#define BOOT_TRY_MS 40000 /* from power-on to the agent's HELLO: 0.7 to 2.5 s where nothing else runs */
#define BOOT_ATTEMPTS 3
#define BOOT_MS 120000 /* for what follows until a template is stopped */

/* ---- disk.c: files of the data folder ---- */

enum folder { FOLDER_SCRATCH, FOLDER_SNAPSHOTS, FOLDER_TEMPLATES, FOLDER_PAUSED, FOLDER_BLANK, FOLDERS };

struct disk {
	int folders[FOLDERS];
	bool reflink; /* FICLONE works here */
	uint64_t reserve;
	pthread_mutex_t lock; /* the making of blanks */
};

int disk_open(const char *data_dir, uint64_t reserve, struct disk *disk, struct error *err);
void disk_close(struct disk *disk);
/* -ENOSPC when taking more bytes would leave less than the reserve. */
int disk_room(const struct disk *disk, uint64_t more, struct error *err);
uint64_t disk_free_bytes(const struct disk *disk);
/* A new file in a folder; *fd read-write. */
int disk_create(const struct disk *disk, enum folder folder, const char *name, int *fd, struct error *err);
/* Contents of `from` into `to`, as large or larger and all holes: by reflink, else data extents alone. Not synced. */
int disk_copy(const struct disk *disk, int from, int to, struct error *err);
/* A fresh ext4 of this size, likewise. */
int disk_format(struct disk *disk, int to, uint32_t gb, struct error *err);
uint64_t disk_used(int fd); /* bytes on disk */
int disk_sync_folder(const struct disk *disk, enum folder folder);
void disk_remove(const struct disk *disk, enum folder folder, const char *name);

/* ---- netpool.c: network slots ---- */

struct slot {
	uint32_t number;
	struct launcher_net net;
};

struct netpool {
	struct launcher *launcher;
	pthread_mutex_t lock;
	struct slot ready[8]; /* more than are made ahead: what sandboxes give back serves the next ones */
	size_t ready_count;
	unsigned char used[LAUNCHER_SLOTS_MAX / 8];
};

void netpool_open(struct netpool *pool, struct launcher *launcher);
void netpool_close(struct netpool *pool);
int netpool_take(struct netpool *pool, struct slot *slot, struct error *err);
void netpool_give(struct netpool *pool, struct slot *slot);
/* Keep so many ready; true if there is more to do. */
bool netpool_refill(struct netpool *pool, size_t target);

/* ---- shapes and templates: template.c ---- */

struct shape {
	char image[IMAGE_NAME_MAX];
	char digest[IMAGE_DIGEST_MAX];
	uint32_t cpu_units, memory_mib, storage_gb;
};

/* fresh: scratch mounted and sandbox built; bare: scratch untouched, for disks with something on them. */
enum template_kind { TEMPLATE_FRESH, TEMPLATE_BARE };

struct template
{
	int ram, state, scratch; /* read-only descriptors: the template may be dropped meanwhile; scratch: fresh only */
	uint32_t storage_gb;     /* size of scratch */
};

int templates_open(struct sandboxes *s, struct error *err);
void templates_close(struct sandboxes *s);
/* Find, verify, or build; concurrent callers of one key wait for one build. */
int template_get(struct sandboxes *s, const struct shape *shape, enum template_kind kind, struct template *template,
		 struct error *err);
void template_close(struct template *template);
/* Drop the least recently used until the budget holds. */
void templates_trim(struct sandboxes *s);

/* ---- machine.c ---- */

struct machine {
	struct sandboxes *s;
	char id[STORE_ID_MAX];
	struct shape shape;
	struct vm *vm;
	struct slot slot;
	const struct net_rules *rules; /* borrowed, while it starts */
	bool attached;                 /* the policy stands and the resolver serves the slot */
	int scratch;                   /* descriptor of the disk */
	bool fills;                    /* while it starts: the disk gets its content, */
	int fill_from;                 /* this file's (borrowed), or a blank file system: -1 */
	bool keep_scratch;
	uint64_t committed; /* memory taken from the budget */
	int64_t started_ms; /* monotonic */
	pthread_mutex_t lock;
	void (*ended)(struct machine *machine, void *context);
	void *context;
	bool has_ended;
};

struct machine_source {
	const char *id;     /* its name; NULL: a new one */
	int disk;           /* content of the scratch disk (borrowed), or -1: fresh */
	uint32_t disk_gb;   /* its size; the shape's is at least that */
	const char *paused; /* resume: name of the folder of its saved state; the scratch disk is there */
	uint32_t first_stream;
	const struct net_rules *rules; /* stand before its first instruction; NULL: the default ones */
};

/*
 * A running VM whose agent has answered, set up, with all of its limits but not personalised (resumed ones carry on
 * as they were). It is off its final CPU quota until machine_settle.
 */
int machine_start(struct sandboxes *s, const struct shape *shape, const struct machine_source *source,
		  struct machine **machine, struct error *err);
/* Cold boot on given files, for templates: up to an agent that answered HELLO, or -ETIMEDOUT. ram and scratch are borrowed. */
int machine_boot(struct sandboxes *s, const struct shape *shape, int ram, int scratch, uint64_t scratch_bytes,
		 struct machine **machine, struct error *err);
/* What makes it this sandbox's: clock, entropy, names, environment, network; then the CPU quota. */
struct personality {
	const char *hostname;
	const char *workdir;
	char *const *env;       /* "K=V", NULL-terminated, later ones win */
	const char *sandbox_id; /* seeds machine-id */
};
int machine_personalise(struct machine *machine, const struct personality *personality, struct error *err);
/*
 * Run one command before anybody waits for it: before a template is stopped, so that the guest's kernel has what a
 * command needs, and in a pooled machine, because under emulation the first one translates the code of the shell. It
 * runs under an identity that the real one replaces.
 */
int machine_rehearse(struct machine *machine, struct error *err);
int machine_settle(struct machine *machine, uint32_t cpu_units, struct error *err);
/* Who is told when it ends (once; at once when it has ended already). */
void machine_own(struct machine *machine, void (*ended)(struct machine *machine, void *context), void *context);
/* Kill, wait, give everything back, free. NULL is fine. */
void machine_stop(struct machine *machine);

/*
 * For what comes from the kernel, the launcher or QEMU: errors that the API gives a meaning to and that have another one
 * here become -EIO, so that a lost launcher is no client that went away, and a missing file of ours no 404. r and
 * err->code alike.
 */
int host_error(int r, struct error *err);

/* A request to an agent that is ours, not a client's: whatever goes wrong is -EIO, or -EBUSY when the VM has ended. */
int guest_request(struct vm *vm, enum guest_type type, const struct tlv_writer *fields, int timeout_ms,
		  struct error *err);

/* Memory budget. -EAGAIN when the host has not got it. */
int budget_take(struct sandboxes *s, uint64_t bytes, struct error *err);
void budget_give(struct sandboxes *s, uint64_t bytes);

/* ---- pool.c ---- */

#define POOL_MAX 64
#define POOL_SHAPES 4

struct pool {
	struct machine *machines[POOL_MAX];
	size_t count;
	struct shape hot[POOL_SHAPES];
	int64_t hot_used_ms[POOL_SHAPES];
	size_t hot_count;
	bool draining;
	pthread_mutex_t lock;
};

/* A ready machine of this shape, or NULL. Remembers that the shape is hot. */
struct machine *pool_take(struct sandboxes *s, const struct shape *shape);
/* One that was taken and not used after all. */
void pool_give(struct sandboxes *s, struct machine *machine);
/* Make one machine if one is wanted; true if there may be more to do. */
bool pool_refill(struct sandboxes *s);
/* Give the memory of idle machines back; true if one went. */
bool pool_shrink(struct sandboxes *s);
void pool_drain(struct sandboxes *s);

/* ---- box.c ---- */

struct sandbox_exec;

struct box {
	struct sandboxes *s;
	struct box *next; /* in the table, under s->lock */
	atomic_int references;
	char id[STORE_ID_MAX]; /* both never change */
	char org[STORE_ID_MAX];

	pthread_mutex_t lock; /* all below */
	pthread_cond_t changed;
	struct store_sandbox row;
	struct machine *machine; /* NULL unless it runs; owned */
	bool exclusive;
	bool gone;           /* terminated, and nothing is left */
	unsigned int active; /* calls in progress */
	unsigned int execs;
	int64_t deadline_ms;  /* monotonic; lifetime */
	int64_t last_call_ms; /* monotonic */
	int64_t dead_ms;      /* since when its agent is known to be gone; 0: it is not */
	char reason[24];      /* why it is being ended; "" = not */
	char message[STORE_TEXT_MAX];
	struct sandbox_exec *running; /* list, for deadlines */
	int64_t left_ms;              /* of its lifetime, while paused */
	uint32_t last_stream;         /* of its agent's channel, while paused */
	uint64_t cpu_us_before;       /* of earlier VM processes (before a pause) */
	uint64_t sample_cpu_us;       /* at the last sample */
	int64_t sample_ms;
	double cpu_percent;
	uint64_t memory_bytes;
	struct policy_counters counted; /* of the network, at the last look */
	uint64_t last_cpu_us;           /* just before its VM was killed */
	uint64_t unbooked_creates, unbooked_execs;
	uint64_t used_until_ms; /* usage is booked up to here, wall clock */
};

struct box *box_new(struct sandboxes *s, const struct store_sandbox *row);
struct box *box_get(struct box *box);
void box_put(struct box *box);
void box_publish(struct box *box);                                          /* into the table */
struct box *box_find(struct sandboxes *s, const char *org, const char *id); /* a reference, or NULL */
/* The live ones, references; malloc'ed. */
struct box **box_all(struct sandboxes *s, size_t *count);
/*
 * For a call that needs the guest. Waits for an exclusive holder (60 s), resumes a paused one. -ENOENT unknown, -EBUSY
 * ended or ending. The VM stays valid until box_done. */
int box_use(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct box **box, struct vm **vm,
	    struct error *err);
void box_done(struct box *box, struct vm *vm);
/* Hold it alone against other state changes. resume: a paused one is resumed first. */
int box_hold(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct box **box,
	     struct error *err);
void box_release(struct box *box);
/*
 * Give it the machine that it runs on from now, with so much of its lifetime left. -EBUSY: it is ending or gone, and
 * the machine stays the caller's.
 */
int box_install(struct box *box, struct machine *machine, int64_t lifetime_ms, struct error *err);
/*
 * While the host saves or copies a VM its process works for the host, not the tenant: all of its vCPUs' time
 * and one processor more, and the quota again afterwards. The box is held.
 */
void box_boost(struct box *box, bool on);
/* Begin the end; the first reason stands. Kills the VM at once. */
void box_end(struct box *box, const char *reason, const char *message);
/*
 * What an operation on it failed with, as host_error; and -EBUSY if it is ending: that is then why, and no fault of the
 * host.
 */
int box_error(struct box *box, int r, struct error *err);
/* Wait until nothing of it is left: 0 or -ETIMEDOUT. */
int box_wait_gone(struct box *box, int timeout_ms);
void box_machine_ended(struct machine *machine, void *context);
/* Takes what the janitor has to do: terminate the box. */
void janitor_push(struct box *box);
void *janitor_main(void *s);
struct record box_record(const struct box *box, const struct sandbox_actor *actor, const char *action);
/* Write the row as it is now, and the record of what changed it. -EBUSY: it has ended. */
int box_save(struct box *box, const struct record *record, struct error *err);
int box_gone_error(struct sandboxes *s, const char *org, const char *id, struct error *err);

/* ---- create.c ---- */

/* Checks names, sizes and the organisation's limits; fills the shape and a row without an id. */
// spec.c
int spec_check(struct sandboxes *s, const struct sandbox_actor *actor, const struct sandbox_spec *spec,
	       struct shape *shape, struct image *image, struct store_sandbox *row, struct error *err);
/* One path for create, restore and clone. disk -1: fresh. */
int spec_start(struct sandboxes *s, const struct sandbox_actor *actor, const struct sandbox_spec *spec, int disk,
	       uint32_t disk_gb, const char *snapshot, struct sandbox_info *info, struct error *err);
int rules_of(const struct sandbox_network *network, struct net_rules **rules, struct error *err);
/* The same out of the kept JSON text (NULL: defaults). */
int rules_of_json(const char *json, struct net_rules **rules, struct error *err);
/* A host name out of a sandbox's name. */
void hostname_of(const char *name, char hostname[64]);
/* image's env, then the sandbox's (JSON text); malloc'ed list. */
char **env_of(const struct image *image, const char *env_json);
void env_free(char **env);
int row_copy(struct store_sandbox *to, const struct store_sandbox *from);
int info_fill(struct box *box, struct sandbox_info *info);

/* ---- exec.c, pause.c, reaper.c, recover.c, metrics.c ---- */

void execs_check_deadlines(struct box *box, int64_t now_ms);
/* The box is held by the caller; nothing is done, and nothing recorded, where it is so already. */
int box_resume_held(struct box *box, const struct record *record, struct error *err);
int box_pause_held(struct box *box, const struct record *record, struct error *err);
void paused_remove(struct sandboxes *s, const char *id);
void *reaper_main(void *s);
void *sampler_main(void *s);
void *keeper_main(void *s);
int recover(struct sandboxes *s, struct error *err);
/* Its slot's counters: 0, or -errno where it has none (any more). */
int box_counters(struct box *box, struct policy_counters *counters);
void box_sample(struct box *box, int64_t now_ms);
void box_unstall(struct box *box); /* goes on if the host's disk was full */
/* The VM's figures, while it still has some. */
void box_last_stats(struct box *box, struct vm *vm);
void box_book_usage(struct box *box, int64_t now_wall_ms);
void snapshots_sweep(struct sandboxes *s);
/* Its row goes, for what reason; its file has gone. actor NULL: akirad by itself. */
int snapshot_forget(struct sandboxes *s, const struct sandbox_actor *actor, const struct store_snapshot *row,
		    const char *reason, struct error *err);

/* See org_figures.c. */
struct org_list {
	pthread_mutex_t lock;
	struct org_entry *first;
	size_t count;
};
/* What more->org has used since it was last told; refused: packets. */
void org_list_add(struct org_list *list, const struct store_usage *more, uint64_t refused);
void org_list_free(struct org_list *list);

struct sandboxes {
	struct sandboxes_config config;
	struct store *store;
	struct disk disk;
	struct netpool netpool;
	struct pool pool;

	pthread_mutex_t lock;
	pthread_cond_t janitor_wake;
	struct box *boxes;
	struct janitor_item *janitor_queue;
	bool closing;

	pthread_mutex_t budget_lock;
	uint64_t budget, committed;

	struct org_list orgs;

	struct templates *templates;
	struct net_rules *default_rules; /* of a sandbox that asks for none; pooled machines have them already */
	pthread_t janitor, reaper, keeper, sampler;
	bool threads;
	pthread_mutex_t keeper_lock;
	pthread_cond_t keeper_wake;
	bool keeper_asked;

	atomic_uint jobs; /* threads that start sandboxes whose creator did not wait */
	atomic_uint_fast64_t pool_hits, pool_misses, template_hits, template_builds, creates, create_failures, execs;
};

void keeper_ask(struct sandboxes *s); /* something was taken from a pool */
