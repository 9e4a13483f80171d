/*
 * Theory of operation. A VM has three sockets (QMP, agent, serial console) and a status descriptor from the launcher.
 * The agent's belongs to a link with a thread of its own. One more thread a VM drains the console into a ring (a
 * guest that prints must never block on us, nor cost memory) and waits for the status: that is how an end is noticed
 * at once. Control goes through QMP under `control`.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cond.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/engine/engine.h"
#include "daemon/engine/qemu.h"
#include "daemon/engine/qmp.h"

#define CONSOLE_SIZE 65536
#define COMMAND_MS 10000
#define START_MS 20000
#define LOAD_MS 60000

struct vm {
	atomic_int references;
	struct launcher *launcher;
	char id[LAUNCHER_ID_MAX];
	pid_t pid;
	struct qmp *qmp;
	struct link *link;
	int console, status;
	bool shared_ram;
	pthread_mutex_t control; /* one QMP conversation at a time */
	bool halted;             /* under control: by vm_stop, so not to be woken by vm_unstall */
	pthread_t thread;
	bool has_thread;
	void (*ended)(struct vm *vm, void *context);
	void *context;

	pthread_mutex_t lock; /* what follows */
	pthread_cond_t changed;
	bool has_ended;
	bool told; /* `ended` was called and has returned */
	struct vm_exit exit;
	char killed_why[128];
	char ring[CONSOLE_SIZE];
	uint64_t ring_total;
};

uint32_t engine_overhead_mib(const struct engine *engine)
{
	/* Measured with 20 idle VMs: 40 MiB of QEMU itself, and the code cache as far as it fills. */
	return 96 + (engine->acceleration == ENGINE_TCG ? engine->tcg_cache_mib : 0);
}

/* ---- the VM's thread ---- */

static void drain_console(struct vm *vm)
{
	char bytes[4096];
	ssize_t n = recv(vm->console, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		fd_close(&vm->console);
		return;
	}
	pthread_mutex_lock(&vm->lock);
	for (ssize_t i = 0; i < n; i++)
		vm->ring[vm->ring_total++ % CONSOLE_SIZE] = bytes[i];
	pthread_mutex_unlock(&vm->lock);
}

static void explain(struct vm *vm, const struct launcher_exit *status, bool lost)
{
	struct vm_exit *e = &vm->exit;
	char reason[32] = "";

	pthread_mutex_lock(&vm->control);
	qmp_shutdown_reason(vm->qmp, reason);
	pthread_mutex_unlock(&vm->control);

	pthread_mutex_lock(&vm->lock);
	if (lost) {
		e->end = VM_END_LAUNCHER_LOST;
		snprintf(e->message, sizeof(e->message), "the launcher ended, and with it every VM");
	} else if (vm->killed_why[0]) {
		e->end = VM_END_KILLED;
		snprintf(e->message, sizeof(e->message), "%s", vm->killed_why);
	} else if (status->oom) {
		e->end = VM_END_OOM;
		snprintf(e->message, sizeof(e->message), "the VM process went over its memory limit");
	} else if (status->code == 0) {
		e->end = VM_END_GUEST_SHUTDOWN;
		snprintf(e->message, sizeof(e->message), "the guest shut down%s%s", reason[0] ? ": " : "", reason);
	} else {
		e->end = VM_END_CRASHED;
		snprintf(e->message, sizeof(e->message), "the VM process ended unexpectedly (%s %d)",
			 status->signal ? "signal" : "exit code", status->signal ? status->signal : status->code);
	}
	vm->has_ended = true;
	pthread_mutex_unlock(&vm->lock);
}

static void *watcher(void *context)
{
	struct vm *vm = context;
	struct launcher_exit status = { 0 };
	ssize_t got;

	for (;;) {
		struct pollfd pollers[2] = {
			{ .fd = vm->status, .events = POLLIN },
			{ .fd = vm->console, .events = POLLIN },
		};
		if (poll(pollers, 2, -1) < 0)
			continue;
		if (pollers[1].revents)
			drain_console(vm);
		if (!pollers[0].revents)
			continue;
		got = recv(vm->status, &status, sizeof(status), 0);
		if (got < 0 && errno == ENOTSOCK)
			got = read(vm->status, &status, sizeof(status));
		if (got >= 0 || errno != EINTR)
			break;
	}
	/* Its last words, up to the end of file. */
	for (int i = 0; i < 16 && vm->console >= 0; i++)
		drain_console(vm);
	explain(vm, &status, got != sizeof(status));
	link_kill(vm->link, vm->exit.message);
	if (vm->ended)
		vm->ended(vm, vm->context);
	pthread_mutex_lock(&vm->lock);
	vm->told = true;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	vm_put(vm); /* the thread's own reference */
	return NULL;
}

