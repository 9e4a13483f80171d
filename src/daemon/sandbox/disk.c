#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "daemon/sandbox/internal.h"

static const char *const folder_names[] = { "scratch", "snapshots", "templates", "paused", "blank" };
_Static_assert(sizeof(folder_names) / sizeof(folder_names[0]) == FOLDERS, "a name for each folder");

static bool try_reflink(const struct disk *disk)
{
	_cleanup_fd_ int from = openat(disk->folders[FOLDER_SCRATCH], ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	_cleanup_fd_ int to = openat(disk->folders[FOLDER_SCRATCH], ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char block[4096] = { 1 };

	return from >= 0 && to >= 0 && fd_write_all(from, block, sizeof(block)) == 0 && ioctl(to, FICLONE, from) == 0;
}

int disk_open(const char *data_dir, uint64_t reserve, struct disk *disk, struct error *err)
{
	*disk = (struct disk){ .reserve = reserve };
	for (int i = 0; i < FOLDERS; i++)
		disk->folders[i] = -1;
	pthread_mutex_init(&disk->lock, NULL);
	_cleanup_fd_ int data = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (data < 0)
		return error_errno(err, errno, "open the data folder %s", data_dir);
	for (int i = 0; i < FOLDERS; i++) {
		if (mkdirat(data, folder_names[i], 0700) < 0 && errno != EEXIST)
			return error_errno(err, errno, "make the folder %s", folder_names[i]);
		disk->folders[i] = openat(data, folder_names[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (disk->folders[i] < 0)
			return error_errno(err, errno, "open the folder %s", folder_names[i]);
	}
	disk->reflink = try_reflink(disk);
	return 0;
}

void disk_close(struct disk *disk)
{
	for (int i = 0; i < FOLDERS; i++)
		fd_close(&disk->folders[i]);
	pthread_mutex_destroy(&disk->lock);
}

uint64_t disk_free_bytes(const struct disk *disk)
{
	struct statvfs st;
	if (fstatvfs(disk->folders[FOLDER_SCRATCH], &st) < 0)
		return 0;
	return (uint64_t)st.f_bavail * st.f_frsize;
}

int disk_room(const struct disk *disk, uint64_t more, struct error *err)
{
	uint64_t left = disk_free_bytes(disk);
	if (left < disk->reserve || left - disk->reserve < more)
		return error_set(err, ENOSPC,
				 "the host's disk is full up to its reserve; delete sandboxes or snapshots");
	return 0;
}

int disk_create(const struct disk *disk, enum folder folder, const char *name, int *fd, struct error *err)
{
	*fd = openat(disk->folders[folder], name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0660);
	return *fd < 0 ? error_errno(err, errno, "make a file in %s", folder_names[folder]) : 0;
}

static ssize_t copy_by_hand(int from, int to, off_t at, size_t size)
{
	static const size_t step = 1 << 20;
	_cleanup_free_ char *data = malloc(step);
	size_t done = 0;

	if (!data)
		return -1;
	ssize_t n = pread(from, data, size < step ? size : step, at);
	while (n > 0 && done < (size_t)n) {
		ssize_t written = pwrite(to, data + done, (size_t)n - done, at + (off_t)done);
		if (written < 0 && errno != EINTR)
			return -1;
		done += written > 0 ? (size_t)written : 0;
	}
	return n;
}

static int copy_extent(int from, int to, off_t start, off_t end)
{
	bool by_hand = false;

	while (start < end) {
		off_t in = start, out = start;
		ssize_t n = by_hand ? copy_by_hand(from, to, start, (size_t)(end - start))
				    : copy_file_range(from, &in, to, &out, (size_t)(end - start), 0);
		/* Not every file system copies by itself, nor from every other. */
		if (n < 0 && !by_hand &&
		    (errno == EXDEV || errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)) {
			by_hand = true;
			continue;
		}
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return 0; /* the file ended: it is a disk that shrank under us, and the caller's size check sees it */
		if (n > 0)
			start += n;
	}
	return 0;
}

int disk_copy(const struct disk *disk, int from, int to, struct error *err)
{
	struct stat st, there;
	if (FAULT("disk-copy") < 0)
		return error_set(err, EIO, "injected: disk-copy");
	if (fstat(from, &st) < 0 || fstat(to, &there) < 0)
		return error_errno(err, errno, "copy a disk");
	if (disk->reflink && ioctl(to, FICLONE, from) == 0)
		return 0;
	/* A VM may have it open already, so it never shrinks on the way. */
	if (there.st_size < st.st_size && ftruncate(to, st.st_size) < 0)
		return error_errno(err, errno, "copy a disk");

	off_t at = 0;
	while (at < st.st_size) {
		off_t start = lseek(from, at, SEEK_DATA);
		if (start < 0 && errno == ENXIO)
			break;
		off_t end = start < 0 ? -1 : lseek(from, start, SEEK_HOLE);
		if (start < 0 || end < 0)
			return error_errno(err, errno, "copy a disk");
		int r = copy_extent(from, to, start, end);
		if (r < 0)
			return error_errno(err, -r, "copy a disk");
		at = end;
	}
	return 0;
}

/*
 * A journal of 64 MiB: growing online takes 1,030 credits, and one transaction may have a quarter of the journal.
 * mke2fs on /dev/fd/3; its words are of no use to anybody but the log's reader, so they go nowhere. */
static int run_mke2fs(int fd, struct error *err)
{
	char *const argv[] = {
		(char *)(uintptr_t) "mke2fs",
		(char *)(uintptr_t) "-q",
		(char *)(uintptr_t) "-F",
		(char *)(uintptr_t) "-t",
		(char *)(uintptr_t) "ext4",
		(char *)(uintptr_t) "-m",
		(char *)(uintptr_t) "0",
		(char *)(uintptr_t) "-J",
		(char *)(uintptr_t) "size=64",
		(char *)(uintptr_t) "-O",
		(char *)(uintptr_t) "^metadata_csum_seed,resize_inode",
		(char *)(uintptr_t) "-E",
		(char *)(uintptr_t) "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
		(char *)(uintptr_t) "/dev/fd/3",
		NULL,
	};
	char *const envp[] = { (char *)(uintptr_t) "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	posix_spawn_file_actions_t actions;
	pid_t pid;
	int status = -1;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_RDWR, 0);
	posix_spawn_file_actions_adddup2(&actions, fd, 3);
	int r = posix_spawnp(&pid, "mke2fs", &actions, NULL, argv, envp);
	posix_spawn_file_actions_destroy(&actions);
	if (r != 0)
		return error_errno(err, r, "run mke2fs (package e2fsprogs)");
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status == 0 ? 0 : error_set(err, EIO, "mke2fs failed (status %d)", status);
}

static int make_blank(struct disk *disk, const char *name, uint32_t gb, struct error *err)
{
	char temporary[64];
	snprintf(temporary, sizeof(temporary), "%s.tmp", name);
	disk_remove(disk, FOLDER_BLANK, temporary);

	_cleanup_fd_ int fd = -1;
	int r = disk_create(disk, FOLDER_BLANK, temporary, &fd, err);
	if (r == 0 && ftruncate(fd, (off_t)gb << 30) < 0)
		r = error_errno(err, errno, "make a disk of %u GB", gb);
	/* Descriptor 3 of the child must not be close-on-exec, nor be our own number 3 by chance. */
	_cleanup_fd_ int copy = r == 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 10) : -1;
	if (r == 0)
		r = run_mke2fs(copy, err);
	if (r == 0 && fsync(fd) < 0)
		r = error_errno(err, errno, "sync a new disk");
	if (r == 0 && renameat(disk->folders[FOLDER_BLANK], temporary, disk->folders[FOLDER_BLANK], name) < 0)
		r = error_errno(err, errno, "name a new disk");
	if (r < 0)
		disk_remove(disk, FOLDER_BLANK, temporary);
	return r;
}

int disk_format(struct disk *disk, int to, uint32_t gb, struct error *err)
{
	char name[32];
	snprintf(name, sizeof(name), "blank-%u.raw", gb);

	pthread_mutex_lock(&disk->lock);
	_cleanup_fd_ int blank = openat(disk->folders[FOLDER_BLANK], name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	int r = 0;
	if (blank < 0) {
		r = make_blank(disk, name, gb, err);
		if (r == 0)
			blank = openat(disk->folders[FOLDER_BLANK], name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	}
	pthread_mutex_unlock(&disk->lock);
	if (r == 0 && blank < 0)
		r = error_errno(err, errno, "open %s", name);
	return r < 0 ? r : disk_copy(disk, blank, to, err);
}

uint64_t disk_used(int fd)
{
	struct stat st;
	return fstat(fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

int disk_sync_folder(const struct disk *disk, enum folder folder)
{
	return fsync(disk->folders[folder]) < 0 ? -errno : 0;
}

void disk_remove(const struct disk *disk, enum folder folder, const char *name)
{
	(void)fd_remove_tree(disk->folders[folder], name, NULL);
}
