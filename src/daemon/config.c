#include "daemon/config.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <ini.h>
#include <pwd.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"

#define FILE_MAX 65536

enum kind { TEXT, NUMBER, CHOICE };

struct setting {
	const char *section, *key;
	enum kind kind;
	size_t offset, size;
	uint64_t min, max;   /* NUMBER */
	const char *choices; /* CHOICE: "a|b|c" */
	const char *standard;
	const char *help;
};

#define AT(field) offsetof(struct config, field), sizeof(((struct config *)0)->field)
#define TEXT_AT(section, key, field, standard, help)                      \
	{                                                                 \
		section, key, TEXT, AT(field), 0, 0, NULL, standard, help \
	}
#define NUMBER_AT(section, key, field, min, max, standard, help)                \
	{                                                                       \
		section, key, NUMBER, AT(field), min, max, NULL, standard, help \
	}
#define CHOICE_AT(section, key, field, choices, standard, help)                \
	{                                                                      \
		section, key, CHOICE, AT(field), 0, 0, choices, standard, help \
	}

static const struct setting settings[] = {
	TEXT_AT("server", "listen", listen, "127.0.0.1:8787", "address and port of the HTTP API"),
	TEXT_AT("server", "metrics_listen", metrics_listen, "",
		"address and port of /metrics; empty: none. It asks for no key"),
	TEXT_AT("server", "tls_cert", tls_cert, "",
		"PEM file; with tls_key the API speaks HTTPS (SIGHUP reads both again)"),
	TEXT_AT("server", "tls_key", tls_key, "", "PEM file"),
	TEXT_AT("server", "trusted_proxies", trusted_proxies, "", "addresses or CIDRs whose X-Forwarded-For counts"),
	TEXT_AT("server", "cors_origins", cors_origins, "", "exact origins of browsers that may call; empty: none"),
	NUMBER_AT("server", "connections_max", connections_max, 1, 65536, "1024", "open connections"),
	NUMBER_AT("server", "per_address_max", per_address_max, 1, 65536, "128", "open connections of one address"),
	TEXT_AT("paths", "data_dir", data_dir, "/var/lib/akira", "the store, disks, snapshots, templates"),
	TEXT_AT("paths", "cache_dir", cache_dir, "/var/cache/akira", "images and the guest's kernel"),
	TEXT_AT("paths", "run_dir", run_dir, "/run/akira", "root's own: jails and namespaces"),
	TEXT_AT("paths", "libexec_dir", libexec_dir, "", "akira-launch; empty: beside this program, or as installed"),
	TEXT_AT("paths", "qemu", qemu, "/usr/bin/qemu-system-x86_64", "the monitor"),
	CHOICE_AT("engine", "acceleration", acceleration, "auto|kvm|tcg", "auto",
		  "auto measures whether KVM is usable"),
	NUMBER_AT("engine", "tcg_cache_mib", tcg_cache_mib, 16, 1024, "64",
		  "code cache of one VM under software emulation"),
	TEXT_AT("user", "user", user, "akira", "whom akirad becomes"),
	TEXT_AT("user", "group", group, "", "and its group; empty: the user's"),
	NUMBER_AT("user", "vm_uid_first", vm_uid_first, 1000, 4294000000, "900000",
		  "first of the user ids for VMs, used by nothing else"),
	NUMBER_AT("user", "vm_uid_count", vm_uid_count, 1, 65536, "16384", "how many: the most VMs at one time"),
	NUMBER_AT("pool", "size", pool_size, 0, 64, "2", "VMs kept ready for each of the shapes in use"),
	TEXT_AT("pool", "image", pool_image, "", "image made ready at start; empty: on the first create"),
	NUMBER_AT("limits", "memory_reserve_mib", memory_reserve_mib, 0, 16777216, "1024",
		  "of the host's memory, never given away"),
	NUMBER_AT("limits", "disk_reserve_mib", disk_reserve_mib, 0, 1073741824, "2048",
		  "free disk below which creates fail (507)"),
	NUMBER_AT("limits", "template_budget_mib", template_budget_mib, 0, 1073741824, "8192", "disk for templates"),
	NUMBER_AT("limits", "io_mib_per_s", io_mib_per_s, 0, 1048576, "400",
		  "of one sandbox's disk, MiB a second; 0: no limit"),
	NUMBER_AT("limits", "io_ops_per_s", io_ops_per_s, 0, 10000000, "20000",
		  "requests a second to one sandbox's disk; 0: no limit"),
	TEXT_AT("network", "uplink", uplink, "", "interface that leads out; empty: that of the default route"),
	TEXT_AT("network", "net_base", net_base, "10.231.0.0", "start of a /16 for the sandboxes' host ends"),
	TEXT_AT("network", "upstreams", upstreams, "", "resolvers to ask, at most 3; empty: those of /etc/resolv.conf"),
	NUMBER_AT("audit", "retention_days", audit_retention_days, 0, 36500, "0", "older audit records go; 0: none"),
	TEXT_AT("audit", "file", audit_file, "", "a copy of the audit log, JSON lines; empty: none. It may be rotated"),
	CHOICE_AT("log", "format", log_format, "auto|json|text", "auto", "auto: text on a terminal"),
	CHOICE_AT("log", "level", log_level, "debug|info|warn|error", "info", ""),
};
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

