/* Descriptors and files, with links and folders laid out by somebody who means ill. */
#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct place {
	char path[64];
	int dir;
	struct error err;
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	snprintf(p->path, sizeof(p->path), "/tmp/akira-fd-XXXXXX");
	assert_non_null(mkdtemp(p->path));
	p->dir = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(p->dir >= 0);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	fd_close(&p->dir);
	int r = fd_remove_tree(AT_FDCWD, p->path, &p->err);
	free(p);
	return r;
}

static void put(struct place *p, const char *name, const char *text)
{
	assert_int_equal(fd_write_file(p->dir, name, text, strlen(text), 0600, &p->err), 0);
}

static bool exists(struct place *p, const char *name)
{
	return faccessat(p->dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static size_t count_open(void)
{
	size_t n = 0;
	DIR *dir = opendir("/proc/self/fd");

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* ---- files ---- */

static void reads_whole_files(void **state)
{
	struct place *p = *state;
	char *text;
	size_t size;

	put(p, "a", "hello");
	assert_int_equal(fd_read_file(p->dir, "a", 5, &text, &size, &p->err), 0);
	assert_int_equal(size, 5);
	assert_string_equal(text, "hello");
	free(text);
	assert_int_equal(fd_read_file(p->dir, "a", 4, &text, &size, &p->err), -EFBIG);
	assert_int_equal(fd_read_file(p->dir, "none", 4, &text, &size, &p->err), -ENOENT);
	put(p, "empty", "");
	assert_int_equal(fd_read_file(p->dir, "empty", 4, &text, NULL, &p->err), 0);
	assert_string_equal(text, "");
	free(text);
	assert_int_equal(fd_read_file(p->dir, ".", 65536, &text, &size, &p->err), -EISDIR);
}

/* They have no size, and the bound holds all the same. */
static void reads_files_of_proc(void **state)
{
	struct place *p = *state;
	char *text;
	size_t size;

	assert_int_equal(fd_read_file(AT_FDCWD, "/proc/self/status", 65536, &text, &size, &p->err), 0);
	assert_int_equal(strncmp(text, "Name:", 5), 0);
	assert_int_equal(strlen(text), size);
	free(text);
	assert_int_equal(fd_read_file(AT_FDCWD, "/proc/self/status", 10, &text, &size, &p->err), -EFBIG);
}

static void replaces_files(void **state)
{
	struct place *p = *state;
	struct stat st;
	char *text;

	umask(0);
	put(p, "a", "old");
	assert_int_equal(fd_write_file(p->dir, "a", "newer", 5, 0640, &p->err), 0);
	assert_int_equal(fstatat(p->dir, "a", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(fd_read_file(p->dir, "a", 100, &text, NULL, &p->err), 0);
	assert_string_equal(text, "newer");
	free(text);
	assert_int_equal(mkdirat(p->dir, "sub", 0700), 0);
	assert_int_equal(fd_write_file(p->dir, "sub/b", "x", 1, 0600, &p->err), 0);
	assert_true(exists(p, "sub/b"));
}

/* A link in the place of the file is replaced, and what it points to stays as it is. */
static void replaces_links(void **state)
{
	struct place *p = *state;
	struct stat st;
	char *text;

	put(p, "target", "precious");
	assert_int_equal(symlinkat("target", p->dir, "link"), 0);
	put(p, "link", "new");
	assert_int_equal(fstatat(p->dir, "link", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_int_equal(fd_read_file(p->dir, "target", 100, &text, NULL, &p->err), 0);
	assert_string_equal(text, "precious");
	free(text);
}

static void failed_writes_leave_nothing(void **state)
{
	struct place *p = *state;
	size_t before = count_open(), names = 0;

	assert_int_equal(mkdirat(p->dir, "folder", 0700), 0);
	assert_int_equal(mkdirat(p->dir, "folder/full", 0700), 0);
	assert_int_equal(fd_write_file(p->dir, "folder", "x", 1, 0600, &p->err), -EISDIR);
	assert_int_equal(fd_write_file(p->dir, "none/b", "x", 1, 0600, &p->err), -ENOENT);
	char name[600];
	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(fd_write_file(p->dir, name, "x", 1, 0600, &p->err), -ENAMETOOLONG);
	DIR *dir = fdopendir(dup(p->dir));
	for (struct dirent *e; (e = readdir(dir));)
		names += e->d_name[0] != '.';
	closedir(dir);
	assert_int_equal(names, 1);
	assert_int_equal(count_open(), before);
}

/* ---- below a folder ---- */

static void stays_beneath(void **state)
{
	struct place *p = *state;

	put(p, "a", "x");
	assert_int_equal(mkdirat(p->dir, "sub", 0700), 0);
	put(p, "sub/b", "x");
	assert_int_equal(symlinkat("/etc/passwd", p->dir, "absolute"), 0);
	assert_int_equal(symlinkat("a", p->dir, "inside"), 0);
	assert_int_equal(symlinkat("..", p->dir, "sub/up"), 0);
	assert_int_equal(symlinkat("sub", p->dir, "folder"), 0);
	static const struct {
		const char *path;
		int result;
	} cases[] = {
		{ "a", 0 },
		{ "sub/b", 0 },
		{ "sub/../a", 0 },
		{ "./a", 0 },
		{ "absolute", -ELOOP },
		{ "inside", -ELOOP },
		{ "sub/up/a", -ELOOP },
		{ "folder/b", -ELOOP },
		{ "../x", -EXDEV },
		{ "..", -EXDEV },
		{ "sub/../../etc", -EXDEV },
		{ "/etc/passwd", -EXDEV },
		{ "none", -ENOENT },
		{ "", -ENOENT },
		{ "a/b", -ENOTDIR },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int fd = fd_open_beneath(p->dir, cases[i].path, O_RDONLY, 0);
		if (cases[i].result == 0) {
			assert_true(fd >= 0);
			assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
			close(fd);
		} else if (fd != cases[i].result) {
			fail_msg("\"%s\": %d", cases[i].path, fd);
		}
	}
	int fd = fd_open_beneath(p->dir, "new", O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(fd_open_beneath(p->dir, "inside", O_WRONLY | O_CREAT, 0600), -ELOOP);
	_cleanup_fd_ int proc = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(fd_open_beneath(proc, "exe", O_RDONLY, 0), -ELOOP);
}

/* ---- removal ---- */

static void removes_trees(void **state)
{
	struct place *p = *state;
	struct stat st;

	put(p, "precious", "x");
	assert_int_equal(mkdirat(p->dir, "outside", 0700), 0);
	put(p, "outside/precious", "x");
	assert_int_equal(mkdirat(p->dir, "t", 0700), 0);
	assert_int_equal(mkdirat(p->dir, "t/sub", 0700), 0);
	put(p, "t/sub/file", "x");
	assert_int_equal(symlinkat("../outside", p->dir, "t/link"), 0);
	assert_int_equal(symlinkat("/", p->dir, "t/sub/root"), 0);
	assert_int_equal(symlinkat("nowhere", p->dir, "t/dangling"), 0);
	assert_int_equal(linkat(p->dir, "precious", p->dir, "t/hard", 0), 0);
	assert_int_equal(mkfifoat(p->dir, "t/fifo", 0600), 0);
	assert_int_equal(fd_remove_tree(p->dir, "t", &p->err), 0);
	assert_false(exists(p, "t"));
	assert_true(exists(p, "outside/precious"));
	assert_int_equal(fstatat(p->dir, "precious", &st, 0), 0);
	assert_int_equal(st.st_size, 1);
}

static void removes_a_link_not_its_target(void **state)
{
	struct place *p = *state;

	assert_int_equal(mkdirat(p->dir, "outside", 0700), 0);
	put(p, "outside/precious", "x");
	assert_int_equal(symlinkat("outside", p->dir, "t"), 0);
	assert_int_equal(fd_remove_tree(p->dir, "t", &p->err), 0);
	assert_false(exists(p, "t"));
	assert_true(exists(p, "outside/precious"));
	assert_int_equal(fd_remove_tree(p->dir, "t", &p->err), 0); /* absent */
	put(p, "file", "x");
	assert_int_equal(fd_remove_tree(p->dir, "file", &p->err), 0);
	assert_false(exists(p, "file"));
}

static void many_names(void **state)
{
	struct place *p = *state;
	char name[32];

	assert_int_equal(mkdirat(p->dir, "t", 0700), 0);
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "t/%d", i);
		assert_int_equal(mknodat(p->dir, name, S_IFREG | 0600, 0), 0);
	}
	assert_int_equal(fd_remove_tree(p->dir, "t", &p->err), 0);
	assert_false(exists(p, "t"));
}

/* As deep as it goes without using up descriptors; deeper is an error, not a crash. */
static void depth_is_bounded(void **state)
{
	struct place *p = *state;
	size_t before = count_open();
	int at = dup(p->dir);

	for (int i = 0; i < 80; i++) {
		assert_int_equal(mkdirat(at, "d", 0700), 0);
		int next = openat(at, "d", O_RDONLY | O_DIRECTORY);
		assert_true(next >= 0);
		close(at);
		at = next;
	}
	close(at);
	assert_int_equal(fd_remove_tree(p->dir, "d", &p->err), -ELOOP);
	assert_int_equal(count_open(), before);
	/* Shorten it, for the teardown. */
	assert_int_equal(renameat(p->dir, "d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d", p->dir, "rest"), 0);
	assert_int_equal(fd_remove_tree(p->dir, "d", &p->err), 0);
}

/* In a mount namespace of the child's own. */
static int mounted_child(struct place *p)
{
	char path[128];

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return 77;
	p->dir = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* in the new namespace */
	mkdirat(p->dir, "t", 0700);
	mkdirat(p->dir, "t/m", 0700);
	snprintf(path, sizeof(path), "%s/t/m", p->path);
	if (mount("tmpfs", path, "tmpfs", 0, "size=1m") < 0)
		return 77;
	put(p, "t/m/precious", "x");
	if (fd_remove_tree(p->dir, "t", NULL) != -EXDEV || !exists(p, "t/m/precious"))
		return 1;
	int inner = openat(p->dir, "t", O_RDONLY | O_DIRECTORY);
	/* The mount itself is named: as little of it may go. */
	return fd_remove_tree(inner, "m", NULL) == -EXDEV && exists(p, "t/m/precious") ? 0 : 2;
}

static void crosses_no_mount(void **state)
{
	struct place *p = *state;
	int status = -1;
	pid_t child = fork();

	if (child == 0)
		_exit(mounted_child(p));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip(); /* no right to mount here */
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- sockets ---- */

static void passes_descriptors(void **state)
{
	struct place *p = *state;
	int pair[2], fds[FD_PASS_MAX], got[FD_PASS_MAX];
	size_t count = 99, before = count_open();
	char text[16];
	struct stat want, have;

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	for (size_t i = 0; i < FD_PASS_MAX; i++)
		fds[i] = p->dir;
	assert_int_equal(fd_send(pair[0], "hello", 5, fds, FD_PASS_MAX), 0);
	assert_int_equal(fd_recv(pair[1], text, sizeof(text), got, FD_PASS_MAX, &count), 5);
	assert_int_equal(count, FD_PASS_MAX);
	fstat(p->dir, &want);
	for (size_t i = 0; i < count; i++) {
		assert_int_equal(fcntl(got[i], F_GETFD), FD_CLOEXEC);
		assert_int_equal(fstat(got[i], &have), 0);
		assert_int_equal(have.st_ino, want.st_ino);
		close(got[i]);
	}
	assert_int_equal(fd_send(pair[0], "", 0, NULL, 0), 0);
	assert_int_equal(fd_recv(pair[1], text, sizeof(text), got, 0, &count), 0);
	assert_int_equal(count, 0);
	assert_int_equal(fd_send(pair[0], "x", 1, fds, FD_PASS_MAX + 1), -E2BIG);
	close(pair[0]);
	assert_int_equal(fd_recv(pair[1], text, sizeof(text), got, 0, &count), 0); /* closed */
	assert_int_equal(fd_send(pair[1], "x", 1, NULL, 0), -EPIPE);
	close(pair[1]);
	assert_int_equal(count_open(), before);
}

/* What does not fit is refused as a whole, and no descriptor of it stays open. */
static void truncated_messages(void **state)
{
	struct place *p = *state;
	int pair[2], fds[3] = { p->dir, p->dir, p->dir }, got[3];
	size_t count = 99;
	char text[4];

	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	size_t before = count_open();
	assert_int_equal(fd_send(pair[0], "hello", 5, fds, 3), 0);
	assert_int_equal(fd_recv(pair[1], text, sizeof(text), got, 3, &count), -EMSGSIZE);
	assert_int_equal(count, 0);
	assert_int_equal(fd_send(pair[0], "abc", 3, fds, 3), 0);
	count = 99;
	assert_int_equal(fd_recv(pair[1], text, sizeof(text), got, 2, &count), -EMSGSIZE);
	assert_int_equal(count, 0);
	assert_int_equal(fd_send(pair[0], "abc", 3, fds, 1), 0);
	assert_int_equal(fd_recv(pair[1], text, sizeof(text), got, 0, &count), -EMSGSIZE);
	assert_int_equal(count_open(), before);
	fd_set_nonblock(pair[1], 1);
	count = 99;
	assert_int_equal(fd_recv(pair[1], text, sizeof(text), got, 0, &count), -EAGAIN);
	assert_int_equal(count, 0); /* whoever closes what it counts closes nothing */
	close(pair[0]);
	close(pair[1]);
}

/* ---- small things ---- */

static void reads_and_writes_all(void **state)
{
	int pipes[2];
	char text[16];

	(void)state;
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(fd_write_all(pipes[1], "abc", 3), 0);
	assert_int_equal(fd_write_all(pipes[1], "def", 3), 0);
	close(pipes[1]);
	assert_int_equal(fd_read_all(pipes[0], text, sizeof(text)), 6);
	assert_memory_equal(text, "abcdef", 6);
	assert_int_equal(fd_read_all(pipes[0], text, sizeof(text)), 0);
	close(pipes[0]);
	assert_int_equal(fd_read_all(-1, text, 1), -EBADF);
	assert_int_equal(fd_write_all(-1, text, 1), -EBADF);
}

static void ownership(void **state)
{
	struct place *p = *state;
	int fd = dup(p->dir), gone = -1;

	errno = ENOENT;
	int stolen = fd_steal(&fd);
	fd_close(&fd);
	fd_close(&gone);
	assert_int_equal(fd, -1);
	assert_int_equal(errno, ENOENT);
	assert_true(fcntl(stolen, F_GETFD) >= 0);
	int copy = stolen;
	fd_close(&stolen);
	assert_int_equal(stolen, -1);
	assert_int_equal(fcntl(copy, F_GETFD), -1);
	assert_int_equal(fd_set_nonblock(-1, 1), -EBADF);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(reads_whole_files),
		CASE(reads_files_of_proc),
		CASE(replaces_files),
		CASE(replaces_links),
		CASE(failed_writes_leave_nothing),
		CASE(stays_beneath),
		CASE(removes_trees),
		CASE(removes_a_link_not_its_target),
		CASE(many_names),
		CASE(depth_is_bounded),
		CASE(crosses_no_mount),
		CASE(passes_descriptors),
		CASE(truncated_messages),
		CASE(reads_and_writes_all),
		CASE(ownership),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
