/*
 * akirad. It starts as root, forks akira-launch, which stays root, and becomes an ordinary user before it reads
 * anything that a client could have had a hand in.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/admin.h"
#include "daemon/api/api.h"
#include "daemon/auth/auth.h"
#include "daemon/config.h"
#include "daemon/privileges.h"
#include "daemon/sandbox/service.h"
#include "daemon/store/audit_copy.h"
#include "doctor/doctor.h"
#include "doctor/kvm_probe.h"

#define TICK_MS 2000
#define FLUSH_MS 10000
#define GRACE_MS 5000
#define LAUNCHER_WAIT_MS 15000

struct daemon {
	struct config config;
	int lock; /* DATA/akirad.lock */
	struct engine engine;
	char why[256], engine_version[64];
	struct launcher *launcher;
	struct store *store;
	struct auth *auth;
	struct images *images;
	struct net_service *net;
	struct sandboxes *sandboxes;
	struct api_server *api;
	struct audit_copy *audit_copy;
	int64_t flushed_ms;
};

/* ---- as root ---- */

static int lock_data(struct daemon *d, struct error *err)
{
	char path[CONFIG_TEXT + 16];

	snprintf(path, sizeof(path), "%s/akirad.lock", d->config.data_dir);
	d->lock = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (d->lock < 0)
		return error_errno(err, errno, "open %s", path);
	if (flock(d->lock, LOCK_EX | LOCK_NB) < 0)
		return error_set(err, EBUSY, "another akirad uses %s", d->config.data_dir);
	return fchown(d->lock, d->config.uid, d->config.gid) < 0 ? error_errno(err, errno, "own %s", path) : 0;
}

static bool is_program(const char *path)
{
	return access(path, X_OK) == 0;
}

/* In the build tree the launcher stands in a folder beside ours; installed, in libexec. */
static void find_launcher(const struct config *c, char path[PATH_MAX])
{
	char self[PATH_MAX / 2] = "";
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash = n > 0 ? strrchr(self, '/') : NULL;

	if (slash)
		*slash = '\0';
	snprintf(path, PATH_MAX, "%s/akira-launch", c->libexec_dir);
	if (c->libexec_dir[0])
		return;
	snprintf(path, PATH_MAX, "%s/../launch/akira-launch", self);
	if (is_program(path))
		return;
	snprintf(path, PATH_MAX, "%s/../libexec/akira/akira-launch", self);
	if (!is_program(path))
		snprintf(path, PATH_MAX, "/usr/libexec/akira/akira-launch");
}

static int read_version(struct daemon *d, struct error *err)
{
	/* The package's version is part of the file's identity; its size and time say when the file was replaced. */
	struct stat st;
	if (stat(d->config.qemu, &st) < 0)
		return error_errno(err, errno, "paths.qemu: %s (package qemu-system-x86)", d->config.qemu);
	snprintf(d->engine_version, sizeof(d->engine_version), "qemu-%lld-%lld", (long long)st.st_size,
		 (long long)st.st_mtime);
	return 0;
}

static uint32_t tsc_khz(void)
{
	/* The kernel prints it once; /proc/cpuinfo's MHz is the nominal rate where the counter is invariant. */
	_cleanup_free_ char *text = NULL;
	double mhz = 0;

	if (fd_read_file(AT_FDCWD, "/proc/cpuinfo", 65536, &text, NULL, NULL) < 0)
		return 0;
	const char *line = strstr(text, "cpu MHz");
	const char *colon = line ? strchr(line, ':') : NULL;
	if (!colon || sscanf(colon + 1, "%lf", &mhz) != 1 || mhz < 100 || mhz > 20000)
		return 0;
	return (uint32_t)(mhz * 1000);
}

