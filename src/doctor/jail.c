/*
 * Theory of operation. What a VM process may do is read from outside, in /proc, and compared with what the jail
 * promises; nothing here trusts the launcher's own word. Two layers cannot be seen from outside: Landlock, and which
 * calls a seccomp filter allows; the attack tests show those.
 */
#include "doctor/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"

#define THREADS_MAX 4096
#define PATH_SIZE 512

struct jail_view {
	struct doctor *d;
	pid_t pid;
};

static int read_of(const struct jail_view *view, const char *name, char *to, size_t size)
{
	char path[PATH_SIZE];
	snprintf(path, sizeof(path), "/proc/%d/%s", view->pid, name);
	return doctor_read(view->d, path, to, size);
}

/* The rest of the line that begins with `name`, of a status file; "" if there is none. */
static void field(const char *status, const char *name, char *to, size_t size)
{
	const char *line = str_starts(status, name) ? status : strstr(status, name);
	to[0] = '\0';
	if (!line)
		return;
	line += strlen(name);
	line += strspn(line, " \t");
	snprintf(to, size, "%.*s", (int)strcspn(line, "\n"), line);
	for (size_t length = strlen(to); length > 0 && strchr(" \t", to[length - 1]); length--)
		to[length - 1] = '\0';
}

static void judge(const struct jail_view *view, const char *name, bool good, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
static void judge(const struct jail_view *view, const char *name, bool good, const char *format, ...)
{
	char text[DOCTOR_TEXT_MAX];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	doctor_add(view->d, name, good ? DOCTOR_OK : DOCTOR_FAIL, NULL, "%s", text);
}

static void check_ids(const struct jail_view *view, const char *status)
{
	static const struct {
		const char *name, *line;
	} ids[] = { { "uid", "\nUid:" }, { "gid", "\nGid:" } };
	char text[128];
	for (size_t i = 0; i < 2; i++) {
		unsigned n[4] = { 0 };
		field(status, ids[i].line, text, sizeof(text));
		bool good = sscanf(text, "%u %u %u %u", &n[0], &n[1], &n[2], &n[3]) == 4 && n[0] != 0 && n[0] == n[1] &&
			    n[1] == n[2] && n[2] == n[3];
		judge(view, ids[i].name, good, "%u (real, effective, saved, file system: %s)", n[0], text);
	}
	field(status, "\nGroups:", text, sizeof(text));
	judge(view, "groups", !*text, "%s", *text ? text : "none");
}

static void check_capabilities(const struct jail_view *view, const char *status)
{
	static const char *const sets[] = { "\nCapInh:", "\nCapPrm:", "\nCapEff:", "\nCapBnd:", "\nCapAmb:" };
	char left[128] = "", text[64];
	for (size_t i = 0; i < 5; i++) {
		field(status, sets[i], text, sizeof(text));
		if (strcmp(text, "0000000000000000") != 0)
			doctor_append(left, sizeof(left), " %s%s", sets[i] + 1, text);
	}
	judge(view, "capabilities", !*left, "%s", *left ? left + 1 : "none, none in the bounding set");
}

/* Of every thread, as seccomp and no_new_privs are each thread's own. */
static void check_threads(const struct jail_view *view)
{
	char path[PATH_SIZE], status[8192], text[64];
	int threads = 0, filtered = 0, no_new = 0, fewest = 1000;
	snprintf(path, sizeof(path), "/proc/%d/task", view->pid);
	DIR *dir = opendir(path);
	for (struct dirent *entry; dir && threads < THREADS_MAX && (entry = readdir(dir));) {
		char name[PATH_SIZE];
		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "task/%.32s/status", entry->d_name);
		if (read_of(view, name, status, sizeof(status)) < 0)
			continue; /* it has just ended */
		threads++;
		field(status, "\nSeccomp:", text, sizeof(text));
		filtered += strcmp(text, "2") == 0;
		field(status, "\nNoNewPrivs:", text, sizeof(text));
		no_new += strcmp(text, "1") == 0;
		field(status, "\nSeccomp_filters:", text, sizeof(text));
		fewest = *text && atoi(text) < fewest ? atoi(text) : fewest;
	}
	if (dir)
		closedir(dir);
	judge(view, "seccomp", threads > 0 && filtered == threads, "filtered: %d of %d threads%s", filtered, threads,
	      fewest == 1000 ? ""
	      : fewest == 1  ? " (1 filter)"
			     : " (2 filters or more each)");
	judge(view, "no-new-privs", threads > 0 && no_new == threads, "set: %d of %d threads", no_new, threads);
}