/* ---- start ---- */

struct channels {
	int ours[3], theirs[3]; /* QMP, agent, console */
};

static void channels_close(struct channels *c)
{
	for (int i = 0; i < 3; i++) {
		fd_close(&c->ours[i]);
		fd_close(&c->theirs[i]);
	}
}

static int channels_open(struct channels *c, struct error *err)
{
	*c = (struct channels){ { -1, -1, -1 }, { -1, -1, -1 } };
	for (int i = 0; i < 3; i++) {
		int pair[2];
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
			return error_errno(err, errno, "no socket for a VM");
		c->ours[i] = pair[0];
		c->theirs[i] = pair[1];
	}
	return 0;
}

static void add_file(struct launcher_vm *l, const char *name, int fd, bool writable)
{
	if (fd >= 0)
		l->files[l->file_count++] = (struct launcher_file){ .fd = fd, .name = name, .writable = writable };
}

static int launch(const struct engine *engine, const struct vm_spec *spec, const struct channels *c, struct vm *vm,
		  struct error *err)
{
	struct qemu_args *args = malloc(sizeof(*args));
	if (!args)
		return error_set(err, ENOMEM, "no memory to start a VM");
	qemu_arguments(engine, spec, args);
	if (args->failed) {
		free(args);
		return error_set(err, E2BIG, "the VM's command line is too long");
	}

	uint64_t ram = (uint64_t)spec->memory_mib << 20, saved_more = ram / 64 + (64 << 20);
	struct launcher_vm l = {
		.id = spec->id,
		.args = args->args,
		.fds = { c->theirs[0], c->theirs[1], c->theirs[2] },
		.fd_count = 3,
		.slot = spec->slot,
		.cpu_quarters = spec->cpu_units,
		.memory_bytes = ram + ((uint64_t)engine_overhead_mib(engine) << 20),
		/* A saved state has all of the RAM, a header for each page, and the devices. */
		.file_bytes_max = spec->scratch_bytes > ram + saved_more ? spec->scratch_bytes : ram + saved_more,
	};
	add_file(&l, "kernel", spec->kernel, false);
	add_file(&l, "initramfs", spec->initramfs, false);
	add_file(&l, "base", spec->base, false);
	add_file(&l, "scratch", spec->scratch, true);
	add_file(&l, "ram", spec->ram, spec->ram_shared);
	int r = launcher_vm_start(engine->launcher, &l, &vm->status, &vm->pid, err);
	free(args);
	return r;
}

static json_t *capability(const char *name)
{
	return json_pack("{s:s, s:b}", "capability", name, "state", 1);
}

/* RAM that is a shared file stays out of the stream; both ends must say so alike. */
static int prepare_migration(struct vm *vm, struct error *err)
{
	int r = qmp_command(vm->qmp, "migrate-set-capabilities",
			    json_pack("{s:[o]}", "capabilities", capability("x-ignore-shared")), -1, COMMAND_MS, NULL,
			    err);
	if (r < 0)
		return r;
	return qmp_command(vm->qmp, "migrate-set-parameters", json_pack("{s:I}", "max-bandwidth", (json_int_t)1 << 40),
			   -1, COMMAND_MS, NULL, err);
}

static int migration_status(struct vm *vm, char status[32], struct error *err)
{
	json_t *answer = NULL;
	int r = qmp_command(vm->qmp, "query-migrate", NULL, -1, COMMAND_MS, &answer, err);
	const char *words = json_string_value(json_object_get(answer, "status"));

	if (r == 0 && (!words || str_copy(status, 32, words) < 0))
		status[0] = '\0';
	json_decref(answer);
	return r;
}

/* Migration ends by itself; the state is asked for at growing distance, from 1 ms, because events can be lost. */
static int await_migration(struct vm *vm, int timeout_ms, struct error *err)
{
	int64_t deadline = time_mono_ms() + timeout_ms;
	unsigned int pause_us = 500;
	char status[32];

	for (;;) {
		int r = migration_status(vm, status, err);
		if (r < 0)
			return r;
		if (strcmp(status, "completed") == 0)
			return 0;
		if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0)
			return error_set(err, EIO, "the VM's state could not be moved (%s)", status);
		if (time_left_ms(deadline) == 0)
			return error_set(err, ETIMEDOUT, "the VM's state was not moved within %d ms", timeout_ms);
		usleep(pause_us);
		if (pause_us < 20000)
			pause_us += pause_us / 2;
	}
}

