#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cond.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

#define HOLD_MS 60000

struct janitor_item {
	struct janitor_item *next;
	struct box *box;
};

/* ---- references and the table ---- */

static char *copy_text(const char *text)
{
	return text ? strdup(text) : NULL;
}

int row_copy(struct store_sandbox *to, const struct store_sandbox *from)
{
	*to = *from;
	to->network = copy_text(from->network);
	to->metadata = copy_text(from->metadata);
	to->env = copy_text(from->env);
	if ((from->network && !to->network) || (from->metadata && !to->metadata) || (from->env && !to->env)) {
		store_sandbox_free(to);
		return -ENOMEM;
	}
	return 0;
}

struct box *box_new(struct sandboxes *s, const struct store_sandbox *row)
{
	struct box *box = calloc(1, sizeof(*box));
	if (!box || row_copy(&box->row, row) < 0) {
		free(box);
		return NULL;
	}
	box->s = s;
	atomic_init(&box->references, 1);
	snprintf(box->id, sizeof(box->id), "%s", row->id);
	snprintf(box->org, sizeof(box->org), "%s", row->org);
	box->last_call_ms = time_mono_ms();
	box->used_until_ms = (uint64_t)time_wall_ms();
	pthread_mutex_init(&box->lock, NULL);
	pthread_cond_init(&box->changed, NULL);
	return box;
}

struct box *box_get(struct box *box)
{
	atomic_fetch_add(&box->references, 1);
	return box;
}

void box_put(struct box *box)
{
	if (!box || atomic_fetch_sub(&box->references, 1) != 1)
		return;
	store_sandbox_free(&box->row);
	pthread_mutex_destroy(&box->lock);
	pthread_cond_destroy(&box->changed);
	free(box);
}

void box_publish(struct box *box)
{
	struct sandboxes *s = box->s;

	pthread_mutex_lock(&s->lock);
	box->next = s->boxes;
	s->boxes = box_get(box);
	pthread_mutex_unlock(&s->lock);
}