static int choose_engine(struct daemon *d, struct error *err)
{
	enum engine_acceleration wanted = strcmp(d->config.acceleration, "kvm") == 0   ? ENGINE_KVM
					  : strcmp(d->config.acceleration, "tcg") == 0 ? ENGINE_TCG
										       : ENGINE_AUTO;
	double rate = 0;
	int probe = wanted == ENGINE_TCG ? -ENOTSUP : doctor_kvm_probe(&rate, NULL);

	d->engine.tcg_cache_mib = (uint32_t)d->config.tcg_cache_mib;
	d->engine.io_bytes_per_s = d->config.io_mib_per_s << 20;
	d->engine.io_ops_per_s = d->config.io_ops_per_s;
	int r = engine_decide(wanted, probe, rate, &d->engine.acceleration, d->why, err);
	if (r == 0 && d->engine.acceleration == ENGINE_TCG)
		d->engine.tsc_khz = tsc_khz();
	return r < 0 ? r : read_version(d, err);
}

static int start_launcher(struct daemon *d, struct error *err)
{
	const struct config *c = &d->config;
	char program[PATH_MAX];
	uint32_t swept = 0;

	find_launcher(c, program);
	struct launcher_config lc = {
		.program = program,
		.qemu = c->qemu,
		.run_dir = c->run_dir,
		.data_dir = c->data_dir,
		.user = c->uid,
		.group = c->gid,
		.vm_uid_first = (uid_t)c->vm_uid_first,
		.vm_uid_count = (uint32_t)c->vm_uid_count,
		.uplink = c->uplink,
		.net_base = c->net_base_address,
		.kvm = d->engine.acceleration == ENGINE_KVM,
		.io_bytes = c->io_mib_per_s << 20,
		.io_ops = (uint32_t)c->io_ops_per_s,
	};
	/* After a crash of akirad the launcher before us may still be taking its VMs down. */
	int64_t deadline = time_mono_ms() + LAUNCHER_WAIT_MS;
	int r = launcher_spawn(&lc, &d->launcher, &swept, err);
	while (r == -EBUSY && time_mono_ms() < deadline) {
		usleep(100000);
		r = launcher_spawn(&lc, &d->launcher, &swept, err);
	}
	if (r == 0 && swept > 0)
		log_info("swept", "leftovers", LOG_INT(swept));
	d->engine.launcher = d->launcher;
	return r;
}

static int prepare(struct daemon *d, struct error *err)
{
	const struct config *c = &d->config;

	if (geteuid() != 0)
		return error_set(err, EPERM, "akirad must be started as root; it becomes user %s by itself", c->user);
	int r = privileges_limits(err);
	if (r == 0)
		r = privileges_folder(c->data_dir, 0700, c->uid, c->gid, err);
	if (r == 0)
		r = lock_data(d, err);
	if (r == 0)
		r = privileges_folder(c->run_dir, 0755, 0, 0, err);
	if (r == 0)
		r = choose_engine(d, err);
	if (r == 0)
		r = start_launcher(d, err);
	if (r == 0)
		r = privileges_drop(c->uid, c->gid, err);
	return r;
}

/* ---- as the user ---- */

static int first_start(struct daemon *d, struct error *err)
{
	struct auth_actor actor = { .address = "host" };
	char key[AUTH_KEY_MAX];
	bool made = false;

	int r = auth_bootstrap(d->store, &actor, &made, key, err);
	if (r < 0 || !made)
		return r;
	r = credentials_write(&d->config, key, d->config.port, err);
	if (r == 0 && isatty(STDERR_FILENO))
		fprintf(stderr,
			"\nThe administrator's API key, shown this once: %s\nIt is kept in %s/credentials for `akira`.\n\n",
			key, d->config.data_dir);
	sodium_memzero(key, sizeof(key));
	log_info("first_start", "credentials", "written to the data folder");
	return r;
}

static int open_sandboxes(struct daemon *d, struct error *err)
{
	struct config *c = &d->config;
	const char *upstreams[CONFIG_LIST];
	struct net_service_config net = { .upstreams = upstreams,
					  .upstream_count = config_split(c->upstreams, upstreams) };
	struct sandboxes_config sc = {
		.data_dir = c->data_dir,
		.store = d->store,
		.engine = d->engine,
		.pool_size = (uint32_t)c->pool_size,
		.pool_image = c->pool_image,
		.memory_reserve_bytes = c->memory_reserve_mib << 20,
		.disk_reserve_bytes = c->disk_reserve_mib << 20,
		.template_budget_bytes = c->template_budget_mib << 20,
		.launcher = d->launcher,
	};

	int r = images_open(c->cache_dir, &d->images, err);
	if (r == 0)
		r = net_service_start(d->launcher, &net, &d->net, err);
	if (r < 0)
		return r;
	sc.images = d->images;
	sc.net = d->net;
	memcpy(sc.engine_version, d->engine_version, sizeof(sc.engine_version));
	memcpy(sc.why, d->why, sizeof(sc.why));
	return sandboxes_open(&sc, &d->sandboxes, err);
}

