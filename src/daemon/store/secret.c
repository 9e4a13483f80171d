#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/store/internal.h"

#define SECRET_NAME "akira.secret"
#define SEAL_VERSION 1
#define SEAL_HEAD (1 + crypto_secretbox_NONCEBYTES)

static int secret_make(int dir, unsigned char secret[32], struct error *err)
{
	randombytes_buf(secret, 32);
	return fd_write_file(dir, SECRET_NAME, secret, 32, 0600, err);
}

static int secret_read(int dir, unsigned char secret[32], struct error *err)
{
	struct stat st;
	_cleanup_fd_ int fd = openat(dir, SECRET_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, errno, "open %s", SECRET_NAME);
	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "stat %s", SECRET_NAME);
	if (!S_ISREG(st.st_mode) || st.st_size != 32)
		return error_set(err, EIO, "%s is not a file of 32 bytes", SECRET_NAME);
	if (st.st_mode & 077)
		return error_set(err, EACCES, "%s can be read by others: chmod 600 it", SECRET_NAME);
	ssize_t n = fd_read_all(fd, secret, 32);
	return n == 32 ? 0 : error_errno(err, n < 0 ? (int)-n : EIO, "read %s", SECRET_NAME);
}

int secret_load(int folder, const char *dir, bool database_exists, unsigned char secret[32], struct error *err)
{
	int r = secret_read(folder, secret, err);
	if (r != -ENOENT)
		return r;
	if (database_exists)
		return error_set(err, ENOENT,
				 "%s/%s is missing: without it no key of this database can be checked; put it back",
				 dir, SECRET_NAME);
	return secret_make(folder, secret, err);
}

void store_subkey(const unsigned char secret[32], const char *purpose, unsigned char key[32])
{
	crypto_generichash(key, 32, (const unsigned char *)purpose, strlen(purpose), secret, 32);
}

int secret_check(struct store *store, struct error *err)
{
	unsigned char mark[32];
	struct query query;

	store_subkey(store->secret, "akira.store.check.v1", mark);
	query_on(&query, &store->writer, "INSERT INTO meta VALUES ('check_secret', ?) ON CONFLICT DO NOTHING", err);
	query_blob(&query, mark, sizeof(mark));
	int r = query_run(&query, NULL);
	if (r < 0)
		return r;
	query_on(&query, &store->writer, "SELECT value FROM meta WHERE name = 'check_secret'", err);
	const void *kept = query_step(&query) > 0 ? sqlite3_column_blob(query.stmt, 0) : NULL;
	if (query.r == 0 && (!kept || sqlite3_column_bytes(query.stmt, 0) != 32 || sodium_memcmp(kept, mark, 32) != 0))
		query.r = error_set(err, EIO, "%s is not the one of this database", SECRET_NAME);
	return query_close(&query);
}

int secret_seal(const unsigned char key[32], const char *text, unsigned char **box, size_t *size)
{
	size_t length = strlen(text);
	unsigned char *out = malloc(SEAL_HEAD + crypto_secretbox_MACBYTES + length);

	if (!out)
		return -ENOMEM;
	out[0] = SEAL_VERSION;
	randombytes_buf(out + 1, crypto_secretbox_NONCEBYTES);
	crypto_secretbox_easy(out + SEAL_HEAD, (const unsigned char *)text, length, out + 1, key);
	*box = out;
	*size = SEAL_HEAD + crypto_secretbox_MACBYTES + length;
	return 0;
}

int secret_unseal(const unsigned char key[32], const unsigned char *box, size_t size, char **text)
{
	if (size < SEAL_HEAD + crypto_secretbox_MACBYTES || box[0] != SEAL_VERSION)
		return -EBADMSG;
	size_t length = size - SEAL_HEAD - crypto_secretbox_MACBYTES;
	char *out = malloc(length + 1);
	if (!out)
		return -ENOMEM;
	if (crypto_secretbox_open_easy((unsigned char *)out, box + SEAL_HEAD, size - SEAL_HEAD, box + 1, key) < 0) {
		free(out);
		return -EBADMSG;
	}
	out[length] = '\0';
	*text = out;
	return 0;
}
