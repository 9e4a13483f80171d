/* Disks: copies with the same content and the same holes, whichever way they are made; blanks; the reserve. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/sandbox/internal.h"

#define MIB ((off_t)1 << 20)

struct place {
	char path[64];
	struct disk disk;
	struct error err;
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	/* /var/tmp is more often a real disk than /tmp is. */
	snprintf(p->path, sizeof(p->path), "/var/tmp/akira-disk-XXXXXX");
	assert_non_null(mkdtemp(p->path));
	assert_int_equal(disk_open(p->path, 0, &p->disk, &p->err), 0);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	disk_close(&p->disk);
	int r = fd_remove_tree(AT_FDCWD, p->path, NULL);
	free(p);
	return r;
}

static int new_disk(struct place *p, const char *name)
{
	int fd = -1;

	if (disk_create(&p->disk, FOLDER_SCRATCH, name, &fd, &p->err) < 0)
		fail_msg("%s", p->err.text);
	return fd;
}

static void put(int fd, off_t at, size_t size, char fill)
{
	char *data = malloc(size);

	assert_non_null(data);
	memset(data, fill, size);
	assert_int_equal(pwrite(fd, data, size, at), (ssize_t)size);
	free(data);
}

/* 1 GiB with a little at its begin, in odd places and at its end. */
static int sparse_disk(struct place *p, const char *name)
{
	int fd = new_disk(p, name);

	assert_int_equal(ftruncate(fd, 1024 * MIB), 0);
	put(fd, 0, 4096, 'a');
	put(fd, 3 * MIB + 777, 1, 'b');
	put(fd, 500 * MIB, 2 * MIB + 5, 'c');
	put(fd, 1024 * MIB - 1, 1, 'd');
	assert_int_equal(fsync(fd), 0);
	return fd;
}

static void same_content(int a, int b)
{
	static char one[1 << 20], two[1 << 20];
	static const off_t places[] = { 0,         2 * MIB,   3 * MIB,   4 * MIB,   499 * MIB,
					500 * MIB, 501 * MIB, 502 * MIB, 1023 * MIB };
	struct stat sa, sb;

	assert_int_equal(fstat(a, &sa), 0);
	assert_int_equal(fstat(b, &sb), 0);
	assert_int_equal(sa.st_size, sb.st_size);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		assert_int_equal(pread(a, one, sizeof(one), places[i]), sizeof(one));
		assert_int_equal(pread(b, two, sizeof(two), places[i]), sizeof(two));
		assert_int_equal(memcmp(one, two, sizeof(one)), 0);
	}
}

static void copies_are_sparse(void **state)
{
	struct place *p = *state;
	int from = sparse_disk(p, "from");

	/* As this file system does it best, and then as one without reflinks does it. */
	for (int i = 0; i < 2; i++) {
		int to = new_disk(p, i ? "to-1" : "to-0");
		assert_int_equal(disk_copy(&p->disk, from, to, &p->err), 0);
		same_content(from, to);
		assert_in_range(disk_used(to), 2 * MIB, 8 * MIB);
		close(to);
		p->disk.reflink = false;
	}
	close(from);
}

/* Where the kernel does not copy between two file systems by itself, it is done by hand. */
static void copies_between_file_systems(void **state)
{
	struct place *p = *state;
	_cleanup_fd_ int to = memfd_create("to", MFD_CLOEXEC);
	int from = sparse_disk(p, "from");

	assert_true(to >= 0);
	p->disk.reflink = false;
	assert_int_equal(disk_copy(&p->disk, from, to, &p->err), 0);
	same_content(from, to);
	assert_in_range(disk_used(to), 2 * MIB, 8 * MIB);
	close(from);
}

static void copies_of_nothing(void **state)
{
	struct place *p = *state;
	int from = new_disk(p, "from"), to = new_disk(p, "to");
	struct stat st;

	p->disk.reflink = false;
	assert_int_equal(disk_copy(&p->disk, from, to, &p->err), 0);
	assert_int_equal(ftruncate(from, 5 * MIB), 0);
	assert_int_equal(disk_copy(&p->disk, from, to, &p->err), 0);
	assert_int_equal(fstat(to, &st), 0);
	assert_int_equal(st.st_size, 5 * MIB);
	assert_int_equal(disk_used(to), 0);
	close(to);
	to = openat(p->disk.folders[FOLDER_SCRATCH], "to", O_RDONLY | O_CLOEXEC);
	put(from, 0, 100, 'x');
	assert_true(disk_copy(&p->disk, from, to, &p->err) < 0); /* it cannot be written: said, not passed over */
	close(from);
	close(to);
}

