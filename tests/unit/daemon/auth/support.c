#include "support.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

int64_t support_mono, support_wall;

static int64_t mono(void)
{
	return support_mono;
}

static int64_t wall(void)
{
	return support_wall;
}

static const struct auth_config config = { .mono_ms = mono, .wall_ms = wall };
static const struct auth_actor host = { .request = "req_h", .address = "unix" };

int support_setup(void **state)
{
	struct support *s = calloc(1, sizeof(*s));
	bool made;

	assert_non_null(s);
	support_mono = 1000000;
	support_wall = SUPPORT_WALL;
	snprintf(s->dir, sizeof(s->dir), "/tmp/akira-auth-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	ok(store_open(s->dir, &s->store, &s->err));
	ok(auth_bootstrap(s->store, &host, &made, s->admin, &s->err));
	assert_true(made);
	ok(auth_new(s->store, &config, &s->auth, &s->err));
	assert_int_equal(auth_check(s->auth, s->admin, "192.0.2.250", &s->identity, &s->err), AUTH_OK);
	*state = s;
	return 0;
}

int support_teardown(void **state)
{
	struct support *s = *state;

	auth_free(s->auth);
	store_close(s->store);
	int r = fd_remove_tree(AT_FDCWD, s->dir, NULL);
	free(s);
	return r;
}

void support_restart(struct support *s)
{
	auth_free(s->auth);
	s->auth = NULL;
	ok(auth_new(s->store, &config, &s->auth, &s->err));
}

enum auth_result support_check(struct support *s, const char *text)
{
	struct auth_identity identity;
	return auth_check(s->auth, text, "192.0.2.1", &identity, &s->err);
}

struct auth_actor *support_actor(struct support *s, const char *text)
{
	static struct auth_identity identity;
	static struct auth_actor actor;

	assert_int_equal(auth_check(s->auth, text, "192.0.2.250", &identity, &s->err), AUTH_OK);
	actor = (struct auth_actor){
		.request = "req_1", .org = identity.key.org, .key = identity.key.id, .address = "192.0.2.1"
	};
	return &actor;
}

struct store_key support_key(struct support *s, const char *name, uint32_t scopes, char text[AUTH_KEY_MAX])
{
	struct auth_new_key wanted = { .org = s->identity.org.id, .name = name, .scopes = scopes };
	struct store_key key;

	ok(auth_key_create(s->auth, &host, &wanted, &key, text, &s->err));
	return key;
}

struct store_audit support_last_audit(struct support *s)
{
	struct store_audit_filter filter = { .limit = 1 };
	struct store_audit *rows, last;
	size_t count;

	ok(store_audit_list(s->store, &filter, &rows, &count, &s->err));
	assert_int_equal(count, 1);
	last = rows[0];
	free(rows);
	return last;
}
