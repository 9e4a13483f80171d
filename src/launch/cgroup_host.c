#include "launch/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "launch/cgroup_internal.h"

#define NEEDED 3               /* so many of cgroup_controllers must be there */
#define OWN_GROUP "supervisor" /* of akirad and the launcher, below a group that was delegated to them */
#define PATH_SIZE 1024

static bool word_in(const char *list, const char *word, char separator)
{
	size_t length = strlen(word);
	for (const char *p = list; p; p = strchr(p, separator)) {
		p += *p == separator;
		if (!strncmp(p, word, length) && (!p[length] || p[length] == separator || p[length] == '\n'))
			return true;
	}
	return false;
}

struct mount {
	char point[512], type[16], options[256];
};

/* One line of mountinfo(5): id parent dev root POINT flags… - TYPE source OPTIONS. */
static bool parse_mount(const char *line, size_t size, struct mount *m)
{
	char text[2048];
	if (size >= sizeof text)
		return false;
	memcpy(text, line, size);
	text[size] = 0;
	char *tail = strstr(text, " - ");
	if (!tail || sscanf(text, "%*s %*s %*s %*s %511s", m->point) != 1)
		return false;
	return sscanf(tail + 3, "%15s %*s %255s", m->type, m->options) == 2;
}

static void close_roots(struct cgroup_host *host)
{
	for (int i = 0; i < CGROUP_KINDS; i++)
		fd_close(&host->root[i]);
}

static int open_group(int top, const char *name, struct error *err)
{
	if (mkdirat(top, name, 0755) < 0 && errno != EEXIST)
		return error_errno(err, errno, "cgroup: make %s", name);
	int group = openat(top, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return group < 0 ? error_errno(err, errno, "cgroup: open %s", name) : group;
}

/* ---- v2 ---- */

static bool is_delegated(const char *path)
{
	char value[8];
	return getxattr(path, "trusted.delegate", value, sizeof value) == 1 && value[0] == '1';
}

/*
 * The group below which ours is made: the launcher's own if systemd says that it was delegated (Delegate=yes; then
 * systemd ends and counts our VMs with the service), else the mount's root.
 */
static int open_base(const struct cgroup_host *host, const char *mount, struct error *err)
{
	char path[PATH_SIZE];
	const char *own = host->self ? strstr(host->self, "0::/") : NULL;
	if (own) {
		own += strlen("0::");
		int size = snprintf(path, sizeof path, "%s%.*s", mount, (int)strcspn(own, "\n"), own);
		char *last = size < (int)sizeof path ? strrchr(path, '/') : NULL;
		if (last && !strcmp(last + 1, OWN_GROUP)) /* an earlier launcher of this service has moved us */
			*last = 0;
		if (last && is_delegated(path))
			mount = path;
	}
	int base = open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return base < 0 ? error_errno(err, errno, "cgroup: open %s", mount) : base;
}

/* Every process of the base to a group of their own: one that has processes itself cannot limit its children. */
static int make_room(const struct cgroup_host *host, int base, struct error *err)
{
	char list[CGROUP_FILE_MAX];
	int r = cgroup_read(base, "cgroup.procs", list, sizeof list);
	if (faccessat(base, "cgroup.type", F_OK, 0) < 0 || r < 0 || !list[0])
		return 0; /* the root of all, which may have both, or empty already */
	_cleanup_fd_ int own = open_group(base, OWN_GROUP, err);
	if (own < 0)
		return own;
	/* Passes, as a list may be cut short and processes may fork meanwhile. */
	for (int pass = 0; pass < 16 && list[0]; pass++) {
		char *rest = list;
		for (char *pid; (pid = strsep(&rest, "\n")) && r == 0;) {
			r = *pid && rest ? cgroup_write(host, own, "cgroup.procs", pid, err) : 0;
			r = r == -ESRCH ? 0 : r;
		}
		r = r < 0 ? r : cgroup_read(base, "cgroup.procs", list, sizeof list);
		if (r < 0)
			return error_prefix(err, "leaving the delegated cgroup");
	}
	return 0;
}

static int open_v2(struct cgroup_host *host, const char *mount, struct error *err)
{
	char list[CGROUP_FILE_MAX], enabled[64] = "+memory +cpu +pids";
	_cleanup_fd_ int base = open_base(host, mount, err);
	if (base < 0)
		return base;
	if (cgroup_read(base, "cgroup.controllers", list, sizeof list) < 0)
		return -ENOTSUP;
	for (int i = 0; i < NEEDED; i++)
		if (!word_in(list, cgroup_controllers[i], ' '))
			return -ENOTSUP;
	host->io = word_in(list, "io", ' ');
	if (host->io)
		strcat(enabled, " +io");
	int r = make_room(host, base, err);
	r = r < 0 ? r : cgroup_write(host, base, "cgroup.subtree_control", enabled, err);
	_cleanup_fd_ int group = r < 0 ? r : open_group(base, host->name, err);
	r = group < 0 ? group : cgroup_write(host, group, "cgroup.subtree_control", enabled, err);
	return r < 0 ? r : fd_steal(&group);
}

/* ---- all ---- */

static int take_v1(struct cgroup_host *host, const struct mount *m, struct error *err)
{
	for (int i = 0; i < CGROUP_KINDS; i++) {
		if (host->root[i] >= 0 || !word_in(m->options, cgroup_controllers[i], ','))
			continue;
		_cleanup_fd_ int top = open(m->point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (top < 0)
			return error_errno(err, errno, "cgroup: open %s", m->point);
		host->root[i] = open_group(top, host->name, err);
		if (host->root[i] < 0)
			return host->root[i];
		host->io = host->io || i == CGROUP_BLKIO;
	}
	return 0;
}

static int take_mount(struct cgroup_host *host, const struct mount *m, struct error *err)
{
	if (!strcmp(m->type, "cgroup") && host->version != 2)
		return take_v1(host, m, err);
	if (strcmp(m->type, "cgroup2") || host->version == 2)
		return 0;
	bool v1_io = host->io;
	int group = open_v2(host, m->point, err);
	if (group == -ENOTSUP) { /* its controllers are on v1 */
		host->io = v1_io;
		return 0;
	}
	if (group < 0)
		return group;
	close_roots(host);
	host->version = 2;
	host->root[0] = group;
	return 0;
}

int cgroup_host_open(struct cgroup_host *host, const char *mountinfo, const char *name, struct error *err)
{
	for (int i = 0; i < CGROUP_KINDS; i++)
		host->root[i] = -1;
	host->version = 1;
	host->io = false;
	str_copy(host->name, sizeof host->name, name);
	for (const char *line = mountinfo; *line;) {
		size_t size = strcspn(line, "\n");
		struct mount m;
		int r = parse_mount(line, size, &m) ? take_mount(host, &m, err) : 0;
		if (r < 0) {
			close_roots(host);
			return r;
		}
		line += size + (line[size] == '\n');
	}
	for (int i = 0; i < NEEDED && host->version == 1; i++) {
		if (host->root[i] >= 0)
			continue;
		close_roots(host);
		return error_set(err, ENOTSUP,
				 "no cgroup controller \"%s\" (neither cgroup v2 nor a v1 hierarchy has it)",
				 cgroup_controllers[i]);
	}
	return 0;
}

void cgroup_host_end(struct cgroup_host *host)
{
	for (int i = 0; i < CGROUP_KINDS; i++) {
		char path[40];
		if (host->root[i] < 0)
			continue;
		snprintf(path, sizeof path, "../%s", host->name);
		unlinkat(host->root[i], path, AT_REMOVEDIR);
	}
	close_roots(host);
}
