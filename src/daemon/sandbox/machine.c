#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

#define STOP_MS 30000

/* ---- memory ---- */

int budget_take(struct sandboxes *s, uint64_t bytes, struct error *err)
{
	pthread_mutex_lock(&s->budget_lock);
	bool fits = s->committed + bytes <= s->budget;
	if (fits)
		s->committed += bytes;
	pthread_mutex_unlock(&s->budget_lock);
	return fits ? 0 : error_set(err, EAGAIN, "the host has no memory left for another sandbox of this size");
}

void budget_give(struct sandboxes *s, uint64_t bytes)
{
	pthread_mutex_lock(&s->budget_lock);
	s->committed -= bytes < s->committed ? bytes : s->committed;
	pthread_mutex_unlock(&s->budget_lock);
}

/* A sandbox that somebody waits for goes before machines that wait for somebody. */
static int take_memory(struct sandboxes *s, struct machine *m, struct error *err)
{
	uint64_t bytes = ((uint64_t)m->shape.memory_mib + engine_overhead_mib(&s->config.engine)) << 20;
	int r;

	do
		r = budget_take(s, bytes, err);
	while (r < 0 && pool_shrink(s));
	if (r == 0)
		m->committed = bytes;
	return r;
}

/* ---- life ---- */

static void vm_ended(struct vm *vm, void *context)
{
	struct machine *m = context;
	(void)vm;

	pthread_mutex_lock(&m->lock);
	m->has_ended = true;
	void (*tell)(struct machine *, void *) = m->ended;
	void *whom = m->context;
	m->ended = NULL;
	pthread_mutex_unlock(&m->lock);
	if (tell)
		tell(m, whom);
}

void machine_own(struct machine *m, void (*ended)(struct machine *machine, void *context), void *context)
{
	pthread_mutex_lock(&m->lock);
	bool already = m->has_ended;
	m->ended = already ? NULL : ended;
	m->context = context;
	pthread_mutex_unlock(&m->lock);
	if (already && ended)
		ended(m, context);
}

static struct machine *machine_new(struct sandboxes *s, const struct shape *shape, const char *id)
{
	struct machine *m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->s = s;
	m->shape = *shape;
	m->scratch = -1;
	m->slot.number = LAUNCHER_NO_SLOT;
	m->started_ms = time_mono_ms();
	pthread_mutex_init(&m->lock, NULL);
	if (id)
		snprintf(m->id, sizeof(m->id), "%s", id);
	else
		str_random_id(m->id, "sbx");
	return m;
}