static int pass_fd(struct vm *vm, int fd, const char *name, struct error *err)
{
	return qmp_command(vm->qmp, "getfd", json_pack("{s:s}", "fdname", name), fd, COMMAND_MS, NULL, err);
}

static int load(struct vm *vm, int state, struct error *err)
{
	if (lseek(state, 0, SEEK_SET) < 0)
		return error_errno(err, errno, "rewind the VM's state");
	int r = prepare_migration(vm, err);
	if (r == 0)
		r = pass_fd(vm, state, "state", err);
	if (r == 0)
		r = qmp_command(vm->qmp, "migrate-incoming", json_pack("{s:s}", "uri", "fd:state"), -1, COMMAND_MS,
				NULL, err);
	if (r == 0)
		r = await_migration(vm, LOAD_MS, err);
	return r;
}

/* What the guest may ask of its disk. A second's worth may come at once. Not part of a saved state. */
static int limit_io(struct vm *vm, const struct engine *engine, struct error *err)
{
	if (!engine->io_bytes_per_s && !engine->io_ops_per_s)
		return 0;
	json_t *limits = json_pack("{s:s, s:I, s:i, s:i, s:I, s:i, s:i}", "id", "disk1", "bps",
				   (json_int_t)engine->io_bytes_per_s, "bps_rd", 0, "bps_wr", 0, "iops",
				   (json_int_t)engine->io_ops_per_s, "iops_rd", 0, "iops_wr", 0);
	return qmp_command(vm->qmp, "block_set_io_throttle", limits, -1, COMMAND_MS, NULL, err);
}

static void vm_free(struct vm *vm)
{
	link_put(vm->link);
	qmp_free(vm->qmp);
	fd_close(&vm->console);
	fd_close(&vm->status);
	pthread_mutex_destroy(&vm->control);
	pthread_mutex_destroy(&vm->lock);
	pthread_cond_destroy(&vm->changed);
	free(vm);
}

static struct vm *vm_new(const struct engine *engine, const struct vm_spec *spec)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	if (!vm)
		return NULL;
	vm->launcher = engine->launcher;
	vm->console = vm->status = -1;
	vm->shared_ram = spec->ram_shared;
	atomic_init(&vm->references, 1);
	snprintf(vm->id, sizeof(vm->id), "%s", spec->id);
	pthread_mutex_init(&vm->control, NULL);
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	return vm;
}

/* After the process exists every failure must also end it, and must wait for its jail to be gone. */
static void abandon(struct vm *vm)
{
	struct launcher_exit status;

	(void)launcher_vm_kill(vm->launcher, vm->id, NULL);
	struct pollfd poller = { .fd = vm->status, .events = POLLIN };
	if (vm->status >= 0 && poll(&poller, 1, 5000) > 0)
		(void)!read(vm->status, &status, sizeof(status));
}

static int connect_channels(struct vm *vm, const struct vm_spec *spec, struct channels *c, struct error *err)
{
	vm->console = fd_steal(&c->ours[2]);
	int r = qmp_open(fd_steal(&c->ours[0]), START_MS, &vm->qmp, err);
	if (r < 0)
		return r;
	return link_new(fd_steal(&c->ours[1]), spec->first_stream ? spec->first_stream : 1, &vm->link, err);
}

int vm_start(const struct engine *engine, const struct vm_spec *spec, void (*ended)(struct vm *vm, void *context),
	     void *context, struct vm **out, struct error *err)
{
	struct vm *vm = vm_new(engine, spec);
	if (!vm)
		return error_set(err, ENOMEM, "no memory for a VM");
	vm->ended = ended;
	vm->context = context;

	struct channels c;
	int r = channels_open(&c, err);
	if (r == 0)
		r = launch(engine, spec, &c, vm, err);
	if (r < 0) {
		channels_close(&c);
		vm_free(vm);
		return r;
	}
	for (int i = 0; i < 3; i++)
		fd_close(&c.theirs[i]);
	if (spec->meanwhile)
		r = spec->meanwhile(spec->meanwhile_context, err);
	if (r == 0)
		r = connect_channels(vm, spec, &c, err);
	channels_close(&c);
	if (r == 0)
		r = limit_io(vm, engine, err);
	if (r == 0 && spec->state >= 0)
		r = load(vm, spec->state, err);
	if (r == 0) {
		vm_get(vm); /* the thread's */
		r = -pthread_create(&vm->thread, NULL, watcher, vm);
		if (r < 0)
			error_errno(err, -r, "no thread for a VM");
		else
			pthread_detach(vm->thread);
	}
	if (r < 0) {
		abandon(vm);
		vm_free(vm);
		return r;
	}
	*out = vm;
	return 0;
}

