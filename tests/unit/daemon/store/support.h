/* A store in a folder of its own, rows to put into it, and a second connection that plays the intruder. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/store/store.h"

struct support {
	char dir[64];
	struct store *store;
	struct error err;
};

int support_setup(void **state); /* *state: struct support with the organisations org_a and org_b in it */
int support_teardown(void **state);
void support_reopen(struct support *s);
struct store_org support_org(const char *id);
struct store_key support_key(const char *org, const char *id, unsigned char hash);
struct store_sandbox support_sandbox(const char *org, const char *id, int64_t created_ms);
void support_audit(struct support *s, const char *action, int64_t when_ms);
/* Run SQL on the database through a connection that is not the store's. */
void support_sql(struct support *s, const char *sql);
int64_t support_sql_int(struct support *s, const char *sql);

/* A failure shows the error's text. */
#define ok(call)                                                          \
	do {                                                              \
		s->err.text[0] = '\0';                                    \
		int ok_r_ = (call);                                       \
		if (ok_r_ != 0)                                           \
			fail_msg("%s: %d %s", #call, ok_r_, s->err.text); \
	} while (0)
