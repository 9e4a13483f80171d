#include "launch/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "launch/vm_file.h"

#define OUTPUT_LINES 20 /* logged in each window */
#define OUTPUT_WINDOW_MS 10000
#define OUTPUT_PASS 8192 /* bytes taken at one event, so that one VM's chatter holds up nobody */

/* As the contract has it: src/daemon/launcher/launcher.h, struct launcher_exit. */
struct exit_message {
	int32_t code, signal;
	uint32_t oom, reserved;
};

static struct vm_file_rules rules_of(const struct vms *vms)
{
	return (struct vm_file_rules){ vms->user, vms->group, vms->device, &vms->uids };
}

/* An ended VM whose cgroup lingers no longer answers to its name. */
static struct vm *find(const struct vms *vms, const char *id)
{
	for (uint32_t i = 0; i < vms->top; i++)
		if (vms->vm[i] && !vms->vm[i]->ended && !strcmp(vms->vm[i]->id, id))
			return vms->vm[i];
	return NULL;
}

static int watch(struct vms *vms, const struct vm *vm, int fd, enum vm_event kind, struct error *err)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uint64_t)kind << 32 | vm->index };
	return epoll_ctl(vms->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? error_errno(err, errno, "epoll") : 0;
}

/* ---- output: what QEMU says goes to the log, escaped there and rationed here ---- */

static void log_line(struct vm *vm)
{
	int64_t now = time_mono_ms();
	if (now - vm->window >= OUTPUT_WINDOW_MS) {
		vm->window = now;
		vm->lines = 0;
	}
	vm->line[vm->line_size] = 0;
	if (vm->line_size && vm->lines < OUTPUT_LINES)
		log_info("vm_output", "vm", vm->id, "text", vm->line);
	else if (vm->line_size && vm->lines == OUTPUT_LINES)
		log_warn("vm_output_dropped", "vm", vm->id);
	vm->lines += vm->line_size > 0;
	vm->line_size = 0;
}

static void keep_tail(struct vm *vm, const char *data, size_t size)
{
	size_t keep = size < VM_TAIL ? size : VM_TAIL;
	size_t old = vm->tail_size < VM_TAIL - keep ? vm->tail_size : VM_TAIL - keep;
	memmove(vm->tail, vm->tail + vm->tail_size - old, old);
	memcpy(vm->tail + old, data + size - keep, keep);
	vm->tail_size = (uint32_t)(old + keep);
}

static void take_output(struct vms *vms, struct vm *vm)
{
	char data[1024];
	ssize_t got = 0;
	for (size_t taken = 0; taken < OUTPUT_PASS && (got = read(vm->output, data, sizeof data)) > 0;
	     taken += (size_t)got) {
		keep_tail(vm, data, (size_t)got);
		for (ssize_t i = 0; i < got; i++) {
			if (data[i] == '\n' || vm->line_size == sizeof vm->line - 1)
				log_line(vm);
			if (data[i] != '\n')
				vm->line[vm->line_size++] = data[i];
		}
	}
	if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
		log_line(vm);
		epoll_ctl(vms->epoll, EPOLL_CTL_DEL, vm->output, NULL);
		fd_close(&vm->output);
	}
}

/* ---- the end of a VM ---- */

static void release(struct vms *vms, struct vm *vm)
{
	struct vm_file_rules rules = rules_of(vms);
	for (uint32_t i = 0; i < vm->file_count; i++) {
		vm_file_return(&rules, vm->files[i], vm->uid);
		fd_close(&vm->files[i]);
	}
	fd_close(&vm->pidfd);
	fd_close(&vm->output);
	vm->file_count = 0;
	if (vm->uid)
		uids_give(&vms->uids, vm->uid);
	vm->uid = 0;
}

static void vm_free(struct vms *vms, struct vm *vm)
{
	release(vms, vm);
	fd_close(&vm->status);
	vms->vm[vm->index] = NULL;
	while (vms->top > 0 && !vms->vm[vms->top - 1])
		vms->top--;
	free(vm);
}

static void report(struct vm *vm, bool oom)
{
	struct exit_message message = { vm->code, vm->signal, oom, 0 };
	char tail[VM_TAIL + 1];
	memcpy(tail, vm->tail, vm->tail_size);
	tail[vm->tail_size] = 0;
	log_info("vm_ended", "vm", vm->id, "code", LOG_INT(vm->code), "signal", LOG_INT(vm->signal), "oom",
		 oom ? "yes" : "no", "why", vm->signal == SIGSYS ? "a system call that its filter forbids" : NULL,
		 "output", tail[0] ? tail : NULL);
	if (vm->status >= 0 && write(vm->status, &message, sizeof message) < 0 && errno != EPIPE)
		log_warn("vm_status_lost", "vm", vm->id);
}

