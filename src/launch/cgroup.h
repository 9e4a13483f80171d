/*
 * A cgroup for each VM, with cgroup v2 or, where memory, cpu and pids are on v1 hierarchies, with those.
 *
 * Theory of operation. All groups of one installation are children of one group, "akira-TAG", that holds no process
 * itself, so that a sweep finds what an earlier launcher left. On v2 it lies in the group that systemd delegated to the
 * service, whose processes move aside first ("supervisor"), and without systemd at the root. On v2 the VM is born in its
 * group (CLONE_INTO_CGROUP).
 * On v1 the child writes "0" to the `tasks` file of each hierarchy itself: moving the calling thread alone takes no
 * global lock, while writing a pid to cgroup.procs waits for an RCU grace period (10 ms were seen).
 *
 * References: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/{memory,cpuacct,pids,devices,blkio-controller}.rst.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

enum cgroup_kind {
	CGROUP_MEMORY,
	CGROUP_CPU,
	CGROUP_PIDS,
	CGROUP_CPUACCT,
	CGROUP_DEVICES,
	CGROUP_FREEZER,
	CGROUP_BLKIO,
	CGROUP_KINDS
};

struct cgroup_host {
	int version;            /* 1 or 2 */
	int root[CGROUP_KINDS]; /* folder akira-TAG of each hierarchy, -1 = not there; v2: root[0] alone */
	int create;             /* O_CREAT for tests on a plain folder, else 0 */
	bool kvm;               /* groups may open /dev/kvm */
	const char *self;  /* text of /proc/self/cgroup, for cgroup_host_open alone; NULL: never below our own group */
	bool io;           /* there is a controller for it */
	uint64_t io_bytes; /* a second, of reads and of writes each; 0: no limit */
	uint64_t io_ops;   /* requests, likewise; on v1 at most 2^32 - 1 */
	const char *block; /* /sys/dev/block; NULL: that */
	unsigned told;     /* reasons for which there is no limit and that stand in the log */
	char name[32];
};

struct cgroup_limits {
	uint64_t memory_bytes;
	uint32_t cpu_quarters;
	uint32_t pids;
};

struct cgroup {
	int dir[CGROUP_KINDS]; /* the group's own folder, as in cgroup_host.root */
};

struct cgroup_use {
	uint64_t cpu_us, memory_bytes, oom_kills;
	uint32_t pids;
};

/*
 * Find the hierarchies in the text of /proc/self/mountinfo and make (or find) the group `name` in each. -ENOTSUP says
 * which controller is missing.
 */
int cgroup_host_open(struct cgroup_host *host, const char *mountinfo, const char *name, struct error *err);
void cgroup_host_end(struct cgroup_host *host); /* removes akira-TAG if it is empty */
/* Kill what is in the groups below akira-TAG and remove them. Returns how many there were. */
uint32_t cgroup_sweep(struct cgroup_host *host);

/* Make the group with its limits. On failure nothing is left. */
int cgroup_make(struct cgroup_host *host, const char *id, const struct cgroup_limits *limits, struct cgroup *g,
		struct error *err);
int cgroup_limit(struct cgroup_host *host, const struct cgroup *g, const struct cgroup_limits *limits,
		 struct error *err);
/*
 * Hold the group to host->io_bytes and io_ops on the disk under a file system (st_dev). Where that cannot be, as the
 * kernel has no controller or the file system no disk of its own (overlay, tmpfs, btrfs), the log says so once and it is
 * 0; a limit that could be set and was refused is an error. v1 holds direct and synchronous requests alone.
 */
int cgroup_limit_io(struct cgroup_host *host, const struct cgroup *g, dev_t device, struct error *err);
/* The folder for CLONE_INTO_CGROUP, or -1 (v1: then the child calls cgroup_enter). */
int cgroup_clone_fd(const struct cgroup_host *host, const struct cgroup *g);
/* Called by the child: move the calling thread into the group (v1). 0 or -errno. */
int cgroup_enter(const struct cgroup_host *host, const struct cgroup *g);
int cgroup_usage(struct cgroup_host *host, const struct cgroup *g, struct cgroup_use *use, struct error *err);
/* SIGKILL to every process in it. */
void cgroup_kill(struct cgroup_host *host, const struct cgroup *g);
/* 0, or -EBUSY while a process is still in it. Closes the descriptors of g on success. */
int cgroup_remove(struct cgroup_host *host, const char *id, struct cgroup *g);
