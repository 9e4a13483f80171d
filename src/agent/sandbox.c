#include "agent/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/root.h"
#include "base/fd.h"

#define ANCHOR_WAIT_MS 30000

/*
 * A restored VM's disk is another one, perhaps larger, than the one that was there when the template was stopped: what
 * the kernel kept of it goes, and the news of the new size, which comes by an interrupt, is waited for.
 */
static int mount_device(const char *device)
{
	struct timespec moment = { .tv_nsec = 1000000 };

	for (int tries = 0; tries < 3000; tries++) {
		int fd = open(device, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		(void)ioctl(fd, BLKFLSBUF, 0);
		close(fd);
		if (mount(device, "/scratch", "ext4", MS_NODEV | MS_NOATIME, "discard") == 0)
			return 0;
		if (errno != EINVAL)
			return -errno;
		nanosleep(&moment, NULL);
	}
	return -EINVAL;
}

static int mount_scratch(struct agent *a, struct error *err)
{
	char device[32];

	snprintf(device, sizeof(device), "/dev/%s", a->scratch_device);
	mkdir("/scratch", 0700);
	int r = mount_device(device);
	if (r < 0)
		return error_errno(err, -r, "mount the scratch disk");
	a->scratch = open("/scratch", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (a->scratch < 0)
		return error_errno(err, errno, "open the scratch disk");
	if ((mkdirat(a->scratch, "upper", 0755) < 0 && errno != EEXIST) ||
	    (mkdirat(a->scratch, "work", 0700) < 0 && errno != EEXIST))
		return error_errno(err, errno, "make the overlay's folders");
	return 0;
}

static int start_anchor(struct agent *a, int report, struct error *err)
{
	int pidfd = -1;
	struct clone_args args = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD | CLONE_INTO_CGROUP,
		.pidfd = (uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = (uint64_t)a->cgroups.sandbox,
	};
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid < 0)
		return error_errno(err, errno, "start the sandbox's first process");
	if (pid == 0)
		root_anchor(report);
	a->anchor_pid = (pid_t)pid;
	a->anchor.fd = pidfd;
	return 0;
}

/* The anchor writes a struct error when its root is built or could not be. */
static int await_anchor(int report, struct error *err)
{
	struct pollfd wait = { .fd = report, .events = POLLIN };
	struct error told;

	if (poll(&wait, 1, ANCHOR_WAIT_MS) != 1 || read(report, &told, sizeof(told)) != (ssize_t)sizeof(told))
		return error_set(err, EIO, "the sandbox's first process did not come up");
	told.text[sizeof(told.text) - 1] = '\0';
	return told.code ? error_set(err, told.code, "%s", told.text) : 0;
}

static int open_of(struct agent *a, const char *what, int flags)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)a->anchor_pid, what);
	return open(path, flags | O_CLOEXEC);
}

static int enter_namespaces(struct agent *a, struct error *err)
{
	a->inner_pids = open_of(a, "ns/pid", O_RDONLY);
	a->root = open_of(a, "root", O_PATH | O_DIRECTORY);
	a->devpts = a->root < 0 ? -1 : openat(a->root, "dev/pts", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (a->inner_pids < 0 || a->root < 0 || a->devpts < 0)
		return error_errno(err, errno, "open the sandbox's namespaces");
	/* These the agent shares with the sandbox, so that children need not join one by one. Mounts it does not, nor
	 * the cgroup namespace: from inside, the limits cannot be written. */
	if (setns(a->anchor.fd, CLONE_NEWUTS | CLONE_NEWIPC) < 0 || setns(a->inner_pids, CLONE_NEWPID) < 0)
		return error_errno(err, errno, "join the sandbox's namespaces");
	return 0;
}

static void anchor_ready(struct watch *watch, uint32_t events)
{
	agent_die("the sandbox's first process is gone");
}

int sandbox_setup(struct agent *a, struct error *err)
{
	int report[2];
	int r = cgroup_setup(&a->cgroups, &a->loop, err);

	if (r == 0)
		r = mount_scratch(a, err);
	if (r < 0)
		return r;
	if (pipe2(report, O_CLOEXEC) < 0)
		return error_errno(err, errno, "pipe");
	r = start_anchor(a, report[1], err);
	close(report[1]);
	if (r == 0)
		r = await_anchor(report[0], err);
	close(report[0]);
	if (r == 0)
		r = enter_namespaces(a, err);
	if (r < 0)
		return r;
	r = loop_add(&a->loop, &a->anchor, a->anchor.fd, EPOLLIN, anchor_ready);
	return r < 0 ? error_errno(err, -r, "watch the sandbox's first process") : 0;
}
