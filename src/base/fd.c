#include "base/fd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

void fd_close(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		*fd = -1;
		errno = saved;
	}
}

void fd_free(void *pointer)
{
	void **slot = pointer;
	free(*slot);
	*slot = NULL;
}

void fd_fclose(FILE **file)
{
	if (*file)
		fclose(*file);
	*file = NULL;
}

ssize_t fd_read_all(int fd, void *data, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = read(fd, (char *)data + done, size - done);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int fd_write_all(int fd, const void *data, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = write(fd, (const char *)data + done, size - done);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		done += (size_t)n;
	}
	return 0;
}

int fd_read_file(int dir, const char *path, size_t max, char **data, size_t *size, struct error *err)
{
	_cleanup_fd_ int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "open %s", path);

	struct stat st;
	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "stat %s", path);
	if (st.st_size > 0 && (uint64_t)st.st_size > max)
		return error_set(err, EFBIG, "%s is larger than %zu bytes", path, max);

	/* Files of /proc and /sys have no size; read until the end within the bound. */
	size_t room = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size : max;
	_cleanup_free_ char *text = malloc(room + 1);
	if (!text)
		return error_set(err, ENOMEM, "no memory to read %s", path);
	ssize_t n = fd_read_all(fd, text, room + (room == max));
	if (n < 0)
		return error_errno(err, (int)-n, "read %s", path);
	if ((size_t)n > max)
		return error_set(err, EFBIG, "%s is larger than %zu bytes", path, max);
	text[n] = '\0';
	if (size)
		*size = (size_t)n;
	*data = text;
	text = NULL;
	return 0;
}

int fd_write_file(int dir, const char *name, const void *data, size_t size, mode_t mode, struct error *err)
{
	char temporary[512];
	if (snprintf(temporary, sizeof(temporary), "%s.tmp.%ld", name, (long)syscall(SYS_gettid)) >=
	    (int)sizeof(temporary))
		return error_set(err, ENAMETOOLONG, "name %s is too long", name);

	_cleanup_fd_ int fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return error_errno(err, errno, "create %s", temporary);
	int r = fd_write_all(fd, data, size);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(dir, temporary, dir, name) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(dir, temporary, 0);
		return error_errno(err, -r, "write %s", name);
	}

	/* The rename itself must be on disk before anybody is told. `name` may have folders in it. */
	char parent[512];
	snprintf(parent, sizeof(parent), "%s", name);
	char *slash = strrchr(parent, '/');
	if (slash)
		*(slash == parent ? slash + 1 : slash) = '\0';
	_cleanup_fd_ int folder = openat(dir, slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0 || fsync(folder) < 0)
		return error_errno(err, errno, "sync the folder of %s", name);
	return 0;
}

int fd_set_nonblock(int fd, int on)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int fd_send(int socket, const void *data, size_t size, const int *fds, size_t count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int) * FD_PASS_MAX)];
	} control;
	struct iovec part = { .iov_base = (void *)(uintptr_t)data, .iov_len = size };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (count > FD_PASS_MAX)
		return -E2BIG;
	if (count > 0) {
		memset(&control, 0, sizeof(control));
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int) * count);
		memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
	}
	for (;;) {
		ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL);
		if (n >= 0)
			return (size_t)n == size ? 0 : -EMSGSIZE;
		if (errno != EINTR)
			return -errno;
	}
}

static size_t take_descriptors(struct msghdr *message, int *fds, size_t max, int *overflow)
{
	size_t count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < here; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (count < max) {
				fds[count++] = fd;
			} else {
				close(fd);
				*overflow = 1;
			}
		}
	}
	return count;
}

ssize_t fd_recv(int socket, void *data, size_t size, int *fds, size_t max, size_t *count)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int) * FD_PASS_MAX)];
	} control;
	struct iovec part = { .iov_base = data, .iov_len = size };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n;

	*count = 0;
	do
		n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;

	int overflow = (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0;
	size_t taken = take_descriptors(&message, fds, max, &overflow);
	if (overflow) {
		for (size_t i = 0; i < taken; i++)
			close(fds[i]);
		return -EMSGSIZE;
	}
	*count = taken;
	return n;
}

int fd_open_beneath(int dir, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC),
		.mode = (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) ? mode : 0,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd = syscall(SYS_openat2, dir, path, &how, sizeof(how));
	return fd < 0 ? -errno : (int)fd;
}

static int remove_folder(int dir, const char *name, dev_t device, int depth, struct error *err)
{
	if (depth > 64)
		return error_set(err, ELOOP, "%s is nested too deeply to remove", name);

	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "open %s", name);
	DIR *stream = fdopendir(fd);
	if (!stream) {
		close(fd);
		return error_errno(err, errno, "list %s", name);
	}

	struct stat st;
	int r = 0;
	if (fstat(dirfd(stream), &st) < 0 || st.st_dev != device)
		r = error_set(err, EXDEV, "%s is another file system", name);
	struct dirent *entry;
	while (r == 0 && (entry = readdir(stream))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (unlinkat(dirfd(stream), entry->d_name, 0) == 0 || errno == ENOENT)
			continue;
		if (errno != EISDIR && errno != EPERM)
			r = error_errno(err, errno, "remove %s", entry->d_name);
		else
			r = remove_folder(dirfd(stream), entry->d_name, device, depth + 1, err);
	}
	closedir(stream);
	if (r == 0 && unlinkat(dir, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = error_errno(err, errno, "remove folder %s", name);
	return r;
}

int fd_remove_tree(int dir, const char *name, struct error *err)
{
	struct stat st;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "stat %s", name);
	if (!S_ISDIR(st.st_mode))
		return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? error_errno(err, errno, "remove %s", name) : 0;
	/* What is mounted on the folder itself is another file system than that of what it stands in. */
	struct stat parent;
	if (fstatat(dir, ".", &parent, 0) < 0)
		return error_errno(err, errno, "stat the folder of %s", name);
	return remove_folder(dir, name, strchr(name, '/') ? st.st_dev : parent.st_dev, 0, err);
}
