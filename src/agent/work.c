#include "agent/work.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/warm.h"
#include "base/fd.h"

#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

struct work {
	struct job job;
	struct watch process;
	uint8_t type;
	bool ended;
};

/* Each runs in the child and returns an errno. */

static int do_sync(struct agent *a)
{
	return syncfs(a->scratch) < 0 ? errno : 0;
}

static int do_freeze(struct agent *a)
{
	return ioctl(a->scratch, FIFREEZE, 0) < 0 && errno != EBUSY ? errno : 0;
}

static int do_grow(struct agent *a)
{
	char device[32];
	struct statfs fs;
	uint64_t bytes;

	snprintf(device, sizeof(device), "/dev/%s", a->scratch_device);
	_cleanup_fd_ int fd = open(device, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0 || fstatfs(a->scratch, &fs) < 0)
		return errno;
	uint64_t blocks = bytes / (uint64_t)fs.f_bsize;
	return ioctl(a->scratch, EXT4_IOC_RESIZE_FS, &blocks) < 0 ? errno : 0;
}

static int do_work(struct agent *a, uint8_t type)
{
	switch (type) {
	case GUEST_SYNC: return do_sync(a);
	case GUEST_FREEZE: return do_freeze(a);
	case GUEST_GROW: return do_grow(a);
	default: return warm_base();
	}
}

static void work_ready(struct watch *w, uint32_t events)
{
	struct work *work = (struct work *)((char *)w - offsetof(struct work, process));
	work->ended = true;
}

static void thaw(struct agent *a)
{
	ioctl(a->scratch, FITHAW, 0);
	a->frozen = false;
}

/* A FREEZE came to its end; a THAW may have come meanwhile. */
static int freeze_ended(struct agent *a, int code)
{
	a->freezing = NULL;
	a->frozen = code == 0;
	if (code == 0 && a->thaw_wanted) {
		thaw(a);
		code = ECANCELED;
	}
	a->thaw_wanted = false;
	if (a->thawing)
		session_finish(&a->session, a->thawing, GUEST_RESULT, NULL);
	a->thawing = NULL;
	return code;
}

static bool pump(struct agent *a, struct job *job)
{
	struct work *work = (struct work *)job;
	siginfo_t info = { 0 };

	if (!work->ended || waitid(P_PIDFD, (id_t)work->process.fd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
		return false;
	loop_drop(&work->process);
	int code = info.si_code == CLD_EXITED ? info.si_status : EINTR;
	if (work->type == GUEST_FREEZE)
		code = freeze_ended(a, code);
	if (job->stream && code == 0)
		session_finish(&a->session, job->stream, GUEST_RESULT, NULL);
	else if (job->stream)
		session_fail(&a->session, job->stream, code, strerror(code));
	job_remove(a, job);
	return true;
}

static void forget(struct agent *a, struct job *job)
{
	job->stream = NULL;
}

static void destroy(struct job *job)
{
	free(job);
}

static void child(struct agent *a, uint8_t type)
{
	int normal = 0;

	syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &normal);
	_exit(do_work(a, type));
}

/* The process is the agent's copy with all its rights: it must not be in reach of the sandbox. */
static int start_outside(struct agent *a, int *pidfd)
{
	struct clone_args args = { .flags = CLONE_PIDFD, .pidfd = (uintptr_t)pidfd, .exit_signal = SIGCHLD };

	if (a->inner_pids >= 0 && setns(a->outer_pids, CLONE_NEWPID) < 0)
		return -errno;
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	int code = errno;
	if (pid != 0 && a->inner_pids >= 0 && setns(a->inner_pids, CLONE_NEWPID) < 0)
		agent_die("return to the sandbox's pid namespace: %m");
	return pid < 0 ? -code : (int)pid;
}

static int start(struct agent *a, struct stream *stream, uint8_t type, struct error *err)
{
	struct work *work = calloc(1, sizeof(*work));
	int pidfd = -1;

	if (!work)
		return error_set(err, ENOMEM, "no memory");
	int pid = start_outside(a, &pidfd);
	if (pid == 0)
		child(a, type);
	if (pid < 0) {
		free(work);
		return error_errno(err, -pid, "start a process");
	}
	work->type = type;
	work->job.pump = pump;
	work->job.forget = forget;
	work->job.destroy = destroy;
	int r = loop_add(&a->loop, &work->process, pidfd, EPOLLIN, work_ready);
	if (r < 0)
		agent_die("watch a process: %s", strerror(-r));
	job_add(a, &work->job, stream);
	return SESSION_LATER;
}

static int request_thaw(struct agent *a, struct stream *stream)
{
	if (!a->freezing) {
		if (a->frozen)
			thaw(a);
		return 0;
	}
	/* FITHAW would wait for the freezing process, and the loop with it. */
	a->thaw_wanted = true;
	if (a->thawing)
		return -EALREADY;
	a->thawing = stream;
	return SESSION_LATER;
}

int work_request(struct agent *a, struct stream *stream, const struct request *r, struct error *err)
{
	if (r->type != GUEST_WARM && a->phase == GUEST_BOOTED)
		return error_set(err, EINVAL, "not set up");
	switch (r->type) {
	case GUEST_THAW: return request_thaw(a, stream);
	case GUEST_FREEZE:
		if (a->freezing)
			return error_set(err, EALREADY, "freezing already");
		if (a->frozen)
			return 0;
		break;
	case GUEST_GROW:
		if (a->frozen)
			return error_set(err, EBUSY, "the file system is frozen");
		break;
	default: break;
	}
	int result = start(a, stream, r->type, err);
	if (result == SESSION_LATER && r->type == GUEST_FREEZE) {
		a->frozen = true; /* from now on the loop must not write */
		a->freezing = stream;
	}
	return result;
}

void work_forget(struct agent *a)
{
	if (a->freezing)
		a->thaw_wanted = true;
	else if (a->frozen)
		thaw(a);
}