/* True: the table's reference is the caller's now. */
static bool unpublish(struct box *box)
{
	struct sandboxes *s = box->s;
	bool found = false;

	pthread_mutex_lock(&s->lock);
	for (struct box **at = &s->boxes; *at; at = &(*at)->next) {
		if (*at == box) {
			*at = box->next;
			found = true;
			break;
		}
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}

struct box *box_find(struct sandboxes *s, const char *org, const char *id)
{
	struct box *found = NULL;

	pthread_mutex_lock(&s->lock);
	for (struct box *b = s->boxes; b && !found; b = b->next)
		if (strcmp(b->id, id) == 0 && (!org || strcmp(b->org, org) == 0))
			found = box_get(b);
	pthread_mutex_unlock(&s->lock);
	return found;
}

struct box **box_all(struct sandboxes *s, size_t *count)
{
	size_t n = 0;

	pthread_mutex_lock(&s->lock);
	for (struct box *b = s->boxes; b; b = b->next)
		n++;
	struct box **all = calloc(n + 1, sizeof(*all));
	*count = 0;
	for (struct box *b = s->boxes; b && all; b = b->next)
		all[(*count)++] = box_get(b);
	pthread_mutex_unlock(&s->lock);
	return all;
}

/* ---- use ---- */

int box_gone_error(struct sandboxes *s, const char *org, const char *id, struct error *err)
{
	struct store_sandbox row;
	int r = store_sandbox_get(s->store, org, id, &row, err);

	if (r == -ENOENT)
		return error_set(err, ENOENT, "there is no sandbox %.40s", id);
	if (r < 0)
		return r;
	r = error_set(err, EBUSY, "the sandbox has ended (%s): %s", row.reason[0] ? row.reason : "error", row.message);
	store_sandbox_free(&row);
	return r;
}

static int ending_error(struct box *box, struct error *err)
{
	if (box->reason[0])
		return error_set(err, EBUSY, "the sandbox is ending (%s)", box->reason);
	return error_set(err, EBUSY, "the sandbox has ended");
}

/* Under box->lock: wait until nobody else changes its state. */
static int await_turn(struct box *box, struct error *err)
{
	int64_t deadline = time_mono_ms() + HOLD_MS;
	int waited = 0;

	while (box->exclusive && !box->gone && waited == 0)
		waited = cond_wait_until(&box->changed, &box->lock, deadline);
	if (box->gone || box->reason[0])
		return ending_error(box, err);
	if (waited != 0)
		return error_set(err, EBUSY, "the sandbox is busy with another operation");
	return 0;
}

int box_hold(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct box **out,
	     struct error *err)
{
	struct box *box = box_find(s, actor ? actor->org->id : NULL, id);
	if (!box)
		return box_gone_error(s, actor ? actor->org->id : NULL, id, err);

	pthread_mutex_lock(&box->lock);
	int r = await_turn(box, err);
	if (r == 0) {
		box->exclusive = true;
		box->last_call_ms = time_mono_ms();
	}
	pthread_mutex_unlock(&box->lock);
	if (r < 0) {
		box_put(box);
		return r;
	}
	*out = box;
	return 0;
}

void box_release(struct box *box)
{
	pthread_mutex_lock(&box->lock);
	box->exclusive = false;
	box->last_call_ms = time_mono_ms();
	bool ending = box->reason[0] && !box->gone;
	pthread_cond_broadcast(&box->changed);
	pthread_mutex_unlock(&box->lock);
	if (ending)
		janitor_push(box); /* who came while it was held went away again */
	box_put(box);
}

int box_install(struct box *box, struct machine *m, int64_t lifetime_ms, struct error *err)
{
	/* Before the box has it: after that the janitor may free it at any moment. */
	machine_own(m, box_machine_ended, box);
	int64_t wall_ms = time_wall_ms();
	pthread_mutex_lock(&box->lock);
	bool ending = box->reason[0] || box->gone;
	bool dead = vm_has_ended(m->vm, NULL);
	if (!ending) {
		box->machine = m;
		box->row.status = SANDBOX_RUNNING;
		if (!box->row.started_ms) {
			box->row.started_ms = wall_ms;
			box->unbooked_creates = 1;
		}
		box->row.expires_ms = wall_ms + lifetime_ms;
		box->deadline_ms = time_mono_ms() + lifetime_ms;
		box->last_call_ms = time_mono_ms();
		box->used_until_ms = (uint64_t)wall_ms;
		box->cpu_us_before = box->sample_cpu_us = box->last_cpu_us = 0;
		box->sample_ms = 0;
		box->counted = (struct policy_counters){ 0 };
		pthread_cond_broadcast(&box->changed);
	}
	pthread_mutex_unlock(&box->lock);
	if (ending) {
		machine_own(m, NULL, NULL);
		return error_set(err, EBUSY, "the sandbox was ended meanwhile");
	}
	if (dead)
		janitor_push(box);
	return 0;
}

/* Under box->lock. 1: it is paused and must be resumed by who holds it. */
static int enter(struct box *box, struct vm **vm, struct error *err)
{
	int r = await_turn(box, err);
	if (r < 0)
		return r;
	if (box->row.status == SANDBOX_PAUSED) {
		box->exclusive = true;
		return 1;
	}
	if (box->row.status != SANDBOX_RUNNING || !box->machine)
		return error_set(err, EBUSY, "the sandbox is not running yet");
	*vm = vm_get(box->machine->vm);
	box->active++;
	box->last_call_ms = time_mono_ms();
	return 0;
}

int box_use(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct box **out, struct vm **vm,
	    struct error *err)
{
	struct box *box = box_find(s, actor->org->id, id);
	if (!box)
		return box_gone_error(s, actor->org->id, id, err);

	int r = 1;
	while (r == 1) {
		pthread_mutex_lock(&box->lock);
		r = enter(box, vm, err);
		pthread_mutex_unlock(&box->lock);
		if (r == 1) {
			struct record record = box_record(box, actor, "sandbox.resume");
			int resumed = box_resume_held(box, &record, err);
			box_release(box_get(box));
			if (resumed < 0)
				r = resumed;
		}
	}
	if (r < 0) {
		box_put(box);
		return r;
	}
	*out = box;
	return 0;
}

void box_done(struct box *box, struct vm *vm)
{
	vm_put(vm);
	pthread_mutex_lock(&box->lock);
	box->active--;
	box->last_call_ms = time_mono_ms();
	pthread_cond_broadcast(&box->changed);
	pthread_mutex_unlock(&box->lock);
	box_put(box);
}

struct record box_record(const struct box *box, const struct sandbox_actor *actor, const char *action)
{
	return record_of(actor, action, box->org, box->id);
}

/* In the transaction. */
static int save_row(struct box *box, struct error *err)
{
	struct store_sandbox row;
	int r;

	pthread_mutex_lock(&box->lock);
	if (box->row.status == SANDBOX_TERMINATED)
		r = ending_error(box, err); /* its end has a record of its own */
	else
		r = row_copy(&row, &box->row) < 0 ? error_set(err, ENOMEM, "no memory for a sandbox's row") : 0;
	if (r == 0 && box->reason[0]) {
		/* If we die before its end is written, the next start does it. */
		row.status = SANDBOX_STOPPING;
		snprintf(row.reason, sizeof(row.reason), "%s", box->reason);
		snprintf(row.message, sizeof(row.message), "%s", box->message);
	}
	pthread_mutex_unlock(&box->lock);
	if (r < 0)
		return r;
	r = store_sandbox_update(box->s->store, &row, err);
	store_sandbox_free(&row);
	return r;
}

int box_save(struct box *box, const struct record *record, struct error *err)
{
	struct store *store = box->s->store;
	int r = store_begin(store, err);

	/* Copied inside, so that what was written meanwhile is not undone. */
	return r < 0 ? r : record_end(store, record, save_row(box, err), err);
}

/* ---- the end ---- */

void box_end(struct box *box, const char *reason, const char *message)
{
	struct vm *vm = NULL;

	pthread_mutex_lock(&box->lock);
	bool first = !box->reason[0] && !box->gone;
	if (first) {
		snprintf(box->reason, sizeof(box->reason), "%s", reason);
		snprintf(box->message, sizeof(box->message), "%s", message);
		box->row.status = SANDBOX_STOPPING;
	}
	if (first && box->machine)
		vm = vm_get(box->machine->vm);
	pthread_cond_broadcast(&box->changed);
	pthread_mutex_unlock(&box->lock);
	/* A running one comes to the janitor when its VM has ended. */
	if (vm) {
		box_last_stats(box, vm);
		vm_kill(vm, message);
	} else if (first) {
		janitor_push(box);
	}
	vm_put(vm);
}

int box_error(struct box *box, int r, struct error *err)
{
	r = host_error(r, err);
	if (r != -EIO)
		return r;
	pthread_mutex_lock(&box->lock);
	if (box->reason[0] || box->gone)
		r = ending_error(box, err);
	pthread_mutex_unlock(&box->lock);
	return r;
}

int box_wait_gone(struct box *box, int timeout_ms)
{
	int64_t deadline = time_mono_ms() + timeout_ms;
	int waited = 0;

	pthread_mutex_lock(&box->lock);
	while (!box->gone && waited == 0)
		waited = cond_wait_until(&box->changed, &box->lock, deadline);
	bool gone = box->gone;
	pthread_mutex_unlock(&box->lock);
	return gone ? 0 : -ETIMEDOUT;
}

void box_machine_ended(struct machine *machine, void *context)
{
	struct box *box = context;

	pthread_mutex_lock(&box->lock);
	bool mine = box->machine == machine;
	pthread_mutex_unlock(&box->lock);
	if (mine)
		janitor_push(box);
}

void janitor_push(struct box *box)
{
	struct sandboxes *s = box->s;
	struct janitor_item *item = calloc(1, sizeof(*item));

	if (!item) {
		log_error("out_of_memory", "where", "janitor", "sandbox", box->id);
		return; /* the reaper finds it again: its VM has ended */
	}
	item->box = box_get(box);
	pthread_mutex_lock(&s->lock);
	item->next = s->janitor_queue;
	s->janitor_queue = item;
	pthread_cond_signal(&s->janitor_wake);
	pthread_mutex_unlock(&s->lock);
}

static void explain_end(struct box *box, struct machine *m)
{
	struct vm_exit exit;

	if (box->reason[0] || !m || !vm_has_ended(m->vm, &exit))
		return;
	const char *reason = exit.end == VM_END_OOM              ? "oom"
			     : exit.end == VM_END_GUEST_SHUTDOWN ? "guest_shutdown"
								 : "host_error";
	snprintf(box->reason, sizeof(box->reason), "%s", reason);
	snprintf(box->message, sizeof(box->message), "%s", exit.message);
}

static void write_end(struct box *box)
{
	struct record record = box_record(box, NULL, "sandbox.terminated");
	struct store *store = box->s->store;
	struct error err = { 0 };

	snprintf(record.detail, sizeof(record.detail), "reason=%s", box->reason);
	for (int tries = 0; tries < 3; tries++) {
		int r = store_begin(store, &err);
		if (r == 0)
			r = record_end(store, &record, store_sandbox_update(store, &box->row, &err), &err);
		if (r == 0)
			return;
	}
	/* The next start finds a live row without a VM and says node_lost: a reason is lost, nothing else. */
	log_error("termination_not_stored", "sandbox", box->id, "error", err.text);
}

static void terminate(struct box *box)
{
	struct sandboxes *s = box->s;

	pthread_mutex_lock(&box->lock);
	struct machine *m = box->machine;
	explain_end(box, m);
	/*
	 * Whoever holds it still uses the machine and its slot; its VM is dead, so that is not for long, and the release
	 * comes here again. No reason: it was a machine of before a pause, and the one of now is well.
	 */
	if (box->gone || box->exclusive || !box->reason[0]) {
		pthread_mutex_unlock(&box->lock);
		return;
	}
	box->row.status = SANDBOX_STOPPING;
	pthread_mutex_unlock(&box->lock);

	box_book_usage(box, time_wall_ms());
	pthread_mutex_lock(&box->lock);
	box->machine = NULL;
	pthread_mutex_unlock(&box->lock);
	if (m) {
		m->keep_scratch = false;
		machine_stop(m);
	}
	paused_remove(s, box->id);
	disk_remove(&s->disk, FOLDER_SCRATCH, box->id);
	(void)FAULT("terminate-store");

	pthread_mutex_lock(&box->lock);
	box->row.status = SANDBOX_TERMINATED;
	box->row.terminated_ms = time_wall_ms();
	snprintf(box->row.reason, sizeof(box->row.reason), "%s", box->reason);
	snprintf(box->row.message, sizeof(box->row.message), "%s", box->message);
	pthread_mutex_unlock(&box->lock);
	write_end(box);
	bool listed = unpublish(box);
	pthread_mutex_lock(&box->lock);
	box->gone = true;
	pthread_cond_broadcast(&box->changed);
	pthread_mutex_unlock(&box->lock);
	log_info("sandbox_terminated", "sandbox", box->id, "org", box->org, "reason", box->reason, "message",
		 box->message);
	keeper_ask(s);
	if (listed)
		box_put(box);
}

void *janitor_main(void *context)
{
	struct sandboxes *s = context;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!s->janitor_queue && !s->closing)
			pthread_cond_wait(&s->janitor_wake, &s->lock);
		struct janitor_item *item = s->janitor_queue;
		if (!item)
			break;
		s->janitor_queue = item->next;
		pthread_mutex_unlock(&s->lock);
		terminate(item->box);
		box_put(item->box);
		free(item);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}
