/*
 * akirad's settings: an INI file, then the environment (AKIRA_SECTION_KEY), then flags (--section-key=value); the last
 * one wins. One table names every setting with its bounds and its meaning; --help and the messages come from it.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/error.h"

#define CONFIG_TEXT 512
#define CONFIG_LIST 16

struct config {
	/* server */
	char listen[CONFIG_TEXT], metrics_listen[CONFIG_TEXT];
	char tls_cert[CONFIG_TEXT], tls_key[CONFIG_TEXT];
	char trusted_proxies[CONFIG_TEXT], cors_origins[CONFIG_TEXT];
	uint64_t connections_max, per_address_max;
	/* paths */
	char data_dir[CONFIG_TEXT], cache_dir[CONFIG_TEXT], run_dir[CONFIG_TEXT], libexec_dir[CONFIG_TEXT],
		qemu[CONFIG_TEXT];
	/* engine */
	char acceleration[16];
	uint64_t tcg_cache_mib;
	/* user */
	char user[64], group[64];
	uint64_t vm_uid_first, vm_uid_count;
	/* pool */
	uint64_t pool_size;
	char pool_image[CONFIG_TEXT];
	/* limits */
	uint64_t io_mib_per_s, io_ops_per_s;
	uint64_t memory_reserve_mib, disk_reserve_mib, template_budget_mib;
	/* network */
	char uplink[32], net_base[32], upstreams[CONFIG_TEXT];
	/* audit */
	uint64_t audit_retention_days;
	char audit_file[CONFIG_TEXT];
	/* log */
	char log_format[8], log_level[8];

	bool check_only; /* --check-config */
	char file[CONFIG_TEXT];
	/* Out of the texts above, by config_check. */
	char address[64], metrics_address[64];
	uint16_t port, metrics_port;
	uint32_t net_base_address;
	uid_t uid;
	gid_t gid;
};

/*
 * Reads everything; argv without a leading "admin". -EINVAL: err names section, key and bound. 1: help or version was
 * asked for and printed.
 */
int config_load(struct config *config, int argc, char **argv, struct error *err);
void config_help(FILE *to);
/* The comma-separated list cut in place: at most CONFIG_LIST parts. Returns how many. */
size_t config_split(char *text, const char *parts[CONFIG_LIST]);
/* "ADDRESS:PORT", "[ADDRESS]:PORT". */
int config_listen(const char *text, char address[64], uint16_t *port);
