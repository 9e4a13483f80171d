/* One process of the sandbox, from nothing to exec. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct spawn {
	/* in */
	int anchor;          /* pidfd of whom to join: mounts, cgroups */
	int proc;            /* the agent's /proc */
	int cgroup;          /* folder */
	int fds[3];          /* standard descriptors; > 2 */
	bool terminal;       /* fds[0] becomes the controlling terminal */
	const char *workdir; /* absolute */
	const char *cwd;     /* below workdir or absolute; NULL: workdir */
	uint32_t user, group;
	const char **argv, **env; /* NULL-terminated; argv[0] is looked up in PATH of env */
	/* out */
	pid_t pid;          /* as the agent sees it */
	pid_t inner_pid;    /* as the sandbox sees it */
	int pidfd;          /* -1 on failure */
	int error;          /* errno of what failed, 0 when the program runs */
	const char *failed; /* what that was */
};

/* Returns when the new program runs or has failed: 0 or -errno. */
int spawn(struct spawn *s);
