/* What is asked of a sandbox that exists: look, list, delete, change its time and its network. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

#define DELETE_MS 15000
#define DELETED "deleted by request"

int sandbox_get(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		struct error *err)
{
	struct box *box = box_find(s, actor->org->id, id);

	if (box) {
		struct policy_counters counters;
		int r = info_fill(box, info);
		if (r == 0 && box_counters(box, &counters) == 0)
			info->network = counters;
		box_put(box);
		return r < 0 ? error_set(err, ENOMEM, "no memory for an answer") : 0;
	}
	*info = (struct sandbox_info){ .now_ms = time_wall_ms() };
	int r = store_sandbox_get(s->store, actor->org->id, id, &info->row, err);
	if (r == -ENOENT)
		return error_set(err, ENOENT, "there is no sandbox %.40s", id);
	if (r == 0)
		snprintf(info->snapshot_id, sizeof(info->snapshot_id), "%s", info->row.snapshot);
	return r;
}

int sandbox_list(struct sandboxes *s, const struct store_sandbox_filter *filter, uint32_t page, uint32_t size,
		 struct store_sandbox **rows, size_t *count, uint64_t *total, struct error *err)
{
	return store_sandbox_list(s->store, filter, page, size, rows, count, total, err);
}

/*
 * That it is to end goes to the store before anything of it does: if it cannot be recorded, nothing happens; if we die in
 * between, the next start does it. 0 also when it has ended meanwhile.
 */
static int record_end_asked(struct box *box, const struct sandbox_actor *actor, const char *snapshot, struct error *err)
{
	struct record record = box_record(box, actor, NULL);
	struct store *store = box->s->store;
	struct store_sandbox row;
	int r = store_begin(store, err);

	if (r < 0)
		return r;
	pthread_mutex_lock(&box->lock);
	r = row_copy(&row, &box->row);
	pthread_mutex_unlock(&box->lock);
	if (r < 0) {
		store_rollback(store);
		return error_set(err, ENOMEM, "no memory for a sandbox's row");
	}
	if (row.status == SANDBOX_TERMINATED) {
		store_rollback(store);
	} else {
		row.status = SANDBOX_STOPPING;
		snprintf(row.reason, sizeof(row.reason), "deleted");
		snprintf(row.message, sizeof(row.message), DELETED);
		if (snapshot)
			snprintf(record.detail, sizeof(record.detail), "snapshot %s", snapshot);
		r = record_end(store, &record, store_sandbox_update(store, &row, err), err);
	}
	store_sandbox_free(&row);
	return r;
}

int sandbox_delete(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *snapshot_name,
		   struct store_snapshot *snapshot, struct error *err)
{
	struct box *box = box_find(s, actor->org->id, id);
	if (!box) {
		/* It has ended already: what was asked for holds. Unknown stays 404. */
		struct store_sandbox row;
		int r = store_sandbox_get(s->store, actor->org->id, id, &row, err);
		if (r == 0)
			store_sandbox_free(&row);
		return r == -ENOENT ? error_set(err, ENOENT, "there is no sandbox %.40s", id) : r;
	}
	int r = 0;
	if (snapshot_name)
		r = sandbox_snapshot(s, actor, id, snapshot_name, false, snapshot, err);
	bool kept = r == 0 && snapshot_name;
	if (r == 0)
		r = record_end_asked(box, actor, kept ? snapshot->id : NULL, err);
	if (r == 0) {
		box_end(box, "deleted", DELETED);
		if (box_wait_gone(box, DELETE_MS) < 0)
			log_warn("delete_slow", "sandbox", id);
	} else if (kept) {
		store_snapshot_free(snapshot);
	}
	box_put(box);
	return r;
}

/* What of its row the time to live is. */
struct lifetime {
	int64_t timeout_s, expires_ms;
};

static struct lifetime set_lifetime(struct box *box, struct lifetime to)
{
	pthread_mutex_lock(&box->lock);
	struct lifetime before = { box->row.timeout_s, box->row.expires_ms };
	box->row.timeout_s = to.timeout_s;
	box->row.expires_ms = to.expires_ms;
	pthread_mutex_unlock(&box->lock);
	return before;
}

static void set_deadline(struct box *box, int64_t timeout_s)
{
	pthread_mutex_lock(&box->lock);
	if (box->row.status == SANDBOX_PAUSED)
		box->left_ms = timeout_s * 1000;
	else
		box->deadline_ms = time_mono_ms() + timeout_s * 1000;
	pthread_mutex_unlock(&box->lock);
}

int sandbox_set_timeout(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, int64_t timeout_s,
			struct sandbox_info *info, struct error *err)
{
	int64_t max = actor->org->lifetime_s_max >= 0 && actor->org->lifetime_s_max < LIFETIME_MAX_S
			      ? actor->org->lifetime_s_max
			      : LIFETIME_MAX_S;
	struct box *box;

	if (timeout_s < 1 || timeout_s > max)
		return error_set(err, EINVAL, "timeout_seconds: must be between 1 and %lld", (long long)max);
	int r = box_hold(s, actor, id, &box, err);
	if (r < 0)
		return r;
	struct record record = box_record(box, actor, NULL);
	snprintf(record.detail, sizeof(record.detail), "%lld s", (long long)timeout_s);
	struct lifetime wanted = { timeout_s, time_wall_ms() + timeout_s * 1000 };
	if (box->row.status == SANDBOX_PAUSED)
		wanted.expires_ms = box->row.expires_ms;
	struct lifetime before = set_lifetime(box, wanted);
	r = box_save(box, &record, err);
	if (r < 0)
		set_lifetime(box, before);
	else
		set_deadline(box, timeout_s);
	if (r == 0 && info_fill(box, info) < 0)
		r = error_set(err, ENOMEM, "no memory for an answer");
	box_release(box);
	return r;
}

