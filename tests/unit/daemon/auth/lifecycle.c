/* Bootstrap, create, rotate, revoke: who may, and that each leaves its row in the audit log. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support.h"

static const struct auth_actor host = { .request = "req_h", .address = "unix" };

static void expect_audit(struct support *s, const char *action, const char *outcome, const char *target, int status)
{
	struct store_audit row = support_last_audit(s);

	assert_string_equal(row.action, action);
	assert_string_equal(row.outcome, outcome);
	assert_int_equal(row.status, status);
	if (target)
		assert_string_equal(row.target, target);
}

static int64_t audit_count(struct support *s)
{
	return (int64_t)support_last_audit(s).seq;
}

static void bootstrap_once(void **state)
{
	struct support *s = *state;
	char text[AUTH_KEY_MAX];
	bool made = true;

	expect_audit(s, "auth.bootstrap", "ok", s->identity.key.id, 0);
	assert_string_equal(s->identity.org.tier, "enterprise");
	assert_int_equal(s->identity.org.requests_per_minute, -1);
	assert_string_equal(s->identity.key.name, AUTH_BOOTSTRAP);
	ok(auth_bootstrap(s->store, &host, &made, text, &s->err));
	assert_false(made);
	assert_string_equal(text, "");
	assert_int_equal(audit_count(s), 1);
}

static void reset(void **state)
{
	struct support *s = *state;
	struct store_org org = s->identity.org;
	char first[AUTH_KEY_MAX], second[AUTH_KEY_MAX], mine[AUTH_KEY_MAX];

	for (int i = 0; i < 150; i++) /* more keys than a page */
		support_key(s, "many", 1, mine);
	org.suspended = true;
	ok(auth_org_update(s->auth, &host, &org, &s->err));
	ok(auth_reset_key(s->store, s->auth, &host, first, &s->err));
	expect_audit(s, "auth.reset_key", "ok", NULL, 0);
	assert_int_equal(support_check(s, s->admin), AUTH_REVOKED);
	assert_int_equal(support_check(s, first), AUTH_OK);
	assert_int_equal(support_check(s, mine), AUTH_OK); /* others stay */
	ok(auth_reset_key(s->store, s->auth, &host, second, &s->err));
	assert_int_equal(support_check(s, first), AUTH_REVOKED);
	assert_int_equal(support_check(s, second), AUTH_OK);
}

static void reset_too_early(void **state)
{
	struct support *s = *state;
	char text[AUTH_KEY_MAX], dir[] = "/tmp/akira-auth-XXXXXX", command[64];
	struct store *empty;

	assert_non_null(mkdtemp(dir));
	ok(store_open(dir, &empty, &s->err));
	assert_int_equal(auth_reset_key(empty, NULL, &host, text, &s->err), -ENOENT);
	assert_string_equal(text, "");
	store_close(empty);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

static void created(void **state)
{
	struct support *s = *state;
	struct auth_actor *actor = support_actor(s, s->admin);
	struct auth_new_key wanted = { .org = actor->org, .name = "laptop", .scopes = SCOPE_SANDBOXES_READ };
	struct store_key key, stored;
	char text[AUTH_KEY_MAX];

	ok(auth_key_create(s->auth, actor, &wanted, &key, text, &s->err));
	assert_true(auth_key_wellformed(text));
	assert_memory_equal(text, key.prefix, 14);
	ok(store_key_get(s->store, actor->org, key.id, &stored, &s->err));
	assert_memory_equal(&stored, &key, sizeof(key));
	assert_int_equal(support_check(s, text), AUTH_OK);

	struct store_audit row = support_last_audit(s);
	assert_string_equal(row.action, "key.create");
	assert_string_equal(row.request, "req_1");
	assert_string_equal(row.key, s->identity.key.id);
	assert_string_equal(row.address, "192.0.2.1");
	assert_string_equal(row.target, key.id);
	assert_int_equal(row.status, 201);
	assert_null(strstr(row.detail, text));
}

static void bad_wishes(void **state)
{
	struct support *s = *state;
	const char *org = s->identity.org.id;
	const struct {
		struct auth_new_key wanted;
		int r;
	} rows[] = {
		{ { org, "", 1, 0 }, -EINVAL },
		{ { org, NULL, 1, 0 }, -EINVAL },
		{ { org, "a b", 1, 0 }, -EINVAL },
		{ { org, AUTH_BOOTSTRAP, 1, 0 }, -EINVAL },
		{ { org, "x", 0, 0 }, -EINVAL },
		{ { org, "x", 32, 0 }, -EINVAL },
		{ { org, "x", 1, 1 }, -EINVAL },
		{ { org, "x", 1, -1 }, -EINVAL },
		{ { "org_nobody", "x", 1, 0 }, -ENOENT },
		{ { NULL, "x", 1, 0 }, -ENOENT },
		{ { "org_0123456789012345678901234567890123456789", "x", 1, 0 }, -ENOENT },
	};
	char text[AUTH_KEY_MAX];
	int64_t before = audit_count(s);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(auth_key_create(s->auth, &host, &rows[i].wanted, NULL, text, &s->err), rows[i].r);
		assert_string_equal(text, "");
	}
	assert_int_equal(audit_count(s), before);
}

