#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "daemon/auth/internal.h"

#define STEP 256 /* rows a transaction */

struct use {
	struct slot slot;
	int64_t last_ms, written_ms;
	char id[STORE_ID_MAX];
};

struct use_row {
	char id[STORE_ID_MAX];
	int64_t when_ms;
};

int used_new(struct used *used, struct error *err)
{
	if (slots_new(&used->slots, USED_KEYS, sizeof(struct use)) < 0)
		return error_set(err, ENOMEM, "no memory for the use of keys");
	pthread_mutex_init(&used->lock, NULL);
	return 0;
}

void used_free(struct used *used)
{
	if (!used->slots.data)
		return;
	slots_free(&used->slots);
	pthread_mutex_destroy(&used->lock);
}

void used_mark(struct used *used, const struct store_key *key, int64_t wall_ms)
{
	bool made;

	pthread_mutex_lock(&used->lock);
	struct use *use = slots_get(&used->slots, key->id, strlen(key->id), wall_ms, &made);
	if (made) {
		memcpy(use->id, key->id, sizeof(use->id));
		use->written_ms = key->last_used_ms;
	}
	use->last_ms = wall_ms;
	pthread_mutex_unlock(&used->lock);
}

static size_t collect(struct used *used, size_t *index, int64_t wall_ms, bool all, struct use_row *rows)
{
	struct use *use;
	size_t count = 0;

	pthread_mutex_lock(&used->lock);
	while (count < STEP && (use = slots_next(&used->slots, index))) {
		bool due = all || wall_ms - use->written_ms >= USED_EVERY_MS || use->written_ms > wall_ms;
		if (use->last_ms <= use->written_ms || !due)
			continue;
		rows[count].when_ms = use->last_ms;
		memcpy(rows[count++].id, use->id, sizeof(use->id));
	}
	pthread_mutex_unlock(&used->lock);
	return count;
}

static void mark_written(struct used *used, const struct use_row *rows, size_t count)
{
	pthread_mutex_lock(&used->lock);
	for (size_t i = 0; i < count; i++) {
		struct use *use = slots_find(&used->slots, rows[i].id, strlen(rows[i].id));
		if (use)
			use->written_ms = rows[i].when_ms;
	}
	pthread_mutex_unlock(&used->lock);
}

static int write_rows(struct store *store, const struct use_row *rows, size_t count, struct error *err)
{
	int r = store_begin(store, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count && r == 0; i++) {
		r = store_key_used(store, rows[i].id, rows[i].when_ms, err);
		if (r == -ENOENT) /* another process put a backup in place; nothing to write to */
			r = 0;
	}
	if (r == 0)
		return store_commit(store, err);
	store_rollback(store);
	return r;
}

int used_flush(struct used *used, struct store *store, int64_t wall_ms, bool all, struct error *err)
{
	_cleanup_free_ struct use_row *rows = calloc(STEP, sizeof(*rows));
	size_t index = 0, count;

	if (!rows)
		return error_set(err, ENOMEM, "no memory to write the use of keys");
	do {
		count = collect(used, &index, wall_ms, all, rows);
		int r = count > 0 ? write_rows(store, rows, count, err) : 0;
		if (r < 0)
			return r;
		mark_written(used, rows, count);
	} while (count == STEP);
	return 0;
}
