/*
 * A table of fixed size for names that strangers choose: sets of SLOTS_WAYS entries, chosen by a SipHash under a random
 * key, so that nobody can aim at a set. A new name in a full set takes the place of the entry that is worth least.
 * Not thread-safe: its owner locks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLOTS_WAYS 8

struct slot {         /* first member of each entry */
	uint64_t tag; /* SipHash of the name; 0: free */
	int64_t used_ms;
};

struct slots {
	unsigned char seed[16];
	size_t sets, size;
	char *data;
	int64_t (*worth)(const struct slot *slot); /* the lower, the sooner it goes; NULL: by used_ms */
};

int slots_new(struct slots *slots, size_t names, size_t entry_size); /* -ENOMEM */
void slots_free(struct slots *slots);
/* The entry of this name; a new one is zero but for its head and says so in *made (may be NULL). */
void *slots_get(struct slots *slots, const void *name, size_t size, int64_t now_ms, bool *made);
/* The entry or NULL; does not count as use. */
void *slots_find(struct slots *slots, const void *name, size_t size);
/* All entries in use: index from 0; NULL after the last. */
void *slots_next(struct slots *slots, size_t *index);
