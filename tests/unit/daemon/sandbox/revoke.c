/*
 * A key is revoked while two calls that it let in make sandboxes, again and again: the real check of keys, the real
 * admission and a real store. In the order of the audit log no sandbox is admitted by a key after its revocation.
 */
#include "daemon/sandbox/create.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sodium.h>
#include <sqlite3.h>

#include "daemon/auth/auth.h"

#define ROUNDS 10000
#define CALLERS 2
#define TRIES 4000    /* of a caller in a round: it is refused long before */
#define TIDY_AFTER 50 /* rounds: each admission adds up what is live */

struct world {
	char path[64];
	struct sandboxes s;
	struct auth *auth;
	struct store_org org;
	struct error err;
	pthread_barrier_t begin, end;
	char key[STORE_ID_MAX]; /* of this round; "": there is none more */
	atomic_int admitted;    /* in this round */
	atomic_int refused, strange;
};

static const struct auth_actor host = { .address = "unix" };

#define OK(w, call)                                               \
	do {                                                      \
		if ((call) != 0)                                  \
			fail_msg("%s: %s", #call, (w)->err.text); \
	} while (0)

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	char text[AUTH_KEY_MAX];
	struct auth_identity first;
	bool made;

	assert_non_null(w);
	/* In memory: it is about the order of transactions, not about disks. */
	snprintf(w->path, sizeof(w->path), "/dev/shm/akira-revoke-XXXXXX");
	assert_non_null(mkdtemp(w->path));
	OK(w, store_open(w->path, &w->s.store, &w->err));
	OK(w, disk_open(w->path, 0, &w->s.disk, &w->err));
	pthread_mutex_init(&w->s.lock, NULL);
	w->s.budget = UINT64_MAX / 16;
	OK(w, auth_bootstrap(w->s.store, &host, &made, text, &w->err));
	OK(w, auth_new(w->s.store, NULL, &w->auth, &w->err));
	assert_int_equal(auth_check(w->auth, text, "192.0.2.1", &first, &w->err), AUTH_OK);
	w->org = first.org;
	pthread_barrier_init(&w->begin, NULL, CALLERS + 1);
	pthread_barrier_init(&w->end, NULL, CALLERS + 1);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	auth_free(w->auth);
	disk_close(&w->s.disk);
	store_close(w->s.store);
	pthread_mutex_destroy(&w->s.lock);
	int r = fd_remove_tree(AT_FDCWD, w->path, NULL);
	free(w);
	return r;
}

static int one_create(struct world *w, struct error *err)
{
	struct sandbox_actor actor = { .org = &w->org, .key = w->key, .request = "req_1", .address = "192.0.2.1" };
	struct sandbox_spec spec = { .wait = true };
	struct store_sandbox row = {
		.name = "race", .image = "tiny", .cpu_units = 1, .memory_mib = 256, .storage_gb = 1
	};
	/* A descriptor, so that no pooled machine is asked for. */
	struct start start = { .s = &w->s, .disk = 0, .shape = { .cpu_units = 1, .memory_mib = 256 } };

	snprintf(row.org, sizeof(row.org), "%s", w->org.id);
	snprintf(row.key, sizeof(row.key), "%s", w->key);
	int r = admit(&start, &actor, &spec, &row, err);
	box_put(start.box);
	return r;
}

static void *caller(void *context)
{
	struct world *w = context;

	for (;;) {
		pthread_barrier_wait(&w->begin);
		if (!w->key[0])
			return NULL;
		int r = 0;
		for (int i = 0; i < TRIES && r == 0; i++) {
			struct error err = { 0 };
			r = one_create(w, &err);
			sched_yield(); /* the store's lock is not fair */
			if (r == 0)
				atomic_fetch_add(&w->admitted, 1);
			else if (r != -EKEYREVOKED && atomic_fetch_add(&w->strange, 1) == 0)
				fprintf(stderr, "%d %s\n", r, err.text);
		}
		atomic_fetch_add(&w->refused, r == -EKEYREVOKED);
		pthread_barrier_wait(&w->end);
	}
}