static int open_api(struct daemon *d, struct error *err)
{
	struct config *c = &d->config;
	const char *proxies[CONFIG_LIST], *origins[CONFIG_LIST];
	struct api_context context = {
		.store = d->store,
		.sandboxes = d->sandboxes,
		.auth = d->auth,
		.audit_copy = d->audit_copy,
		.engine = "qemu",
	};
	struct api_config ac = {
		.http = {
			.address = c->address,
			.port = c->port,
			.tls_cert = c->tls_cert[0] ? c->tls_cert : NULL,
			.tls_key = c->tls_key[0] ? c->tls_key : NULL,
			.connections_max = (unsigned)c->connections_max,
			.per_address_max = (unsigned)c->per_address_max,
			.trusted_proxies = proxies,
			.trusted_count = config_split(c->trusted_proxies, proxies),
			.cors_origins = origins,
			.cors_count = config_split(c->cors_origins, origins),
		},
		.metrics_address = c->metrics_listen[0] ? c->metrics_address : NULL,
		.metrics_port = c->metrics_port,
		.spool_dir = c->data_dir,
	};
	return api_start(&ac, &context, &d->api, err);
}

static int open_all(struct daemon *d, struct error *err)
{
	int r = store_open(d->config.data_dir, &d->store, err);
	if (r == 0)
		r = first_start(d, err);
	if (r == 0 && d->config.audit_file[0])
		r = audit_copy_open(d->store, d->config.audit_file, &d->audit_copy, err);
	if (r == 0)
		r = auth_new(d->store, NULL, &d->auth, err);
	if (r == 0)
		r = open_sandboxes(d, err);
	if (r == 0)
		r = open_api(d, err);
	return r;
}

static void copy_audit(struct daemon *d)
{
	struct error err = { 0 };
	static struct log_limit limit;

	if (d->audit_copy && audit_copy_follow(d->audit_copy, &err) < 0 && log_allowed(&limit, 1, 60))
		log_error("audit_not_copied", "error", err.text, "effect",
			  "it is tried again; the store has every record");
}

static void close_all(struct daemon *d)
{
	if (d->api && api_stop(d->api, GRACE_MS) == -EBUSY) {
		/* Handlers still use what would be freed. Sandboxes are saved all the same; the process ends as it is. */
		log_warn("requests_still_running");
		sandboxes_close(d->sandboxes);
		(void)auth_flush(d->auth, NULL);
		_exit(0);
	}
	sandboxes_close(d->sandboxes);
	net_service_stop(d->net);
	images_close(d->images);
	auth_free(d->auth);
	copy_audit(d);
	audit_copy_close(d->audit_copy);
	store_close(d->store);
	launcher_free(d->launcher);
	fd_close(&d->lock);
}

/* ---- the main loop ---- */

static void reload(struct daemon *d)
{
	struct error err = { 0 };
	int r = api_reload_tls(d->api, &err);

	if (r == 0)
		log_info("tls_reloaded");
	else if (r != -ENOTSUP)
		log_warn("tls_not_reloaded", "error", err.text, "effect", "the old certificate stays");
}

static void tick(struct daemon *d)
{
	struct error err = { 0 };
	uint64_t removed = 0;
	int64_t days = (int64_t)d->config.audit_retention_days;
	static int64_t pruned;

	copy_audit(d);
	if (time_mono_ms() - d->flushed_ms < FLUSH_MS)
		return;
	d->flushed_ms = time_mono_ms();
	if (auth_flush(d->auth, &err) < 0)
		log_warn("limits_not_stored", "error", err.text);
	if (days == 0 || (pruned && time_mono_ms() - pruned < 3600 * 1000))
		return;
	pruned = time_mono_ms();
	if (store_audit_prune(d->store, time_wall_ms() - days * 86400 * 1000, &removed, &err) < 0)
		log_warn("audit_not_pruned", "error", err.text);
	else if (removed > 0)
		log_info("audit_pruned", "records", LOG_INT(removed));
}

