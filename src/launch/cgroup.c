#include "launch/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "launch/cgroup_internal.h"

const char *const cgroup_controllers[CGROUP_KINDS] = {
	"memory", "cpu", "pids", "cpuacct", "devices", "freezer", "blkio"
};

/*
 * Long, so that a short command runs through: what a quarter of a CPU may use within it, 100 ms and as much again saved
 * up while it was idle, is what a first command takes under emulation. The average is what was granted all the same.
 */
#define PERIOD_US 400000

int cgroup_write(const struct cgroup_host *host, int dir, const char *file, const char *text, struct error *err)
{
	_cleanup_fd_ int fd = openat(dir, file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | host->create, 0600);
	if (fd < 0)
		return error_errno(err, errno, "cgroup: open %s", file);
	if (write(fd, text, strlen(text)) < 0)
		return error_errno(err, errno, "cgroup: write %s to %s", text, file);
	return 0;
}

static int write_u64(const struct cgroup_host *host, int dir, const char *file, uint64_t value, struct error *err)
{
	char text[24];
	snprintf(text, sizeof text, "%" PRIu64, value);
	return cgroup_write(host, dir, file, text, err);
}

/* A file that only some kernels have. */
static int write_optional(const struct cgroup_host *host, int dir, const char *file, uint64_t value, struct error *err)
{
	int r = write_u64(host, dir, file, value, err);
	return r == -ENOENT || r == -EOPNOTSUPP ? 0 : r;
}

int cgroup_read(int dir, const char *file, char *text, size_t room)
{
	_cleanup_fd_ int fd = openat(dir, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	ssize_t got = fd_read_all(fd, text, room - 1);
	if (got < 0)
		return (int)got;
	text[got] = 0;
	return 0;
}

static uint64_t number_after(const char *text, const char *key)
{
	size_t length = strlen(key);
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, length) && (!length || line[length] == ' '))
			return strtoull(line + length, NULL, 10);
	}
	return 0;
}

/* ---- one group ---- */

static int limit_v2(struct cgroup_host *h, int dir, const struct cgroup_limits *l, struct error *err)
{
	char cpu[48];
	snprintf(cpu, sizeof cpu, "%" PRIu64 " %d", (uint64_t)l->cpu_quarters * (PERIOD_US / 4), PERIOD_US);
	int r = write_u64(h, dir, "memory.max", l->memory_bytes, err);
	r = r < 0 ? r : write_optional(h, dir, "memory.swap.max", 0, err);
	r = r < 0 ? r : write_optional(h, dir, "memory.zswap.max", 0, err);
	r = r < 0 ? r : write_u64(h, dir, "memory.oom.group", 1, err);
	/* A burst may not exceed the quota, old or new. */
	r = r < 0 ? r : write_optional(h, dir, "cpu.max.burst", 0, err);
	r = r < 0 ? r : cgroup_write(h, dir, "cpu.max", cpu, err);
	r = r < 0 ? r : write_optional(h, dir, "cpu.max.burst", (uint64_t)l->cpu_quarters * (PERIOD_US / 4), err);
	return r < 0 ? r : write_u64(h, dir, "pids.max", l->pids, err);
}

/* memory + swap may never be below memory, so the order of the two writes depends on the direction. */
static int limit_memory_v1(struct cgroup_host *h, int dir, uint64_t bytes, struct error *err)
{
	char now[32] = "";
	cgroup_read(dir, "memory.limit_in_bytes", now, sizeof now);
	bool grows = strtoull(now, NULL, 10) < bytes;
	int r = grows ? write_optional(h, dir, "memory.memsw.limit_in_bytes", bytes, err) : 0;
	r = r < 0 ? r : write_u64(h, dir, "memory.limit_in_bytes", bytes, err);
	return r < 0 || grows ? r : write_optional(h, dir, "memory.memsw.limit_in_bytes", bytes, err);
}

