#include "daemon/auth/slots.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

int slots_new(struct slots *slots, size_t names, size_t entry_size)
{
	slots->sets = names / SLOTS_WAYS + 1;
	slots->size = entry_size;
	slots->data = calloc(slots->sets * SLOTS_WAYS, entry_size); /* pages are touched as they are used */
	randombytes_buf(slots->seed, sizeof(slots->seed));
	return slots->data ? 0 : -ENOMEM;
}

void slots_free(struct slots *slots)
{
	free(slots->data);
	slots->data = NULL;
}

static struct slot *at(struct slots *slots, size_t index)
{
	return (struct slot *)(void *)(slots->data + index * slots->size);
}

static uint64_t tag_of(const struct slots *slots, const void *name, size_t size)
{
	_Static_assert(crypto_shorthash_BYTES == sizeof(uint64_t) && crypto_shorthash_KEYBYTES == 16, "SipHash");
	unsigned char hash[crypto_shorthash_BYTES];
	uint64_t tag;

	crypto_shorthash(hash, name, size, slots->seed);
	memcpy(&tag, hash, sizeof(tag));
	return tag ? tag : 1;
}

static int64_t worth_of(const struct slots *slots, const struct slot *slot)
{
	if (slot->tag == 0)
		return INT64_MIN;
	return slots->worth ? slots->worth(slot) : slot->used_ms;
}

void *slots_find(struct slots *slots, const void *name, size_t size)
{
	uint64_t tag = tag_of(slots, name, size);
	size_t first = tag % slots->sets * SLOTS_WAYS;

	for (size_t i = first; i < first + SLOTS_WAYS; i++)
		if (at(slots, i)->tag == tag)
			return at(slots, i);
	return NULL;
}

void *slots_get(struct slots *slots, const void *name, size_t size, int64_t now_ms, bool *made)
{
	struct slot *slot = slots_find(slots, name, size);

	if (made)
		*made = !slot;
	if (!slot) {
		uint64_t tag = tag_of(slots, name, size);
		size_t first = tag % slots->sets * SLOTS_WAYS;
		slot = at(slots, first);
		for (size_t i = first + 1; i < first + SLOTS_WAYS; i++)
			if (worth_of(slots, at(slots, i)) < worth_of(slots, slot))
				slot = at(slots, i);
		memset(slot, 0, slots->size);
		slot->tag = tag;
	}
	slot->used_ms = now_ms;
	return slot;
}

void *slots_next(struct slots *slots, size_t *index)
{
	while (*index < slots->sets * SLOTS_WAYS) {
		struct slot *slot = at(slots, (*index)++);
		if (slot->tag)
			return slot;
	}
	return NULL;
}
