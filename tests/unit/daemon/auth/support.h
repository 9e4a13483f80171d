/* A store with the first organisation and its key, and clocks that the test turns. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/auth/auth.h"

#define SUPPORT_WALL INT64_C(1800000000000)

struct support {
	char dir[64];
	struct store *store;
	struct auth *auth;
	char admin[AUTH_KEY_MAX];      /* the bootstrap key */
	struct auth_identity identity; /* of it */
	struct error err;
};

extern int64_t support_mono, support_wall; /* what the clocks show */

int support_setup(void **state);
int support_teardown(void **state);
void support_restart(struct support *s); /* end and start again the auth part */
enum auth_result support_check(struct support *s, const char *text);
/* Who a key's text belongs to, as the actor of a change. Valid until the next call. */
struct auth_actor *support_actor(struct support *s, const char *text);
/* A key of the first organisation made by the host. */
struct store_key support_key(struct support *s, const char *name, uint32_t scopes, char text[AUTH_KEY_MAX]);
/* The newest audit row. */
struct store_audit support_last_audit(struct support *s);

#define ok(call)                                                          \
	do {                                                              \
		s->err.text[0] = '\0';                                    \
		int ok_r_ = (call);                                       \
		if (ok_r_ != 0)                                           \
			fail_msg("%s: %d %s", #call, ok_r_, s->err.text); \
	} while (0)
