/*
 * Three threads that nobody waits for: the reaper keeps time, the keeper fills pools, the sampler takes figures. Only
 * the last one asks guests, so that a guest that does not answer holds up nobody's deadline.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cond.h"
#include "base/log.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

#define TICK_MS 200
#define SAMPLE_MS 15000
#define BOOK_MS 60000
#define PURGE_MS 600000
#define KEPT_MS (24 * 3600 * 1000LL)
#define SLOTS_READY 4
#define DEAD_MS 2000 /* for the end of the VM to be told, when that is why its agent is silent: it has a reason */

static bool is_closing(struct sandboxes *s)
{
	pthread_mutex_lock(&s->lock);
	bool closing = s->closing;
	pthread_mutex_unlock(&s->lock);
	return closing;
}

struct due {
	bool timeout, idle, dead, ended;
	bool pause;
};

static struct due look(struct box *box, int64_t now)
{
	struct due due = { 0 };

	pthread_mutex_lock(&box->lock);
	bool running = box->row.status == SANDBOX_RUNNING && box->machine && !box->reason[0];
	if (running) {
		due.timeout = now >= box->deadline_ms;
		due.idle = box->row.idle_timeout_s > 0 && box->active == 0 && !box->exclusive &&
			   now - box->last_call_ms >= box->row.idle_timeout_s * 1000;
		if (!link_is_dead(vm_link(box->machine->vm)))
			box->dead_ms = 0;
		else if (!box->dead_ms)
			box->dead_ms = now;
		due.dead = box->dead_ms && now - box->dead_ms >= DEAD_MS;
		due.pause = box->row.idle_pause;
	}
	due.ended = box->machine && vm_has_ended(box->machine->vm, NULL);
	pthread_mutex_unlock(&box->lock);
	return due;
}

/* Writes much and may take a second, so it is not the reaper's own work. */
static void *pause_thread(void *context)
{
	struct box *box = context;
	struct sandboxes *s = box->s;
	struct error err = { 0 };

	struct record record = box_record(box, NULL, "sandbox.pause");

	snprintf(record.detail, sizeof(record.detail), "reason=idle");
	if (box_pause_held(box, &record, &err) < 0)
		log_warn("idle_pause_failed", "sandbox", box->id, "error", err.text);
	box_release(box);
	atomic_fetch_sub(&s->jobs, 1);
	return NULL;
}

static void begin_pause(struct box *box)
{
	pthread_t thread;

	pthread_mutex_lock(&box->lock);
	bool free_now = !box->exclusive && box->active == 0 && !box->reason[0];
	if (free_now)
		box->exclusive = true;
	pthread_mutex_unlock(&box->lock);
	if (!free_now)
		return;
	atomic_fetch_add(&box->s->jobs, 1);
	if (pthread_create(&thread, NULL, pause_thread, box_get(box)) == 0) {
		pthread_detach(thread);
		return;
	}
	atomic_fetch_sub(&box->s->jobs, 1);
	box_release(box);
}

static void tend(struct box *box, int64_t now)
{
	struct due due = look(box, now);

	if (due.timeout)
		box_end(box, "timeout", "its lifetime (timeout_seconds) is over");
	else if (due.ended)
		janitor_push(box);
	else if (due.dead)
		box_end(box, "host_error", "the guest broke the protocol of its agent, or its agent is gone");
	else if (due.idle && due.pause)
		begin_pause(box);
	else if (due.idle)
		box_end(box, "idle", "nothing was asked of it for idle_timeout_seconds");
	execs_check_deadlines(box, now);
}

static void take_figures(struct box *box)
{
	pthread_mutex_lock(&box->lock);
	bool sample = time_mono_ms() - box->sample_ms >= SAMPLE_MS;
	bool book = time_wall_ms() - (int64_t)box->used_until_ms >= BOOK_MS;
	pthread_mutex_unlock(&box->lock);
	if (sample) {
		box_unstall(box);
		box_sample(box, time_mono_ms());
	}
	if (book)
		box_book_usage(box, time_wall_ms());
}

static void purge(struct sandboxes *s)
{
	int64_t before = time_wall_ms() - KEPT_MS;

	(void)store_sandbox_purge(s->store, before, NULL);
	(void)store_exec_purge(s->store, before - 6 * KEPT_MS, NULL);
	(void)store_sample_purge(s->store, before, NULL);
	(void)store_idem_purge(s->store, before, NULL);
	templates_trim(s);
}

static void tick(void)
{
	struct timespec moment = { .tv_nsec = TICK_MS * 1000000L };
	nanosleep(&moment, NULL);
}

void *sampler_main(void *context)
{
	struct sandboxes *s = context;

	while (!is_closing(s)) {
		size_t count;
		struct box **all = box_all(s, &count);
		for (size_t i = 0; all && i < count; i++) {
			if (!is_closing(s))
				take_figures(all[i]);
			box_put(all[i]);
		}
		free(all);
		tick();
	}
	return NULL;
}

void *reaper_main(void *context)
{
	struct sandboxes *s = context;
	int64_t purged = time_mono_ms();

	while (!is_closing(s)) {
		tick();
		size_t count;
		struct box **all = box_all(s, &count);
		for (size_t i = 0; all && i < count; i++) {
			tend(all[i], time_mono_ms());
			box_put(all[i]);
		}
		free(all);
		if (time_mono_ms() - purged > PURGE_MS) {
			purge(s);
			purged = time_mono_ms();
		}
	}
	return NULL;
}

void keeper_ask(struct sandboxes *s)
{
	pthread_mutex_lock(&s->keeper_lock);
	s->keeper_asked = true;
	pthread_cond_signal(&s->keeper_wake);
	pthread_mutex_unlock(&s->keeper_lock);
}

/* What is asked for wakes it; in any case it looks once in a while. */
static void await_ask(struct sandboxes *s)
{
	int64_t deadline = time_mono_ms() + 5000;
	int waited = 0;

	pthread_mutex_lock(&s->keeper_lock);
	while (!s->keeper_asked && waited == 0)
		waited = cond_wait_until(&s->keeper_wake, &s->keeper_lock, deadline);
	s->keeper_asked = false;
	pthread_mutex_unlock(&s->keeper_lock);
}

void *keeper_main(void *context)
{
	struct sandboxes *s = context;

	/* Linux counts niceness per thread: whoever waits for a sandbox comes before whoever may want one later. */
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 10);
	while (!is_closing(s)) {
		await_ask(s);
		while (!is_closing(s) && netpool_refill(&s->netpool, SLOTS_READY))
			;
		while (!is_closing(s) && pool_refill(s))
			;
		snapshots_sweep(s);
	}
	return NULL;
}
