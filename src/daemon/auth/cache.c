#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/auth/internal.h"

int cache_new(struct cache *cache, struct error *err)
{
	cache->entries = calloc((size_t)CACHE_SETS * CACHE_WAYS, sizeof(*cache->entries));
	if (!cache->entries)
		return error_set(err, ENOMEM, "no memory for the cache of keys");
	atomic_init(&cache->generation, 1); /* 0 marks a free entry */
	pthread_mutex_init(&cache->lock, NULL);
	return 0;
}

void cache_free(struct cache *cache)
{
	if (!cache->entries)
		return;
	free(cache->entries);
	pthread_mutex_destroy(&cache->lock);
}

/* The hash is keyed with a secret: nobody can choose which set a key of theirs falls into. */
static struct cache_entry *set_of(struct cache *cache, const unsigned char hash[32])
{
	uint32_t number;

	memcpy(&number, hash, sizeof(number));
	return &cache->entries[(size_t)(number % CACHE_SETS) * CACHE_WAYS];
}

bool cache_get(struct cache *cache, const unsigned char hash[32], int64_t now_ms, struct auth_identity *identity)
{
	struct cache_entry *set = set_of(cache, hash);
	bool found = false;

	pthread_mutex_lock(&cache->lock);
	uint64_t generation = atomic_load(&cache->generation);
	for (size_t i = 0; i < CACHE_WAYS; i++) {
		bool same = sodium_memcmp(set[i].key.hash, hash, 32) == 0;
		if (same && set[i].generation == generation && now_ms - set[i].loaded_ms < CACHE_AGE_MS) {
			identity->key = set[i].key;
			identity->org = set[i].org;
			found = true;
		}
	}
	pthread_mutex_unlock(&cache->lock);
	return found;
}

void cache_put(struct cache *cache, const struct auth_identity *identity, uint64_t generation, int64_t now_ms)
{
	struct cache_entry *set = set_of(cache, identity->key.hash), *entry = &set[0];

	pthread_mutex_lock(&cache->lock);
	if (atomic_load(&cache->generation) == generation) {
		for (size_t i = 0; i < CACHE_WAYS; i++) {
			if (memcmp(set[i].key.hash, identity->key.hash, 32) == 0) {
				entry = &set[i];
				break;
			}
			if (set[i].loaded_ms < entry->loaded_ms)
				entry = &set[i];
		}
		*entry = (struct cache_entry){ generation, now_ms, identity->key, identity->org };
	}
	pthread_mutex_unlock(&cache->lock);
}

void auth_invalidate(struct auth *auth)
{
	atomic_fetch_add(&auth->cache.generation, 1);
}
