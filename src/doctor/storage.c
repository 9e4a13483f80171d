#include "doctor/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"

#define DISK_LOW_GIB 10
#define TRIAL_MS 5000
#define CLONE_SIZE 65536

static const char *const qemu_paths[] = { "/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64", NULL };

static void check_qemu(struct doctor *d)
{
	const char *program = doctor_program(qemu_paths);
	char output[512] = "";
	unsigned major = 0, minor = 0;
	if (!program) {
		doctor_add(d, "qemu", DOCTOR_FAIL, "apt-get install qemu-system-x86", "there is no qemu-system-x86_64");
		return;
	}
	const char *const argv[] = { program, "--version", NULL };
	if (d->config->looks_only || doctor_spawn(argv, NULL, 0, output, sizeof(output), TRIAL_MS) != 0) {
		doctor_add(d, "qemu", d->config->looks_only ? DOCTOR_INFO : DOCTOR_FAIL, NULL, "%s%s", program,
			   d->config->looks_only ? "" : " does not run");
		return;
	}
	const char *version = strstr(output, "version ");
	bool known = version && sscanf(version, "version %u.%u", &major, &minor) == 2;
	bool old = known && (major < 7 || (major == 7 && minor < 2));
	doctor_add(d, "qemu", !known || old ? DOCTOR_WARN : DOCTOR_OK,
		   old ? "Akira is tested with QEMU 7.2 and later." : NULL, known ? "%u.%u" : "unknown version", major,
		   minor);
}

/* The nearest folder of path that exists; "/" in the worst case. */
static int open_nearest(const struct doctor *d, const char *path, char *found, size_t size)
{
	snprintf(found, size, "%s", path);
	for (;;) {
		char *slash = strrchr(found, '/');
		int fd = openat(d->root, found[0] == '/' && found[1] ? found + 1 : ".",
				O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 || !slash || !found[1])
			return fd;
		slash[slash == found] = '\0';
	}
}

static void check_space(struct doctor *d, const char *name, const char *dir)
{
	char found[512];
	struct statvfs vfs;
	_cleanup_fd_ int fd = open_nearest(d, dir, found, sizeof(found));
	if (fd < 0 || fstatvfs(fd, &vfs) < 0) {
		doctor_add(d, name, DOCTOR_WARN, NULL, "%s: %s", found, strerror(errno));
		return;
	}
	uint64_t free_gib = ((uint64_t)vfs.f_bavail * vfs.f_frsize) >> 30;
	bool low = free_gib < DISK_LOW_GIB;
	doctor_add(d, name, low ? DOCTOR_WARN : DOCTOR_OK,
		   low ? "Free some space: an image takes 0.2 to 2 GiB, a sandbox what it writes." : NULL,
		   "%llu GiB free at %s", (unsigned long long)free_gib, found);
}

/* 1: the file system shares blocks between files; 0: it does not; -1: could not be tried. */
static int try_clone(int dir)
{
	char block[4096] = { 1 };
	_cleanup_fd_ int from = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	_cleanup_fd_ int to = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (from < 0 || to < 0)
		return -1;
	for (int i = 0; i < CLONE_SIZE / (int)sizeof(block); i++)
		if (fd_write_all(from, block, sizeof(block)) < 0)
			return -1;
	return ioctl(to, FICLONE, from) == 0;
}

static void check_reflink(struct doctor *d)
{
	char found[512];
	_cleanup_fd_ int fd = open_nearest(d, d->config->state_dir, found, sizeof(found));
	int shares = fd < 0 || d->config->looks_only ? -1 : try_clone(fd);
	if (shares > 0)
		doctor_add(d, "reflink", DOCTOR_OK, NULL, "snapshots share blocks (%s)", found);
	else if (shares == 0)
		doctor_add(
			d, "reflink", DOCTOR_INFO,
			"Put /var/lib/akira on XFS or Btrfs: snapshots and clones are then instant and take no space.",
			"snapshots are whole copies (%s)", found);
	else
		doctor_add(d, "reflink", DOCTOR_INFO, NULL, "unknown: %s cannot be written", found);
}

static void check_guest(struct doctor *d)
{
	char path[512];
	_cleanup_fd_ int fd = -1;
	snprintf(path, sizeof(path), "%s/guest", d->config->cache_dir);
	fd = openat(d->root, path + 1, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool kernel = fd >= 0 && faccessat(fd, "kernel", F_OK, 0) == 0;
	bool initramfs = fd >= 0 && faccessat(fd, "initramfs.cpio", F_OK, 0) == 0;
	bool whole = kernel && initramfs;
	doctor_add(d, "guest", whole ? DOCTOR_OK : DOCTOR_FAIL,
		   whole ? NULL : "Make them: tools/guest/assemble (see docs/images.md).", "%s in %s",
		   whole    ? "kernel and initramfs"
		   : kernel ? "no initramfs"
			    : "no kernel",
		   path);
}

static void check_images(struct doctor *d)
{
	char path[512];
	size_t count = 0;
	snprintf(path, sizeof(path), "%s/images", d->config->cache_dir);
	int fd = openat(d->root, path + 1, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		char image[300];
		snprintf(image, sizeof(image), "%s/image.erofs", entry->d_name);
		/* NAME@DIGEST is an earlier build, from which nothing new starts. */
		count += entry->d_name[0] != '.' && !strchr(entry->d_name, '@') &&
			 faccessat(dirfd(dir), image, F_OK, 0) == 0;
	}
	if (dir)
		closedir(dir);
	doctor_add(d, "images", count ? DOCTOR_OK : DOCTOR_FAIL, count ? NULL : "akira image build default",
		   "%zu in %s", count, path);
}

void doctor_check_storage(struct doctor *d)
{
	check_qemu(d);
	check_guest(d);
	check_images(d);
	check_space(d, "disk-state", d->config->state_dir);
	check_space(d, "disk-cache", d->config->cache_dir);
	check_reflink(d);
}
