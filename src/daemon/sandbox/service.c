#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

#define CLOSE_MS 90000

static uint64_t host_memory(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
	return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

static void init_locks(struct sandboxes *s)
{
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->janitor_wake, NULL);
	pthread_mutex_init(&s->budget_lock, NULL);
	pthread_mutex_init(&s->keeper_lock, NULL);
	pthread_mutex_init(&s->orgs.lock, NULL);
	pthread_cond_init(&s->keeper_wake, NULL);
	pthread_mutex_init(&s->pool.lock, NULL);
}

/* A shape that is wanted before anybody asked. An image that was not built yet is no error: its first create says so. */
static void warm_up(struct sandboxes *s)
{
	struct image image;
	struct error err = { 0 };

	if (!s->config.pool_image || !*s->config.pool_image || s->config.pool_size == 0)
		return;
	if (images_find(s->config.images, s->config.pool_image, NULL, &image, &err) < 0) {
		log_warn("pool_image_missing", "error", err.text);
		return;
	}
	struct shape *shape = &s->pool.hot[0];
	*shape = (struct shape){
		.cpu_units = DEFAULT_CPU_UNITS,
		.memory_mib = DEFAULT_MEMORY_MIB,
		.storage_gb = DEFAULT_STORAGE_GB,
	};
	snprintf(shape->image, sizeof(shape->image), "%s", image.name);
	snprintf(shape->digest, sizeof(shape->digest), "%s", image.digest);
	s->pool.hot_used_ms[0] = time_mono_ms();
	s->pool.hot_count = 1;
	image_free(&image);
}

static int start_threads(struct sandboxes *s, struct error *err)
{
	int r = pthread_create(&s->janitor, NULL, janitor_main, s);
	if (r == 0)
		r = pthread_create(&s->reaper, NULL, reaper_main, s);
	if (r == 0)
		r = pthread_create(&s->keeper, NULL, keeper_main, s);
	if (r == 0)
		r = pthread_create(&s->sampler, NULL, sampler_main, s);
	if (r != 0)
		return error_errno(err, r, "no threads for the domain"); /* the program ends with this */
	s->threads = true;
	return 0;
}

int sandboxes_open(const struct sandboxes_config *config, struct sandboxes **out, struct error *err)
{
	struct sandboxes *s = calloc(1, sizeof(*s));
	if (!s)
		return error_set(err, ENOMEM, "no memory for the domain");
	s->config = *config;
	s->store = config->store;
	init_locks(s);
	uint64_t memory = host_memory();
	s->budget = memory > config->memory_reserve_bytes ? memory - config->memory_reserve_bytes : 0;
	netpool_open(&s->netpool, config->launcher);

	int r = disk_open(config->data_dir, config->disk_reserve_bytes, &s->disk, err);
	if (r == 0)
		r = rules_of(NULL, &s->default_rules, err);
	if (r == 0)
		r = templates_open(s, err);
	if (r == 0)
		r = recover(s, err);
	if (r == 0) {
		warm_up(s);
		r = start_threads(s, err);
	}
	if (r < 0) {
		disk_close(&s->disk);
		free(s);
		return r;
	}
	keeper_ask(s);
	*out = s;
	return 0;
}

/* ---- the end ---- */

static void pause_or_end(struct box *box, bool in_time)
{
	struct box *held;
	struct error err = { 0 };

	if (in_time && box_hold(box->s, NULL, box->id, &held, &err) == 0) {
		struct record record = box_record(held, NULL, "sandbox.pause");
		snprintf(record.detail, sizeof(record.detail), "reason=shutdown");
		int r = box_pause_held(held, &record, &err);
		box_release(held);
		if (r == 0)
			return;
	}
	if (box->gone)
		return;
	log_warn("not_paused", "sandbox", box->id, "error", in_time ? err.text : "no time left");
	box_end(box, "node_lost", "the service was stopped and the sandbox could not be paused");
	(void)box_wait_gone(box, 10000);
}

static void pause_all(struct sandboxes *s)
{
	int64_t deadline = time_mono_ms() + CLOSE_MS;
	size_t count;
	struct box **all = box_all(s, &count);

	for (size_t i = 0; all && i < count; i++) {
		pause_or_end(all[i], time_mono_ms() < deadline);
		box_put(all[i]);
	}
	free(all);
}

static void await_jobs(struct sandboxes *s)
{
	int64_t deadline = time_mono_ms() + 30000;

	while (atomic_load(&s->jobs) > 0 && time_mono_ms() < deadline) {
		struct timespec moment = { .tv_nsec = 10000000 };
		nanosleep(&moment, NULL);
	}
}

void sandboxes_close(struct sandboxes *s)
{
	if (!s)
		return;
	pool_drain(s);
	await_jobs(s);
	pause_all(s);
	pthread_mutex_lock(&s->lock);
	s->closing = true;
	pthread_cond_broadcast(&s->janitor_wake);
	pthread_mutex_unlock(&s->lock);
	keeper_ask(s);
	if (s->threads) {
		pthread_join(s->keeper, NULL);
		pthread_join(s->sampler, NULL);
		pthread_join(s->reaper, NULL);
		pthread_join(s->janitor, NULL);
	}
	pool_drain(s);
	while (s->boxes) {
		struct box *box = s->boxes;
		s->boxes = box->next;
		box_put(box);
	}
	netpool_close(&s->netpool);
	templates_close(s);
	org_list_free(&s->orgs);
	net_rules_free(s->default_rules);
	disk_close(&s->disk);
	free(s);
}
