#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/boot.h"
#include "agent/command.h"
#include "agent/files.h"
#include "agent/personal.h"
#include "agent/root.h"
#include "agent/sandbox.h"
#include "agent/work.h"
#include "base/fd.h"
#include "base/time.h"
#include "proto/tlv.h"

#define READS_A_ROUND 24 /* of a page each: give the output its turn */
#define POWER_OFF_WAIT_MS 2000

static void say(const char *format, va_list args)
{
	char line[600];
	int used = snprintf(line, sizeof(line), "akira-init: ");
	int n = vsnprintf(line + used, sizeof(line) - (size_t)used - 1, format, args);

	used += n < 0 ? 0 : n;
	if (used > (int)sizeof(line) - 2)
		used = (int)sizeof(line) - 2;
	line[used] = '\n';
	if (write(STDERR_FILENO, line, (size_t)used + 1) < 0) {
		/* There is nobody else to tell. */
	}
}

void agent_say(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	say(format, args);
	va_end(args);
}

void agent_die(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	say(format, args);
	va_end(args);
	_exit(1); /* of PID 1: the kernel panics, and the VM ends */
}

/* Jobs. */

void job_add(struct agent *a, struct job *job, struct stream *stream)
{
	job->stream = stream;
	stream->job = job;
	job->next = a->jobs;
	a->jobs = job;
}

void job_remove(struct agent *a, struct job *job)
{
	job->gone = true;
}

static void sweep_jobs(struct agent *a)
{
	for (struct job **at = &a->jobs; *at;) {
		struct job *job = *at;
		if (!job->gone) {
			at = &job->next;
			continue;
		}
		*at = job->next;
		job->destroy(job);
	}
}

/* What the session asks for. */

static void reset(void *ctx, bool lost, bool keep)
{
	struct agent *a = ctx;

	a->thawing = NULL;
	for (struct job *job = a->jobs; job; job = job->next)
		if (!job->gone && job->stream)
			job->forget(a, job);
	if (lost || a->phase == GUEST_BOOTED)
		return;
	work_forget(a);
	if (!keep)
		cgroup_kill_all(&a->cgroups);
}

static uint8_t phase(void *ctx)
{
	return ((struct agent *)ctx)->phase;
}

static int setup(struct agent *a, struct error *err)
{
	if (a->phase != GUEST_BOOTED)
		return error_set(err, EALREADY, "set up already");
	int result = sandbox_setup(a, err);
	if (result == 0)
		a->phase = GUEST_SET_UP;
	return result;
}

static int personalise(struct agent *a, const struct request *r, struct error *err)
{
	if (a->phase == GUEST_BOOTED)
		return error_set(err, EINVAL, "not set up");
	if (a->frozen)
		return error_set(err, EBUSY, "the file system is frozen");
	return personal_apply(a, r, err);
}

static int metrics(struct agent *a, struct stream *stream, struct error *err)
{
	unsigned char fields[128];
	struct tlv_writer w;
	struct statfs fs;

	if (a->phase == GUEST_BOOTED)
		return error_set(err, EINVAL, "not set up");
	if (fstatfs(a->scratch, &fs) < 0)
		return error_errno(err, errno, "measure the scratch disk");
	uint64_t block = (uint64_t)fs.f_bsize;
	tlv_begin(&w, fields, sizeof(fields));
	tlv_u64(&w, GUEST_TAG_CPU_US, cgroup_number(&a->cgroups, "cpu.stat", "usage_usec "));
	tlv_u64(&w, GUEST_TAG_MEM_TOTAL, cgroup_memory_limit());
	tlv_u64(&w, GUEST_TAG_MEM_USED, cgroup_number(&a->cgroups, "memory.current", NULL));
	tlv_u64(&w, GUEST_TAG_DISK_TOTAL, fs.f_blocks * block);
	tlv_u64(&w, GUEST_TAG_DISK_USED, (fs.f_blocks - fs.f_bfree) * block);
	tlv_u32(&w, GUEST_TAG_PROCS, (uint32_t)cgroup_number(&a->cgroups, "pids.current", NULL));
	session_finish(&a->session, stream, GUEST_RESULT, &w);
	return SESSION_LATER;
}

static int request(void *ctx, struct stream *stream, const struct request *r, struct error *err)
{
	struct agent *a = ctx;

	switch (r->type) {
	case GUEST_PING: return 0;
	case GUEST_SETUP: return setup(a, err);
	case GUEST_PERSONALISE: return personalise(a, r, err);
	case GUEST_METRICS: return metrics(a, stream, err);
	case GUEST_SHUTDOWN: a->powering_off = true; return 0;
	case GUEST_STAT:
		return a->phase == GUEST_PERSONALISED ? files_stat(a, stream, r, err)
						      : error_set(err, EINVAL, "not personalised");
	default: return work_request(a, stream, r, err);
	}
}

static int open_stream(void *ctx, struct stream *stream, const struct request *r, struct error *err)
{
	struct agent *a = ctx;

	if (a->phase != GUEST_PERSONALISED)
		return error_set(err, EINVAL, "not personalised");
	switch (r->type) {
	case GUEST_OPEN_EXEC: return command_open(a, stream, r, err);
	case GUEST_OPEN_READ: return files_open_read(a, stream, r, err);
	default: return files_open_write(a, stream, r, err);
	}
}