static void one_round(struct world *w, int number, int *raced)
{
	struct auth_new_key wanted = { .org = w->org.id, .name = "race", .scopes = SCOPE_SANDBOXES_WRITE };
	struct auth_identity identity;
	struct store_key key;
	char text[AUTH_KEY_MAX], address[16];

	/* An address of its own: revoked keys slow down the one that they come from. */
	snprintf(address, sizeof(address), "10.1.%d.%d", number / 200, number % 200 + 1);
	OK(w, auth_key_create(w->auth, &host, &wanted, &key, text, &w->err));
	/* Both calls have passed the door. */
	assert_int_equal(auth_check(w->auth, text, address, &identity, &w->err), AUTH_OK);
	memcpy(w->key, key.id, sizeof(w->key));
	atomic_store(&w->admitted, 0);
	atomic_store(&w->refused, 0);
	pthread_barrier_wait(&w->begin);
	while (atomic_load(&w->admitted) < number % 4 && atomic_load(&w->strange) == 0)
		sched_yield();
	OK(w, auth_key_revoke(w->auth, &host, w->org.id, key.id, NULL, &w->err));
	pthread_barrier_wait(&w->end);
	assert_int_equal(atomic_load(&w->strange), 0);
	assert_int_equal(atomic_load(&w->refused), CALLERS);
	assert_int_equal(auth_check(w->auth, text, address, &identity, &w->err), AUTH_REVOKED);
	*raced += atomic_load(&w->admitted) > 0;
}

static void tidy(struct world *w)
{
	char path[128];
	sqlite3 *db;

	snprintf(path, sizeof(path), "%s/akira.db", w->path);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "UPDATE sandbox SET status = 4 WHERE status < 4", NULL, NULL, NULL),
			 SQLITE_OK);
	sqlite3_close(db);
}

/* From the newest: the keys' rounds follow one another, so what is admitted belongs to the revocation seen last. */
static void check_order(struct world *w, int *admitted, int *revoked)
{
	struct store_audit_filter filter = { .limit = 1000 };
	char key[STORE_ID_MAX] = "";
	struct store_audit *rows;
	size_t count;

	do {
		OK(w, store_audit_list(w->s.store, &filter, &rows, &count, &w->err));
		for (size_t i = 0; i < count; i++) {
			filter.before_seq = rows[i].seq;
			if (strcmp(rows[i].action, "key.revoke") == 0) {
				snprintf(key, sizeof(key), "%s", rows[i].target);
				(*revoked)++;
			} else if (strcmp(rows[i].action, "sandbox.admitted") == 0) {
				assert_string_equal(rows[i].key, key);
				(*admitted)++;
			}
		}
		free(rows);
	} while (count > 0);
}

static void no_sandbox_after_the_revoke(void **state)
{
	struct world *w = *state;
	pthread_t threads[CALLERS];
	int raced = 0, admitted = 0, revoked = 0;
	uint64_t rows, seq;

	for (int i = 0; i < CALLERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, caller, w), 0);
	for (int number = 0; number < ROUNDS; number++) {
		one_round(w, number, &raced);
		if (number % TIDY_AFTER == 0)
			tidy(w);
	}
	w->key[0] = '\0';
	pthread_barrier_wait(&w->begin);
	for (int i = 0; i < CALLERS; i++)
		pthread_join(threads[i], NULL);
	check_order(w, &admitted, &revoked);
	OK(w, store_audit_verify(w->s.store, &rows, &seq, &w->err));
	assert_int_equal(revoked, ROUNDS);
	assert_true(admitted >= raced && raced > ROUNDS / 2); /* else there was no race */
	print_message("%d rounds, %d sandboxes admitted, in %d rounds some before the revoke\n", revoked, admitted,
		      raced);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(no_sandbox_after_the_revoke, setup,
									    teardown) };

	log_init("test", "json", LOG_ERROR_ + 1);
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