void machine_stop(struct machine *m)
{
	if (!m)
		return;
	struct sandboxes *s = m->s;

	machine_own(m, NULL, NULL);
	if (m->vm) {
		vm_kill(m->vm, "stopped by the host");
		if (vm_wait(m->vm, STOP_MS) < 0) {
			/* Its slot and disk are still in use, and its end would find us freed: leave all of it. */
			log_error("vm_does_not_end", "id", m->id);
			return;
		}
		vm_put(m->vm);
	}
	if (m->attached)
		net_service_detach(s->config.net, m->slot.number);
	if (m->slot.number != LAUNCHER_NO_SLOT)
		netpool_give(&s->netpool, &m->slot);
	fd_close(&m->scratch);
	if (!m->keep_scratch)
		disk_remove(&s->disk, FOLDER_SCRATCH, m->id);
	budget_give(s, m->committed);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

/* ---- start ---- */

struct parts {
	struct image image;
	struct guest_kernel guest;
	struct template template;
	int paused_state;
};

static void parts_close(struct parts *p)
{
	image_free(&p->image);
	guest_kernel_close(&p->guest);
	template_close(&p->template);
	fd_close(&p->paused_state);
}

static int open_base(struct sandboxes *s, const struct shape *shape, struct parts *p, struct error *err)
{
	*p = (struct parts){
		.image = { .fd = -1 },
		.guest = { .kernel = -1, .initramfs = -1 },
		.template = { -1, -1, -1, 0 },
		.paused_state = -1,
	};
	int r = images_find(s->config.images, shape->image, shape->digest, &p->image, err);
	if (r == 0)
		r = images_guest(s->config.images, &p->guest, err);
	return r;
}

static int scratch_fill(struct machine *m, struct error *err)
{
	if (m->fill_from >= 0)
		return disk_copy(&m->s->disk, m->fill_from, m->scratch, err);
	return disk_format(&m->s->disk, m->scratch, m->shape.storage_gb, err);
}

/* The process needs tens of milliseconds before it looks at its network or its disk. */
static int while_it_starts(void *context, struct error *err)
{
	struct machine *m = context;
	int r = 0;

	if (m->rules) {
		r = net_service_attach(m->s->config.net, m->slot.number, &m->slot.net, m->rules, err);
		m->attached = r == 0;
	}
	return r == 0 && m->fills ? scratch_fill(m, err) : r;
}

static int start_vm(struct machine *m, const struct parts *p, int ram, bool shared, int state, int scratch,
		    uint64_t scratch_bytes, uint32_t first_stream, struct error *err)
{
	struct vm_spec spec = {
		.id = m->id,
		/* Until machine_settle all of its vCPUs may run: what is being done is the host's work. */
		.cpu_units = engine_vcpus(m->shape.cpu_units) * 4,
		.memory_mib = m->shape.memory_mib,
		.kernel = p->guest.kernel,
		.initramfs = p->guest.initramfs,
		.base = p->image.fd,
		.scratch = scratch,
		.scratch_bytes = scratch_bytes,
		.acpi = p->guest.acpi,
		.cmdline = p->guest.cmdline,
		.ram = ram,
		.ram_shared = shared,
		.state = state,
		.slot = m->slot.number,
		.first_stream = first_stream,
		.meanwhile = while_it_starts,
		.meanwhile_context = m,
	};
	memcpy(spec.mac, m->slot.net.mac, sizeof(spec.mac));
	return vm_start(&m->s->config.engine, &spec, vm_ended, m, &m->vm, err);
}

int guest_request(struct vm *vm, enum guest_type type, const struct tlv_writer *fields, int timeout_ms,
		  struct error *err)
{
	int r = link_request(vm_link(vm), type, fields, timeout_ms, NULL, NULL, err);

	if (r < 0 && err)
		err->code = r == -ECONNRESET ? EBUSY : EIO;
	return r == -ECONNRESET ? -EBUSY : r < 0 ? -EIO : 0;
}

static int setup(struct machine *m, struct error *err)
{
	unsigned char fields[16];
	struct tlv_writer w;

	tlv_begin(&w, fields, sizeof(fields));
	tlv_u8(&w, GUEST_TAG_FRESH, 0);
	return guest_request(m->vm, GUEST_SETUP, &w, GUEST_MS, err);
}

int host_error(int r, struct error *err)
{
	switch (-r) {
	case 0:
	case EINVAL:
	case EBUSY:
	case EPROTO:
	case EDQUOT:
	case EAGAIN:
	case ENOSPC:
	case ETIMEDOUT:
	case EKEYREVOKED: return r;
	default:
		if (err)
			err->code = EIO;
		return -EIO;
	}
}

/* What both ways of starting end with. The console often knows why. */
static int started(struct machine *m, int r, struct machine **out, struct error *err)
{
	char tail[1024] = "";

	if (r == 0) {
		*out = m;
		return 0;
	}
	if (m->vm)
		tail[vm_console(m->vm, tail, sizeof(tail) - 1)] = '\0';
	log_warn("machine_failed", "id", m->id, "error", err ? err->text : "", "console", tail[0] ? tail : NULL);
	machine_stop(m);
	return host_error(r, err);
}

int machine_boot(struct sandboxes *s, const struct shape *shape, int ram, int scratch, uint64_t scratch_bytes,
		 struct machine **out, struct error *err)
{
	enum guest_phase phase;
	struct parts p;
	struct machine *m = machine_new(s, shape, NULL);

	if (!m)
		return error_set(err, ENOMEM, "no memory for a VM");
	m->keep_scratch = true;
	int r = open_base(s, shape, &p, err);
	if (r == 0)
		r = take_memory(s, m, err);
	if (r == 0)
		r = netpool_take(&s->netpool, &m->slot, err);
	if (r == 0)
		r = start_vm(m, &p, ram, true, -1, scratch, scratch_bytes, 1, err);
	if (r == 0)
		r = link_hello(vm_link(m->vm), false, BOOT_TRY_MS, &phase, err);
	parts_close(&p);
	return started(m, r, out, err);
}

/*
 * The scratch disk of a new machine, of its full size; its content comes while the process starts: a copy of the
 * snapshot's or of the fresh template's, or a blank file system. When it resumes the disk is there already.
 */
static int scratch_open(struct sandboxes *s, struct machine *m, const struct machine_source *source,
			const struct template *t, struct error *err)
{
	uint64_t bytes = (uint64_t)m->shape.storage_gb << 30;

	if (source->paused) {
		m->scratch = openat(s->disk.folders[FOLDER_SCRATCH], m->id, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
		return m->scratch < 0 ? error_errno(err, errno, "open the sandbox's disk") : 0;
	}
	int r = disk_room(&s->disk, source->disk >= 0 ? disk_used(source->disk) : 0, err);
	if (r == 0)
		r = disk_create(&s->disk, FOLDER_SCRATCH, m->id, &m->scratch, err);
	if (r == 0 && ftruncate(m->scratch, (off_t)bytes) < 0)
		r = error_errno(err, errno, "size the sandbox's disk");
	m->fills = true;
	m->fill_from = source->disk >= 0 ? source->disk : t->scratch;
	return r;
}

static int paused_open(struct sandboxes *s, const char *name, int *fd, struct error *err)
{
	char path[STORE_ID_MAX + 8];
	snprintf(path, sizeof(path), "%s/state", name);
	*fd = fd_open_beneath(s->disk.folders[FOLDER_PAUSED], path, O_RDONLY | O_NONBLOCK, 0);
	return *fd < 0 ? error_errno(err, -*fd, "open the paused sandbox's state") : 0;
}

static int load_and_run(struct machine *m, const struct parts *p, const struct machine_source *source, bool fresh,
			struct error *err)
{
	uint64_t bytes = (uint64_t)m->shape.storage_gb << 30;
	uint32_t from_gb = fresh ? p->template.storage_gb : source->disk_gb ? source->disk_gb : m->shape.storage_gb;
	bool paused = source->paused != NULL;
	enum guest_phase phase;

	int r = start_vm(m, p, paused ? -1 : p->template.ram, false, paused ? p->paused_state : p->template.state,
			 m->scratch, bytes, source->first_stream, err);
	if (r == 0 && !paused && (!fresh || m->shape.storage_gb != from_gb))
		r = vm_resize_scratch(m->vm, bytes, err);
	if (r == 0 && paused) {
		/* From its first instruction on the disk moves on without the saved state. */
		(void)FAULT("resume-loaded");
		paused_remove(m->s, source->paused);
	}
	if (r == 0)
		r = vm_run(m->vm, err);
	if (r == 0)
		r = link_hello(vm_link(m->vm), paused, GUEST_MS, &phase, err);
	if (r == 0 && !fresh && !paused)
		r = setup(m, err);
	if (r == 0 && m->shape.storage_gb != from_gb && !paused)
		r = guest_request(m->vm, GUEST_GROW, NULL, GUEST_MS, err);
	return r;
}

int machine_start(struct sandboxes *s, const struct shape *shape, const struct machine_source *source,
		  struct machine **out, struct error *err)
{
	/* A fresh template's disk can grow but not shrink. */
	bool fresh = source->disk < 0 && !source->paused && shape->storage_gb >= DEFAULT_STORAGE_GB;
	struct parts p;
	struct machine *m = machine_new(s, shape, source->id);

	if (!m)
		return error_set(err, ENOMEM, "no memory for a sandbox");
	m->keep_scratch = source->paused != NULL;
	m->rules = source->rules ? source->rules : s->default_rules;
	int r = open_base(s, shape, &p, err);
	if (r == 0)
		r = take_memory(s, m, err);
	if (r == 0 && source->paused)
		r = paused_open(s, source->paused, &p.paused_state, err);
	else if (r == 0)
		r = template_get(s, shape, fresh ? TEMPLATE_FRESH : TEMPLATE_BARE, &p.template, err);
	if (r == 0)
		r = scratch_open(s, m, source, &p.template, err);
	if (r == 0)
		r = netpool_take(&s->netpool, &m->slot, err);
	if (r == 0 && FAULT("machine-start") < 0)
		r = error_set(err, EIO, "injected: machine-start");
	if (r == 0)
		r = load_and_run(m, &p, source, fresh, err);
	m->rules = NULL;
	m->fills = false;
	parts_close(&p);
	keeper_ask(s);
	return started(m, r, out, err);
}

/* ---- identity ---- */

static void put_identity(struct tlv_writer *w, const struct personality *p)
{
	unsigned char entropy[128], id[32];

	if (getrandom(entropy, sizeof(entropy), 0) != (ssize_t)sizeof(entropy))
		abort();
	/* The machine-id follows from the sandbox's id, so that it is the same after a resume; the boot id is new. */
	crypto_generichash(id, sizeof(id), (const unsigned char *)p->sandbox_id, strlen(p->sandbox_id),
			   (const unsigned char *)"akira machine-id", 16);
	tlv_bytes(w, GUEST_TAG_ENTROPY, entropy, 64);
	tlv_u64(w, GUEST_TAG_WALL_MS, (uint64_t)time_wall_ms());
	tlv_text(w, GUEST_TAG_HOSTNAME, p->hostname);
	tlv_bytes(w, GUEST_TAG_MACHINE_ID, id, 16);
	tlv_bytes(w, GUEST_TAG_BOOT_ID, entropy + 64, 16);
	sodium_memzero(entropy, sizeof(entropy));
}

static void put_network(struct tlv_writer *w, const struct launcher_net *net)
{
	tlv_u32(w, GUEST_TAG_ADDRESS, net->guest_address);
	tlv_u32(w, GUEST_TAG_GATEWAY, net->gateway);
	tlv_u32(w, GUEST_TAG_PREFIX, net->prefix);
	tlv_u32(w, GUEST_TAG_MTU, net->mtu);
	tlv_u32(w, GUEST_TAG_DNS, net->gateway);
}

int machine_personalise(struct machine *m, const struct personality *p, struct error *err)
{
	_cleanup_free_ unsigned char *fields = malloc(GUEST_PAYLOAD_MAX);
	struct tlv_writer w;

	if (!fields)
		return error_set(err, ENOMEM, "no memory for a sandbox's settings");
	tlv_begin(&w, fields, GUEST_PAYLOAD_MAX);
	put_identity(&w, p);
	put_network(&w, &m->slot.net);
	tlv_text(&w, GUEST_TAG_WORKDIR, p->workdir);
	for (char *const *e = p->env; e && *e; e++)
		tlv_text(&w, GUEST_TAG_ENV, *e);
	if (w.failed)
		return error_set(err, EINVAL, "env_vars: too long together (at most 60 KiB with the image's own)");
	int r = guest_request(m->vm, GUEST_PERSONALISE, &w, GUEST_MS, err);
	sodium_memzero(fields, GUEST_PAYLOAD_MAX);
	return r;
}

int machine_rehearse(struct machine *m, struct error *err)
{
	static char *const env[] = { NULL };
	struct personality p = { .hostname = "sandbox", .workdir = "/", .env = env, .sandbox_id = m->id };
	unsigned char fields[256];
	struct tlv_writer w;
	struct link_stream *stream = NULL;
	struct link_frame frame;

	int r = machine_personalise(m, &p, err);
	if (r < 0)
		return r;
	tlv_begin(&w, fields, sizeof(fields));
	tlv_text(&w, GUEST_TAG_ARG, "true; /bin/echo >/dev/null");
	tlv_u8(&w, GUEST_TAG_SHELL, 1);
	tlv_u8(&w, GUEST_TAG_STDIN, 0);
	r = link_open(vm_link(m->vm), GUEST_OPEN_EXEC, &w, GUEST_MS, &stream, NULL, NULL, err);
	int64_t deadline = time_mono_ms() + GUEST_MS;
	while (r == 0) {
		r = link_next(stream, time_left_ms(deadline), -1, &frame, err);
		if (r == 0)
			r = error_set(err, ETIMEDOUT, "the rehearsal did not end");
		else if (r > 0)
			r = frame.type == GUEST_EXIT || frame.type == GUEST_ERROR;
	}
	link_close(stream);
	return r < 0 ? r : 0;
}

static int set_quota(struct sandboxes *s, const char *id, uint32_t units, uint32_t memory_mib, struct error *err)
{
	uint64_t bytes = ((uint64_t)memory_mib + engine_overhead_mib(&s->config.engine)) << 20;
	return launcher_vm_limits(s->config.launcher, id, units, bytes, err);
}

int machine_settle(struct machine *m, uint32_t cpu_units, struct error *err)
{
	m->shape.cpu_units = cpu_units;
	return set_quota(m->s, m->id, cpu_units, m->shape.memory_mib, err);
}

void box_boost(struct box *box, bool on)
{
	uint32_t units = box->row.cpu_units;
	/* One processor for the host's work: a guest that keeps all of its vCPUs busy would else be throttled for it. */
	uint32_t boosted = engine_vcpus(units) * 4 + 4;

	(void)set_quota(box->s, box->id, on ? boosted : units, box->row.memory_mib, NULL);
}
