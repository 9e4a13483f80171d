/*
 * akira-init: PID 1 of the guest. What its parts share.
 *
 * Theory of operation. The agent lives in the initramfs, outside of the sandbox. SETUP starts the `anchor`, PID 1 of
 * a pid namespace with its own mounts (the overlay as root), and the agent then points its own "pid namespace of
 * children" there, so that each command is the agent's own child (it has a pidfd, no messages are needed) and yet
 * inside. A command is made by clone3 with CLONE_VM, CLONE_VFORK and CLONE_INTO_CGROUP: one system call, no copy of
 * anything. The bounding set of capabilities is reduced in the agent once; it bites at each exec.
 *
 * Between clone and exec the child shares the agent's memory inside the sandbox's pid namespace. Nothing there can
 * touch it: the agent is not dumpable and no process of the sandbox has CAP_SYS_PTRACE.
 *
 * One loop, one thread, edge-triggered: watches only note that something is ready; agent_pump does the work.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/cgroup.h"
#include "agent/loop.h"
#include "agent/queue.h"
#include "agent/session.h"

#define AGENT_ENV_MAX GUEST_PAYLOAD_MAX

struct job;

struct agent {
	struct loop loop;
	struct session session;
	struct watch port;
	bool port_readable, port_writable;
	bool connected; /* a host is at the other end of the port */
	uint8_t phase;  /* enum guest_phase */

	/* descriptors that live as long as the agent; -1 before they are there */
	int null;                   /* /dev/null */
	int proc;                   /* the outer /proc */
	int scratch;                /* the scratch file system's root */
	int root;                   /* the sandbox's root, O_PATH */
	int devpts;                 /* the sandbox's /dev/pts, O_PATH */
	int outer_pids, inner_pids; /* pid namespaces */
	struct watch anchor;        /* pidfd */
	pid_t anchor_pid;
	char base_device[16], scratch_device[16]; /* "vda" */

	/* PERSONALISE */
	char workdir[GUEST_PATH_MAX];
	char *env[REQUEST_LIST_MAX + 1];
	char *env_bytes; /* what env points to */

	/* the scratch file system is frozen, or about to be: nothing may be written from the loop */
	bool frozen;
	struct stream *freezing, *thawing; /* requests under way; freezing may be of a forgotten stream */
	bool thaw_wanted;                  /* as soon as the freezing is done */

	struct cgroup_pool cgroups;
	struct job *jobs; /* of commands and files */
	int64_t wake_at;  /* CLOCK_MONOTONIC, ms: pump then at the latest; 0: no such time */
	bool powering_off;
};

/* Something with a stream that may have work to do in each round. */
struct job {
	struct job *next;
	struct stream *stream;                            /* NULL when nobody listens any more */
	bool (*pump)(struct agent *a, struct job *job);   /* true if it did anything */
	void (*forget)(struct agent *a, struct job *job); /* the stream is gone: let go, undo, or run on in silence */
	void (*destroy)(struct job *job);                 /* free the memory */
	bool gone;
};

void job_add(struct agent *a, struct job *job, struct stream *stream);
/* Take it out; destroy is called later. The stream, if any, must have been ended by the caller. */
void job_remove(struct agent *a, struct job *job);

/* Last words on the console; the kernel then panics and the VM ends. */
void agent_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* A line on the console. */
void agent_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Make the kernel reset the machine, which ends the VM. */
void agent_power_off(struct agent *a) __attribute__((noreturn));