/* The inode that stands for a namespace of `who` ("self", "1", a pid); 0 if it may not be seen. */
static ino_t namespace_of(const char *who, const char *name)
{
	char path[PATH_SIZE];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%s/ns/%s", who, name);
	return stat(path, &st) == 0 ? st.st_ino : 0;
}

/* The host's are those of whoever looks and, where they may be seen, those of process 1. */
static void check_namespaces(const struct jail_view *view)
{
	static const char *const names[] = { "mnt", "pid", "net", "ipc", "uts", "cgroup" };
	char shared[128] = "", pid[24];
	snprintf(pid, sizeof(pid), "%d", view->pid);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		ino_t its = namespace_of(pid, names[i]);
		if (its == 0 || its == namespace_of("self", names[i]) || its == namespace_of("1", names[i]))
			doctor_append(shared, sizeof(shared), " %s", names[i]);
	}
	judge(view, "namespaces", !*shared, "%s%s", *shared ? "the host's:" : "own mnt, pid, net, ipc, uts, cgroup",
	      shared);
}

static void check_interfaces(const struct jail_view *view)
{
	char text[8192], others[128] = "";
	int r = read_of(view, "net/dev", text, sizeof(text));
	char *rest = text;
	for (char *line; r == 0 && (line = strsep(&rest, "\n"));) {
		char *colon = strchr(line, ':');
		char *name = line + strspn(line, " ");
		if (!colon)
			continue;
		*colon = '\0';
		if (strcmp(name, "lo") != 0)
			doctor_append(others, sizeof(others), " %s", name);
	}
	judge(view, "interfaces", r == 0 && !*others, "%s%s", *others ? "reachable:" : "none but lo", others);
}

/* ---- the cgroup ---- */

struct limit {
	const char *name, *controller, *v1_file, *v2_file;
};

/* The path of the process's group of one controller (v1) or at all (v2), as below /sys/fs/cgroup. */
static bool group_path(const struct jail_view *view, const char *controller, bool *v2, char *to, size_t size)
{
	char text[8192];
	if (read_of(view, "cgroup", text, sizeof(text)) < 0)
		return false;
	char *rest = text;
	for (char *line; (line = strsep(&rest, "\n"));) {
		char *names = strchr(line, ':');
		char *path = names ? strchr(names + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = '\0';
		names++;
		if (!*names && doctor_exists(view->d, "/sys/fs/cgroup/cgroup.controllers")) {
			*v2 = true;
			return snprintf(to, size, "/sys/fs/cgroup%s", path) < (int)size;
		}
		if (doctor_has_word(names, controller)) {
			*v2 = false;
			return snprintf(to, size, "/sys/fs/cgroup/%s%s", names, path) < (int)size;
		}
	}
	return false;
}

static void check_limit(const struct jail_view *view, const struct limit *limit)
{
	char dir[PATH_SIZE], path[2 * PATH_SIZE], value[128];
	bool v2 = false;
	if (!group_path(view, limit->controller, &v2, dir, sizeof(dir))) {
		judge(view, limit->name, false, "in no group of %s", limit->controller);
		return;
	}
	snprintf(path, sizeof(path), "%s/%s", dir, v2 ? limit->v2_file : limit->v1_file);
	int r = doctor_read(view->d, path, value, sizeof(value));
	/* v1 writes "no limit" as a number near 2^63, or as -1. */
	bool none = r < 0 || str_starts(value, "max") || str_starts(value, "-1") || strlen(value) >= 19;
	judge(view, limit->name, !none, "%s (%s)",
	      r < 0  ? "cannot be read"
	      : none ? "no limit"
		     : value,
	      path + strlen("/sys/fs/cgroup"));
}

/* No fault of the jail where there is none: it may be configured away, or the file system have no disk of its own. */
static void check_io(const struct jail_view *view)
{
	static const char *const v1[] = { "blkio.throttle.write_bps_device", "blkio.throttle.write_iops_device" };
	static const char *const v2[] = { "io.max" };
	char dir[PATH_SIZE], path[2 * PATH_SIZE], value[256] = "";
	bool is_v2 = false;
	bool found = group_path(view, "blkio", &is_v2, dir, sizeof(dir));
	size_t count = !found ? 0 : is_v2 ? 1 : 2;
	for (size_t i = 0; i < count && !*value; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, is_v2 ? v2[i] : v1[i]);
		if (doctor_read(view->d, path, value, sizeof(value)) < 0)
			value[0] = '\0';
	}
	value[strcspn(value, "\n")] = '\0';
	if (*value)
		judge(view, "io-limit", true, "%s (%s)", value, path + strlen("/sys/fs/cgroup"));
	else
		doctor_add(
			view->d, "io-limit", DOCTOR_WARN,
			"see limits.io_mib_per_s; a limit needs a data folder on a disk of its own (no overlay, tmpfs, "
			"btrfs) and the controller io (v1: blkio)",
			"none by the cgroup, QEMU's own throttle alone");
}

