/*
 * Who calls, and how often may they: API keys, their life, and the limits on requests.
 *
 * A key is 41 characters: `sk_live_`, 27 base-62 characters (0-9A-Za-z) that carry 160 random bits, most significant
 * first, and 6 base-62 characters with the CRC-32 (IEEE 802.3) of the 35 characters before them, so that a scanner of
 * leaked secrets can tell a key from a look-alike without asking us. It is shown once; the store has a keyed hash.
 *
 * Threads: everything here may be called from any thread. The functions that change something are transactions of
 * their own together with their audit row: calling them inside of store_begin .. store_commit gives -EINVAL, because
 * the moment from which a revoked key is refused must be the return of the call.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/auth/limit.h"
#include "daemon/store/store.h"

#define AUTH_KEY_LENGTH 41
#define AUTH_KEY_MAX 48    /* room for a key's text and its NUL */
#define AUTH_PREFIX_MAX 20 /* as struct store_key's prefix */
#define AUTH_GRACE_S_MAX (30 * 86400)
#define AUTH_BOOTSTRAP "bootstrap" /* name of the host's own key; no other key may bear it */

/* A new random key and its part that may be shown (`sk_live_` and 6 characters). Wipe the text with sodium_memzero. */
void auth_key_make(char text[AUTH_KEY_MAX], char prefix[AUTH_PREFIX_MAX]);
/* Has it the form of a key, checksum included? NULL: no. Says nothing about whether it was ever issued. */
bool auth_key_wellformed(const char *text);
/* What the store keeps of it: BLAKE2b under a key derived from the store's secret for this purpose alone. */
void auth_key_hash(const unsigned char secret[32], const char *text, unsigned char hash[32]);

/* ---- checking ---- */
struct auth;

struct auth_config {
	int64_t address_per_minute; /* requests of an address that do not authenticate; 0: 600; -1: no limit */
	int64_t (*mono_ms)(void);   /* clocks; NULL: the system's */
	int64_t (*wall_ms)(void);
};

/* Reads the saved buckets. config NULL: all defaults. store must outlive it. */
int auth_new(struct store *store, const struct auth_config *config, struct auth **auth, struct error *err);
/* Flushes (see auth_flush) and frees. NULL is fine. */
void auth_free(struct auth *auth);

enum auth_result {
	AUTH_OK,
	AUTH_MISSING,   /* 401: no key was given */
	AUTH_MALFORMED, /* 401 */
	AUTH_UNKNOWN,   /* 401 */
	AUTH_REVOKED,   /* 401 */
	AUTH_EXPIRED,   /* 401; also a rotated key after its grace */
	AUTH_SUSPENDED, /* 403: the organisation is */
	AUTH_SLOWED,    /* 429: this address failed too often, or asks too often without a good key */
	AUTH_FAILED,    /* 503: the store did not answer; err says why, for the log alone */
	AUTH_RESULTS,
};
/* "ok", "missing", "malformed", … for logs, metrics and the audit log. */
const char *auth_result_name(enum auth_result result);

struct auth_identity {
	struct store_key key; /* filled from AUTH_OK, AUTH_REVOKED, AUTH_EXPIRED and AUTH_SUSPENDED; else zero */
	struct store_org org;
	int64_t retry_after_s; /* AUTH_SLOWED: seconds, at least 1 */
};
/*
 * text: the key as the client sent it, NULL or "" if it did not. address: the client's, as text; IPv6 counts by /64.
 * A key that was revoked, rotated without grace, or whose organisation was suspended through the functions below is
 * refused from the moment that they return; a change by another process is seen after at most 5 s.
 */
enum auth_result auth_check(struct auth *auth, const char *text, const char *address, struct auth_identity *identity,
			    struct error *err);
/* Takes one request from the key's bucket: beta 60 a minute, pro 300, enterprise what its organisation says. */
void auth_take(struct auth *auth, const struct auth_identity *identity, struct limit_answer *answer);
/* Requests a minute that an organisation's tier grants each of its keys; -1: no limit. */
int64_t auth_requests_per_minute(const struct store_org *org);
/* Forget what is cached. For who changed keys or organisations by store.h alone, after the commit. */
void auth_invalidate(struct auth *auth);
/* Writes last_used (at most once a minute a key) and the buckets. Call it every 10 s or so, in no transaction. */
int auth_flush(struct auth *auth, struct error *err);

/* ---- the life of keys ---- */
/* Who does it, for the audit row. key NULL or "": the host itself, which may do everything. All may be NULL. */
struct auth_actor {
	const char *request, *org, *key, *address;
};

/*
 * The first organisation (`default`, enterprise, no limits) with a key of all scopes, if there is no organisation yet:
 * *made and the key's text; else *made is false and text is "".
 */
int auth_bootstrap(struct store *store, const struct auth_actor *actor, bool *made, char text[AUTH_KEY_MAX],
		   struct error *err);
/*
 * Who has the host has the keys: revokes the bootstrap keys of the first organisation, lifts its suspension, and makes
 * a new one. auth: NULL when no server runs in this process. -ENOENT before auth_bootstrap.
 */
int auth_reset_key(struct store *store, struct auth *auth, const struct auth_actor *actor, char text[AUTH_KEY_MAX],
		   struct error *err);

struct auth_new_key {
	const char *org, *name;
	uint32_t scopes;    /* at least one */
	int64_t expires_ms; /* 0: never; else in the future */
};
/*
 * For all three: the actor's key must be live and have SCOPE_KEYS_MANAGE or SCOPE_ADMIN (-EACCES); another organisation
 * than its own needs SCOPE_ADMIN (-ENOENT); and it cannot hand out a scope that it has not itself (-EACCES), neither by
 * creating nor by rotating. Success and -EACCES leave one audit row (key.create, key.rotate, key.revoke), so the
 * caller writes none. -EINVAL: a name or a time that is not allowed. made may be NULL.
 */
int auth_key_create(struct auth *auth, const struct auth_actor *actor, const struct auth_new_key *wanted,
		    struct store_key *made, char text[AUTH_KEY_MAX], struct error *err);
/*
 * A successor with the same name, scopes and length of life; the old key works for grace_s more (0..AUTH_GRACE_S_MAX).
 * -EALREADY: it is revoked, expired or rotated already.
 */
int auth_key_rotate(struct auth *auth, const struct auth_actor *actor, const char *org, const char *id, int64_t grace_s,
		    struct store_key *made, char text[AUTH_KEY_MAX], struct error *err);
/* Revoking twice is no error. */
int auth_key_revoke(struct auth *auth, const struct auth_actor *actor, const char *org, const char *id,
		    struct store_key *revoked, struct error *err);

/* Needs SCOPE_ADMIN or the host (-EACCES); audit rows org.create, org.update. org->id and created_ms are made by create. */
int auth_org_create(struct auth *auth, const struct auth_actor *actor, struct store_org *org, struct error *err);
int auth_org_update(struct auth *auth, const struct auth_actor *actor, const struct store_org *org, struct error *err);
