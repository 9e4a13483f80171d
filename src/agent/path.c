#include "agent/path.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"

#define TRIES 32 /* openat2 gives up with EAGAIN when somebody renames on its way */
#define PASSWD_MAX (256 * 1024)

int path_open(int root, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
		.mode = flags & O_CREAT ? mode : 0,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	long fd = -1;

	for (int i = 0; i < TRIES; i++) {
		fd = syscall(SYS_openat2, root, path, &how, sizeof(how));
		if (fd >= 0 || errno != EAGAIN)
			break;
	}
	return fd < 0 ? -errno : (int)fd;
}

int path_make_folder(int root, const char *path)
{
	char part[4096];

	int fd = path_open(root, path, O_PATH | O_DIRECTORY, 0);
	if (fd != -ENOENT)
		return fd;
	if (str_copy(part, sizeof(part), path) < 0)
		return -ENAMETOOLONG;
	_cleanup_fd_ int parent = path_open(root, "/", O_PATH | O_DIRECTORY, 0);
	for (char *at = part; parent >= 0 && *at;) {
		char *name = at + strspn(at, "/");
		at = name + strcspn(name, "/");
		char saved = *at;
		*at = '\0';
		if (*name && mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
			return -errno;
		int next = path_open(root, part, O_PATH | O_DIRECTORY, 0);
		fd_close(&parent);
		parent = next;
		*at = saved;
	}
	return fd_steal(&parent);
}

int path_absolute(char *to, size_t size, const char *workdir, const char *path)
{
	bool absolute = path[0] == '/';
	int n = snprintf(to, size, "%s%s%s", absolute ? "" : workdir, absolute ? "" : "/", path);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

int path_split(char *path, const char **folder, const char **name)
{
	char *slash = strrchr(path, '/');

	*name = slash ? slash + 1 : path;
	*folder = !slash || slash == path ? "/" : path;
	if (slash)
		*slash = '\0';
	return **name == '\0' || strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0 ? -EISDIR : 0;
}

/*
 * Most of what is written at a restore stands there already or in a file of the same name: that is not made anew, which
 * would cost an overlay several operations. 1: it was left or overwritten; 0: it is to be made.
 */
static int write_in_place(int dir, const char *name, const char *data, size_t size, mode_t mode)
{
	char old[1024];
	struct stat st;
	_cleanup_fd_ int fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1 || (st.st_mode & 07777) != mode)
		return 0;
	if ((size_t)st.st_size == size && size < sizeof(old) && pread(fd, old, sizeof(old), 0) == (ssize_t)size &&
	    memcmp(old, data, size) == 0)
		return 1;
	return pwrite(fd, data, size, 0) == (ssize_t)size && ftruncate(fd, (off_t)size) == 0;
}

int path_write(int root, const char *folder, const char *name, const char *data, size_t size, mode_t mode)
{
	char temporary[300];

	_cleanup_fd_ int dir = path_make_folder(root, folder);
	if (dir < 0)
		return dir;
	if (write_in_place(dir, name, data, size, mode))
		return 0;
	snprintf(temporary, sizeof(temporary), ".%s.akira", name);
	unlinkat(dir, temporary, 0);
	_cleanup_fd_ int fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;
	int r = fd_write_all(fd, data, size);
	if (r == 0 && (fchmod(fd, mode) < 0 || renameat(dir, temporary, dir, name) < 0))
		r = -errno;
	if (r < 0)
		unlinkat(dir, temporary, 0);
	return r;
}

/* name:password:id:group:comment:home:shell */
static int passwd_line(char *line, uint32_t id, struct path_user *user)
{
	char *field[7], *save = line;
	uint64_t number, group;

	for (int i = 0; i < 7; i++)
		if (!(field[i] = strsep(&save, ":")))
			return 0;
	if (str_u64(field[2], 0, UINT32_MAX - 1, &number) < 0 || number != id ||
	    str_u64(field[3], 0, UINT32_MAX - 1, &group) < 0)
		return 0;
	user->group = (uint32_t)group;
	if (str_copy(user->name, sizeof(user->name), field[0]) < 0 ||
	    str_copy(user->home, sizeof(user->home), field[5]) < 0)
		return 0;
	return 1;
}

void path_user(int root, uint32_t id, struct path_user *user)
{
	_cleanup_free_ char *text = NULL;

	*user = (struct path_user){ .id = id, .group = id, .home = "/" };
	snprintf(user->name, sizeof(user->name), "%u", id);
	if (id == 0)
		return;
	_cleanup_fd_ int fd = path_open(root, "/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !(text = malloc(PASSWD_MAX + 1)))
		return;
	ssize_t n = fd_read_all(fd, text, PASSWD_MAX);
	text[n > 0 ? n : 0] = '\0';
	char *save = text;
	for (char *line; (line = strsep(&save, "\n"));)
		if (passwd_line(line, id, user))
			return;
}