static void check_cgroup(const struct jail_view *view)
{
	static const struct limit limits[] = {
		{ "memory-limit", "memory", "memory.limit_in_bytes", "memory.max" },
		{ "cpu-limit", "cpu", "cpu.cfs_quota_us", "cpu.max" },
		{ "pids-limit", "pids", "pids.max", "pids.max" },
	};
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
		check_limit(view, &limits[i]);
	check_io(view);
}

/* ---- files ---- */

/* May the jail hold this? Regular files, pipes, sockets, anonymous inodes and a few devices. */
static bool allowed_file(const struct stat *st, const char *target)
{
	static const char *const devices[] = { "/dev/null", "/dev/urandom", "/dev/kvm", "/dev/net/tun" };
	if (S_ISREG(st->st_mode))
		return !str_starts(target, "/proc/") && !str_starts(target, "/sys/") && !str_starts(target, "/etc/");
	if (S_ISCHR(st->st_mode)) {
		for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++)
			if (strcmp(target, devices[i]) == 0)
				return true;
		return false;
	}
	return S_ISFIFO(st->st_mode) || S_ISSOCK(st->st_mode) || str_starts(target, "anon_inode:");
}

static void check_fds(const struct jail_view *view)
{
	char path[PATH_SIZE], bad[200] = "";
	int count = 0, wrong = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", view->pid);
	DIR *dir = opendir(path);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		char target[256];
		struct stat st;
		if (entry->d_name[0] == '.')
			continue;
		ssize_t size = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
		if (size < 0 || fstatat(dirfd(dir), entry->d_name, &st, 0) < 0)
			continue;
		target[size] = '\0';
		count++;
		if (allowed_file(&st, target))
			continue;
		doctor_append(bad, sizeof(bad), "%s%.8s %.80s", wrong++ ? ", " : ": ", entry->d_name, target);
	}
	bool readable = dir != NULL;
	if (dir)
		closedir(dir);
	judge(view, "descriptors", readable && wrong == 0, "%d open, %d that it should not have%s", count, wrong, bad);
}

static void check_root(const struct jail_view *view)
{
	static const char *const absent[] = { "proc", "sys", "etc", "root", "home", "tmp", "var", "run" };
	char path[PATH_SIZE], content[200] = "", bad[128] = "";
	snprintf(path, sizeof(path), "/proc/%d/root", view->pid);
	DIR *dir = opendir(path);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		if (entry->d_name[0] != '.')
			doctor_append(content, sizeof(content), " %.32s", entry->d_name);
	}
	for (size_t i = 0; dir && i < sizeof(absent) / sizeof(absent[0]); i++) {
		if (faccessat(dirfd(dir), absent[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			doctor_append(bad, sizeof(bad), " %s", absent[i]);
	}
	bool readable = dir != NULL;
	if (dir)
		closedir(dir);
	judge(view, "root", readable && !*bad, "%s%s", *bad ? "should not be there:" : "holds:", *bad ? bad : content);
}

static void check_mounts(const struct jail_view *view)
{
	static const char *const kinds[] = { " - proc ",    " - sysfs ",   " - devtmpfs ", " - cgroup",
					     " - debugfs ", " - tracefs ", " - bpf " };
	char text[DOCTOR_FILE_MAX], bad[200] = "";
	int count = 0;
	bool writable_root = false;
	read_of(view, "mountinfo", text, sizeof(text));
	char *rest = text;
	for (char *line; (line = strsep(&rest, "\n"));) {
		char point[128] = "", options[128] = "";
		if (sscanf(line, "%*d %*d %*s %*s %127s %127s", point, options) != 2)
			continue;
		count++;
		if (strcmp(point, "/") == 0)
			writable_root = doctor_has_word(options, "rw");
		for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
			if (strstr(line, kinds[i]))
				doctor_append(bad, sizeof(bad), " %.60s", point);
		}
	}
	judge(view, "mounts", count > 0 && !*bad && !writable_root, "%d, root %s%s%s", count,
	      writable_root ? "writable" : "read-only", *bad ? "; kernel file systems:" : "", bad);
}

/* ---- the rest ---- */

static void check_limits(const struct jail_view *view)
{
	static const struct {
		const char *name, *line;
		uint64_t most;
	} limits[] = {
		{ "core-dumps", "Max core file size", 0 },
		{ "open-files", "Max open files", 1024 },
		{ "processes", "Max processes", 1024 },
	};
	char text[4096], value[64];
	read_of(view, "limits", text, sizeof(text));
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		uint64_t most = UINT64_MAX;
		field(text, limits[i].line, value, sizeof(value));
		char *hard = value + strcspn(value, " ");
		hard += strspn(hard, " ");
		hard[strcspn(hard, " ")] = '\0';
		bool good = str_u64(hard, 0, limits[i].most, &most) == 0;
		judge(view, limits[i].name, good, "at most %s", *hard ? hard : "unknown");
	}
}

