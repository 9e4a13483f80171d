/* Figures of a running sandbox. Limits and bills use the host's; of the guest's only its idea of used memory is shown. */
#include <errno.h>
#include <string.h>
#include <stdio.h>
#include <time.h>

#include "base/log.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

static struct vm *running_vm(struct box *box)
{
	pthread_mutex_lock(&box->lock);
	struct vm *vm = box->machine ? vm_get(box->machine->vm) : NULL;
	pthread_mutex_unlock(&box->lock);
	return vm;
}

void box_unstall(struct box *box)
{
	struct vm *vm = running_vm(box);

	if (vm && vm_unstall(vm))
		log_warn("vm_had_no_space", "sandbox", box->id, "effect", "its write is tried again");
	vm_put(vm);
}

/* Used memory as the guest's kernel counts it, held to what it was granted. */
static uint64_t guest_memory(struct vm *vm, uint64_t granted)
{
	unsigned char reply[GUEST_PAYLOAD_MAX];
	size_t size = 0;
	struct tlv_reader reader;
	struct tlv_field field;
	uint64_t used = 0;

	if (link_request(vm_link(vm), GUEST_METRICS, NULL, 2000, reply, &size, NULL) < 0)
		return 0;
	tlv_read(&reader, reply, size);
	while (tlv_next(&reader, &field) > 0)
		if (field.tag == GUEST_TAG_MEM_USED)
			(void)tlv_get_u64(&field, &used);
	return used < granted ? used : granted;
}

static double percent(uint64_t cpu_us, int64_t elapsed_ms, uint32_t units)
{
	if (elapsed_ms <= 0)
		return 0;
	double p = (double)cpu_us / 10.0 / (double)elapsed_ms / (units / 4.0);
	return p > 100 ? 100 : p;
}

void box_sample(struct box *box, int64_t now_ms)
{
	struct vm *vm = running_vm(box);
	struct launcher_stats stats;
	if (!vm)
		return;
	if (vm_stats(vm, &stats, NULL) < 0) {
		vm_put(vm);
		return;
	}
	uint64_t granted = (uint64_t)box->row.memory_mib << 20;
	uint64_t memory = guest_memory(vm, granted);
	vm_put(vm);

	pthread_mutex_lock(&box->lock);
	uint64_t cpu = stats.cpu_us >= box->sample_cpu_us ? stats.cpu_us - box->sample_cpu_us : 0;
	struct store_sample sample = {
		.when_ms = time_wall_ms(),
		.cpu_percent = box->sample_ms ? percent(cpu, now_ms - box->sample_ms, box->row.cpu_units) : 0,
		.memory_bytes = memory                         ? memory
				: stats.memory_bytes < granted ? stats.memory_bytes
							       : granted,
	};
	box->cpu_percent = sample.cpu_percent;
	box->memory_bytes = sample.memory_bytes;
	box->sample_cpu_us = stats.cpu_us;
	box->sample_ms = now_ms;
	pthread_mutex_unlock(&box->lock);
	(void)store_sample_add(box->s->store, box->id, &sample, NULL);
}

int sandbox_metrics(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, int64_t from_ms,
		    int64_t to_ms, struct sandbox_metrics *metrics, struct error *err)
{
	struct store_sandbox row;

	*metrics = (struct sandbox_metrics){ 0 };
	int r = store_sandbox_get(s->store, actor->org->id, id, &row, err);
	if (r < 0)
		return r == -ENOENT ? error_set(err, ENOENT, "there is no sandbox %.40s", id) : r;
	metrics->memory_total_bytes = (uint64_t)row.memory_mib << 20;
	store_sandbox_free(&row);

	struct box *box = box_find(s, actor->org->id, id);
	if (box) {
		/* Looking is no use of the sandbox: it neither resumes it nor keeps it from being idle. */
		pthread_mutex_lock(&box->lock);
		metrics->current = box->machine && box->row.status == SANDBOX_RUNNING;
		bool stale = time_mono_ms() - box->sample_ms > 1000;
		pthread_mutex_unlock(&box->lock);
		if (metrics->current && stale)
			box_sample(box, time_mono_ms());
		pthread_mutex_lock(&box->lock);
		metrics->cpu_percent = box->cpu_percent;
		metrics->memory_bytes = box->memory_bytes;
		pthread_mutex_unlock(&box->lock);
		box_put(box);
	}
	return store_sample_list(s->store, id, from_ms, to_ms, 1000, &metrics->history, &metrics->history_count, err);
}

