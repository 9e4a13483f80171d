#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "launch/vm.h"

#define END_MS 5000
#define MOUNTINFO_MAX (16u << 20)
#define SHIM_NAME "libakira-shim.so"

/* Beside the program (a build tree), then where it is installed; AKIRA_SHIM, set by root alone, goes before both. */
static int find_shim(char *path, size_t size, struct error *err)
{
	const char *set = getenv("AKIRA_SHIM");
	char self[LAUNCH_PATH_SIZE];
	ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
	if (set) {
		if ((size_t)snprintf(path, size, "%s", set) < size && access(path, R_OK) == 0)
			return 0;
		return error_set(err, ENOENT, "AKIRA_SHIM=%s cannot be read", set);
	}
	if (length > 0) {
		self[length] = 0;
		*strrchr(self, '/') = 0;
		if ((size_t)snprintf(path, size, "%s/" SHIM_NAME, self) < size && access(path, R_OK) == 0)
			return 0;
	}
	if ((size_t)snprintf(path, size, "%s/" SHIM_NAME, AKIRA_LIBDIR) < size && access(path, R_OK) == 0)
		return 0;
	return error_set(err, ENOENT, SHIM_NAME " is neither beside akira-launch nor in %s", AKIRA_LIBDIR);
}

static int make_tree(struct vms *vms, const struct launch_config *config, struct error *err)
{
	char shim[LAUNCH_PATH_SIZE];
	struct filter run = { 0 };
	int r = find_shim(shim, sizeof shim, err);
	r = r < 0 ? r : filter_build(FILTER_START, &vms->host.filter, err);
	r = r < 0 ? r : filter_build(FILTER_RUN, &run, err);
	struct tree_config tree = {
		.program = config->qemu,
		.shim = shim,
		.run_dir = config->run_dir,
		.kvm = config->kvm,
		.filter = run.code,
		.filter_size = run.size,
	};
	r = r < 0 ? r : tree_make(&tree, &vms->host.tree, err);
	filter_free(&run);
	return r;
}

static int open_cgroups(struct vms *vms, const struct launch_config *config, const char *tag, uint32_t *swept,
			struct error *err)
{
	char name[32];
	_cleanup_free_ char *mounts = NULL, *self = NULL;
	size_t size;
	snprintf(name, sizeof name, "akira-%s", tag);
	vms->cgroups.kvm = config->kvm;
	vms->cgroups.io_bytes = config->io_bytes;
	vms->cgroups.io_ops = config->io_ops;
	int r = fd_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &mounts, &size, err);
	r = r < 0 ? r : fd_read_file(AT_FDCWD, "/proc/self/cgroup", MOUNTINFO_MAX, &self, &size, err);
	vms->cgroups.self = self;
	r = r < 0 ? r : cgroup_host_open(&vms->cgroups, mounts, name, err);
	vms->cgroups.self = NULL;
	if (r == 0)
		*swept += cgroup_sweep(&vms->cgroups);
	return r;
}

int vms_init(struct vms *vms, const struct launch_config *config, const char *tag, uint32_t *swept, struct error *err)
{
	static char program[LAUNCH_PATH_SIZE];
	struct stat st;
	memcpy(program, config->qemu, sizeof program);
	vms->host.program = program;
	vms->host.cgroups = &vms->cgroups;
	vms->user = config->user;
	vms->group = config->group;
	if (config->user - config->vm_uid_first < config->vm_uid_count)
		return error_set(err, EINVAL, "akirad's uid %u is inside the range of the VMs", config->user);
	if (stat(config->data_dir, &st) < 0)
		return error_errno(err, errno, "%s", config->data_dir);
	vms->device = st.st_dev;
	int r = uids_init(&vms->uids, config->vm_uid_first, config->vm_uid_count, err);
	vms->vm = r < 0 ? NULL : calloc(config->vm_uid_count, sizeof(struct vm *));
	vms->room = vms->vm ? config->vm_uid_count : 0;
	if (r == 0 && !vms->vm)
		r = error_set(err, ENOMEM, "no memory for the table of VMs");
	r = r < 0 ? r : open_cgroups(vms, config, tag, swept, err);
	r = r < 0 ? r : make_tree(vms, config, err);
	return r < 0 ? r : jail_host_init(&vms->host, err);
}

static uint32_t kill_all(struct vms *vms)
{
	uint32_t left = 0;
	for (uint32_t i = 0; i < vms->top; i++) {
		if (!vms->vm[i])
			continue;
		left++;
		if (!vms->vm[i]->ended)
			vm_kill(vms, vms->vm[i]->id);
	}
	return left;
}

void vms_end(struct vms *vms)
{
	int64_t deadline = time_mono_ms() + END_MS;
	while (kill_all(vms) && time_mono_ms() < deadline) {
		struct epoll_event events[16];
		int count = epoll_wait(vms->epoll, events, 16, 20);
		for (int i = 0; i < count; i++)
			vm_event(vms, (enum vm_event)(events[i].data.u64 >> 32), (uint32_t)events[i].data.u64);
		vms_tick(vms);
	}
	cgroup_host_end(&vms->cgroups);
	filter_free(&vms->host.filter);
	uids_end(&vms->uids);
	free(vms->vm);
	vms->vm = NULL;
	vms->room = 0;
}
