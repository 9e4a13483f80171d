/* What happens when a writer is killed, the disk is full, the file is damaged, or a newer akirad was here. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "support.h"

static void expect_refused(struct support *s, int code, const char *what)
{
	struct store *other = NULL;

	assert_int_equal(store_open(s->dir, &other, &s->err), code);
	assert_null(other);
	if (!strstr(s->err.text, what))
		fail_msg("\"%s\" does not say %s", s->err.text, what);
}

static void file_path(struct support *s, const char *name, char path[128])
{
	snprintf(path, 128, "%s/%s", s->dir, name);
}

static void private_files(void **state)
{
	static const char *const names[] = { "akira.db", "akira.db-wal", "akira.db-shm", "akira.secret" };
	struct support *s = *state;
	struct stat st;
	char path[128];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		file_path(s, names[i], path);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
	}
}

static void reopened(void **state)
{
	struct support *s = *state;
	unsigned char secret[32];
	struct store_org org;

	memcpy(secret, store_secret(s->store), 32);
	support_audit(s, "x", 0);
	support_reopen(s);
	assert_memory_equal(secret, store_secret(s->store), 32);
	ok(store_org_get(s->store, "org_b", &org, &s->err));
}

static void newer_schema(void **state)
{
	struct support *s = *state;

	store_close(s->store);
	s->store = NULL;
	support_sql(s, "PRAGMA user_version = 999");
	expect_refused(s, -EPROTONOSUPPORT, "schema version 999");
	support_sql(s, "PRAGMA user_version = 1; PRAGMA application_id = 7");
	expect_refused(s, -EPROTONOSUPPORT, "not a database of akirad");
}

static void damaged(void **state)
{
	struct support *s = *state;
	char path[128], junk[8192];

	store_close(s->store); /* checkpoints: all is in the one file */
	s->store = NULL;
	file_path(s, "akira.db", path);
	int fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	memset(junk, 0xa5, sizeof(junk));
	assert_int_equal(pwrite(fd, junk, sizeof(junk), 8192), sizeof(junk));
	expect_refused(s, -EIO, "damaged");
	assert_int_equal(pwrite(fd, junk, 100, 0), 100);
	expect_refused(s, -EIO, "damaged");
	close(fd);
}

static void secrets(void **state)
{
	struct support *s = *state;
	char path[128], away[128];

	store_close(s->store);
	s->store = NULL;
	file_path(s, "akira.secret", path);
	file_path(s, "away", away);
	assert_int_equal(chmod(path, 0640), 0);
	expect_refused(s, -EACCES, "read by others");
	assert_int_equal(rename(path, away), 0);
	expect_refused(s, -ENOENT, "missing");
	assert_int_equal(fd_write_file(AT_FDCWD, path, "01234567890123456789012345678901", 32, 0600, NULL), 0);
	expect_refused(s, -EIO, "not the one of this database");
	assert_int_equal(truncate(path, 31), 0);
	expect_refused(s, -EIO, "32 bytes");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("away", path), 0);
	expect_refused(s, -ELOOP, "akira.secret");
}

/* Several first starts at once: one secret, one schema, and each works. */
static void first_starts_race(void **state)
{
	struct support *s = *state;
	char folder[128];
	pid_t children[4];
	int status;
	struct store *store;

	for (int round = 0; round < 5; round++) {
		snprintf(folder, sizeof(folder), "%s/new%d", s->dir, round);
		assert_int_equal(mkdir(folder, 0700), 0);
		for (int i = 0; i < 4; i++) {
			children[i] = fork();
			assert_true(children[i] >= 0);
			if (children[i] == 0) {
				int r = store_open(folder, &store, NULL);
				if (r == 0)
					r = store_audit_add(store, &(struct store_audit){ .action = "start" }, NULL);
				_exit(r < 0);
			}
		}
		for (int i = 0; i < 4; i++) {
			assert_int_equal(waitpid(children[i], &status, 0), children[i]);
			assert_int_equal(status, 0);
		}
		uint64_t rows, seq;
		ok(store_open(folder, &store, &s->err));
		ok(store_audit_verify(store, &rows, &seq, &s->err));
		assert_int_equal(rows, 4);
		store_close(store);
	}
}

static void no_folder(void **state)
{
	struct support *s = *state;
	struct store *other = NULL;

	assert_int_equal(store_open("/proc/self/no-such-folder", &other, &s->err), -ENOENT);
	assert_null(other);
}

/* Says one byte for each transaction that was answered, until it is killed. */
static void write_for_ever(struct support *s, int out)
{
	struct store *store;
	struct store_key key = support_key("org_a", "", 0);
	struct store_audit row = { .action = "key.create", .outcome = "ok" };

	if (store_open(s->dir, &store, NULL) < 0)
		_exit(1);
	for (int i = 0;; i++) {
		snprintf(key.id, sizeof(key.id), "key_%d_%d", (int)getpid(), i);
		memcpy(key.hash, key.id, sizeof(key.hash));
		if (store_begin(store, NULL) < 0 || store_key_add(store, &key, NULL) < 0 ||
		    store_audit_add(store, &row, NULL) < 0 || store_commit(store, NULL) < 0 || write(out, "x", 1) != 1)
			_exit(1);
	}
}

static int64_t kill_writer_after(struct support *s, int answers)
{
	int pipes[2], status, answered = 0;
	char byte;

	assert_int_equal(pipe(pipes), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0)
		write_for_ever(s, pipes[1]);
	close(pipes[1]);
	while (answered < answers && read(pipes[0], &byte, 1) == 1)
		answered++;
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	while (read(pipes[0], &byte, 1) == 1)
		answered++;
	close(pipes[0]);
	return answered;
}

