/* Create, restore and clone are one path: claim or start a machine, give it its personality, let it go. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

/* All that it takes to start, owned: it may outlive the request (wait_for_ready false). */
struct start {
	struct sandboxes *s;
	struct box *box;
	struct machine *machine; /* claimed from the pool, or NULL */
	struct shape shape;
	struct net_rules *rules;
	bool default_rules;
	char **env;
	char workdir[256];
	int disk;
	uint32_t disk_gb;
};

static void start_free(struct start *start)
{
	if (!start)
		return;
	net_rules_free(start->rules);
	env_free(start->env);
	fd_close(&start->disk);
	box_put(start->box);
	free(start);
}

static int make_ready(struct start *start, struct machine *m, struct error *err)
{
	struct sandboxes *s = start->s;
	char hostname[64];

	hostname_of(start->box->row.name, hostname);
	int r = 0;
	/* A pooled one has the default rules; others go in before anything of the sandbox's runs. */
	if (start->machine && !start->default_rules)
		r = net_service_update(s->config.net, m->slot.number, start->rules, err);
	if (r < 0)
		return r;
	struct personality p = {
		.hostname = hostname,
		.workdir = start->workdir,
		.env = start->env,
		.sandbox_id = start->box->id,
	};
	r = machine_personalise(m, &p, err);
	if (r == 0)
		r = machine_settle(m, start->shape.cpu_units, err);
	return r;
}

/* It may be set anew while the sandbox is being made. */
static int64_t lifetime_of(struct box *box)
{
	pthread_mutex_lock(&box->lock);
	int64_t lifetime_ms = box->row.timeout_s * 1000;
	pthread_mutex_unlock(&box->lock);
	return lifetime_ms;
}

/* Make a pooled machine this sandbox's; if that fails it is gone and *machine NULL. */
static int claim(struct start *start, struct machine **machine, struct error *err)
{
	int r = make_ready(start, *machine, err);

	if (r < 0) {
		machine_stop(*machine);
		*machine = NULL;
	}
	return r;
}

/* It runs: of what the call was for, or what came of it when the call has its answer already (actor NULL). */
static int save_running(struct box *box, const struct sandbox_actor *actor, struct error *err)
{
	struct record record = box_record(box, actor, actor ? NULL : "sandbox.started");

	if (box->row.snapshot[0])
		snprintf(record.detail, sizeof(record.detail), "from %s", box->row.snapshot);
	return box_save(box, &record, err);
}

static int run_start(struct start *start, const struct sandbox_actor *actor, struct error *err)
{
	struct sandboxes *s = start->s;
	struct machine *m = start->machine;
	struct machine_source source = {
		.id = start->box->id,
		.disk = start->disk,
		.disk_gb = start->disk_gb,
		.first_stream = 1,
		.rules = start->rules,
	};
	int r = 0;

	if (m && claim(start, &m, err) < 0) {
		/* It died while nobody looked: what was asked for is made from the template, as if the pool were empty. */
		log_info("pooled_machine_lost", "sandbox", start->box->id, "error", err ? err->text : "");
		start->machine = NULL;
	}
	if (!m)
		r = machine_start(s, &start->shape, &source, &m, err);
	if (r == 0 && FAULT("create-personalise") < 0)
		r = error_set(err, EIO, "injected: create-personalise");
	if (r == 0 && !start->machine)
		r = make_ready(start, m, err);
	if (r == 0)
		r = box_install(start->box, m, lifetime_of(start->box), err);
	if (r < 0 && m)
		machine_stop(m);
	if (r == 0)
		r = save_running(start->box, actor, err);
	if (r == 0) {
		atomic_fetch_add(&s->creates, 1);
		return 0;
	}
	r = box_error(start->box, r, err);
	atomic_fetch_add(&s->create_failures, 1);
	log_warn("create_failed", "sandbox", start->box->id, "error", err ? err->text : "");
	box_end(start->box, "host_error", err && r != -EIO ? err->text : "the sandbox could not be started");
	(void)box_wait_gone(start->box, 10000);
	return r;
}

static void *start_thread(void *context)
{
	struct start *start = context;
	struct sandboxes *s = start->s;
	struct error err = { 0 };

	(void)run_start(start, NULL, &err);
	start_free(start);
	atomic_fetch_sub(&s->jobs, 1);
	return NULL;
}