static void no_scope_is_gained(void **state)
{
	struct support *s = *state;
	char manager[AUTH_KEY_MAX], reader[AUTH_KEY_MAX], text[AUTH_KEY_MAX];
	struct store_key key;

	support_key(s, "manager", SCOPE_KEYS_MANAGE | SCOPE_SANDBOXES_READ, manager);
	struct store_key plain = support_key(s, "reader", SCOPE_SANDBOXES_READ | SCOPE_SANDBOXES_WRITE, reader);
	struct auth_actor *actor = support_actor(s, manager);
	struct auth_new_key wanted = { .org = s->identity.org.id, .name = "x" };
	for (uint32_t scopes = 1; scopes <= SCOPE_ALL; scopes++) {
		wanted.scopes = scopes;
		bool within = !(scopes & ~(uint32_t)(SCOPE_KEYS_MANAGE | SCOPE_SANDBOXES_READ));
		assert_int_equal(auth_key_create(s->auth, actor, &wanted, &key, text, &s->err), within ? 0 : -EACCES);
		expect_audit(s, "key.create", within ? "ok" : "refused", within ? key.id : NULL, within ? 201 : 403);
		assert_int_equal(text[0] != '\0', within);
	}
	/* Nor by rotating a key that has more. */
	assert_int_equal(auth_key_rotate(s->auth, actor, plain.org, plain.id, 0, NULL, text, &s->err), -EACCES);
	assert_string_equal(text, "");
	expect_audit(s, "key.rotate", "refused", plain.id, 403);
	assert_int_equal(support_check(s, reader), AUTH_OK);

	actor = support_actor(s, reader); /* no scope for keys at all */
	wanted.scopes = SCOPE_SANDBOXES_READ;
	assert_int_equal(auth_key_create(s->auth, actor, &wanted, NULL, text, &s->err), -EACCES);
	assert_int_equal(auth_key_revoke(s->auth, actor, plain.org, plain.id, NULL, &s->err), -EACCES);
	assert_int_equal(auth_org_update(s->auth, actor, &s->identity.org, &s->err), -EACCES);
	expect_audit(s, "org.update", "refused", s->identity.org.id, 403);
}

