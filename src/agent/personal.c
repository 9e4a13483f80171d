#include "agent/personal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/network.h"
#include "agent/path.h"
#include "agent/root.h"
#include "base/buf.h"
#include "base/fd.h"
#include "base/str.h"

#define HOSTS_MAX 65536

/* Before all else: two restored copies of a template must not draw one more number from the same state. */
static int stir(const struct request *r, struct error *err)
{
	struct {
		int entropy_count, buf_size;
		unsigned char buf[512];
	} pool = { (int)r->size[GUEST_TAG_ENTROPY] * 8, (int)r->size[GUEST_TAG_ENTROPY], { 0 } };

	memcpy(pool.buf, r->text[GUEST_TAG_ENTROPY], r->size[GUEST_TAG_ENTROPY]);
	_cleanup_fd_ int fd = open("/dev/random", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		return error_errno(err, errno, "add entropy");
	explicit_bzero(&pool, sizeof(pool));
	return 0;
}

static int set_clock(const struct request *r, struct error *err)
{
	uint64_t ms = r->number[GUEST_TAG_WALL_MS];
	struct timespec now = { .tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000 };

	return clock_settime(CLOCK_REALTIME, &now) < 0 ? error_errno(err, errno, "set the clock") : 0;
}

static int keep_environment(struct agent *a, const struct request *r, struct error *err)
{
	size_t size = 1, used = 0;

	for (size_t i = 0; i < r->envc; i++)
		size += strlen(r->env[i]) + 1;
	char *bytes = malloc(size);
	if (!bytes)
		return error_set(err, ENOMEM, "no memory for the environment");
	free(a->env_bytes);
	a->env_bytes = bytes;
	for (size_t i = 0; i < r->envc; i++) {
		size_t length = strlen(r->env[i]) + 1;
		a->env[i] = memcpy(bytes + used, r->env[i], length);
		used += length;
	}
	a->env[r->envc] = NULL;
	return 0;
}

static int set_workdir(struct agent *a, const struct request *r, struct error *err)
{
	const char *workdir = r->text[GUEST_TAG_WORKDIR];

	if (workdir[0] != '/')
		return error_set(err, EINVAL, "workdir must begin with /");
	int fd = path_make_folder(a->root, workdir);
	if (fd < 0)
		return error_errno(err, -fd, "make workdir %.200s", workdir);
	close(fd);
	return str_copy(a->workdir, sizeof(a->workdir), workdir);
}

static int write_boot_id(const struct request *r, struct error *err)
{
	char hex[33], text[40];

	str_hex(hex, r->text[GUEST_TAG_BOOT_ID], 16);
	int size = snprintf(text, sizeof(text), "%.8s-%.4s-%.4s-%.4s-%.12s\n", hex, hex + 8, hex + 12, hex + 16,
			    hex + 20);
	_cleanup_fd_ int fd = open(ROOT_BOOT_ID, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || pwrite(fd, text, (size_t)size, 0) != size)
		return error_errno(err, errno, "set the boot id");
	return 0;
}

/* What the user wrote there stays, but the line of the host's name. */
static void make_hosts(struct agent *a, const char *hostname, struct buf *hosts)
{
	_cleanup_free_ char *old = NULL;
	_cleanup_fd_ int fd = path_open(a->root, "/etc/hosts", O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (old = calloc(1, HOSTS_MAX + 1)))
		fd_read_all(fd, old, HOSTS_MAX);
	if (!old || !strstr(old, "localhost"))
		buf_adds(hosts, "127.0.0.1\tlocalhost\n");
	for (char *save = old, *line; old && (line = strsep(&save, "\n"));)
		if (*line && !str_starts(line, "127.0.1.1"))
			buf_addf(hosts, "%s\n", line);
	buf_addf(hosts, "127.0.1.1\t%s\n", hostname);
}

static int write_names(struct agent *a, const struct request *r, struct error *err)
{
	const char *hostname = r->text[GUEST_TAG_HOSTNAME];
	char machine_id[34], text[80];
	_cleanup_buf_ struct buf hosts = { .max = 2 * HOSTS_MAX };

	if (sethostname(hostname, r->size[GUEST_TAG_HOSTNAME]) < 0)
		return error_errno(err, errno, "set the host's name");
	str_hex(machine_id, r->text[GUEST_TAG_MACHINE_ID], 16);
	machine_id[32] = '\n';
	int size = snprintf(text, sizeof(text), "%s\n", hostname);
	make_hosts(a, hostname, &hosts);
	int result = path_write(a->root, "/etc", "machine-id", machine_id, 33, 0444);
	if (result == 0)
		result = path_write(a->root, "/etc", "hostname", text, (size_t)size, 0644);
	if (result == 0)
		result = path_write(a->root, "/etc", "hosts", buf_text(&hosts), hosts.size, 0644);
	return result < 0 ? error_errno(err, -result, "write the names in /etc") : 0;
}

static int write_resolver(struct agent *a, const struct request *r, struct error *err)
{
	uint32_t ip = (uint32_t)request_number(r, GUEST_TAG_DNS, 0);
	char text[64] = "";

	if (ip)
		snprintf(text, sizeof(text), "nameserver %u.%u.%u.%u\n", ip >> 24, ip >> 16 & 255, ip >> 8 & 255,
			 ip & 255);
	int result = path_write(a->root, "/etc", "resolv.conf", text, strlen(text), 0644);
	return result < 0 ? error_errno(err, -result, "write /etc/resolv.conf") : 0;
}

static int limit_processes(struct agent *a, const struct request *r, struct error *err)
{
	/* About 16 KiB of kernel stack and as much of other things each: a sixteenth of a megabyte is ample. */
	uint64_t fits = cgroup_memory_limit() >> 16;
	uint32_t max = (uint32_t)request_number(r, GUEST_TAG_MAX_PROCS, fits < 4096 ? fits : 4096);
	char text[24];

	int result = cgroup_limit_processes(&a->cgroups, max);
	if (result < 0)
		return error_errno(err, -result, "limit the number of processes");
	/* The kernel's own bound must leave the agent some. */
	int size = snprintf(text, sizeof(text), "%u", max + 1024);
	_cleanup_fd_ int fd = open("/proc/sys/kernel/threads-max", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, text, (size_t)size) < 0)
		agent_say("threads-max: %s", strerror(errno));
	return 0;
}

int personal_apply(struct agent *a, const struct request *r, struct error *err)
{
	int result = stir(r, err);

	if (result == 0)
		result = set_clock(r, err);
	if (result == 0)
		result = keep_environment(a, r, err);
	if (result == 0)
		result = write_boot_id(r, err);
	if (result == 0)
		result = network_apply(r, err);
	if (result == 0)
		result = limit_processes(a, r, err);
	if (result == 0)
		result = write_names(a, r, err);
	if (result == 0)
		result = write_resolver(a, r, err);
	if (result == 0)
		result = set_workdir(a, r, err);
	if (result == 0)
		a->phase = GUEST_PERSONALISED;
	return result;
}
