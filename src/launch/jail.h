/*
 * Starting one VM process in its jail: clone, namespaces, cgroup, mounts, limits, privileges, seccomp, exec. The child
 * verifies its own state before the exec and gives up with a reason if anything is not as it should be.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "launch/cgroup.h"
#include "launch/filter.h"
#include "launch/tree.h"
#include "proto/launch.h"

#define JAIL_FDS (LAUNCH_FDS + 1) /* and the tap */
#define JAIL_PIDS 192             /* threads: vCPUs, disk workers, migration */
#define JAIL_NOFILE 512

/* What is the same for every VM of this launcher. */
struct jail_host {
	const char *program; /* the host's path: of use only where a test leaves the root out */
	struct tree tree;
	struct filter filter;
	struct cgroup_host *cgroups;
	int landlock;   /* ABI of the kernel, 0: none */
	uint64_t ns[6]; /* inodes of the launcher's own namespaces, see jail_host_init */
};

struct jail {
	const char *const *args; /* without argv[0]; NULL-terminated */
	uid_t uid;               /* gid alike */
	const struct cgroup *cgroup;
	const int *fds; /* become 3, 4, … */
	size_t fd_count;
	const struct launch_file *files;
	const int *mounts; /* detached mounts (open_tree), one for each file */
	size_t file_count;
	int output; /* becomes 1 and 2 */
	uint64_t file_bytes_max;
};

/* Fills ns and landlock. */
int jail_host_init(struct jail_host *host, struct error *err);
/* Blocks until the program runs or could not be started (bound: 10 s). *pidfd is the caller's. */
int jail_start(const struct jail_host *host, const struct jail *jail, pid_t *pid, int *pidfd, struct error *err);
/* For tests (option `faults`): is this layer left out by AKIRA_JAIL_WITHOUT? Else always false. */
bool jail_without(const char *layer);
