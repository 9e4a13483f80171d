#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/store/internal.h"

static int sync_folder(const char *path, struct error *err)
{
	_cleanup_free_ char *folder = strdup(path);
	if (!folder)
		return error_set(err, ENOMEM, "no memory for a path");
	char *slash = strrchr(folder, '/');
	if (slash)
		slash[slash == folder] = '\0';
	_cleanup_fd_ int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) < 0)
		return error_errno(err, errno, "sync the folder of %s", path);
	return 0;
}

/* The source is a connection of its own: it reads one snapshot while the writer goes on. */
static int copy_pages(struct conn *from, struct conn *to, struct error *err)
{
	sqlite3_backup *backup = sqlite3_backup_init(to->db, "main", from->db, "main");
	if (!backup)
		return conn_error(to, sqlite3_errcode(to->db), err);
	int code = sqlite3_backup_step(backup, -1);
	int end = sqlite3_backup_finish(backup);
	if (code == SQLITE_DONE && end == SQLITE_OK)
		return 0;
	return conn_error(to, end != SQLITE_OK ? end : code, err);
}

static int open_target(const char *path, struct conn *to, struct error *err)
{
	int code = sqlite3_open_v2(path, &to->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW, NULL);
	if (code != SQLITE_OK)
		return conn_error(to, code, err);
	return conn_exec(to, "PRAGMA synchronous = EXTRA", err);
}

int store_backup(struct store *store, const char *path, struct error *err)
{
	struct conn from = { 0 }, to = { 0 };
	_cleanup_fd_ int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_errno(err, errno, "create %s", path);
	int r = conn_open(&from, store->path, CONN_READ, err);
	if (r == 0)
		r = open_target(path, &to, err);
	if (r == 0)
		r = copy_pages(&from, &to, err);
	sqlite3_close(to.db);
	conn_close(&from);
	if (r == 0 && fsync(fd) < 0)
		r = error_errno(err, errno, "sync %s", path);
	if (r == 0)
		r = sync_folder(path, err);
	if (r < 0) {
		unlink(path);
		error_prefix(err, "back up to %s", path);
	}
	return r;
}