/* ---- one value ---- */

static bool is_choice(const char *choices, const char *value)
{
	size_t length = strlen(value);

	for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (length > 0 && strncmp(p, value, length) == 0 && (p[length] == '|' || p[length] == '\0'))
			return true;
	return false;
}

static int set(struct config *c, const struct setting *s, const char *value, struct error *err)
{
	char *to = (char *)c + s->offset;
	uint64_t number;

	switch (s->kind) {
	case NUMBER:
		if (str_u64(value, s->min, s->max, &number) < 0)
			return error_set(err, EINVAL, "%s.%s: must be a number between %llu and %llu, is \"%.60s\"",
					 s->section, s->key, (unsigned long long)s->min, (unsigned long long)s->max,
					 value);
		memcpy(to, &number, sizeof(number));
		return 0;
	case CHOICE:
		if (!is_choice(s->choices, value))
			return error_set(err, EINVAL, "%s.%s: must be one of %s, is \"%.60s\"", s->section, s->key,
					 s->choices, value);
		break;
	case TEXT: break;
	}
	if (str_copy(to, s->size, value) < 0)
		return error_set(err, EINVAL, "%s.%s: at most %zu characters", s->section, s->key, s->size - 1);
	return 0;
}

static const struct setting *find(const char *section, const char *key)
{
	for (size_t i = 0; i < SETTINGS; i++)
		if (strcmp(settings[i].section, section) == 0 && strcmp(settings[i].key, key) == 0)
			return &settings[i];
	return NULL;
}

/* ---- the file ---- */

struct reading {
	struct config *config;
	struct error *err;
	int result;
};

static int take_line(void *user, const char *section, const char *key, const char *value)
{
	struct reading *r = user;
	const struct setting *s = find(section, key);

	/* The parser goes on after a mistake; the first one is the one to tell. */
	if (r->result < 0)
		return 0;
	if (!s)
		r->result = error_set(r->err, EINVAL, "unknown setting \"%.60s\" in section [%.60s]", key, section);
	else
		r->result = set(r->config, s, value, r->err);
	return r->result == 0;
}

static int read_config_file(struct config *c, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	struct reading reading = { .config = c, .err = err };

	int r = fd_read_file(-100 /* AT_FDCWD */, c->file, FILE_MAX, &text, &size, err);
	if (r < 0)
		return r;
	if (memchr(text, '\0', size))
		return error_set(err, EINVAL, "%.200s: holds a NUL byte", c->file);
	int line = ini_parse_string(text, take_line, &reading);
	if (reading.result < 0)
		return error_prefix(err, "%.200s", c->file);
	if (line != 0)
		return error_set(err, EINVAL, "%.200s: line %d is malformed", c->file, line);
	return 0;
}

/* ---- environment and flags ---- */