static void other_organisations(void **state)
{
	struct support *s = *state;
	struct store_org org = { .name = "tenant", .tier = "beta", .requests_per_minute = 60 };
	char manager[AUTH_KEY_MAX], text[AUTH_KEY_MAX];
	struct store_key theirs;

	ok(auth_org_create(s->auth, support_actor(s, s->admin), &org, &s->err));
	expect_audit(s, "org.create", "ok", org.id, 201);
	struct auth_new_key wanted = { .org = org.id, .name = "theirs", .scopes = SCOPE_KEYS_MANAGE };
	ok(auth_key_create(s->auth, support_actor(s, s->admin), &wanted, &theirs, manager, &s->err));

	struct auth_actor *actor = support_actor(s, manager);
	struct store_key own = s->identity.key;
	wanted.org = own.org;
	assert_int_equal(auth_key_create(s->auth, actor, &wanted, NULL, text, &s->err), -ENOENT);
	assert_int_equal(auth_key_rotate(s->auth, actor, own.org, own.id, 0, NULL, text, &s->err), -ENOENT);
	assert_int_equal(auth_key_revoke(s->auth, actor, own.org, own.id, NULL, &s->err), -ENOENT);
	assert_int_equal(auth_key_revoke(s->auth, actor, org.id, own.id, NULL, &s->err), -ENOENT);
	assert_int_equal(support_check(s, s->admin), AUTH_OK);
	/* An actor that claims another organisation than its key's. */
	actor->org = own.org;
	assert_int_equal(auth_key_revoke(s->auth, actor, own.org, own.id, NULL, &s->err), -EACCES);
	ok(auth_key_revoke(s->auth, support_actor(s, s->admin), org.id, theirs.id, NULL, &s->err));
	assert_int_equal(support_check(s, manager), AUTH_REVOKED);
}

static void rotated(void **state)
{
	struct support *s = *state;
	char old[AUTH_KEY_MAX], text[AUTH_KEY_MAX];
	struct store_key made, stored;
	struct store_key key = support_key(s, "k", SCOPE_SANDBOXES_READ, old);

	ok(auth_key_rotate(s->auth, &host, key.org, key.id, 60, &made, text, &s->err));
	expect_audit(s, "key.rotate", "ok", key.id, 201);
	assert_string_equal(made.name, "k");
	assert_int_equal(made.scopes, key.scopes);
	ok(store_key_get(s->store, key.org, key.id, &stored, &s->err));
	assert_string_equal(stored.rotated_to, made.id);
	assert_int_equal(support_check(s, old), AUTH_OK);
	assert_int_equal(support_check(s, text), AUTH_OK);
	assert_int_equal(auth_key_rotate(s->auth, &host, key.org, key.id, 60, NULL, text, &s->err), -EALREADY);
	support_wall += 60000;
	assert_int_equal(support_check(s, old), AUTH_EXPIRED);

	ok(auth_key_rotate(s->auth, &host, made.org, made.id, 0, NULL, text, &s->err)); /* at once */
	assert_int_equal(support_check(s, text), AUTH_OK);
	assert_int_equal(auth_key_rotate(s->auth, &host, key.org, key.id, -1, NULL, text, &s->err), -EINVAL);
	assert_int_equal(auth_key_rotate(s->auth, &host, key.org, key.id, AUTH_GRACE_S_MAX + 1, NULL, text, &s->err),
			 -EINVAL);
	assert_int_equal(auth_key_rotate(s->auth, &host, key.org, "key_x", 0, NULL, text, &s->err), -ENOENT);
}

static void rotation_is_no_longer_life(void **state)
{
	struct support *s = *state;
	struct auth_new_key wanted = {
		.org = s->identity.org.id, .name = "k", .scopes = 1, .expires_ms = support_wall + 10000
	};
	char old[AUTH_KEY_MAX], text[AUTH_KEY_MAX];
	struct store_key key, made, stored;

	ok(auth_key_create(s->auth, &host, &wanted, &key, old, &s->err));
	support_wall += 4000;
	ok(auth_key_rotate(s->auth, &host, key.org, key.id, 3600, &made, text, &s->err));
	ok(store_key_get(s->store, NULL, key.id, &stored, &s->err));
	assert_int_equal(stored.expires_ms, key.expires_ms); /* grace does not lengthen the old one's life */
	assert_int_equal(made.expires_ms, support_wall + 10000);
	support_wall += 6000;
	assert_int_equal(support_check(s, old), AUTH_EXPIRED);
	assert_int_equal(auth_key_rotate(s->auth, &host, key.org, key.id, 0, NULL, text, &s->err), -EALREADY);
}

