#include "launch/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "launch/jail_child.h"
#include "launch/landlock.h"

#define START_MS 10000

bool jail_without(const char *layer)
{
#ifdef AKIRA_FAULTS
	const char *list = getenv("AKIRA_JAIL_WITHOUT");
	size_t size = strlen(layer);
	for (const char *p = list; p && *p; p = strchr(p, ','), p = p ? p + 1 : NULL)
		if (!strncmp(p, layer, size) && (p[size] == ',' || !p[size]))
			return true;
#endif
	return false;
}

int jail_host_init(struct jail_host *host, struct error *err)
{
	for (size_t i = 0; i < JAIL_NAMESPACES; i++) {
		char path[40];
		struct stat st;
		snprintf(path, sizeof path, "/proc/self/%s", jail_namespaces[i]);
		if (stat(path, &st) < 0)
			return error_errno(err, errno, "%s", path);
		host->ns[i] = st.st_ino;
	}
	host->landlock = landlock_abi();
	return 0;
}

static pid_t clone_child(const struct jail_host *host, const struct jail *jail, int *pidfd)
{
	int group = cgroup_clone_fd(host->cgroups, jail->cgroup);
	struct clone_args args = {
		.flags = CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS,
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
	};
	if (!jail_without("netns") && !jail_without("forget-netns"))
		args.flags |= CLONE_NEWNET;
	if (group >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)group;
	}
	return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

/* End of file without a message: the exec happened and closed the child's end. */
static int wait_started(int socket, struct error *err)
{
	struct pollfd p = { .fd = socket, .events = POLLIN };
	struct error told;
	if (poll(&p, 1, START_MS) != 1)
		return error_set(err, ETIMEDOUT, "the jail was not ready within %d s", START_MS / 1000);
	ssize_t got = recv(socket, &told, sizeof told, 0);
	if (got == 0)
		return 0;
	if (got != sizeof told || !told.code)
		return error_set(err, EIO, "the jail's child sent nonsense");
	told.text[sizeof told.text - 1] = 0;
	return error_set(err, told.code, "jail: %.480s", told.text);
}

int jail_start(const struct jail_host *host, const struct jail *jail, pid_t *pid, int *pidfd, struct error *err)
{
	int ends[2];
	*pidfd = -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return error_errno(err, errno, "socketpair");
	_cleanup_fd_ int ours = ends[0];
	*pid = clone_child(host, jail, pidfd);
	if (*pid == 0) {
		close(ours);
		jail_child(host, jail, ends[1]);
	}
	int failure = errno;
	close(ends[1]);
	if (*pid < 0)
		return error_errno(err, failure, "clone");
	int r = wait_started(ours, err);
	siginfo_t info;
	if (r < 0) {
		kill(*pid, SIGKILL);
		waitid(P_PID, (id_t)*pid, &info, WEXITED);
		fd_close(pidfd);
	}
	return r;
}