static void flag_name(const struct setting *s, char name[80], char separator, const char *prefix)
{
	snprintf(name, 80, "%s%s%c%s", prefix, s->section, separator, s->key);
	for (char *p = name + strlen(prefix); *p; p++) {
		if (separator == '-' && *p == '_')
			*p = '-';
		if (separator == '_')
			*p = (char)toupper((unsigned char)*p);
	}
}

static int read_environment(struct config *c, struct error *err)
{
	char name[80];

	for (size_t i = 0; i < SETTINGS; i++) {
		flag_name(&settings[i], name, '_', "AKIRA_");
		const char *value = getenv(name);
		int r = value ? set(c, &settings[i], value, err) : 0;
		if (r < 0)
			return error_prefix(err, "environment %s", name);
	}
	return 0;
}

static int take_flag(struct config *c, const char *argument, struct error *err)
{
	const char *equals = strchr(argument, '=');
	char name[80];

	for (size_t i = 0; i < SETTINGS && equals; i++) {
		flag_name(&settings[i], name, '-', "--");
		if (strlen(name) == (size_t)(equals - argument) && strncmp(argument, name, strlen(name)) == 0)
			return set(c, &settings[i], equals + 1, err);
	}
	return error_set(err, EINVAL, "unknown option %.100s (see --help)", argument);
}

/* First what decides which file is read. */
static int find_file(struct config *c, int argc, char **argv, struct error *err)
{
	for (int i = 1; i < argc; i++) {
		const char *value = NULL;
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			config_help(stdout);
			return 1;
		}
		if (strcmp(argv[i], "--version") == 0) {
			printf("akirad %s\n", AKIRA_VERSION);
			return 1;
		}
		if (strcmp(argv[i], "--config") == 0)
			value = i + 1 < argc ? argv[++i] : "";
		else if (str_starts(argv[i], "--config="))
			value = argv[i] + 9;
		if (value && (!*value || str_copy(c->file, sizeof(c->file), value) < 0))
			return error_set(err, EINVAL, "--config wants the name of a file");
	}
	return 0;
}