static void killed_writer(void **state)
{
	struct support *s = *state;
	int64_t answered = 0;
	uint64_t rows, seq;

	store_close(s->store);
	s->store = NULL;
	for (int round = 0; round < 8; round++) {
		answered += kill_writer_after(s, 3 + round * 7);
		ok(store_open(s->dir, &s->store, &s->err));
		ok(store_audit_verify(s->store, &rows, &seq, &s->err));
		int64_t keys = support_sql_int(s, "SELECT count(*) FROM key");
		/* All that was answered, at most one more a round (committed, killed before the answer), never half of one. */
		assert_in_range(keys, answered, answered + round + 1);
		assert_int_equal(rows, keys);
		store_close(s->store);
		s->store = NULL;
	}
}

static int fill_until_full(struct support *s)
{
	struct store_exec exec = { .org = "org_a", .sandbox = "sbx_a", .status = "completed" };
	int r = 0;

	exec.out = calloc(1, STORE_OUTPUT_MAX + 1);
	assert_non_null(exec.out);
	memset(exec.out, 'x', STORE_OUTPUT_MAX);
	for (int i = 0; i < 10000 && r == 0; i++) {
		snprintf(exec.id, sizeof(exec.id), "exec_%d", i);
		r = store_begin(s->store, &s->err);
		if (r == 0)
			r = store_exec_add(s->store, &exec, &s->err);
		if (r == 0)
			r = store_audit_add(s->store, &(struct store_audit){ .action = "exec", .outcome = "ok" },
					    &s->err);
		else if (r == -ENOSPC) /* the transaction is gone: nothing may be written outside of it */
			assert_int_not_equal(store_audit_add(s->store, &(struct store_audit){ .action = "exec" }, NULL),
					     0);
		if (r == 0)
			r = store_commit(s->store, &s->err);
		else
			store_rollback(s->store);
	}
	free(exec.out);
	return r;
}

static void after_full(struct support *s)
{
	uint64_t rows, seq;

	ok(store_audit_verify(s->store, &rows, &seq, &s->err));
	assert_int_equal(rows, support_sql_int(s, "SELECT count(*) FROM exec"));
	assert_true(rows > 0);
	assert_false(store_in_tx(s->store));
	/* With room again it goes on. */
	assert_int_equal(mount("none", s->dir, NULL, MS_REMOUNT, "size=16m"), 0);
	support_audit(s, "again", 0);
	support_reopen(s);
	ok(store_audit_verify(s->store, &seq, &rows, &s->err));
}

static void full_disk(void **state)
{
	struct support *s = *state;
	int status;

	pid_t child = fork(); /* a mount namespace of its own, which ends with it */
	assert_true(child >= 0);
	if (child == 0) {
		struct support full = { 0 };
		s = &full;
		snprintf(s->dir, sizeof(s->dir), "%s", ((struct support *)*state)->dir);
		if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount("none", s->dir, "tmpfs", 0, "size=2m") < 0)
			_exit(77);
		ok(store_open(s->dir, &s->store, &s->err));
		struct store_org org = support_org("org_a");
		struct store_sandbox box = support_sandbox("org_a", "sbx_a", 1);
		ok(store_org_add(s->store, &org, &s->err));
		ok(store_sandbox_add(s->store, &box, &s->err));
		assert_int_equal(fill_until_full(s), -ENOSPC);
		after_full(s);
		store_close(s->store);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip(); /* not root, or mounts are forbidden here */
	assert_int_equal(status, 0);
}

struct busy {
	struct support *s;
	atomic_bool stop;
	atomic_int written, failures;
};

static void *keep_writing(void *data)
{
	struct busy *busy = data;

	while (!atomic_load(&busy->stop)) {
		atomic_fetch_add(&busy->failures,
				 store_audit_add(busy->s->store, &(struct store_audit){ .action = "w" }, NULL) < 0);
		atomic_fetch_add(&busy->written, 1);
	}
	return NULL;
}

static void check_backup(struct support *s, const char *folder)
{
	char secret[128], copy[192];
	_cleanup_free_ char *data = NULL;
	size_t size;
	struct store *restored;
	uint64_t rows, seq;

	file_path(s, "akira.secret", secret);
	ok(fd_read_file(AT_FDCWD, secret, 64, &data, &size, &s->err));
	snprintf(copy, sizeof(copy), "%s/akira.secret", folder);
	ok(fd_write_file(AT_FDCWD, copy, data, size, 0600, &s->err));
	ok(store_open(folder, &restored, &s->err));
	ok(store_audit_verify(restored, &rows, &seq, &s->err));
	assert_true(rows >= 20);
	store_close(restored);
}

static void backup_while_writing(void **state)
{
	struct support *s = *state;
	struct busy busy = { .s = s };
	char folder[128], path[192];
	struct stat st;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, keep_writing, &busy), 0);
	for (int i = 0; i < 3; i++) {
		int until = atomic_load(&busy.written) + 20;
		while (atomic_load(&busy.written) < until)
			sched_yield();
		snprintf(folder, sizeof(folder), "%s/copy%d", s->dir, i);
		snprintf(path, sizeof(path), "%s/akira.db", folder);
		assert_int_equal(mkdir(folder, 0700), 0);
		ok(store_backup(s->store, path, &s->err));
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
		check_backup(s, folder);
	}
	assert_int_equal(store_backup(s->store, path, &s->err), -EEXIST);
	atomic_store(&busy.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&busy.failures), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, support_setup, support_teardown)
	const struct CMUnitTest tests[] = {
		T(private_files),     T(reopened),  T(newer_schema),  T(damaged),   T(secrets),
		T(first_starts_race), T(no_folder), T(killed_writer), T(full_disk), T(backup_while_writing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
