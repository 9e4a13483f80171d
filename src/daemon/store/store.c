#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "daemon/store/internal.h"

#define CHECK_BYTES_MAX ((int64_t)256 << 20) /* a larger file is not read through at each start */

/* SQLite gives -wal and -shm the mode of the database, and would make that 0644. */
static int make_file(const char *path, bool *existed, int64_t *size, struct error *err)
{
	struct stat st;
	_cleanup_fd_ int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "open %s", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, EINVAL, "%s is not a regular file", path);
	if (st.st_mode & 077 && fchmod(fd, 0600) < 0)
		return error_errno(err, errno, "chmod 600 %s", path);
	*existed = st.st_size > 0;
	*size = st.st_size;
	return 0;
}

static int check_pages(struct store *store, struct error *err)
{
	struct query query;

	query_on(&query, &store->writer, "PRAGMA quick_check(1)", err);
	if (query_step(&query) > 0) {
		const char *text = (const char *)sqlite3_column_text(query.stmt, 0);
		if (text && strcmp(text, "ok") != 0)
			query.r = error_set(err, EIO, "%s is damaged (%s): put a backup in its place", store->path,
					    text);
	}
	return query_close(&query);
}

static int connect(struct store *store, int64_t size, struct error *err)
{
	int r = conn_open(&store->writer, store->path, CONN_WRITE, err);
	if (r == 0 && size > 0 && size <= CHECK_BYTES_MAX)
		r = check_pages(store, err);
	if (r == 0)
		r = migrate(store, store->path, err);
	/* After the migration, which may rebuild tables that others refer to. */
	if (r == 0)
		r = conn_exec(&store->writer, "PRAGMA foreign_keys = ON", err);
	if (r == 0)
		r = secret_check(store, err);
	if (r == 0)
		r = conn_open(&store->reader, store->path, CONN_READ, err);
	return r;
}

/* Two that start at once must not make two secrets for one database. Held until the descriptor is closed. */
static int lock_folder(const char *dir, int *fd, struct error *err)
{
	int64_t deadline = time_mono_ms() + STORE_BUSY_MS;

	*fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*fd < 0)
		return error_errno(err, errno, "open the data folder %s", dir);
	while (flock(*fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return error_errno(err, errno, "lock the data folder %s", dir);
		if (time_mono_ms() >= deadline)
			return error_set(err, EBUSY, "another process is opening %s", dir);
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	return 0;
}

int store_open(const char *dir, struct store **result, struct error *err)
{
	if (sodium_init() < 0)
		return error_set(err, EIO, "libsodium does not start");
	struct store *store = calloc(1, sizeof(*store));
	if (!store || asprintf(&store->path, "%s/akira.db", dir) < 0) {
		free(store);
		return error_set(err, ENOMEM, "no memory for the store");
	}
	bool existed = false;
	int64_t size = 0;
	_cleanup_fd_ int folder = -1;
	int r = lock_folder(dir, &folder, err);
	if (r == 0)
		r = make_file(store->path, &existed, &size, err);
	if (r == 0)
		r = secret_load(folder, dir, existed, store->secret, err);
	if (r == 0) {
		store_subkey(store->secret, "akira.store.seal.v1", store->seal_key);
		store_subkey(store->secret, "akira.store.audit.v1", store->audit_key);
		store_subkey(store->secret, "akira.store.audit-head.v1", store->head_key);
		r = connect(store, size, err);
	}
	if (r < 0) {
		store_close(store);
		return r;
	}
	*result = store;
	return 0;
}

void store_close(struct store *store)
{
	if (!store)
		return;
	conn_close(&store->reader);
	conn_close(&store->writer);
	free(store->path);
	sodium_memzero(store, sizeof(*store));
	free(store);
}

const unsigned char *store_secret(const struct store *store)
{
	return store->secret;
}
