/*
 * The audit log's record of a change, added in the transaction of the change: the store never has one without the other.
 * What counts as a change is in the theory of operation of api/call.c.
 */
#pragma once

#include "daemon/sandbox/sandbox.h"

struct record {
	const struct sandbox_actor *actor; /* whose call it is; NULL: akirad by itself */
	const char *action;                /* NULL: the call's own */
	char org[STORE_ID_MAX], target[STORE_ID_MAX];
	int32_t status; /* HTTP, of the call's own action; 0: what the actor says */
	char detail[STORE_TEXT_MAX];
};

struct record record_of(const struct sandbox_actor *actor, const char *action, const char *org, const char *target);
/* One more, in the transaction. */
int record_add(struct store *store, const struct record *record, struct error *err);
/*
 * Ends a store_begin: with r = 0 adds the record and commits, else rolls back. Returns r or what failed. When it was the
 * record of the call's own action, the actor is told.
 */
int record_end(struct store *store, const struct record *record, int r, struct error *err);
