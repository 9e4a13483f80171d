/*
 * akirad's end of akira-launch, the one program of ours that stays root. Every call is one typed, bounded request
 * over a SOCK_SEQPACKET socketpair (api/launch-protocol.md) and blocks until it is answered (bound: 30 s, then
 * -ETIMEDOUT and the launcher counts as lost). Thread-safe. All descriptors received are O_CLOEXEC and the caller's.
 *
 * When akirad dies the launcher kills every VM, removes every slot and ends. When the launcher dies its VMs die with
 * it, every call gives -EPIPE, and launcher_gone() is true: akirad then ends with an error so that its supervisor
 * starts both again.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "proto/policy.h"

#define LAUNCHER_ID_MAX 64    /* [A-Za-z0-9_]{1,63} */
#define LAUNCHER_ARGS_MAX 128 /* of at most 2,048 bytes each, 32 KiB together */
#define LAUNCHER_FDS_MAX 6
#define LAUNCHER_FILES_MAX 6
#define LAUNCHER_NO_SLOT UINT32_MAX
#define LAUNCHER_SLOTS_MAX 4096 /* slots are 0..4095 */

struct launcher;

struct launcher_config {
	const char *program;  /* path of akira-launch */
	const char *qemu;     /* the one program a jail runs: /usr/bin/qemu-system-x86_64 */
	const char *run_dir;  /* root's own, for namespaces and jail roots: /run/akira */
	const char *data_dir; /* files passed for writing must lie on this file system, owned by user or a VM */
	uid_t user;           /* whom akirad becomes */
	gid_t group;
	uid_t vm_uid_first;    /* the range of uids (gids alike) for VMs, never used by anything else */
	uint32_t vm_uid_count; /* 1..65536 */
	const char *uplink;    /* interface that leads out; "" = that of the default route, if there is one */
	uint32_t net_base;     /* IPv4, host order: start of a /16 for the host's ends of the slots (10.231.0.0) */
	bool kvm;              /* a jail gets /dev/kvm */
	uint64_t io_bytes;     /* a second, of reads and of writes each, by the cgroup; 0: no limit; at most 2^40 */
	uint32_t io_ops;       /* requests, likewise; at most 10,000,000 */
};

/*
 * Start akira-launch: fork and exec, to be called as root before akirad drops its privileges. The launcher sweeps
 * what an earlier one left (processes, cgroups, namespaces, mounts, links, rules) before its first answer; *swept is
 * how many things that were.
 */
int launcher_spawn(const struct launcher_config *config, struct launcher **launcher, uint32_t *swept,
		   struct error *err);
/* Ends the launcher (which ends all VMs) and frees. NULL is fine. */
void launcher_free(struct launcher *launcher);
bool launcher_gone(const struct launcher *launcher);
/* A descriptor that polls readable (or hung up) when the launcher has ended; stays the launcher's. */
int launcher_watch_fd(const struct launcher *launcher);

/* ---- network slots: a namespace with a tap, a veth and its rules; deny-all until a policy is applied ---- */

struct launcher_net {
	uint32_t guest_address, gateway; /* IPv4, host order; the same in every slot */
	uint8_t prefix;
	uint16_t mtu;
	uint8_t mac[6];        /* the guest's, the same in every slot */
	uint32_t host_address; /* the slot's own address on the host's side */
	int dns_udp, dns_tcp;  /* bound to gateway:53 inside the slot; tcp is listening */
};

int launcher_net_make(struct launcher *launcher, uint32_t slot, struct launcher_net *net, struct error *err);
/* Replace the policy atomically; flows that it no longer allows are cut. Pins are dropped. */
int launcher_net_policy(struct launcher *launcher, uint32_t slot, const struct policy *policy, struct error *err);
/* Let the guest reach address for ttl seconds (1..86400). -EACCES for one that is always blocked. */
int launcher_net_pin(struct launcher *launcher, uint32_t slot, uint32_t address, uint32_t ttl, struct error *err);
int launcher_net_counters(struct launcher *launcher, uint32_t slot, struct policy_counters *counters,
			  struct error *err);
/* Back to a fresh slot: deny-all, no pins, no flows, counters zero. For a slot that serves the next sandbox. */
int launcher_net_reset(struct launcher *launcher, uint32_t slot, struct error *err);
int launcher_net_destroy(struct launcher *launcher, uint32_t slot, struct error *err);

/* ---- VM processes ---- */

struct launcher_file {
	int fd;           /* a regular file */
	const char *name; /* appears in the jail as /vm/NAME; [a-z0-9]{1,15} */
	bool writable;    /* then it is given to the VM's uid (group: akirad's, mode 0660) */
};

struct launcher_vm {
	const char *id;
	const char *const *args; /* without argv[0]; NULL-terminated */
	struct launcher_file files[LAUNCHER_FILES_MAX];
	size_t file_count;
	int fds[LAUNCHER_FDS_MAX]; /* become 3, 4, … in the VM process */
	size_t fd_count;
	uint32_t slot;           /* its tap becomes the next number after fds; or LAUNCHER_NO_SLOT */
	uint32_t cpu_quarters;   /* units of 0.25 vCPU, >= 1 */
	uint64_t memory_bytes;   /* of the whole VM process: guest's RAM and what the monitor needs */
	uint64_t file_bytes_max; /* RLIMIT_FSIZE */
};

struct launcher_exit {
	int32_t code;   /* exit code, or -1 */
	int32_t signal; /* or 0 */
	uint32_t oom;   /* 1 = its cgroup ran out of memory */
	uint32_t reserved;
};

/*
 * Start the VM process in its jail. On success *status is a descriptor on which one struct launcher_exit arrives when
 * the process has ended and everything of its jail is gone; end of file without one: the launcher was lost. *pid is
 * the process's id as the host sees it, for display and /proc reading only.
 */
int launcher_vm_start(struct launcher *launcher, const struct launcher_vm *vm, int *status, pid_t *pid,
		      struct error *err);
/* SIGKILL to the whole cgroup; returns at once (see *status for the end). Unknown id: 0. */
int launcher_vm_kill(struct launcher *launcher, const char *id, struct error *err);
/* After a pool's VM was claimed: its true name is the sandbox's, for the cgroup's limits and for doctor. */
int launcher_vm_limits(struct launcher *launcher, const char *id, uint32_t cpu_quarters, uint64_t memory_bytes,
		       struct error *err);

struct launcher_stats {
	uint64_t cpu_us;       /* since the start */
	uint64_t memory_bytes; /* charged to the cgroup */
	uint64_t oom_kills;
	uint32_t pids;
};
int launcher_vm_stats(struct launcher *launcher, const char *id, struct launcher_stats *stats, struct error *err);
