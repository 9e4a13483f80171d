/* The options by which run, sandbox create, restore and clone describe a sandbox, and the requests made of them. */
#pragma once

#include "cli/cli.h"

#define SHAPE_OPTIONS_SIZE                                                                   \
	{ "cpus", 0, "N", "vCPUs, in steps of 0.25 (1.5)." },                                \
		{ "memory", 'm', "SIZE", "Memory: MiB, or with a unit (512m, 2g)." },        \
	{                                                                                    \
		"storage", 0, "SIZE", "Size of the writable disk: GB, or with a unit (10g)." \
	}

#define SHAPE_OPTIONS_LIFE                                                                                          \
	{ "idle-timeout", 0, "S", "End the sandbox after S seconds without any call (0: never)." },                 \
		{ "on-idle", 0, "pause|terminate", "What happens then (terminate)." },                              \
		{ "network", 0, "allow|deny", "Outbound connections. Private addresses are blocked in any case." }, \
		{ "allow", 0, "CIDR|DOMAIN", "Reachable even with --network deny.", true },                         \
		{ "deny", 0, "CIDR|DOMAIN", "Not reachable.", true },                                               \
		{ "bandwidth", 0, "MBIT", "Megabits a second, each direction." },                                   \
	{                                                                                                           \
		"metadata", 0, "KEY=VALUE", "Kept with the sandbox.", true                                          \
	}

#define SHAPE_OPTIONS_ENV                                                                             \
	{                                                                                             \
		"env", 'e', "NAME[=VALUE]", "Environment variable; without VALUE, akira's own.", true \
	}

/* Whatever of image, name, env, cpus, memory, storage, network … was given, into *body (a new object). */
int shape_body(const struct cli *cli, bool storage_text, json_t **body, struct error *err);
/* {"NAME": "VALUE", …} of the option `env`; NULL in *env if there is none. */
int shape_env(const struct cli *cli, json_t **env, struct error *err);
/* The `network` object, NULL in *network if no option of it was given. */
int shape_network(const struct cli *cli, json_t **network, struct error *err);
/* A size with an optional unit (k, m, g, t, also KiB, Mi, GB …, all powers of 1024), in units of `unit` bytes, rounded up. */
int shape_size(const char *text, uint64_t unit_default, uint64_t unit, uint64_t *value);