/* ---- usage ---- */

static uint32_t slot_of(struct box *box)
{
	pthread_mutex_lock(&box->lock);
	uint32_t slot = box->machine ? box->machine->slot.number : LAUNCHER_NO_SLOT;
	pthread_mutex_unlock(&box->lock);
	return slot;
}

/* Somebody on the host had altered the sandbox's rules, and they are whole again: that is a matter for the audit log. */
static void tell_repaired(struct box *box)
{
	struct record record = box_record(box, NULL, "network.rules_restored");
	struct error err = { 0 };

	int r = store_begin(box->s->store, &err);
	if (r == 0)
		r = record_end(box->s->store, &record, 0, &err);
	log_warn("network_rules_restored", "sandbox", box->id, "record_error", r < 0 ? err.text : NULL);
}

int box_counters(struct box *box, struct policy_counters *counters)
{
	uint32_t slot = slot_of(box);

	if (slot == LAUNCHER_NO_SLOT)
		return -ENOENT;
	int r = launcher_net_counters(box->s->config.launcher, slot, counters, NULL);
	/* It may have ended while we asked, and the slot be another's. */
	if (r == 0 && slot_of(box) != slot)
		return -ENOENT;
	if (r == 0 && counters->repaired)
		tell_repaired(box);
	return r;
}

void box_last_stats(struct box *box, struct vm *vm)
{
	struct launcher_stats stats;

	if (vm_stats(vm, &stats, NULL) < 0)
		return;
	pthread_mutex_lock(&box->lock);
	box->last_cpu_us = stats.cpu_us;
	pthread_mutex_unlock(&box->lock);
}

static uint64_t refused_packets(const struct policy_counters *c)
{
	return c->refused_private + c->refused_policy + c->refused_spoofed + c->refused_limited;
}

void box_book_usage(struct box *box, int64_t now_wall_ms)
{
	struct store_usage more = { 0 };
	struct policy_counters net = { 0 };
	struct launcher_stats stats = { 0 };
	struct vm *vm = running_vm(box);
	struct error err = { 0 };

	if (vm && vm_stats(vm, &stats, NULL) < 0)
		stats.cpu_us = box->last_cpu_us; /* its process has gone */
	bool has_net = vm && box_counters(box, &net) == 0;
	vm_put(vm);

	pthread_mutex_lock(&box->lock);
	int64_t elapsed = now_wall_ms - (int64_t)box->used_until_ms;
	/* The wall clock may jump; nobody is billed for that. */
	if (elapsed < 0 || elapsed > 600000)
		elapsed = 0;
	box->used_until_ms = (uint64_t)now_wall_ms;
	if (!vm)
		elapsed = 0; /* paused: it costs disk alone */
	more.creates = box->unbooked_creates;
	more.execs = box->unbooked_execs;
	box->unbooked_creates = box->unbooked_execs = 0;
	more.sandbox_s = (double)elapsed / 1000;
	more.vcpu_s = more.sandbox_s * box->row.cpu_units / 4;
	if (stats.cpu_us > box->cpu_us_before) {
		more.cpu_s = (double)(stats.cpu_us - box->cpu_us_before) / 1e6;
		box->cpu_us_before = stats.cpu_us;
	}
	uint64_t refused = 0;
	if (has_net) {
		uint64_t now = refused_packets(&net), before = refused_packets(&box->counted);
		refused = now > before ? now - before : 0;
		more.bytes_in = net.bytes_in > box->counted.bytes_in ? net.bytes_in - box->counted.bytes_in : 0;
		more.bytes_out = net.bytes_out > box->counted.bytes_out ? net.bytes_out - box->counted.bytes_out : 0;
		box->counted = net;
	}
	pthread_mutex_unlock(&box->lock);

	snprintf(more.org, sizeof(more.org), "%s", box->org);
	time_t seconds = (time_t)(now_wall_ms / 1000);
	struct tm parts;
	gmtime_r(&seconds, &parts);
	strftime(more.day, sizeof(more.day), "%Y-%m-%d", &parts);
	if (store_usage_add(box->s->store, &more, &err) < 0)
		log_warn("usage_not_stored", "sandbox", box->id, "error", err.text);
	org_list_add(&box->s->orgs, &more, refused);
}
