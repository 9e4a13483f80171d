/*
 * Control groups of the guest (v2 at /sys/fs/cgroup): `sandbox` with the limits, and below it one a command, which
 * has no controllers: it is cheap, and only there so that everything that the command started can be killed.
 * Groups are used again when they are empty.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/loop.h"
#include "base/error.h"

struct cgroup {
	struct watch events; /* cgroup.events, watched only while processes linger */
	int dir;
	int populated;       /* cgroup.events, open */
	struct cgroup *next; /* in the list of free or of used ones */
	struct cgroup_pool *pool;
	uint32_t number;
};

struct cgroup_pool {
	int sandbox; /* folder of the group that has the limits; -1 before cgroup_setup */
	struct loop *loop;
	struct cgroup *free, *used;
	unsigned int free_count;
	uint32_t last;
};

/* Make `sandbox` with a limit of memory that leaves the agent its share. */
int cgroup_setup(struct cgroup_pool *pool, struct loop *loop, struct error *err);
int cgroup_limit_processes(struct cgroup_pool *pool, uint32_t max);
/* Memory that the sandbox may use, bytes. */
uint64_t cgroup_memory_limit(void);

/* One for a command, or NULL. */
struct cgroup *cgroup_take(struct cgroup_pool *pool);
/* The command ended: use the group again as soon as it is empty. */
void cgroup_release(struct cgroup *group);
/* SIGKILL to every process in it, at once and without a race against fork. */
void cgroup_kill(struct cgroup *group);
void cgroup_kill_all(struct cgroup_pool *pool);   /* those of all commands, ended or not */
void cgroup_kill_group(struct cgroup_pool *pool); /* every process of `sandbox`, its first one too */
/* A number from a file of `sandbox`; key: of a line "key number", or NULL. 0 if there is none. */
uint64_t cgroup_number(const struct cgroup_pool *pool, const char *file, const char *key);