struct vm *vm_get(struct vm *vm)
{
	atomic_fetch_add(&vm->references, 1);
	return vm;
}

void vm_put(struct vm *vm)
{
	if (vm && atomic_fetch_sub(&vm->references, 1) == 1)
		vm_free(vm);
}

/* ---- use ---- */

struct link *vm_link(struct vm *vm)
{
	return vm->link;
}

pid_t vm_pid(const struct vm *vm)
{
	return vm->pid;
}

const char *vm_id(const struct vm *vm)
{
	return vm->id;
}

static int simple(struct vm *vm, const char *command, bool halted, struct error *err)
{
	pthread_mutex_lock(&vm->control);
	vm->halted = halted;
	int r = qmp_command(vm->qmp, command, NULL, -1, COMMAND_MS, NULL, err);
	pthread_mutex_unlock(&vm->control);
	return r;
}

int vm_run(struct vm *vm, struct error *err)
{
	return simple(vm, "cont", false, err);
}

int vm_stop(struct vm *vm, struct error *err)
{
	return simple(vm, "stop", true, err);
}

bool vm_unstall(struct vm *vm)
{
	json_t *answer = NULL;

	if (pthread_mutex_trylock(&vm->control) != 0)
		return false;
	bool stalled = false;
	if (!vm->halted && qmp_command(vm->qmp, "query-status", NULL, -1, COMMAND_MS, &answer, NULL) == 0) {
		const char *status = json_string_value(json_object_get(answer, "status"));
		stalled = status && strcmp(status, "io-error") == 0;
	}
	json_decref(answer);
	if (stalled)
		stalled = qmp_command(vm->qmp, "cont", NULL, -1, COMMAND_MS, NULL, NULL) == 0;
	pthread_mutex_unlock(&vm->control);
	return stalled;
}

int vm_resize_scratch(struct vm *vm, uint64_t bytes, struct error *err)
{
	pthread_mutex_lock(&vm->control);
	int r = qmp_command(vm->qmp, "block_resize",
			    json_pack("{s:s, s:I}", "node-name", "scratch", "size", (json_int_t)bytes), -1, COMMAND_MS,
			    NULL, err);
	pthread_mutex_unlock(&vm->control);
	return r;
}

int vm_save(struct vm *vm, int fd, int timeout_ms, struct error *err)
{
	pthread_mutex_lock(&vm->control);
	int r = prepare_migration(vm, err);
	if (r == 0)
		r = pass_fd(vm, fd, "state", err);
	if (r == 0)
		r = qmp_command(vm->qmp, "migrate", json_pack("{s:s}", "uri", "fd:state"), -1, COMMAND_MS, NULL, err);
	if (r == 0) {
		r = await_migration(vm, timeout_ms, err);
		/* Else it would go on into a file that nobody wants, while the guest runs again. */
		if (r < 0)
			(void)qmp_command(vm->qmp, "migrate_cancel", NULL, -1, COMMAND_MS, NULL, NULL);
	}
	pthread_mutex_unlock(&vm->control);
	return r;
}

/*
 * The target is not flushed when QEMU closes it: that would hold the whole VM up for as long as the disk takes, and
 * whoever asked for the copy syncs it. Ranges are copied by the kernel, 16 MiB at a time: without x-perf QEMU goes through
 * all of a sparse disk in steps of 1 MiB, in the thread that also serves the guest.
 */
int vm_backup_begin(struct vm *vm, int fd, struct error *err)
{
	pthread_mutex_lock(&vm->control);
	json_t *set = NULL;
	int r = qmp_command(vm->qmp, "add-fd", json_pack("{s:i}", "fdset-id", 9), fd, COMMAND_MS, &set, err);
	json_decref(set);
	if (r == 0)
		r = qmp_command(vm->qmp, "blockdev-add",
				json_pack("{s:s, s:s, s:s, s:s, s:s, s:{s:b}}", "driver", "file", "node-name", "backup",
					  "filename", "/dev/fdset/9", "discard", "unmap", "aio", "threads", "cache",
					  "no-flush", 1),
				-1, COMMAND_MS, NULL, err);
	if (r == 0)
		r = qmp_command(vm->qmp, "blockdev-backup",
				json_pack("{s:s, s:s, s:s, s:s, s:b, s:{s:b}}", "job-id", "backup", "device", "scratch",
					  "target", "backup", "sync", "full", "auto-dismiss", 0, "x-perf",
					  "use-copy-range", 1),
				-1, COMMAND_MS, NULL, err);
	if (r < 0) {
		qmp_command(vm->qmp, "blockdev-del", json_pack("{s:s}", "node-name", "backup"), -1, COMMAND_MS, NULL,
			    NULL);
		qmp_command(vm->qmp, "remove-fd", json_pack("{s:i}", "fdset-id", 9), -1, COMMAND_MS, NULL, NULL);
	}
	pthread_mutex_unlock(&vm->control);
	return r;
}

