#include <errno.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/sandbox/internal.h"

void netpool_open(struct netpool *pool, struct launcher *launcher)
{
	*pool = (struct netpool){ .launcher = launcher };
	pthread_mutex_init(&pool->lock, NULL);
}

static void slot_close(struct slot *slot)
{
	fd_close(&slot->net.dns_udp);
	fd_close(&slot->net.dns_tcp);
}

static void destroy(struct netpool *pool, struct slot *slot)
{
	struct error err = { 0 };

	slot_close(slot);
	if (launcher_net_destroy(pool->launcher, slot->number, &err) < 0) {
		/* The number stays taken: what may be left of it must not meet another sandbox. */
		log_warn("slot_not_removed", "slot", LOG_INT(slot->number), "error", err.text);
		return;
	}
	pthread_mutex_lock(&pool->lock);
	pool->used[slot->number / 8] &= (unsigned char)~(1u << slot->number % 8);
	pthread_mutex_unlock(&pool->lock);
}

void netpool_close(struct netpool *pool)
{
	struct slot slot;

	while (pool->ready_count > 0) {
		slot = pool->ready[--pool->ready_count];
		destroy(pool, &slot);
	}
	pthread_mutex_destroy(&pool->lock);
}

static int number_new(struct netpool *pool, uint32_t *number)
{
	int r = -EAGAIN;

	pthread_mutex_lock(&pool->lock);
	for (uint32_t i = 0; i < LAUNCHER_SLOTS_MAX; i++) {
		if (pool->used[i / 8] & (1u << i % 8))
			continue;
		pool->used[i / 8] |= (unsigned char)(1u << i % 8);
		*number = i;
		r = 0;
		break;
	}
	pthread_mutex_unlock(&pool->lock);
	return r;
}

static int slot_make(struct netpool *pool, struct slot *slot, struct error *err)
{
	*slot = (struct slot){ .net = { .dns_udp = -1, .dns_tcp = -1 } };
	if (number_new(pool, &slot->number) < 0)
		return error_set(err, EAGAIN, "all %d network slots are in use", LAUNCHER_SLOTS_MAX);
	int r = launcher_net_make(pool->launcher, slot->number, &slot->net, err);
	if (r < 0) {
		pthread_mutex_lock(&pool->lock);
		pool->used[slot->number / 8] &= (unsigned char)~(1u << slot->number % 8);
		pthread_mutex_unlock(&pool->lock);
	}
	return r;
}

int netpool_take(struct netpool *pool, struct slot *slot, struct error *err)
{
	bool found = false;

	pthread_mutex_lock(&pool->lock);
	if (pool->ready_count > 0) {
		*slot = pool->ready[--pool->ready_count];
		found = true;
	}
	pthread_mutex_unlock(&pool->lock);
	return found ? 0 : slot_make(pool, slot, err);
}

static void keep(struct netpool *pool, struct slot *slot)
{
	bool kept = false;

	pthread_mutex_lock(&pool->lock);
	if (pool->ready_count < sizeof(pool->ready) / sizeof(pool->ready[0])) {
		pool->ready[pool->ready_count++] = *slot;
		kept = true;
	}
	pthread_mutex_unlock(&pool->lock);
	if (!kept)
		destroy(pool, slot);
}

void netpool_give(struct netpool *pool, struct slot *slot)
{
	if (launcher_net_reset(pool->launcher, slot->number, NULL) == 0)
		keep(pool, slot);
	else
		destroy(pool, slot);
}

bool netpool_refill(struct netpool *pool, size_t target)
{
	struct slot slot;
	struct error err = { 0 };
	static struct log_limit limit;

	pthread_mutex_lock(&pool->lock);
	bool wanted = pool->ready_count < target;
	pthread_mutex_unlock(&pool->lock);
	if (!wanted)
		return false;
	if (slot_make(pool, &slot, &err) < 0) {
		if (log_allowed(&limit, 1, 60))
			log_warn("slot_not_made", "error", err.text);
		return false;
	}
	keep(pool, &slot);
	return true;
}