/* Returns the exit code. */
static int serve(struct daemon *d, int signals)
{
	for (;;) {
		struct pollfd pollers[2] = {
			{ .fd = signals, .events = POLLIN },
			{ .fd = launcher_watch_fd(d->launcher), .events = POLLIN },
		};
		int ready = poll(pollers, 2, TICK_MS);
		if (ready == 0)
			tick(d);
		if (launcher_gone(d->launcher) || (ready > 0 && pollers[1].revents)) {
			log_error("launcher_lost", "effect", "every VM ended with it; ending so that both start again");
			return 1;
		}
		struct signalfd_siginfo signal;
		if (ready <= 0 || read(signals, &signal, sizeof(signal)) != (ssize_t)sizeof(signal))
			continue;
		if (signal.ssi_signo != SIGHUP) {
			log_info("stopping", "signal", strsignal((int)signal.ssi_signo));
			return 0;
		}
		reload(d);
	}
}

/* Before any thread exists, so that all of them inherit it. */
static int block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static void log_host(const struct config *c)
{
	struct doctor_config dc = DOCTOR_CONFIG_DEFAULT;
	struct doctor_fact *facts = NULL;
	size_t count = 0;

	dc.state_dir = c->data_dir;
	dc.cache_dir = c->cache_dir;
	dc.port = c->port;
	dc.looks_only = true;
	if (doctor_summary(&dc, &facts, &count, NULL) < 0)
		return;
	for (size_t i = 0; i < count; i++)
		log_warn("host", "check", facts[i].name, "found", facts[i].found, "advice",
			 facts[i].advice[0] ? facts[i].advice : NULL);
	free(facts);
}

static enum log_level level_of(const char *name)
{
	static const char *const names[] = { "debug", "info", "warn", "error" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i], name) == 0)
			return (enum log_level)i;
	return LOG_INFO_;
}

static int run(struct daemon *d, struct error *err)
{
	int signals = block_signals();
	int r = prepare(d, err);
	if (r == 0)
		r = open_all(d, err);
	if (r < 0) {
		log_error("start_failed", "error", err->text);
		close_all(d);
		fd_close(&signals);
		return 1;
	}
	log_info(d->engine.acceleration == ENGINE_KVM ? "engine" : "engine_is_no_hardware_boundary", "acceleration",
		 d->engine.acceleration == ENGINE_KVM ? "kvm" : "tcg", "why", d->why);
	log_host(&d->config);
	log_info("ready", "listen", d->config.listen, "port", LOG_INT(api_port(d->api)), "version", AKIRA_VERSION);
	int code = serve(d, signals);
	close_all(d);
	fd_close(&signals);
	log_info("stopped");
	return code;
}

/* "admin" and what follows it, after any options; argc when it is not there. */
static int find_admin(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--config") == 0)
			i++;
		else if (strcmp(argv[i], "admin") == 0)
			return i;
		else if (argv[i][0] != '-')
			break;
	}
	return argc;
}

int main(int argc, char **argv)
{
	static struct daemon d = { .lock = -1 };
	struct error err = { 0 };
	int admin = find_admin(argc, argv);

	if (sodium_init() < 0) {
		fprintf(stderr, "akirad: libsodium does not start\n");
		return 1;
	}
	int r = config_load(&d.config, admin, argv, &err);
	if (r == 1)
		return 0;
	if (r < 0) {
		fprintf(stderr, "akirad: %s\n", err.text);
		return 2;
	}
	log_init("akirad", d.config.log_format, level_of(d.config.log_level));
	if (admin < argc)
		return admin_main(&d.config, argc - admin - 1, argv + admin + 1);
	if (d.config.check_only) {
		printf("akirad: the configuration%s%s is good\n", d.config.file[0] ? " in " : "", d.config.file);
		return 0;
	}
	return run(&d, &err);
}