static int backup_state(struct vm *vm, bool *done, struct error *err)
{
	json_t *jobs = NULL;
	int r = qmp_command(vm->qmp, "query-jobs", NULL, -1, COMMAND_MS, &jobs, err);
	json_t *job = json_array_get(jobs, 0);
	const char *status = json_string_value(json_object_get(job, "status"));
	const char *failure = json_string_value(json_object_get(job, "error"));

	*done = false;
	if (r == 0 && !status) {
		r = error_set(err, EIO, "the copy of the disk was lost");
	} else if (r == 0 && (strcmp(status, "concluded") == 0 || strcmp(status, "aborting") == 0)) {
		*done = true;
		if (failure)
			r = error_set(err, strstr(failure, "No space") ? ENOSPC : EIO,
				      "the copy of the disk failed: %.200s", failure);
	}
	json_decref(jobs);
	return r;
}

int vm_backup_wait(struct vm *vm, int timeout_ms, struct error *err)
{
	int64_t deadline = time_mono_ms() + timeout_ms;
	bool done = false;
	int r = 0;

	while (!done && r == 0) {
		pthread_mutex_lock(&vm->control);
		r = backup_state(vm, &done, err);
		pthread_mutex_unlock(&vm->control);
		if (done || r < 0)
			break;
		if (time_left_ms(deadline) == 0)
			r = error_set(err, ETIMEDOUT, "the copy of the disk took longer than %d ms", timeout_ms);
		else
			usleep(5000);
	}
	pthread_mutex_lock(&vm->control);
	if (!done)
		qmp_command(vm->qmp, "job-cancel", json_pack("{s:s}", "id", "backup"), -1, COMMAND_MS, NULL, NULL);
	for (int i = 0; i < 200; i++) {
		if (qmp_command(vm->qmp, "job-dismiss", json_pack("{s:s}", "id", "backup"), -1, COMMAND_MS, NULL,
				NULL) != -EREMOTEIO)
			break;
		usleep(10000); /* a cancelled job concludes a moment later */
	}
	qmp_command(vm->qmp, "blockdev-del", json_pack("{s:s}", "node-name", "backup"), -1, COMMAND_MS, NULL, NULL);
	qmp_command(vm->qmp, "remove-fd", json_pack("{s:i}", "fdset-id", 9), -1, COMMAND_MS, NULL, NULL);
	pthread_mutex_unlock(&vm->control);
	return r;
}

void vm_kill(struct vm *vm, const char *why)
{
	pthread_mutex_lock(&vm->lock);
	bool ended = vm->has_ended;
	if (!ended && !vm->killed_why[0])
		snprintf(vm->killed_why, sizeof(vm->killed_why), "%s", why);
	pthread_mutex_unlock(&vm->lock);
	if (!ended)
		(void)launcher_vm_kill(vm->launcher, vm->id, NULL);
}

int vm_wait(struct vm *vm, int timeout_ms)
{
	int64_t deadline = time_mono_ms() + timeout_ms;
	int waited = 0;

	pthread_mutex_lock(&vm->lock);
	/* Whoever has waited may free what `ended` works on. */
	while (!vm->told && waited == 0)
		waited = cond_wait_until(&vm->changed, &vm->lock, deadline);
	bool ended = vm->told;
	pthread_mutex_unlock(&vm->lock);
	return ended ? 0 : -ETIMEDOUT;
}

bool vm_has_ended(struct vm *vm, struct vm_exit *exit)
{
	pthread_mutex_lock(&vm->lock);
	bool ended = vm->has_ended;
	if (ended && exit)
		*exit = vm->exit;
	pthread_mutex_unlock(&vm->lock);
	return ended;
}

size_t vm_console(struct vm *vm, char *to, size_t room)
{
	pthread_mutex_lock(&vm->lock);
	uint64_t have = vm->ring_total < CONSOLE_SIZE ? vm->ring_total : CONSOLE_SIZE;
	size_t size = have < room ? (size_t)have : room;
	for (size_t i = 0; i < size; i++)
		to[i] = vm->ring[(vm->ring_total - size + i) % CONSOLE_SIZE];
	pthread_mutex_unlock(&vm->lock);
	return size;
}

int vm_stats(struct vm *vm, struct launcher_stats *stats, struct error *err)
{
	return launcher_vm_stats(vm->launcher, vm->id, stats, err);
}