/* True when everything of it is gone and told. */
static bool clean(struct vms *vms, struct vm *vm)
{
	struct cgroup_use use = { 0 };
	if (cgroup_usage(&vms->cgroups, &vm->cgroup, &use, NULL) < 0)
		use.oom_kills = 0;
	cgroup_kill(&vms->cgroups, &vm->cgroup);
	bool oom = use.oom_kills > 0 && vm->signal == SIGKILL;
	if (cgroup_remove(&vms->cgroups, vm->group, &vm->cgroup) < 0) {
		if (++vm->removals == 100)
			log_error("vm_cgroup_stuck", "vm", vm->id, "group", vm->group);
		return false;
	}
	if (vm->output >= 0)
		take_output(vms, vm);
	release(vms, vm); /* before the report: who waits for it may use the files at once */
	report(vm, oom);
	vm_free(vms, vm);
	return true;
}

static void reap(struct vms *vms, struct vm *vm)
{
	siginfo_t info = { 0 };
	if (vm->ended || waitid(P_PIDFD, (id_t)vm->pidfd, &info, WEXITED | WNOHANG) < 0 || !info.si_pid)
		return;
	vm->ended = true;
	vm->code = info.si_code == CLD_EXITED ? info.si_status : -1;
	vm->signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
	epoll_ctl(vms->epoll, EPOLL_CTL_DEL, vm->pidfd, NULL);
	clean(vms, vm);
}

void vm_event(struct vms *vms, enum vm_event kind, uint32_t index)
{
	struct vm *vm = index < vms->room ? vms->vm[index] : NULL;
	if (vm && kind == VM_EVENT_EXIT)
		reap(vms, vm);
	else if (vm && kind == VM_EVENT_OUTPUT && vm->output >= 0)
		take_output(vms, vm);
}

uint32_t vms_tick(struct vms *vms)
{
	uint32_t waiting = 0;
	for (uint32_t i = 0; i < vms->top; i++)
		if (vms->vm[i] && vms->vm[i]->ended)
			waiting += !clean(vms, vms->vm[i]);
	return waiting;
}

/* ---- start ---- */

/* A place where tests make a start fail or the launcher die (base/fault.h). */
static int fault(const char *name, struct error *err)
{
	int r = FAULT(name);
	return r < 0 ? error_set(err, -r, "fault %s", name) : 0;
}

static struct vm *vm_new(struct vms *vms, const char *id, struct error *err)
{
	uint32_t index = 0;
	while (index < vms->room && vms->vm[index])
		index++;
	struct vm *vm = index < vms->room ? calloc(1, sizeof *vm) : NULL;
	if (!vm) {
		error_set(err, index < vms->room ? ENOMEM : EUSERS, "no room for another VM");
		return NULL;
	}
	vm->index = index;
	vm->pidfd = vm->output = vm->status = -1;
	for (int i = 0; i < CGROUP_KINDS; i++)
		vm->cgroup.dir[i] = -1;
	str_copy(vm->id, sizeof vm->id, id);
	vms->vm[index] = vm;
	vms->top = vms->top > index ? vms->top : index + 1;
	if (uids_take(&vms->uids, &vm->uid, err) == 0)
		return vm;
	vm_free(vms, vm);
	return NULL;
}

/* On every disk that its files lie on, and where akirad may give it more of them later. */
static int limit_io(struct vms *vms, const struct vm *vm, const struct launch_vm *request, const int *fds,
		    struct error *err)
{
	int r = cgroup_limit_io(&vms->cgroups, &vm->cgroup, vms->device, err);
	for (uint32_t i = 0; i < request->file_count && r == 0; i++) {
		struct stat st;
		if (fstat(fds[i], &st) < 0)
			return error_errno(err, errno, "file of a VM");
		r = st.st_dev == vms->device ? 0 : cgroup_limit_io(&vms->cgroups, &vm->cgroup, st.st_dev, err);
	}
	return r;
}

static int take_files(struct vms *vms, struct vm *vm, const struct launch_vm *request, const int *fds, int *mounts,
		      struct error *err)
{
	struct vm_file_rules rules = rules_of(vms);
	for (uint32_t i = 0; i < request->file_count; i++) {
		bool writable = request->files[i].writable;
		int r = vm_file_check(&rules, fds[i], writable, vm->uid, err);
		mounts[i] = r < 0 ? -1 : vm_file_mount(fds[i], writable, err);
		if (mounts[i] >= 0 && writable) {
			vm->files[vm->file_count] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
			if (vm->files[vm->file_count] < 0)
				return error_errno(err, errno, "file of a VM");
			vm->file_count++;
		}
		if (mounts[i] < 0)
			return error_prefix(err, "%s", request->files[i].name);
	}
	return 0;
}

