#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

#define HOT_MS (10 * 60 * 1000) /* a shape that nobody asked for in this time gets its machines taken down */

static bool same_shape(const struct shape *a, const struct shape *b)
{
	/* The CPU quota is set when a machine is claimed; what is fixed is the number of vCPUs. */
	return strcmp(a->digest, b->digest) == 0 && engine_vcpus(a->cpu_units) == engine_vcpus(b->cpu_units) &&
	       a->memory_mib == b->memory_mib && a->storage_gb == b->storage_gb;
}

static void remember(struct pool *pool, const struct shape *shape)
{
	int64_t now = time_mono_ms();
	size_t at = 0;

	for (size_t i = 0; i < pool->hot_count; i++) {
		if (same_shape(&pool->hot[i], shape)) {
			pool->hot_used_ms[i] = now;
			return;
		}
		if (pool->hot_used_ms[i] < pool->hot_used_ms[at])
			at = i;
	}
	if (pool->hot_count < POOL_SHAPES)
		at = pool->hot_count++;
	pool->hot[at] = *shape;
	pool->hot_used_ms[at] = now;
}

static void remove_at(struct pool *pool, size_t i)
{
	pool->machines[i] = pool->machines[--pool->count];
}

/* A pooled machine that ended is found by the next who looks: the VM's own thread may not stop it. */
static bool machine_dead(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	bool dead = m->has_ended;
	pthread_mutex_unlock(&m->lock);
	return dead || link_is_dead(vm_link(m->vm));
}

struct machine *pool_take(struct sandboxes *s, const struct shape *shape)
{
	struct pool *pool = &s->pool;
	struct machine *found = NULL;

	if (s->config.pool_size == 0)
		return NULL;
	pthread_mutex_lock(&pool->lock);
	remember(pool, shape);
	for (size_t i = 0; i < pool->count && !found; i++) {
		if (same_shape(&pool->machines[i]->shape, shape) && !machine_dead(pool->machines[i])) {
			found = pool->machines[i];
			remove_at(pool, i);
		}
	}
	pthread_mutex_unlock(&pool->lock);
	atomic_fetch_add(found ? &s->pool_hits : &s->pool_misses, 1);
	keeper_ask(s);
	return found;
}

void pool_give(struct sandboxes *s, struct machine *machine)
{
	struct pool *pool = &s->pool;
	bool kept = false;

	pthread_mutex_lock(&pool->lock);
	if (!pool->draining && pool->count < POOL_MAX) {
		pool->machines[pool->count++] = machine;
		kept = true;
	}
	pthread_mutex_unlock(&pool->lock);
	if (!kept)
		machine_stop(machine);
}

/* The first dead machine, or one whose shape went cold or that is one too many. */
static struct machine *take_unwanted(struct sandboxes *s)
{
	struct pool *pool = &s->pool;
	int64_t now = time_mono_ms();
	struct machine *found = NULL;

	pthread_mutex_lock(&pool->lock);
	for (size_t i = 0; i < pool->count && !found; i++) {
		bool wanted = false;
		for (size_t k = 0; k < pool->hot_count; k++)
			wanted |= same_shape(&pool->hot[k], &pool->machines[i]->shape) &&
				  now - pool->hot_used_ms[k] < HOT_MS;
		if (!wanted || machine_dead(pool->machines[i])) {
			found = pool->machines[i];
			remove_at(pool, i);
		}
	}
	pthread_mutex_unlock(&pool->lock);
	return found;
}

static bool wanted_shape(struct sandboxes *s, struct shape *shape)
{
	struct pool *pool = &s->pool;
	int64_t now = time_mono_ms();
	bool found = false;

	pthread_mutex_lock(&pool->lock);
	for (size_t k = 0; k < pool->hot_count && !found && !pool->draining; k++) {
		size_t have = 0;
		for (size_t i = 0; i < pool->count; i++)
			have += same_shape(&pool->hot[k], &pool->machines[i]->shape);
		if (now - pool->hot_used_ms[k] < HOT_MS && have < s->config.pool_size && pool->count < POOL_MAX) {
			*shape = pool->hot[k];
			found = true;
		}
	}
	pthread_mutex_unlock(&pool->lock);
	return found;
}

bool pool_refill(struct sandboxes *s)
{
	struct machine_source source = { .disk = -1, .first_stream = 1 };
	struct machine *m = take_unwanted(s);
	struct shape shape;
	struct error err = { 0 };
	static struct log_limit limit;

	if (m) {
		machine_stop(m);
		return true;
	}
	if (!wanted_shape(s, &shape))
		return false;
	/* Only from memory that is really free: the pool must never be what makes a create fail. */
	pthread_mutex_lock(&s->budget_lock);
	bool room = s->committed + ((uint64_t)shape.memory_mib << 21) < s->budget;
	pthread_mutex_unlock(&s->budget_lock);
	if (!room)
		return false;
	int r = machine_start(s, &shape, &source, &m, &err);
	if (r == 0)
		r = machine_rehearse(m, &err);
	if (r < 0) {
		if (log_allowed(&limit, 3, 60))
			log_warn("pool_refill_failed", "error", err.text);
		machine_stop(r < 0 ? m : NULL);
		return false;
	}
	pool_give(s, m);
	return true;
}

bool pool_shrink(struct sandboxes *s)
{
	struct pool *pool = &s->pool;
	struct machine *m = NULL;

	pthread_mutex_lock(&pool->lock);
	if (pool->count > 0)
		m = pool->machines[--pool->count];
	pthread_mutex_unlock(&pool->lock);
	machine_stop(m);
	return m != NULL;
}

void pool_drain(struct sandboxes *s)
{
	pthread_mutex_lock(&s->pool.lock);
	s->pool.draining = true;
	pthread_mutex_unlock(&s->pool.lock);
	while (pool_shrink(s))
		;
}