static int limit_v1(struct cgroup_host *h, const struct cgroup *g, const struct cgroup_limits *l, struct error *err)
{
	int r = limit_memory_v1(h, g->dir[CGROUP_MEMORY], l->memory_bytes, err);
	r = r < 0 ? r : write_optional(h, g->dir[CGROUP_MEMORY], "memory.swappiness", 0, err);
	uint64_t quota = (uint64_t)l->cpu_quarters * (PERIOD_US / 4);
	r = r < 0 ? r : write_u64(h, g->dir[CGROUP_CPU], "cpu.cfs_period_us", PERIOD_US, err);
	/* A burst may not exceed the quota, old or new. */
	r = r < 0 ? r : write_optional(h, g->dir[CGROUP_CPU], "cpu.cfs_burst_us", 0, err);
	r = r < 0 ? r : write_u64(h, g->dir[CGROUP_CPU], "cpu.cfs_quota_us", quota, err);
	r = r < 0 ? r : write_optional(h, g->dir[CGROUP_CPU], "cpu.cfs_burst_us", quota, err);
	return r < 0 ? r : write_u64(h, g->dir[CGROUP_PIDS], "pids.max", l->pids, err);
}

/* v1 can keep device nodes shut by itself; on v2 that would take a BPF program, and the jail has three nodes anyway. */
static int limit_devices(struct cgroup_host *h, const struct cgroup *g, struct error *err)
{
	int dir = g->dir[CGROUP_DEVICES];
	if (h->version != 1 || dir < 0)
		return 0;
	int r = cgroup_write(h, dir, "devices.deny", "a", err);
	r = r < 0 ? r : cgroup_write(h, dir, "devices.allow", "c 1:3 rw", err);
	r = r < 0 ? r : cgroup_write(h, dir, "devices.allow", "c 1:9 r", err);
	return r < 0 || !h->kvm ? r : cgroup_write(h, dir, "devices.allow", "c 10:232 rw", err);
}

int cgroup_limit(struct cgroup_host *host, const struct cgroup *g, const struct cgroup_limits *limits,
		 struct error *err)
{
	return host->version == 2 ? limit_v2(host, g->dir[0], limits, err) : limit_v1(host, g, limits, err);
}