static int run(struct vms *vms, struct vm *vm, const struct launch_vm *request, const int *fds, int tap, int *mounts,
	       struct error *err)
{
	int all[JAIL_FDS], ends[2];
	size_t count = 0;
	for (; count < request->fd_count; count++)
		all[count] = fds[request->file_count + count];
	if (tap >= 0)
		all[count++] = tap;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, errno, "pipe");
	vm->output = ends[0];
	fd_set_nonblock(vm->output, 1);
	struct jail jail = {
		.args = request->args,
		.uid = vm->uid,
		.cgroup = &vm->cgroup,
		.fds = all,
		.fd_count = count,
		.files = request->files,
		.mounts = mounts,
		.file_count = request->file_count,
		.output = ends[1],
		.file_bytes_max = request->file_bytes_max,
	};
	int r = jail_start(&vms->host, &jail, &vm->pid, &vm->pidfd, err);
	close(ends[1]);
	return r;
}

/* The VMs go before akirad when the host itself runs out of memory. */
static void prefer_for_oom(pid_t pid)
{
	char path[48];
	snprintf(path, sizeof path, "/proc/%d/oom_score_adj", pid);
	_cleanup_fd_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "500", 3) < 0)
		log_debug("oom_score_adj_not_set", "path", path);
}

static int supervise(struct vms *vms, struct vm *vm, int *status, struct error *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return error_errno(err, errno, "pipe");
	*status = ends[0];
	vm->status = ends[1];
	int r = watch(vms, vm, vm->output, VM_EVENT_OUTPUT, err);
	r = r < 0 ? r : watch(vms, vm, vm->pidfd, VM_EVENT_EXIT, err);
	if (r < 0)
		fd_close(status);
	return r;
}

/* After a failure nothing of it may be left; the process, if there is one, is waited for. */
static void undo(struct vms *vms, struct vm *vm)
{
	siginfo_t info;
	if (vm->pidfd >= 0) {
		kill(vm->pid, SIGKILL);
		waitid(P_PIDFD, (id_t)vm->pidfd, &info, WEXITED);
	}
	fd_close(&vm->pidfd);
	fd_close(&vm->status);
	vm->ended = true;
	if (cgroup_remove(&vms->cgroups, vm->group, &vm->cgroup) == 0)
		vm_free(vms, vm);
}

int vm_start(struct vms *vms, const char *id, const struct launch_vm *request, const int *fds, int tap, int *status,
	     uint32_t *pid, struct error *err)
{
	struct cgroup_limits limits = { request->memory_bytes, request->cpu_quarters, JAIL_PIDS };
	int mounts[LAUNCH_FILES];
	if (find(vms, id))
		return error_set(err, EEXIST, "VM %s is running", id);
	struct vm *vm = vm_new(vms, id, err);
	if (!vm)
		return -err->code;
	for (size_t i = 0; i < LAUNCH_FILES; i++)
		mounts[i] = -1;
	snprintf(vm->group, sizeof vm->group, "%s.%u", id, vm->uid);
	int r = cgroup_make(&vms->cgroups, vm->group, &limits, &vm->cgroup, err);
	r = r < 0 ? r : limit_io(vms, vm, request, fds, err);
	r = r < 0 ? r : fault("launch_cgroup", err);
	r = r < 0 ? r : take_files(vms, vm, request, fds, mounts, err);
	r = r < 0 ? r : fault("launch_files", err);
	r = r < 0 ? r : run(vms, vm, request, fds, tap, mounts, err);
	r = r < 0 ? r : fault("launch_run", err);
	r = r < 0 ? r : supervise(vms, vm, status, err);
	for (size_t i = 0; i < LAUNCH_FILES; i++)
		fd_close(&mounts[i]);
	if (r < 0) {
		undo(vms, vm);
		return r;
	}
	prefer_for_oom(vm->pid);
	*pid = (uint32_t)vm->pid;
	return 0;
}

int vm_kill(struct vms *vms, const char *id)
{
	struct vm *vm = find(vms, id);
	if (!vm)
		return 0;
	cgroup_kill(&vms->cgroups, &vm->cgroup);
	kill(vm->pid, SIGKILL); /* not reaped yet, so the number is still its own */
	return 0;
}

int vm_limits(struct vms *vms, const char *id, uint32_t cpu_quarters, uint64_t memory_bytes, struct error *err)
{
	struct cgroup_limits limits = { memory_bytes, cpu_quarters, JAIL_PIDS };
	struct vm *vm = find(vms, id);
	if (!vm)
		return error_set(err, ENOENT, "no VM %s", id);
	return cgroup_limit(&vms->cgroups, &vm->cgroup, &limits, err);
}

int vm_stats(struct vms *vms, const char *id, struct launch_stats *stats, struct error *err)
{
	struct cgroup_use use;
	struct vm *vm = find(vms, id);
	if (!vm)
		return error_set(err, ENOENT, "no VM %s", id);
	int r = cgroup_usage(&vms->cgroups, &vm->cgroup, &use, err);
	if (r == 0)
		*stats = (struct launch_stats){ use.cpu_us, use.memory_bytes, use.oom_kills, use.pids };
	return r;
}