static void names_are_new_and_plain(void **state)
{
	struct place *p = *state;
	int fd = -1, own = new_disk(p, "a");

	assert_int_equal(disk_create(&p->disk, FOLDER_SCRATCH, "a", &fd, &p->err), -EEXIST);
	assert_int_equal(symlinkat("/etc/passwd", p->disk.folders[FOLDER_SCRATCH], "link"), 0);
	assert_int_equal(disk_create(&p->disk, FOLDER_SCRATCH, "link", &fd, &p->err), -EEXIST);
	assert_int_equal(fcntl(own, F_GETFD), FD_CLOEXEC);
	close(own);
	disk_remove(&p->disk, FOLDER_SCRATCH, "link");
	disk_remove(&p->disk, FOLDER_SCRATCH, "a");
	disk_remove(&p->disk, FOLDER_SCRATCH, "a"); /* absent */
	own = new_disk(p, "a");
	close(own);
	assert_int_equal(disk_sync_folder(&p->disk, FOLDER_SCRATCH), 0);
}

static void reserve(void **state)
{
	struct place *p = *state;
	uint64_t left = disk_free_bytes(&p->disk);

	assert_true(left > 0);
	assert_int_equal(disk_room(&p->disk, 0, &p->err), 0);
	assert_int_equal(disk_room(&p->disk, UINT64_MAX, &p->err), -ENOSPC);
	p->disk.reserve = UINT64_MAX;
	assert_int_equal(disk_room(&p->disk, 0, &p->err), -ENOSPC);
	assert_null(strstr(p->err.text, p->path));
	p->disk.reserve = left / 2;
	assert_int_equal(disk_room(&p->disk, left / 4, &p->err), 0);
	assert_int_equal(disk_room(&p->disk, left, &p->err), -ENOSPC);
}

/* Made once and copied from then on; the magic of ext4, and the journal that growing online needs. */
static void blanks(void **state)
{
	struct place *p = *state;
	struct stat first, again, st;
	unsigned char magic[2];
	int a = new_disk(p, "a"), b = new_disk(p, "b");

	if (disk_format(&p->disk, a, 1, &p->err) < 0)
		fail_msg("%s", p->err.text);
	assert_int_equal(fstatat(p->disk.folders[FOLDER_BLANK], "blank-1.raw", &first, 0), 0);
	assert_int_equal(disk_format(&p->disk, b, 1, &p->err), 0);
	assert_int_equal(fstatat(p->disk.folders[FOLDER_BLANK], "blank-1.raw", &again, 0), 0);
	assert_int_equal(first.st_ino, again.st_ino);
	assert_int_equal(fstat(b, &st), 0);
	assert_int_equal(st.st_size, 1024 * MIB);
	assert_in_range(disk_used(b), 1, 100 * MIB);
	assert_int_equal(pread(b, magic, 2, 1024 + 56), 2);
	assert_memory_equal(magic, "\x53\xef", 2);
	close(a);
	close(b);
}

static void opens_what_is_there(void **state)
{
	struct place *p = *state;
	struct disk again;
	char path[128];

	assert_int_equal(disk_open(p->path, 0, &again, &p->err), 0);
	disk_close(&again);
	assert_int_equal(disk_open("/nonexistent/akira", 0, &again, &p->err), -ENOENT);
	disk_close(&again);
	/* A link in the place of one of its folders leads nowhere. */
	snprintf(path, sizeof(path), "%s/blank", p->path);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(symlink("/tmp", path), 0);
	assert_true(disk_open(p->path, 0, &again, &p->err) < 0);
	disk_close(&again);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(copies_are_sparse),
		CASE(copies_between_file_systems),
		CASE(copies_of_nothing),
		CASE(names_are_new_and_plain),
		CASE(reserve),
		CASE(blanks),
		CASE(opens_what_is_there),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
