/*
 * Is this host fit for Akira, and how well does it isolate? Looks only, changes nothing that stays: what has to be
 * tried (KVM, namespaces, nftables, reflinks) is tried in a child process or an unnamed file. Used by `akira doctor`
 * and by akirad when it starts; needs no root, but then some facts are unknown and say so.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define DOCTOR_TEXT_MAX 320
#define DOCTOR_FACTS_MAX 96

enum doctor_status {
	DOCTOR_OK,
	DOCTOR_INFO, /* to know, nothing to do */
	DOCTOR_WARN, /* works, but weaker or slower than it should be */
	DOCTOR_FAIL, /* sandboxes cannot run */
	DOCTOR_STATUSES,
};

struct doctor_fact {
	const char *name; /* a literal: "kvm" */
	enum doctor_status status;
	char found[DOCTOR_TEXT_MAX];  /* printable ASCII or UTF-8; may hold what a file of the host says */
	char advice[DOCTOR_TEXT_MAX]; /* what to do; "" when there is nothing */
};

struct doctor_config {
	const char *root;      /* where /proc, /sys, /etc, … are read: "/" outside of tests */
	const char *state_dir; /* /var/lib/akira */
	const char *cache_dir; /* /var/cache/akira */
	uint16_t port;         /* akirad's, on 127.0.0.1 */
	bool looks_only;       /* no trials: nothing is run, forked or connected to */
};
#define DOCTOR_CONFIG_DEFAULT ((struct doctor_config){ "/", "/var/lib/akira", "/var/cache/akira", 8787, false })

/* All facts, in a fixed order; *facts is malloc'ed. Bound: 20 s. -ENOMEM, or -errno if config->root cannot be opened. */
int doctor_run(const struct doctor_config *config, struct doctor_fact **facts, size_t *count, struct error *err);

/*
 * For akirad's log at start: the facts that are DOCTOR_WARN or DOCTOR_FAIL, without those about akirad itself.
 * config NULL: the default. *facts is malloc'ed (NULL if there are none).
 */
int doctor_summary(const struct doctor_config *config, struct doctor_fact **facts, size_t *count, struct error *err);

/* "ok", "info", "warn", "FAIL". */
const char *doctor_status_name(enum doctor_status status);
/* The worst of them. */
enum doctor_status doctor_worst(const struct doctor_fact *facts, size_t count);

/*
 * The jail of one VM process, from outside: /proc of the process and its cgroup. `what` is a pid or (part of) a
 * sandbox's id, of which exactly one process must be found by its cgroup. Each layer is DOCTOR_OK or DOCTOR_FAIL;
 * io-limit is DOCTOR_WARN where the cgroup has none.
 * -ENOENT: no such process; -EEXIST: several; -EACCES: it takes root.
 */
int doctor_jail(const char *what, struct doctor_fact **facts, size_t *count, struct error *err);