static void revoked(void **state)
{
	struct support *s = *state;
	char text[AUTH_KEY_MAX];
	struct store_key key = support_key(s, "k", SCOPE_ALL, text), row;

	assert_int_equal(support_check(s, text), AUTH_OK);
	struct auth_actor *actor = support_actor(s, text);
	struct auth_actor self = *actor;
	char self_id[STORE_ID_MAX], self_org[STORE_ID_MAX];
	snprintf(self_id, sizeof(self_id), "%s", actor->key);
	snprintf(self_org, sizeof(self_org), "%s", actor->org);
	self.key = self_id;
	self.org = self_org;
	ok(auth_key_revoke(s->auth, &host, key.org, key.id, &row, &s->err));
	assert_int_equal(row.revoked_ms, support_wall);
	expect_audit(s, "key.revoke", "ok", key.id, 200);
	assert_int_equal(support_check(s, text), AUTH_REVOKED);
	support_wall += 5;
	ok(auth_key_revoke(s->auth, &host, key.org, key.id, &row, &s->err)); /* again: the first time counts */
	assert_int_equal(row.revoked_ms, support_wall - 5);
	/* A request that passed the check just before. */
	struct auth_new_key wanted = { .org = key.org, .name = "late", .scopes = 1 };
	assert_int_equal(auth_key_create(s->auth, &self, &wanted, NULL, text, &s->err), -EACCES);
	assert_int_equal(auth_key_rotate(s->auth, &host, key.org, key.id, 0, NULL, text, &s->err), -EALREADY);
}

static void not_inside_a_transaction(void **state)
{
	struct support *s = *state;
	struct auth_new_key wanted = { .org = s->identity.org.id, .name = "k", .scopes = 1 };
	char text[AUTH_KEY_MAX];

	ok(store_begin(s->store, &s->err));
	assert_int_equal(auth_key_create(s->auth, &host, &wanted, NULL, text, &s->err), -EINVAL);
	assert_int_equal(auth_key_revoke(s->auth, &host, s->identity.org.id, s->identity.key.id, NULL, &s->err),
			 -EINVAL);
	assert_true(store_in_tx(s->store));
	store_rollback(s->store);
}

static void long_words_are_cut(void **state)
{
	struct support *s = *state;
	char address[300], text[AUTH_KEY_MAX];
	struct auth_actor actor = { .request = "req_1", .address = address };
	struct auth_new_key wanted = { .org = s->identity.org.id, .name = "k", .scopes = 1 };

	memset(address, 'f', sizeof(address) - 1);
	address[sizeof(address) - 1] = '\0';
	ok(auth_key_create(s->auth, &actor, &wanted, NULL, text, &s->err));
	assert_int_equal(strlen(support_last_audit(s).address), 47);
	uint64_t rows, seq;
	ok(store_audit_verify(s->store, &rows, &seq, &s->err));
}

#define ROTATORS 4
struct rotator {
	struct support *s;
	const struct store_key *key;
	pthread_t thread;
	int r;
};

static void *rotate_it(void *data)
{
	struct rotator *rotator = data;
	char text[AUTH_KEY_MAX];

	rotator->r = auth_key_rotate(rotator->s->auth, &host, rotator->key->org, rotator->key->id, 5, NULL, text, NULL);
	return NULL;
}

static void one_successor(void **state)
{
	struct support *s = *state;
	struct rotator rotators[ROTATORS];
	char text[AUTH_KEY_MAX];
	struct store_key key = support_key(s, "k", 1, text);
	int won = 0;

	for (int i = 0; i < ROTATORS; i++) {
		rotators[i] = (struct rotator){ .s = s, .key = &key };
		assert_int_equal(pthread_create(&rotators[i].thread, NULL, rotate_it, &rotators[i]), 0);
	}
	for (int i = 0; i < ROTATORS; i++) {
		pthread_join(rotators[i].thread, NULL);
		assert_true(rotators[i].r == 0 || rotators[i].r == -EALREADY);
		won += rotators[i].r == 0;
	}
	assert_int_equal(won, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, support_setup, support_teardown)
	const struct CMUnitTest tests[] = {
		T(bootstrap_once),
		T(reset),
		T(reset_too_early),
		T(created),
		T(bad_wishes),
		T(no_scope_is_gained),
		T(other_organisations),
		T(rotated),
		T(rotation_is_no_longer_life),
		T(revoked),
		T(not_inside_a_transaction),
		T(long_words_are_cut),
		T(one_successor),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
