/*
 * The VM processes of this launcher: started, limited, watched, cleaned away. One thread. Each VM holds a uid, a
 * cgroup, a pidfd, the pipe of its output, its writable files (handed back to akirad's user at the end) and the
 * status pipe on which akirad waits.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "launch/cgroup.h"
#include "launch/jail.h"
#include "launch/uids.h"
#include "proto/launch.h"

#define VM_TAIL 512 /* bytes of output kept for the log line of the end */

struct vm {
	char id[LAUNCH_ID_SIZE];
	char group[LAUNCH_ID_SIZE + 16]; /* the cgroup's name: id and uid, so that a slow removal is in nobody's way */
	uint32_t index;
	uid_t uid;
	pid_t pid;
	int pidfd, output, status;
	struct cgroup cgroup;
	int files[LAUNCH_FILES]; /* writable ones */
	uint32_t file_count;
	bool ended;        /* reaped; its cgroup may still want removing */
	uint32_t removals; /* attempts so far */
	int32_t code, signal;
	uint32_t lines; /* of output, logged in this window */
	int64_t window;
	char line[256], tail[VM_TAIL];
	uint32_t line_size, tail_size;
};

struct vms {
	struct jail_host host;
	struct cgroup_host cgroups;
	struct uids uids;
	struct vm **vm;     /* by index; NULL: free */
	uint32_t room, top; /* top: none is used from here on */
	int epoll;
	uid_t user;
	gid_t group;
	dev_t device; /* of data_dir */
};

/* What an event of vms->epoll is about: (kind << 32) + index. */
enum vm_event { VM_EVENT_OTHER, VM_EVENT_EXIT, VM_EVENT_OUTPUT };

int vms_init(struct vms *vms, const struct launch_config *config, const char *tag, uint32_t *swept, struct error *err);
/* Kill all, wait for their ends (bound: 5 s), remove the cgroups. */
void vms_end(struct vms *vms);

/* fds: files first, then the VM's; they stay the caller's. tap: or -1. *status is the caller's. */
int vm_start(struct vms *vms, const char *id, const struct launch_vm *request, const int *fds, int tap, int *status,
	     uint32_t *pid, struct error *err);
int vm_kill(struct vms *vms, const char *id);
int vm_limits(struct vms *vms, const char *id, uint32_t cpu_quarters, uint64_t memory_bytes, struct error *err);
int vm_stats(struct vms *vms, const char *id, struct launch_stats *stats, struct error *err);
void vm_event(struct vms *vms, enum vm_event kind, uint32_t index);
/* Tries again what could not be removed. Returns how many VMs are waiting for it. */
uint32_t vms_tick(struct vms *vms);
