/*
 * Descriptors: ownership by scope, whole reads and writes, passing over a socket. Every descriptor made here is
 * O_CLOEXEC.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "base/error.h"

#define FD_PASS_MAX 16 /* descriptors in one message */

void fd_close(int *fd);      /* closes if >= 0, sets -1, keeps errno */
void fd_free(void *pointer); /* pointer to a malloc'ed pointer */
void fd_fclose(FILE **file);

#define _cleanup_fd_ __attribute__((cleanup(fd_close)))
#define _cleanup_free_ __attribute__((cleanup(fd_free)))
#define _cleanup_file_ __attribute__((cleanup(fd_fclose)))

/* Give the descriptor away: returns it and leaves -1 behind. */
static inline int fd_steal(int *fd)
{
	int stolen = *fd;
	*fd = -1;
	return stolen;
}

/* Read until size bytes or end of file. Returns the bytes read (0..size) or -errno. */
ssize_t fd_read_all(int fd, void *data, size_t size);
/* Write all. Returns 0 or -errno. */
int fd_write_all(int fd, const void *data, size_t size);
/* Read a whole file of at most max bytes into a malloc'ed, NUL-terminated *data. -EFBIG if it is longer. */
int fd_read_file(int dir, const char *path, size_t max, char **data, size_t *size, struct error *err);
/*
 * Replace dir/name by these bytes so that a crash leaves the old file or the new one: temporary name, fsync, rename,
 * fsync of the folder. mode as in open(2).
 */
int fd_write_file(int dir, const char *name, const void *data, size_t size, mode_t mode, struct error *err);
int fd_set_nonblock(int fd, int on);

/*
 * One message and up to FD_PASS_MAX descriptors over a unix socket. send: whole message or -errno (MSG_NOSIGNAL).
 * recv: returns the size of the message (0 = peer closed) or -errno; *count descriptors (O_CLOEXEC) land in fds,
 * which are the caller's. A truncated message or control part is -EMSGSIZE and its descriptors are closed.
 */
int fd_send(int socket, const void *data, size_t size, const int *fds, size_t count);
ssize_t fd_recv(int socket, void *data, size_t size, int *fds, size_t max, size_t *count);

/*
 * openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS: for every path in which a tenant
 * could have a hand. Returns a descriptor or -errno.
 */
int fd_open_beneath(int dir, const char *path, int flags, mode_t mode);
/* Remove dir/name with everything in it; follows no symbolic link, crosses into no other file system (-EXDEV). Absent is
 * success. */
int fd_remove_tree(int dir, const char *name, struct error *err);