static int start_in_background(struct start *start, struct error *err)
{
	pthread_t thread;

	atomic_fetch_add(&start->s->jobs, 1);
	int r = pthread_create(&thread, NULL, start_thread, start);
	if (r != 0) {
		atomic_fetch_sub(&start->s->jobs, 1);
		return error_errno(err, r, "no thread to start a sandbox");
	}
	pthread_detach(thread);
	return 0;
}

/* ---- the row, and with it the right to exist ---- */

static int check_total(const char *what, uint64_t have, uint64_t more, int64_t limit, struct error *err)
{
	if (limit < 0 || have + more <= (uint64_t)limit)
		return 0;
	return error_set(err, EDQUOT, "%s: the organisation's limit is %lld, %llu are in use", what, (long long)limit,
			 (unsigned long long)have);
}

static int check_quota(struct sandboxes *s, const struct sandbox_actor *actor, const struct store_sandbox *row,
		       struct error *err)
{
	struct store_totals have;
	const struct store_org *org = actor->org;
	bool live = true;

	int r = actor->key ? store_key_live(s->store, actor->key, time_wall_ms(), &live, err) : 0;
	if (r == 0 && !live)
		r = error_set(err, EKEYREVOKED, "the API key was revoked");
	if (r == 0)
		r = store_totals(s->store, org->id, &have, err);
	if (r == 0)
		r = check_total("concurrent sandboxes", have.sandboxes, 1, org->sandboxes_max, err);
	if (r == 0)
		r = check_total("vCPU units", have.cpu_units, row->cpu_units, org->cpu_units_max, err);
	if (r == 0)
		r = check_total("memory (MiB)", have.memory_mib, row->memory_mib, org->memory_mib_max, err);
	if (r == 0)
		r = check_total("storage (GB)", have.storage_gb, row->storage_gb, org->storage_gb_max, err);
	return r;
}

static int add_row(struct sandboxes *s, const struct sandbox_actor *actor, const struct store_sandbox *row, bool waits,
		   struct error *err)
{
	struct record record = record_of(actor, "sandbox.admitted", row->org, row->id);

	snprintf(record.detail, sizeof(record.detail), "image=%.100s cpus=%u memory=%u storage=%u", row->image,
		 row->cpu_units, row->memory_mib, row->storage_gb);
	int r = store_begin(s->store, err);
	if (r < 0)
		return r;
	r = check_quota(s, actor, row, err);
	if (r == 0)
		r = store_sandbox_add(s->store, row, err);
	if (r == 0 && !waits) {
		/* The call is done with this; what comes of it is not its any more. */
		r = record_add(s->store, &record, err);
		record.action = NULL;
	}
	return record_end(s->store, &record, r, err);
}

int info_fill(struct box *box, struct sandbox_info *info)
{
	*info = (struct sandbox_info){ .now_ms = time_wall_ms() };
	pthread_mutex_lock(&box->lock);
	int r = row_copy(&info->row, &box->row);
	info->network = box->counted;
	info->has_network = true;
	pthread_mutex_unlock(&box->lock);
	snprintf(info->snapshot_id, sizeof(info->snapshot_id), "%s", info->row.snapshot);
	return r;
}

void sandbox_info_free(struct sandbox_info *info)
{
	store_sandbox_free(&info->row);
}

/* ---- the path ---- */

static struct start *start_new(struct sandboxes *s, const struct sandbox_spec *spec, const struct shape *shape,
			       const struct image *image, int disk, uint32_t disk_gb, struct error *err)
{
	struct start *start = calloc(1, sizeof(*start));
	if (!start) {
		error_set(err, ENOMEM, "no memory for a sandbox");
		return NULL;
	}
	start->s = s;
	start->shape = *shape;
	start->disk = disk >= 0 ? fcntl(disk, F_DUPFD_CLOEXEC, 3) : -1;
	start->disk_gb = disk_gb;
	if (disk >= 0 && start->disk < 0) {
		/* Without it the sandbox would begin with an empty disk. */
		error_set(err, EIO, "no descriptor for a snapshot's disk");
		start_free(start);
		return NULL;
	}
	snprintf(start->workdir, sizeof(start->workdir), "%s", image->workdir);
	int r = spec->network ? rules_of(spec->network, &start->rules, err)
			      : rules_of_json(spec->network_json, &start->rules, err);
	start->default_rules = !spec->network && !spec->network_json;
	start->env = env_of(image, spec->env_json);
	if (r == 0 && !start->env)
		r = error_set(err, ENOMEM, "no memory for a sandbox's environment");
	if (r < 0) {
		/* What the rules refuse is well-formed but cannot be done: 422. */
		if (err && r == -EINVAL)
			err->code = EPROTO;
		start_free(start);
		return NULL;
	}
	return start;
}