static void data(void *ctx, struct stream *stream, const void *bytes, size_t size)
{
	if (stream->kind == STREAM_EXEC)
		command_data(ctx, stream, bytes, size);
	else
		files_data(ctx, stream, bytes, size);
}

static void end(void *ctx, struct stream *stream)
{
	if (stream->kind == STREAM_EXEC)
		command_end(ctx, stream);
	else
		files_end(ctx, stream);
}

static void credit(void *ctx, struct stream *stream)
{
	/* The next round looks at each stream anyway. */
}

static void control(void *ctx, struct stream *stream, const struct request *r)
{
	if (stream->kind == STREAM_EXEC)
		command_control(ctx, stream, r);
	else if (r->type == GUEST_CLOSE)
		files_close(ctx, stream);
}

static const struct session_ops ops = {
	.reset = reset,
	.phase = phase,
	.request = request,
	.open = open_stream,
	.data = data,
	.end = end,
	.credit = credit,
	.control = control,
};

/* The port. */

static void port_ready(struct watch *watch, uint32_t events)
{
	struct agent *a = (struct agent *)((char *)watch - offsetof(struct agent, port));

	/* Only the change counts: at the start, data may be here before the kernel knows that a host is. */
	if (!(events & EPOLLHUP)) {
		a->connected = true;
	} else if (a->connected) {
		a->connected = false;
		session_hangup(&a->session);
	}
	a->port_readable = a->port_writable = true;
}

static bool read_port(struct agent *a)
{
	bool did = false;

	for (int i = 0; i < READS_A_ROUND && a->port_readable; i++) {
		size_t room;
		void *to = session_in(&a->session, &room);
		if (!to)
			return did;
		ssize_t n = read(a->port.fd, to, room);
		if (n > 0) {
			session_received(&a->session, (size_t)n);
			did = true;
		} else if (n == 0 || errno == EAGAIN) {
			a->port_readable = false; /* 0: no host at the other end; a new one is an event */
		} else if (errno != EINTR) {
			agent_die("read the port: %m");
		}
	}
	return did;
}

static bool write_port(struct agent *a)
{
	const void *bytes;
	size_t size;
	bool did = false;

	while (a->port_writable && (bytes = session_out(&a->session, &size))) {
		ssize_t n = write(a->port.fd, bytes, size);
		if (n > 0) {
			session_sent(&a->session, (size_t)n);
			did = true;
		} else if (n < 0 && errno == EINTR) {
			continue;
		} else {
			a->port_writable = false; /* full, or nobody there: an event follows */
		}
	}
	return did;
}

/* Power. */

void agent_power_off(struct agent *a)
{
	int64_t deadline = time_mono_ms() + POWER_OFF_WAIT_MS;

	if (a->phase != GUEST_BOOTED) {
		work_forget(a);
		loop_drop(&a->anchor);
		cgroup_kill_group(&a->cgroups);
		while (time_mono_ms() < deadline && cgroup_number(&a->cgroups, "pids.current", NULL) > 0)
			if (waitpid(-1, NULL, WNOHANG | __WALL) <= 0)
				loop_wait(&a->loop, 5);
		syncfs(a->scratch);
		/* The overlay goes with the last process and descriptor; what still holds it finds it read-only. */
		fd_close(&a->root);
		fd_close(&a->devpts);
		fd_close(&a->scratch);
		if (umount2("/scratch", 0) < 0)
			umount2("/scratch", MNT_DETACH);
	}
	sync();
	/* Without ACPI a machine cannot be switched off, but any can be reset; the VM ends at that. */
	reboot(RB_AUTOBOOT);
	agent_die("reset: %m");
}

/* One round: everything that can be done without waiting, and then the wait. */
static void run(struct agent *a)
{
	bool did = read_port(a);

	for (struct job *job = a->jobs; job; job = job->next)
		if (!job->gone)
			did |= job->pump(a, job);
	sweep_jobs(a);
	did |= write_port(a);
	size_t left;
	if (a->powering_off && (!session_out(&a->session, &left) || !a->port_writable))
		agent_power_off(a);

	int timeout = -1;
	if (did) {
		timeout = 0;
	} else if (a->wake_at) {
		timeout = time_left_ms(a->wake_at);
		a->wake_at = 0;
	}
	loop_wait(&a->loop, timeout);
}

int main(void)
{
	static struct agent agent; /* large, so its few initial values are not in the binary */
	struct agent *a = &agent;

	a->null = a->proc = a->scratch = a->root = a->devpts = a->outer_pids = a->inner_pids = -1;
	a->anchor.fd = -1;
	strcpy(a->workdir, "/");

	if (getpid() != 1) {
		fprintf(stderr, "akira-init is the first process of a guest and runs nowhere else\n");
		return 2;
	}
	boot(a);
	int file = open(ROOT_BOOT_ID, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
	if (file < 0)
		agent_die("create %s: %m", ROOT_BOOT_ID);
	close(file);
	session_init(&a->session, &ops, a);
	if (loop_init(&a->loop) < 0 || loop_add(&a->loop, &a->port, a->port.fd, EPOLLIN | EPOLLOUT, port_ready) < 0)
		agent_die("epoll: %m");
	a->port_readable = a->port_writable = true;
	for (;;)
		run(a);
}
