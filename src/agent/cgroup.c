#include "agent/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "base/fd.h"

#define ROOT "/sys/fs/cgroup"
#define FREE_MAX 16
#define MIB (UINT64_C(1) << 20)

static int put(int dir, const char *file, const char *text)
{
	_cleanup_fd_ int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static int put_number(int dir, const char *file, uint64_t number)
{
	char text[32];
	snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
	return put(dir, file, text);
}

uint64_t cgroup_memory_limit(void)
{
	struct sysinfo info;
	if (sysinfo(&info) < 0)
		return 64 * MIB;

	/* The agent, its port's buffers and what the kernel cannot charge to anybody. */
	uint64_t total = (uint64_t)info.totalram * info.mem_unit, keep = total / 16;
	if (keep < 24 * MIB)
		keep = 24 * MIB;
	if (keep > 128 * MIB)
		keep = 128 * MIB;
	return total > 2 * keep ? total - keep : total / 2;
}

int cgroup_setup(struct cgroup_pool *pool, struct loop *loop, struct error *err)
{
	*pool = (struct cgroup_pool){ .sandbox = -1, .loop = loop };
	int r = put(AT_FDCWD, ROOT "/cgroup.subtree_control", "+memory +pids");
	if (r < 0)
		return error_errno(err, -r, "the kernel has not the memory and pids controllers");
	if (mkdir(ROOT "/sandbox", 0755) < 0 && errno != EEXIST)
		return error_errno(err, errno, "make the sandbox's control group");
	pool->sandbox = open(ROOT "/sandbox", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (pool->sandbox < 0)
		return error_errno(err, errno, "open the sandbox's control group");
	r = put_number(pool->sandbox, "memory.max", cgroup_memory_limit());
	if (r < 0)
		return error_errno(err, -r, "limit the sandbox's memory");
	/* Groups that users make (in user namespaces of theirs) cost kernel memory. */
	put_number(pool->sandbox, "cgroup.max.descendants", 8192);
	return 0;
}

int cgroup_limit_processes(struct cgroup_pool *pool, uint32_t max)
{
	return put_number(pool->sandbox, "pids.max", max);
}

static struct cgroup *make(struct cgroup_pool *pool)
{
	struct cgroup *group = calloc(1, sizeof(*group));
	char name[32];

	if (!group)
		return NULL;
	group->pool = pool;
	group->number = ++pool->last;
	group->events.fd = -1;
	snprintf(name, sizeof(name), "c%u", group->number);
	group->dir = -1;
	if (mkdirat(pool->sandbox, name, 0755) == 0)
		group->dir = openat(pool->sandbox, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	group->populated = group->dir < 0 ? -1 : openat(group->dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	if (group->populated < 0) {
		fd_close(&group->dir);
		unlinkat(pool->sandbox, name, AT_REMOVEDIR);
		free(group);
		return NULL;
	}
	return group;
}

struct cgroup *cgroup_take(struct cgroup_pool *pool)
{
	struct cgroup *group = pool->free;

	if (group) {
		pool->free = group->next;
		pool->free_count--;
	} else {
		group = make(pool);
		if (!group)
			return NULL;
	}
	group->next = pool->used;
	pool->used = group;
	return group;
}

static bool is_empty(const struct cgroup *group)
{
	char text[128];
	ssize_t n = pread(group->populated, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = '\0';
	return strstr(text, "populated 0") != NULL;
}

static void put_back(struct cgroup *group)
{
	struct cgroup_pool *pool = group->pool;
	struct cgroup **at = &pool->used;
	char name[32];

	while (*at && *at != group)
		at = &(*at)->next;
	if (*at)
		*at = group->next;
	if (pool->free_count < FREE_MAX) {
		group->next = pool->free;
		pool->free = group;
		pool->free_count++;
		return;
	}
	snprintf(name, sizeof(name), "c%u", group->number);
	unlinkat(pool->sandbox, name, AT_REMOVEDIR);
	fd_close(&group->dir);
	fd_close(&group->populated);
	free(group);
}

static void events_ready(struct watch *watch, uint32_t events)
{
	struct cgroup *group = (struct cgroup *)watch; /* events is its first member */

	if (!is_empty(group))
		return;
	loop_drop(&group->events);
	put_back(group);
}

void cgroup_release(struct cgroup *group)
{
	if (is_empty(group)) {
		put_back(group);
		return;
	}
	/* A copy of the descriptor: the watch closes its own. */
	int fd = openat(group->dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || loop_add(group->pool->loop, &group->events, fd, EPOLLPRI, events_ready) < 0)
		return; /* it stays used for good: no harm but its memory */
	char text[128];
	if (pread(fd, text, sizeof(text), 0) >= 0 && is_empty(group)) { /* read once: only changes after it are told */
		loop_drop(&group->events);
		put_back(group);
	}
}

void cgroup_kill(struct cgroup *group)
{
	put(group->dir, "cgroup.kill", "1");
}

void cgroup_kill_all(struct cgroup_pool *pool)
{
	for (struct cgroup *group = pool->used; group; group = group->next)
		cgroup_kill(group);
}

void cgroup_kill_group(struct cgroup_pool *pool)
{
	put(pool->sandbox, "cgroup.kill", "1");
}

uint64_t cgroup_number(const struct cgroup_pool *pool, const char *file, const char *key)
{
	char text[1024];
	_cleanup_fd_ int fd = openat(pool->sandbox, file, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return 0;
	text[n] = '\0';
	const char *at = key ? strstr(text, key) : text;
	return at ? strtoull(at + (key ? strlen(key) : 0), NULL, 10) : 0;
}