/* The kernel gives /proc files of a process that is not dumpable to root. */
static void check_dumpable(const struct jail_view *view)
{
	char path[PATH_SIZE];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%d/environ", view->pid);
	bool good = stat(path, &st) == 0 && st.st_uid == 0;
	judge(view, "dumpable", good, good ? "no: memory is closed to its own user and to core dumps" : "yes");
}

static bool in_group(const char *cgroup, const char *what)
{
	char text[8192];
	snprintf(text, sizeof(text), "%s", cgroup);
	char *rest = text;
	for (char *line; (line = strsep(&rest, "\n"));) {
		char *part = strstr(line, "/akira");
		if (part && strstr(part, what))
			return true;
	}
	return false;
}

static int find_process(struct doctor *d, const char *what, pid_t *pid, struct error *err)
{
	uint64_t number;
	int found = 0;
	if (str_u64(what, 1, INT32_MAX, &number) == 0) {
		*pid = (pid_t)number;
		return 0;
	}
	if (strlen(what) < 4)
		return error_set(err, EINVAL, "'%s' is neither a pid nor enough of an id", what);
	DIR *dir = opendir("/proc");
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		char path[PATH_SIZE], text[8192];
		if (str_u64(entry->d_name, 1, INT32_MAX, &number) < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%.20s/cgroup", entry->d_name);
		if (doctor_read(d, path, text, sizeof(text)) < 0 || !in_group(text, what))
			continue;
		*pid = (pid_t)number;
		found++;
	}
	if (dir)
		closedir(dir);
	if (found == 0)
		return error_set(err, ENOENT, "no process is in a cgroup of '%s'", what);
	return found > 1 ? error_set(err, EEXIST, "%d processes are in cgroups of '%s'", found, what) : 0;
}

static int look(const struct jail_view *view, struct error *err)
{
	char status[8192], name[64];
	if (read_of(view, "status", status, sizeof(status)) < 0)
		return error_set(err, ENOENT, "there is no process %d", view->pid);
	field(status, "Name:", name, sizeof(name));
	doctor_add(view->d, "process", DOCTOR_INFO, NULL, "%d %s", view->pid, name);
	check_ids(view, status);
	check_capabilities(view, status);
	check_threads(view);
	check_namespaces(view);
	check_interfaces(view);
	check_cgroup(view);
	check_fds(view);
	check_root(view);
	check_mounts(view);
	check_limits(view);
	check_dumpable(view);
	if (read_of(view, "status", status, sizeof(status)) < 0)
		return error_set(err, ENOENT, "process %d ended meanwhile", view->pid);
	return 0;
}

int doctor_jail(const char *what, struct doctor_fact **facts, size_t *count, struct error *err)
{
	struct doctor_config config = DOCTOR_CONFIG_DEFAULT;
	struct doctor d = { .config = &config };
	if (geteuid() != 0)
		return error_set(err, EACCES, "looking into a jail takes root");
	_cleanup_fd_ int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	d.root = root;
	d.facts = calloc(DOCTOR_FACTS_MAX, sizeof(*d.facts));
	if (root < 0 || !d.facts) {
		free(d.facts);
		return error_errno(err, root < 0 ? errno : ENOMEM, "start");
	}
	struct jail_view view = { .d = &d };
	int r = find_process(&d, what, &view.pid, err);
	if (r == 0)
		r = look(&view, err);
	if (r < 0) {
		free(d.facts);
		return r;
	}
	*facts = d.facts;
	*count = d.count;
	return 0;
}
