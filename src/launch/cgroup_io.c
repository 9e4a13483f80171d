#include "launch/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "launch/cgroup_internal.h"

#define NUMBER_SIZE 24 /* "254:16" */

enum reason { NO_CONTROLLER, NO_DISK, NO_THROTTLE };

/* What is left then is QEMU's own throttle, which a VM process that was taken over does not keep to. */
static int without(struct cgroup_host *host, enum reason why, dev_t device)
{
	static const char *const texts[] = { "this host has no io controller (blkio on v1)",
					     "its file system has no disk of its own",
					     "this kernel does not throttle (CONFIG_BLK_DEV_THROTTLING)" };
	char number[NUMBER_SIZE];
	snprintf(number, sizeof number, "%u:%u", major(device), minor(device));
	if (!(host->told & 1u << why))
		log_warn("no_io_limit_by_cgroup", "device", number, "why", texts[why]);
	host->told |= 1u << why;
	return 0;
}

/* The number of the disk that holds a file system: a partition has no queue of its own to be limited. */
static bool find_disk(const struct cgroup_host *host, dev_t device, char number[NUMBER_SIZE])
{
	const char *block = host->block ? host->block : "/sys/dev/block";
	char path[256];
	struct stat st;
	snprintf(number, NUMBER_SIZE, "%u:%u", major(device), minor(device));
	snprintf(path, sizeof path, "%s/%s", block, number);
	if (!major(device) || stat(path, &st) < 0)
		return false;
	snprintf(path, sizeof path, "%s/%s/partition", block, number);
	if (stat(path, &st) < 0)
		return true;
	snprintf(path, sizeof path, "%s/%s/../dev", block, number);
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, number, NUMBER_SIZE - 1);
	if (got <= 0)
		return false;
	number[got] = 0;
	number[strcspn(number, "\n")] = 0;
	return true;
}

static int limit_v1(const struct cgroup_host *host, int dir, const char *disk, struct error *err)
{
	const struct {
		const char *file;
		uint64_t value;
	} limits[] = {
		{ "blkio.throttle.read_bps_device", host->io_bytes },
		{ "blkio.throttle.write_bps_device", host->io_bytes },
		{ "blkio.throttle.read_iops_device", host->io_ops },
		{ "blkio.throttle.write_iops_device", host->io_ops },
	};
	int r = 0;
	for (size_t i = 0; i < sizeof limits / sizeof limits[0] && r == 0; i++) {
		char line[64];
		snprintf(line, sizeof line, "%s %" PRIu64, disk, limits[i].value);
		r = limits[i].value ? cgroup_write(host, dir, limits[i].file, line, err) : 0;
	}
	return r;
}

static void append(char *line, size_t size, const char *key, uint64_t value)
{
	size_t length = strlen(line);
	if (value)
		snprintf(line + length, size - length, " %s=%" PRIu64, key, value);
}

static int limit_v2(const struct cgroup_host *host, int dir, const char *disk, struct error *err)
{
	char line[160];
	snprintf(line, sizeof line, "%s", disk);
	append(line, sizeof line, "rbps", host->io_bytes);
	append(line, sizeof line, "wbps", host->io_bytes);
	append(line, sizeof line, "riops", host->io_ops);
	append(line, sizeof line, "wiops", host->io_ops);
	return cgroup_write(host, dir, "io.max", line, err);
}

int cgroup_limit_io(struct cgroup_host *host, const struct cgroup *g, dev_t device, struct error *err)
{
	char disk[NUMBER_SIZE];
	int dir = g->dir[host->version == 2 ? 0 : CGROUP_BLKIO];
	if (!host->io_bytes && !host->io_ops)
		return 0;
	if (!host->io || dir < 0)
		return without(host, NO_CONTROLLER, device);
	if (!find_disk(host, device, disk))
		return without(host, NO_DISK, device);
	int r = host->version == 2 ? limit_v2(host, dir, disk, err) : limit_v1(host, dir, disk, err);
	return r == -ENOENT ? without(host, NO_THROTTLE, device) : r;
}
