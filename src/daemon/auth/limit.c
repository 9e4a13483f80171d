#include "daemon/auth/limit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/str.h"
#include "daemon/auth/slots.h"

#define MINUTE_MS 60000
#define SAVE_STEP 256 /* rows a transaction */

struct bucket {
	struct slot slot;
	int64_t when_ms; /* of tokens */
	double tokens;
	bool changed; /* since the last save */
	char name[STORE_ID_MAX];
};

struct limit {
	pthread_mutex_t lock;
	struct slots slots;
};

int limit_new(size_t names, struct limit **limit, struct error *err)
{
	struct limit *made = calloc(1, sizeof(*made));

	if (!made || slots_new(&made->slots, names, sizeof(struct bucket)) < 0) {
		free(made);
		return error_set(err, ENOMEM, "no memory for the limits of %zu names", names);
	}
	pthread_mutex_init(&made->lock, NULL);
	*limit = made;
	return 0;
}

void limit_free(struct limit *limit)
{
	if (!limit)
		return;
	slots_free(&limit->slots);
	pthread_mutex_destroy(&limit->lock);
	free(limit);
}

static int64_t seconds_for(double tokens, int64_t per_minute)
{
	if (per_minute <= 0 || tokens <= 0)
		return 0;
	double seconds = tokens * 60 / (double)per_minute;
	int64_t whole = (int64_t)seconds;
	return whole + ((double)whole < seconds);
}

static struct bucket *bucket_of(struct limit *limit, const char *name, int64_t per_minute, int64_t now_ms)
{
	bool made;
	struct bucket *bucket = slots_get(&limit->slots, name, strlen(name), now_ms, &made);

	if (made) {
		str_copy(bucket->name, sizeof(bucket->name), name);
		bucket->tokens = (double)per_minute;
		bucket->when_ms = now_ms;
	}
	if (now_ms > bucket->when_ms) {
		bucket->tokens += (double)(now_ms - bucket->when_ms) * (double)per_minute / MINUTE_MS;
		bucket->when_ms = now_ms;
	}
	if (bucket->tokens > (double)per_minute)
		bucket->tokens = (double)per_minute;
	return bucket;
}

void limit_take(struct limit *limit, const char *name, int64_t per_minute, int64_t now_ms, struct limit_answer *answer)
{
	if (per_minute < 0) {
		*answer = (struct limit_answer){ .allowed = true, .limit = -1 };
		return;
	}
	pthread_mutex_lock(&limit->lock);
	struct bucket *bucket = bucket_of(limit, name, per_minute, now_ms);
	/* Sums of a refill fall short of a whole token by rounding alone. */
	bool allowed = bucket->tokens >= 1 - 1e-9;
	if (allowed)
		bucket->tokens = bucket->tokens > 1 ? bucket->tokens - 1 : 0;
	bucket->changed = true;
	double tokens = bucket->tokens;
	pthread_mutex_unlock(&limit->lock);

	*answer = (struct limit_answer){
		.allowed = allowed,
		.limit = per_minute,
		.remaining = (int64_t)tokens,
		.reset_s = seconds_for((double)per_minute - tokens, per_minute),
	};
	if (!allowed) {
		int64_t wait = seconds_for(1 - tokens, per_minute);
		answer->retry_after_s = per_minute == 0 ? 60 : wait > 0 ? wait : 1;
	}
}

static size_t collect(struct limit *limit, size_t *index, int64_t now_ms, int64_t wall_ms, struct store_bucket *rows)
{
	struct bucket *bucket;
	size_t count = 0;

	pthread_mutex_lock(&limit->lock);
	while (count < SAVE_STEP && (bucket = slots_next(&limit->slots, index))) {
		if (!bucket->changed)
			continue;
		rows[count] = (struct store_bucket){ .tokens = bucket->tokens,
						     .when_ms = wall_ms - (now_ms - bucket->when_ms) };
		memcpy(rows[count++].key, bucket->name, sizeof(bucket->name));
		bucket->changed = false;
	}
	pthread_mutex_unlock(&limit->lock);
	return count;
}

static void mark_unsaved(struct limit *limit, const struct store_bucket *rows, size_t count)
{
	pthread_mutex_lock(&limit->lock);
	for (size_t i = 0; i < count; i++) {
		struct bucket *bucket = slots_find(&limit->slots, rows[i].key, strlen(rows[i].key));
		if (bucket)
			bucket->changed = true;
	}
	pthread_mutex_unlock(&limit->lock);
}

int limit_save(struct limit *limit, struct store *store, int64_t now_ms, int64_t wall_ms, struct error *err)
{
	_cleanup_free_ struct store_bucket *rows = calloc(SAVE_STEP, sizeof(*rows));
	size_t index = 0, count;

	if (!rows)
		return error_set(err, ENOMEM, "no memory to save the limits");
	do {
		count = collect(limit, &index, now_ms, wall_ms, rows);
		int r = count > 0 ? store_bucket_save(store, rows, count, err) : 0;
		if (r < 0) {
			mark_unsaved(limit, rows, count);
			return r;
		}
	} while (count == SAVE_STEP);
	return 0;
}

int limit_load(struct limit *limit, struct store *store, int64_t now_ms, int64_t wall_ms, struct error *err)
{
	_cleanup_free_ struct store_bucket *rows = NULL;
	size_t count = 0;

	int r = store_bucket_load(store, &rows, &count, err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&limit->lock);
	for (size_t i = 0; i < count; i++) {
		int64_t ago = wall_ms - rows[i].when_ms;
		if (ago >= MINUTE_MS || rows[i].key[0] == '\0') /* full again */
			continue;
		struct bucket *bucket = slots_get(&limit->slots, rows[i].key, strlen(rows[i].key), now_ms, NULL);
		memcpy(bucket->name, rows[i].key, sizeof(bucket->name));
		bucket->tokens = rows[i].tokens > 0 ? rows[i].tokens : 0;
		/* A wall clock that was set back must not make a bucket wait for the future. */
		bucket->when_ms = now_ms - (ago > 0 ? ago : 0);
	}
	pthread_mutex_unlock(&limit->lock);
	return 0;
}
