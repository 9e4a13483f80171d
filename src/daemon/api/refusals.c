/*
 * Refusals are written to the audit log too, and anybody who can reach the port can cause them. So an address gets a
 * few records a minute and then a count: nothing is silently dropped, and the log grows by a bounded rate.
 */
#include "daemon/api/internal.h"

#include <stdlib.h>

#include "base/time.h"

#define SLOTS 1024 /* addresses at a time; those that collide share a slot's allowance */
#define BURST 10
#define WINDOW_MS 60000

struct slot {
	int64_t since;
	uint32_t written;
	uint64_t suppressed;
};

struct refusals {
	pthread_mutex_t lock;
	struct slot slots[SLOTS];
};

struct refusals *refusals_new(void)
{
	struct refusals *refusals = calloc(1, sizeof(*refusals));
	if (refusals)
		pthread_mutex_init(&refusals->lock, NULL);
	return refusals;
}

void refusals_free(struct refusals *refusals)
{
	if (!refusals)
		return;
	pthread_mutex_destroy(&refusals->lock);
	free(refusals);
}

static size_t slot_of(const char *address)
{
	uint32_t hash = 2166136261u; /* FNV-1a */
	for (const char *p = address; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619u;
	return hash % SLOTS;
}

bool refusals_admit(struct refusals *refusals, const char *address, uint64_t *suppressed)
{
	int64_t now = time_mono_ms();
	bool admit;

	pthread_mutex_lock(&refusals->lock);
	struct slot *slot = &refusals->slots[slot_of(address)];
	if (now - slot->since >= WINDOW_MS || slot->since == 0) {
		slot->since = now;
		slot->written = 0;
	}
	admit = slot->written < BURST;
	*suppressed = 0;
	if (admit) {
		slot->written++;
		*suppressed = slot->suppressed;
		slot->suppressed = 0;
	} else {
		slot->suppressed++;
	}
	pthread_mutex_unlock(&refusals->lock);
	return admit;
}
