#pragma once

#include <pthread.h>
#include <sodium.h>
#include <stdatomic.h>

#include "daemon/auth/auth.h"
#include "daemon/auth/guard.h"
#include "daemon/auth/slots.h"

/* ---- cache.c: rows of keys that were checked lately ---- */
#define CACHE_SETS 1024
#define CACHE_WAYS 4
#define CACHE_AGE_MS 5000 /* bound on how long a change by another process stays unseen */

struct cache_entry {
	uint64_t generation;
	int64_t loaded_ms;
	struct store_key key;
	struct store_org org;
};
struct cache {
	pthread_mutex_t lock;
	/*
	 * Raised after each change. A row goes in only under the number that was read before the row was: one that was
	 * read just before somebody's revocation was committed, and comes here just after, is stale and stays out.
	 */
	_Atomic(uint64_t) generation;
	struct cache_entry *entries;
};
int cache_new(struct cache *cache, struct error *err);
void cache_free(struct cache *cache);
bool cache_get(struct cache *cache, const unsigned char hash[32], int64_t now_ms, struct auth_identity *identity);
void cache_put(struct cache *cache, const struct auth_identity *identity, uint64_t generation, int64_t now_ms);

/* ---- used.c: last_used, gathered ---- */
#define USED_KEYS 16384
#define USED_EVERY_MS 60000
struct used {
	pthread_mutex_t lock;
	struct slots slots;
};
int used_new(struct used *used, struct error *err);
void used_free(struct used *used);
void used_mark(struct used *used, const struct store_key *key, int64_t wall_ms);
/* all: also those written less than a minute ago. */
int used_flush(struct used *used, struct store *store, int64_t wall_ms, bool all, struct error *err);

struct auth {
	struct store *store;
	struct auth_config config;
	struct cache cache;
	struct used used;
	struct limit *limit;
	struct guard *guard;
};

/* ---- lifecycle.c ---- */
/* What changes: told to the audit log with its outcome. */
struct auth_change {
	const struct auth_actor *actor;
	const char *action, *org;
	char target[STORE_ID_MAX];
	char detail[STORE_TEXT_MAX];
	int32_t status; /* HTTP, when it succeeds */
	int64_t now_ms;
};
/* Begin; -EINVAL inside of somebody's transaction. */
int change_begin(struct store *store, struct error *err);
/* The actor's right to do this to org and to hand out these scopes. Inside the transaction: a race with its own revocation. */
int change_allowed(struct store *store, const struct auth_change *change, uint32_t needs, uint32_t scopes,
		   struct error *err);
/* Audit row and commit when r is 0; rolls back otherwise, and leaves a row of the refusal when it was -EACCES. */
int change_end(struct store *store, struct auth *auth, const struct auth_change *change, int r, struct error *err);