static int open_dirs(struct cgroup_host *host, const char *id, struct cgroup *g, struct error *err)
{
	for (int i = 0; i < CGROUP_KINDS; i++) {
		if (host->root[i] < 0)
			continue;
		/* Hierarchies that hold two controllers (cpu,cpuacct) are entered twice: the folder is there already. */
		if (mkdirat(host->root[i], id, 0755) < 0 && errno != EEXIST)
			return error_errno(err, errno, "cgroup: make %s (%s)", id, cgroup_controllers[i]);
		g->dir[i] = openat(host->root[i], id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (g->dir[i] < 0)
			return error_errno(err, errno, "cgroup: open %s (%s)", id, cgroup_controllers[i]);
	}
	return 0;
}

int cgroup_make(struct cgroup_host *host, const char *id, const struct cgroup_limits *limits, struct cgroup *g,
		struct error *err)
{
	for (int i = 0; i < CGROUP_KINDS; i++)
		g->dir[i] = -1;
	int r = open_dirs(host, id, g, err);
	r = r < 0 ? r : cgroup_limit(host, g, limits, err);
	r = r < 0 ? r : limit_devices(host, g, err);
	if (r < 0)
		cgroup_remove(host, id, g);
	return r;
}

int cgroup_clone_fd(const struct cgroup_host *host, const struct cgroup *g)
{
	return host->version == 2 ? g->dir[0] : -1;
}

int cgroup_enter(const struct cgroup_host *host, const struct cgroup *g)
{
	if (host->version == 2)
		return 0;
	for (int i = 0; i < CGROUP_KINDS; i++) {
		int r = g->dir[i] < 0 ? 0 : cgroup_write(host, g->dir[i], "tasks", "0", NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

static uint64_t read_number(int dir, const char *file, const char *key)
{
	char text[CGROUP_FILE_MAX];
	return dir >= 0 && cgroup_read(dir, file, text, sizeof text) == 0 ? number_after(text, key) : 0;
}

static uint64_t read_plain(int dir, const char *file)
{
	char text[64];
	return dir >= 0 && cgroup_read(dir, file, text, sizeof text) == 0 ? strtoull(text, NULL, 10) : 0;
}

int cgroup_usage(struct cgroup_host *host, const struct cgroup *g, struct cgroup_use *use, struct error *err)
{
	int memory = g->dir[CGROUP_MEMORY];
	if (memory < 0)
		return error_set(err, ENOENT, "no cgroup");
	if (host->version == 2) {
		*use = (struct cgroup_use){
			.cpu_us = read_number(memory, "cpu.stat", "usage_usec"),
			.memory_bytes = read_plain(memory, "memory.current"),
			.oom_kills = read_number(memory, "memory.events", "oom_kill"),
			.pids = (uint32_t)read_plain(memory, "pids.current"),
		};
	} else {
		*use = (struct cgroup_use){
			.cpu_us = read_plain(g->dir[CGROUP_CPUACCT], "cpuacct.usage") / 1000,
			.memory_bytes = read_plain(memory, "memory.usage_in_bytes"),
			.oom_kills = read_number(memory, "memory.oom_control", "oom_kill"),
			.pids = (uint32_t)read_plain(g->dir[CGROUP_PIDS], "pids.current"),
		};
	}
	return 0;
}

/* Without cgroup.kill (v1, v2 before 5.14). The VM is PID 1 of its namespace, so one pass is mostly enough. */
static void kill_each(int dir)
{
	for (int pass = 0; pass < 8; pass++) {
		int fd = openat(dir, "cgroup.procs", O_RDONLY | O_CLOEXEC);
		_cleanup_file_ FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
		int pid, count = 0;
		if (!f && fd >= 0)
			close(fd);
		while (f && fscanf(f, "%d", &pid) == 1 && pid > 1 && ++count)
			kill(pid, SIGKILL);
		if (!count)
			return;
	}
}

void cgroup_kill(struct cgroup_host *host, const struct cgroup *g)
{
	int dir = g->dir[0];
	if (dir < 0 || (host->version == 2 && cgroup_write(host, dir, "cgroup.kill", "1", NULL) == 0))
		return;
	kill_each(dir);
}

int cgroup_remove(struct cgroup_host *host, const char *id, struct cgroup *g)
{
	int result = 0;
	for (int i = 0; i < CGROUP_KINDS; i++) {
		if (host->root[i] < 0)
			continue;
		if (unlinkat(host->root[i], id, AT_REMOVEDIR) < 0 && errno != ENOENT)
			result = -errno;
		else
			fd_close(&g->dir[i]);
	}
	return result;
}

/* ---- what an earlier launcher left ---- */

static bool remove_soon(struct cgroup_host *host, const char *id)
{
	struct cgroup g;
	for (int i = 0; i < CGROUP_KINDS; i++)
		g.dir[i] = host->root[i] < 0
				   ? -1
				   : openat(host->root[i], id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	for (int tries = 0; tries < 200; tries++) {
		cgroup_kill(host, &g);
		if (cgroup_remove(host, id, &g) == 0)
			return true;
		usleep(10000); /* the kernel gives no event for "the last process of this group is gone" on v1 */
	}
	for (int i = 0; i < CGROUP_KINDS; i++)
		fd_close(&g.dir[i]);
	return false;
}

uint32_t cgroup_sweep(struct cgroup_host *host)
{
	uint32_t count = 0;
	for (int i = 0; i < CGROUP_KINDS; i++) {
		int fd = host->root[i] < 0 ? -1 : openat(host->root[i], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		DIR *dir = fd < 0 ? NULL : fdopendir(fd);
		if (!dir) {
			fd_close(&fd);
			continue;
		}
		for (struct dirent *e; (e = readdir(dir));)
			if (e->d_type == DT_DIR && e->d_name[0] != '.')
				count += remove_soon(host, e->d_name);
		closedir(dir);
	}
	return count;
}