/*
 * While the host has plenty everybody may take. Of its last fifth an organisation may take only up to its even share of
 * the whole among those that have sandboxes, so that one cannot shut the others out.
 */
static int check_share(struct sandboxes *s, const char *org, uint64_t more, struct error *err)
{
	uint64_t own = more, sum = more;
	size_t others = 0, count;
	struct box **all = box_all(s, &count);

	for (size_t i = 0; all && i < count; i++) {
		uint64_t bytes = (uint64_t)all[i]->row.memory_mib << 20;
		bool first = true;
		sum += bytes;
		if (strcmp(all[i]->org, org) == 0)
			own += bytes;
		for (size_t k = 0; k < i && first; k++)
			first = strcmp(all[k]->org, all[i]->org) != 0;
		others += first && strcmp(all[i]->org, org) != 0;
	}
	for (size_t i = 0; all && i < count; i++)
		box_put(all[i]);
	free(all);
	if (others == 0 || sum <= s->budget / 5 * 4 || own <= s->budget / (others + 1))
		return 0;
	return error_set(err, EAGAIN, "the host is nearly full and the organisation has its share of it");
}

static int admit(struct start *start, const struct sandbox_actor *actor, const struct sandbox_spec *spec,
		 struct store_sandbox *row, struct error *err)
{
	struct sandboxes *s = start->s;

	if (s->closing)
		return error_set(err, EAGAIN, "the service is shutting down");
	int r = disk_room(&s->disk, 0, err);
	if (r == 0)
		r = check_share(s, actor->org->id, (uint64_t)start->shape.memory_mib << 20, err);
	if (r < 0)
		return r;
	if (start->disk < 0)
		start->machine = pool_take(s, &start->shape);
	if (start->machine)
		snprintf(row->id, sizeof(row->id), "%s", start->machine->id);
	else
		str_random_id(row->id, "sbx");
	if (spec->named)
		spec->named(row->id, spec->context);
	r = add_row(s, actor, row, spec->wait, err);
	if (r == 0) {
		start->box = box_new(s, row);
		if (!start->box)
			r = error_set(err, ENOMEM, "no memory for a sandbox");
	}
	if (r < 0 && start->machine) {
		pool_give(s, start->machine);
		start->machine = NULL;
	}
	return r;
}

int spec_start(struct sandboxes *s, const struct sandbox_actor *actor, const struct sandbox_spec *spec, int disk,
	       uint32_t disk_gb, const char *snapshot, struct sandbox_info *info, struct error *err)
{
	struct shape shape;
	struct image image;
	struct store_sandbox row;
	struct error local = { 0 };

	err = err ? err : &local;
	int r = spec_check(s, actor, spec, &shape, &image, &row, err);
	if (r < 0)
		return r;
	snprintf(row.snapshot, sizeof(row.snapshot), "%s", snapshot ? snapshot : "");
	struct start *start = start_new(s, spec, &shape, &image, disk, disk_gb, err);
	image_free(&image);
	r = start ? admit(start, actor, spec, &row, err) : -err->code;
	store_sandbox_free(&row);
	if (r < 0) {
		start_free(start);
		return r;
	}

	struct box *box = box_get(start->box);
	box_publish(box);
	if (spec->wait) {
		r = run_start(start, actor, err);
	} else {
		r = start_in_background(start, err);
		if (r < 0) {
			machine_stop(start->machine);
			box_end(box, "host_error", "the sandbox could not be started");
			(void)box_wait_gone(box, 10000);
		}
	}
	if (spec->wait || r < 0)
		start_free(start);
	if (r == 0 && info_fill(box, info) < 0)
		r = error_set(err, ENOMEM, "no memory for an answer");
	box_put(box);
	return r;
}

int sandbox_create(struct sandboxes *s, const struct sandbox_actor *actor, const struct sandbox_spec *spec,
		   struct sandbox_info *info, struct error *err)
{
	return spec_start(s, actor, spec, -1, 0, NULL, info, err);
}
