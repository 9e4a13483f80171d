/*
 * Token buckets by name. A bucket holds as many requests as a minute grants and refills steadily. Memory is fixed when
 * the table is made: with more names than fit, the one unused for longest is forgotten (which refills its bucket).
 * Thread-safe. Times are CLOCK_MONOTONIC milliseconds that the caller passes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/store/store.h"

struct limit;

struct limit_answer {
	bool allowed;
	int64_t limit;         /* RateLimit-Limit: requests a minute; -1: none, and the rest is 0 */
	int64_t remaining;     /* RateLimit-Remaining */
	int64_t reset_s;       /* RateLimit-Reset: seconds until the bucket is full */
	int64_t retry_after_s; /* Retry-After: at least 1; 0 when allowed */
};

/* Room for about `names` of at most STORE_ID_MAX - 1 characters. -ENOMEM. */
int limit_new(size_t names, struct limit **limit, struct error *err);
void limit_free(struct limit *limit);
/* Take one request. per_minute: -1 no limit, 0 none at all. A changed per_minute counts from now. */
void limit_take(struct limit *limit, const char *name, int64_t per_minute, int64_t now_ms, struct limit_answer *answer);

/* To and from the store: what changed since the last save. wall_ms: the same moment by the wall clock. */
int limit_save(struct limit *limit, struct store *store, int64_t now_ms, int64_t wall_ms, struct error *err);
int limit_load(struct limit *limit, struct store *store, int64_t now_ms, int64_t wall_ms, struct error *err);