static int apply_rules(struct box *box, const struct net_rules *rules, struct error *err)
{
	pthread_mutex_lock(&box->lock);
	uint32_t slot = box->machine ? box->machine->slot.number : LAUNCHER_NO_SLOT;
	pthread_mutex_unlock(&box->lock);
	if (slot == LAUNCHER_NO_SLOT)
		return 0;
	return box_error(box, net_service_update(box->s->config.net, slot, rules, err), err);
}

static char *swap_network(struct box *box, char *json)
{
	pthread_mutex_lock(&box->lock);
	char *before = box->row.network;
	box->row.network = json;
	pthread_mutex_unlock(&box->lock);
	return before;
}

static int save_network(struct box *box, const char *json, const struct sandbox_actor *actor, struct error *err)
{
	struct record record = box_record(box, actor, NULL);
	char *kept = json ? strdup(json) : NULL;

	if (json && !kept)
		return error_set(err, ENOMEM, "no memory for network rules");
	char *before = swap_network(box, kept);
	int r = box_save(box, &record, err);
	free(r < 0 ? swap_network(box, before) : before);
	return r;
}

static int change_network(struct box *box, const struct net_rules *rules, const char *json,
			  const struct sandbox_actor *actor, struct error *err)
{
	struct net_rules *before = NULL;
	struct error why = { 0 };

	int r = rules_of_json(box->row.network, &before, err);
	if (r == 0)
		r = apply_rules(box, rules, err);
	if (r == 0) {
		r = save_network(box, json, actor, err);
		if (r < 0 && apply_rules(box, before, &why) < 0)
			log_error("network_rules_not_restored", "sandbox", box->id, "error", why.text);
	}
	net_rules_free(before);
	return r;
}

int sandbox_set_network(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
			const struct sandbox_network *network, const char *network_json, struct sandbox_info *info,
			struct error *err)
{
	struct net_rules *rules = NULL;
	struct box *box;

	int r = rules_of(network, &rules, err);
	if (r == -EINVAL && err)
		err->code = EPROTO;
	if (r < 0)
		return r == -EINVAL ? -EPROTO : r;
	r = box_hold(s, actor, id, &box, err);
	if (r == 0) {
		r = change_network(box, rules, network_json, actor, err);
		if (r == 0 && info_fill(box, info) < 0)
			r = error_set(err, ENOMEM, "no memory for an answer");
		box_release(box);
	}
	net_rules_free(rules);
	return r;
}

int sandbox_console(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, char **text, size_t *size,
		    struct error *err)
{
	struct box *box = box_find(s, actor->org->id, id);
	struct vm *vm = NULL;

	if (!box)
		return box_gone_error(s, actor->org->id, id, err);
	pthread_mutex_lock(&box->lock);
	if (box->machine)
		vm = vm_get(box->machine->vm);
	pthread_mutex_unlock(&box->lock);
	box_put(box);
	*text = malloc(65536 + 1);
	*size = 0;
	if (*text && vm)
		*size = vm_console(vm, *text, 65536);
	if (*text)
		(*text)[*size] = '\0';
	vm_put(vm);
	return *text ? 0 : error_set(err, ENOMEM, "no memory for the console");
}

int sandbox_stop_all(struct sandboxes *s, const struct sandbox_actor *actor, const char *org, const char *why,
		     struct error *err)
{
	size_t count;
	int stopped = 0;
	struct box **all = box_all(s, &count);
	(void)actor;

	if (!all)
		return error_set(err, ENOMEM, "no memory for a list of sandboxes");
	for (size_t i = 0; i < count; i++) {
		if (strcmp(all[i]->org, org) == 0) {
			box_end(all[i], "deleted", why);
			stopped++;
		}
	}
	for (size_t i = 0; i < count; i++) {
		if (strcmp(all[i]->org, org) == 0)
			(void)box_wait_gone(all[i], DELETE_MS);
		box_put(all[i]);
	}
	free(all);
	return stopped;
}

void sandboxes_figures(struct sandboxes *s, struct sandboxes_figures *figures)
{
	size_t count;
	struct box **all = box_all(s, &count);

	*figures = (struct sandboxes_figures){
		.pool_hits = s->pool_hits,
		.pool_misses = s->pool_misses,
		.template_hits = s->template_hits,
		.template_builds = s->template_builds,
		.creates = s->creates,
		.create_failures = s->create_failures,
		.execs = s->execs,
		.disk_free_bytes = disk_free_bytes(&s->disk),
	};
	for (size_t i = 0; all && i < count; i++) {
		pthread_mutex_lock(&all[i]->lock);
		figures->by_status[all[i]->row.status]++;
		pthread_mutex_unlock(&all[i]->lock);
		box_put(all[i]);
	}
	free(all);
	pthread_mutex_lock(&s->pool.lock);
	figures->pool_ready = s->pool.count;
	pthread_mutex_unlock(&s->pool.lock);
	pthread_mutex_lock(&s->budget_lock);
	figures->memory_committed_bytes = s->committed;
	figures->memory_budget_bytes = s->budget;
	pthread_mutex_unlock(&s->budget_lock);
}

const char *sandboxes_acceleration(const struct sandboxes *s, const char **why)
{
	if (why)
		*why = s->config.why;
	return s->config.engine.acceleration == ENGINE_KVM ? "kvm" : "tcg";
}