static int read_flags(struct config *c, int argc, char **argv, struct error *err)
{
	for (int i = 1; i < argc; i++) {
		int r = 0;
		if (strcmp(argv[i], "--config") == 0)
			i++;
		else if (strcmp(argv[i], "--check-config") == 0)
			c->check_only = true;
		else if (!str_starts(argv[i], "--config="))
			r = take_flag(c, argv[i], err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- what only makes sense together ---- */

int config_listen(const char *text, char address[64], uint16_t *port)
{
	const char *colon = strrchr(text, ':');
	unsigned char binary[16];
	uint64_t number;

	if (!colon || str_u64(colon + 1, 0, 65535, &number) < 0 || (size_t)(colon - text) >= 64)
		return -EINVAL;
	size_t length = (size_t)(colon - text);
	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	}
	memcpy(address, text, length);
	address[length] = '\0';
	if (inet_pton(AF_INET, address, binary) != 1 && inet_pton(AF_INET6, address, binary) != 1)
		return -EINVAL;
	*port = (uint16_t)number;
	return 0;
}

size_t config_split(char *text, const char *parts[CONFIG_LIST])
{
	char *save = NULL;
	size_t count = 0;

	for (char *part = strtok_r(text, ", \t", &save); part && count < CONFIG_LIST;
	     part = strtok_r(NULL, ", \t", &save))
		parts[count++] = part;
	return count;
}

static int check_user(struct config *c, struct error *err)
{
	struct passwd *user = getpwnam(c->user);
	if (!user)
		return error_set(err, EINVAL,
				 "user.user: there is no user \"%s\" (useradd --system --no-create-home %s)", c->user,
				 c->user);
	if (user->pw_uid == 0)
		return error_set(err, EINVAL, "user.user: must not be root");
	c->uid = user->pw_uid;
	c->gid = user->pw_gid;
	if (!c->group[0])
		return 0;
	struct group *group = getgrnam(c->group);
	if (!group)
		return error_set(err, EINVAL, "user.group: there is no group \"%s\"", c->group);
	c->gid = group->gr_gid;
	return 0;
}

static int check_paths(struct config *c, struct error *err)
{
	const char *const paths[] = { c->data_dir, c->cache_dir, c->run_dir, c->qemu };

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		if (paths[i][0] != '/')
			return error_set(err, EINVAL, "paths: \"%.100s\" must begin with /", paths[i]);
	if (!c->tls_cert[0] != !c->tls_key[0])
		return error_set(err, EINVAL, "server.tls_cert and server.tls_key: one without the other");
	if (c->tls_cert[0] && access(c->tls_cert, R_OK) < 0)
		return error_errno(err, EINVAL, "server.tls_cert: cannot read %.200s", c->tls_cert);
	if (c->tls_key[0] && access(c->tls_key, R_OK) < 0)
		return error_errno(err, EINVAL, "server.tls_key: cannot read %.200s", c->tls_key);
	return 0;
}

static int check(struct config *c, struct error *err)
{
	struct in_addr base;

	if (config_listen(c->listen, c->address, &c->port) < 0)
		return error_set(err, EINVAL, "server.listen: must be ADDRESS:PORT, is \"%.100s\"", c->listen);
	if (c->metrics_listen[0] && config_listen(c->metrics_listen, c->metrics_address, &c->metrics_port) < 0)
		return error_set(err, EINVAL, "server.metrics_listen: must be ADDRESS:PORT, is \"%.100s\"",
				 c->metrics_listen);
	if (inet_pton(AF_INET, c->net_base, &base) != 1 || (ntohl(base.s_addr) & 0xffff) != 0)
		return error_set(err, EINVAL, "network.net_base: must be the start of a /16 like 10.231.0.0, is \"%s\"",
				 c->net_base);
	c->net_base_address = ntohl(base.s_addr);
	int r = check_paths(c, err);
	return r < 0 ? r : check_user(c, err);
}

int config_load(struct config *c, int argc, char **argv, struct error *err)
{
	*c = (struct config){ 0 };
	for (size_t i = 0; i < SETTINGS; i++)
		if (set(c, &settings[i], settings[i].standard, err) < 0)
			abort(); /* a default of our own that is out of its bounds */
	int r = find_file(c, argc, argv, err);
	if (r != 0)
		return r;
	/* The usual place may be empty; a file that was named must be there. */
	if (c->file[0]) {
		r = read_config_file(c, err);
	} else if (access("/etc/akira/akirad.conf", F_OK) == 0) {
		strcpy(c->file, "/etc/akira/akirad.conf");
		r = read_config_file(c, err);
	}
	if (r == 0)
		r = read_environment(c, err);
	if (r == 0)
		r = read_flags(c, argc, argv, err);
	return r < 0 ? r : check(c, err);
}

void config_help(FILE *to)
{
	char name[80];

	fprintf(to,
		"akirad %s: runs sandboxes in micro-VMs behind an HTTP API\n\n"
		"Usage: akirad [--config FILE] [--check-config] [--SECTION-KEY=VALUE ...]\n"
		"       akirad [--config FILE] admin reset-key | backup FILE | verify-audit\n\n"
		"Settings come from FILE (/etc/akira/akirad.conf), the environment (AKIRA_SECTION_KEY) and options;\n"
		"the last one wins. SIGTERM pauses the sandboxes and ends; SIGHUP reads the TLS certificate again.\n\n",
		AKIRA_VERSION);
	for (size_t i = 0; i < SETTINGS; i++) {
		const struct setting *s = &settings[i];
		flag_name(s, name, '-', "--");
		fprintf(to, "  %-32s %s%s%s%s%s\n", name, s->help, s->choices ? " (" : "", s->choices ? s->choices : "",
			s->choices ? ")" : "", "");
		if (s->kind == NUMBER)
			fprintf(to, "  %-32s %llu to %llu, default %s\n", "", (unsigned long long)s->min,
				(unsigned long long)s->max, s->standard);
		else if (s->standard[0])
			fprintf(to, "  %-32s default %s\n", "", s->standard);
	}
}
