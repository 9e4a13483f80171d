/*
 * The database while allocations fail, one at a time: a call succeeds or says why not, nothing is half done, and the
 * next open finds a whole chain with a record for each transaction that was answered. All numbers with AKIRA_TEST_LONG,
 * else one in STRIDE.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "base/fd.h"
#include "daemon/store/store.h"

#define STRIDE 23
#define TEMPLATE "/dev/shm/akira-alloc-XXXXXX" /* nothing here is about the disk */

static int64_t answered, unsure; /* transactions: committed, and those whose commit failed */

#define REQUIRE(what)                                                                                      \
	do {                                                                                               \
		if (!(what)) {                                                                             \
			fprintf(stderr, "%s:%d: %s (allocation %lld failed)\n", __FILE__, __LINE__, #what, \
				(long long)atomic_load(&alloc_control->fail_at));                          \
			abort();                                                                           \
		}                                                                                          \
	} while (0)

static int one_change(struct store *store, int64_t number, int part, struct error *err)
{
	struct store_org org = { .tier = "pro", .sandboxes_max = -1, .created_ms = 1 };
	struct store_sandbox box = {
		.name = "web", .image = "tiny", .network = "{}", .env = "{\"A\":\"b\"}", .created_ms = 5
	};
	struct store_audit row = { .action = "test", .outcome = "ok" };

	snprintf(org.id, sizeof(org.id), "org_%lld_%d", (long long)number, part);
	snprintf(box.id, sizeof(box.id), "sbx_%lld_%d", (long long)number, part);
	memcpy(box.org, org.id, sizeof(box.org));
	int r = store_begin(store, err);
	if (r < 0)
		return r;
	r = store_org_add(store, &org, err);
	if (r == 0)
		r = store_sandbox_add(store, &box, err);
	if (r == 0)
		r = store_audit_add(store, &row, err);
	if (r < 0) {
		store_rollback(store);
		return r;
	}
	r = store_commit(store, err);
	*(r == 0 ? &answered : &unsure) += 1;
	return r;
}

static void look(struct store *store, struct error *err)
{
	struct store_sandbox *boxes = NULL;
	struct store_audit *rows = NULL;
	size_t count = 0;
	uint64_t total, good, seq;

	if (store_sandbox_list(store, &(struct store_sandbox_filter){ 0 }, 1, 5, &boxes, &count, &total, err) == 0) {
		for (size_t i = 0; i < count; i++) /* what was sealed comes back as it was */
			REQUIRE(boxes[i].env && strcmp(boxes[i].env, "{\"A\":\"b\"}") == 0);
		store_sandboxes_free(boxes, count);
	}
	if (store_audit_list(store, &(struct store_audit_filter){ .limit = 5 }, &rows, &count, err) == 0)
		free(rows);
	/* It may not be able to say; never that a whole chain is broken. */
	int r = store_audit_verify(store, &good, &seq, err);
	REQUIRE(r == 0 || (r != -EBADMSG && err->code != 0));
}

/* With memory again the same store is as good as ever: no transaction of before lingers, nothing was read wrongly. */
static void goes_on(struct store *store, int64_t number)
{
	int64_t at = atomic_exchange(&alloc_control->fail_at, 0);
	struct store_org *orgs;
	struct error err = { 0 };
	uint64_t rows, seq, total;
	size_t count;

	REQUIRE(one_change(store, number, 9, &err) == 0);
	REQUIRE(store_audit_verify(store, &rows, &seq, &err) == 0);
	REQUIRE(store_org_list(store, 1, 1, &orgs, &count, &total, &err) == 0 && total == rows);
	free(orgs);
	atomic_store(&alloc_control->fail_at, at);
}

static void use(const char *dir, int64_t number)
{
	struct error err = { 0 };
	struct store *store = NULL;

	int r = store_open(dir, &store, &err);
	REQUIRE(r == 0 || (err.code != 0 && err.text[0] && !store));
	for (int part = 0; r == 0 && part < 3; part++) {
		err.code = 0;
		REQUIRE(one_change(store, number, part, &err) == 0 || err.code != 0);
		REQUIRE(!store_in_tx(store));
	}
	if (r == 0)
		look(store, &err);
	if (r == 0)
		goes_on(store, number);
	store_close(store);
}

static void converged(const char *dir)
{
	struct store *store;
	struct error err = { 0 };
	uint64_t rows, seq, total;
	struct store_org *orgs;
	size_t count;

	REQUIRE(store_open(dir, &store, &err) == 0);
	REQUIRE(store_audit_verify(store, &rows, &seq, &err) == 0);
	REQUIRE((int64_t)rows >= answered && (int64_t)rows <= answered + unsure);
	REQUIRE(store_org_list(store, 1, 1, &orgs, &count, &total, &err) == 0);
	REQUIRE(total == rows); /* never one without the other */
	free(orgs);
	store_close(store);
}

/* A new folder now and then: what is verified after each failure grows with its rows. */
static void fresh(char dir[], bool first)
{
	if (!first)
		REQUIRE(fd_remove_tree(AT_FDCWD, dir, NULL) == 0);
	strcpy(dir, TEMPLATE);
	REQUIRE(mkdtemp(dir));
	answered = unsure = 0;
	use(dir, 0);
}

int main(void)
{
	char dir[sizeof(TEMPLATE)];
	int64_t stride = getenv("AKIRA_TEST_LONG") ? 1 : STRIDE, tried = 0, hit = 1, sum = 0;

	for (int64_t at = 1; hit > 0; at += stride, tried++) {
		if (tried % 128 == 0)
			fresh(dir, tried == 0);
		int64_t live = atomic_load(&alloc_control->live);
		/* In turn alone and with those that follow it, so that undoing fails as well. */
		atomic_store(&alloc_control->burst, tried % 3 == 0 ? 0 : tried % 3 == 1 ? 3 : 40);
		atomic_store(&alloc_control->failed, 0);
		atomic_store(&alloc_control->count, 0);
		atomic_store(&alloc_control->fail_at, at);
		use(dir, at);
		/* Less under AddressSanitizer, which allocates past us what is freed through us. */
		REQUIRE(atomic_load(&alloc_control->live) <= live);
		atomic_store(&alloc_control->fail_at, 0);
		hit = atomic_load(&alloc_control->failed);
		sum += hit;
		converged(dir);
	}
	printf("%lld times an allocation or a run of them failed, %lld allocations in all\n", (long long)tried - 1,
	       (long long)sum);
	return fd_remove_tree(AT_FDCWD, dir, NULL) < 0 || tried < 50;
}
