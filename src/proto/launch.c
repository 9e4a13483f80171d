#include "proto/launch.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "proto/tlv.h"
#include "proto/wire.h"

enum tag {
	TAG_ID = 1,
	TAG_SLOT,
	TAG_QEMU,
	TAG_RUN_DIR,
	TAG_DATA_DIR,
	TAG_UPLINK,
	TAG_USER,
	TAG_GROUP,
	TAG_UID_FIRST,
	TAG_UID_COUNT,
	TAG_NET_BASE,
	TAG_KVM,
	TAG_OPEN,
	TAG_DNS,
	TAG_ALLOW,
	TAG_DENY,
	TAG_BANDWIDTH,
	TAG_PACKETS,
	TAG_FLOWS_NEW,
	TAG_FLOWS_MAX,
	TAG_ADDRESS,
	TAG_TTL,
	TAG_QUARTERS,
	TAG_MEMORY,
	TAG_ARG,
	TAG_FILE_READ,
	TAG_FILE_WRITE,
	TAG_FDS,
	TAG_FILE_BYTES,
	TAG_IO_BYTES,
	TAG_IO_OPS,
	TAG_CODE = 100,
	TAG_TEXT,
	TAG_SWEPT,
	TAG_PID,
	TAG_GUEST,
	TAG_GATEWAY,
	TAG_HOST,
	TAG_PREFIX,
	TAG_MTU,
	TAG_MAC,
	TAG_COUNTER,
	TAG_REPAIRED,
	TAG_CPU,
	TAG_OOM,
	TAG_PIDS,
	TAGS_END
};
static_assert(TAGS_END <= 128, "seen_once keeps a bit for each tag");

#define CIDR_SIZE 5

/* Which type may bring which field at all: a field in the wrong message is malformed, not ignored. */
static const struct {
	uint8_t tag, types[3];
	bool many;
} fields[] = {
	{ TAG_ID, { LAUNCH_VM_START, LAUNCH_VM_KILL, 0 } },
	{ TAG_ID, { LAUNCH_VM_LIMITS, LAUNCH_VM_STATS, 0 } },
	{ TAG_SLOT, { LAUNCH_NET_MAKE, LAUNCH_NET_POLICY, LAUNCH_NET_PIN } },
	{ TAG_SLOT, { LAUNCH_NET_COUNTERS, LAUNCH_NET_RESET, LAUNCH_NET_DESTROY } },
	{ TAG_SLOT, { LAUNCH_VM_START } },
	{ TAG_QEMU, { LAUNCH_CONFIG } },
	{ TAG_RUN_DIR, { LAUNCH_CONFIG } },
	{ TAG_DATA_DIR, { LAUNCH_CONFIG } },
	{ TAG_UPLINK, { LAUNCH_CONFIG } },
	{ TAG_USER, { LAUNCH_CONFIG } },
	{ TAG_GROUP, { LAUNCH_CONFIG } },
	{ TAG_UID_FIRST, { LAUNCH_CONFIG } },
	{ TAG_UID_COUNT, { LAUNCH_CONFIG } },
	{ TAG_NET_BASE, { LAUNCH_CONFIG } },
	{ TAG_KVM, { LAUNCH_CONFIG } },
	{ TAG_IO_BYTES, { LAUNCH_CONFIG } },
	{ TAG_IO_OPS, { LAUNCH_CONFIG } },
	{ TAG_OPEN, { LAUNCH_NET_POLICY } },
	{ TAG_DNS, { LAUNCH_NET_POLICY } },
	{ TAG_ALLOW, { LAUNCH_NET_POLICY }, true },
	{ TAG_DENY, { LAUNCH_NET_POLICY }, true },
	{ TAG_BANDWIDTH, { LAUNCH_NET_POLICY } },
	{ TAG_PACKETS, { LAUNCH_NET_POLICY } },
	{ TAG_FLOWS_NEW, { LAUNCH_NET_POLICY } },
	{ TAG_FLOWS_MAX, { LAUNCH_NET_POLICY } },
	{ TAG_ADDRESS, { LAUNCH_NET_PIN } },
	{ TAG_TTL, { LAUNCH_NET_PIN } },
	{ TAG_QUARTERS, { LAUNCH_VM_START, LAUNCH_VM_LIMITS } },
	{ TAG_MEMORY, { LAUNCH_VM_START, LAUNCH_VM_LIMITS } },
	{ TAG_ARG, { LAUNCH_VM_START }, true },
	{ TAG_FILE_READ, { LAUNCH_VM_START }, true },
	{ TAG_FILE_WRITE, { LAUNCH_VM_START }, true },
	{ TAG_FDS, { LAUNCH_VM_START } },
	{ TAG_FILE_BYTES, { LAUNCH_VM_START } },
};

static void begin(struct tlv_writer *w, unsigned char *data, size_t room, uint16_t type, uint32_t serial)
{
	data[0] = LAUNCH_VERSION;
	data[1] = 0;
	wire_put16(data + 2, type);
	wire_put32(data + 4, serial);
	tlv_begin(w, data + LAUNCH_HEADER_SIZE, room - LAUNCH_HEADER_SIZE);
}

static int finish(const struct tlv_writer *w)
{
	return w->failed ? -EMSGSIZE : (int)(w->size + LAUNCH_HEADER_SIZE);
}

int launch_add_arg(struct launch_vm *vm, const char *arg)
{
	size_t size = strlen(arg) + 1;
	if (vm->arg_count >= LAUNCH_ARGS || size > LAUNCH_ARG_SIZE + 1 || size > LAUNCH_ARGS_SIZE - vm->text_size)
		return -E2BIG;
	memcpy(vm->text + vm->text_size, arg, size);
	vm->args[vm->arg_count++] = vm->text + vm->text_size;
	vm->args[vm->arg_count] = NULL;
	vm->text_size += (uint32_t)size;
	return 0;
}

bool launch_id_ok(const char *id)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
	size_t length = strspn(id, allowed);
	return length >= 1 && length < LAUNCH_ID_SIZE && !id[length];
}

static bool file_name_ok(const char *name)
{
	size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789");
	return length >= 1 && length < LAUNCH_FILE_NAME_SIZE && !name[length];
}

static void put_config(struct tlv_writer *w, const struct launch_config *c)
{
	tlv_text(w, TAG_QEMU, c->qemu);
	tlv_text(w, TAG_RUN_DIR, c->run_dir);
	tlv_text(w, TAG_DATA_DIR, c->data_dir);
	tlv_text(w, TAG_UPLINK, c->uplink);
	tlv_u32(w, TAG_USER, c->user);
	tlv_u32(w, TAG_GROUP, c->group);
	tlv_u32(w, TAG_UID_FIRST, c->vm_uid_first);
	tlv_u32(w, TAG_UID_COUNT, c->vm_uid_count);
	tlv_u32(w, TAG_NET_BASE, c->net_base);
	tlv_u8(w, TAG_KVM, c->kvm);
	tlv_u64(w, TAG_IO_BYTES, c->io_bytes);
	tlv_u32(w, TAG_IO_OPS, c->io_ops);
}

static void put_cidrs(struct tlv_writer *w, uint16_t tag, const struct policy_cidr *cidrs, uint32_t count)
{
	for (uint32_t i = 0; i < count && i < POLICY_CIDRS_MAX; i++) {
		unsigned char value[CIDR_SIZE];
		wire_put32(value, cidrs[i].address);
		value[4] = cidrs[i].prefix;
		tlv_bytes(w, tag, value, sizeof value);
	}
}

static void put_policy(struct tlv_writer *w, const struct policy *p)
{
	tlv_u8(w, TAG_OPEN, p->open);
	tlv_u8(w, TAG_DNS, p->dns);
	put_cidrs(w, TAG_ALLOW, p->allow, p->allow_count);
	put_cidrs(w, TAG_DENY, p->deny, p->deny_count);
	tlv_u32(w, TAG_BANDWIDTH, p->bandwidth_kbps);
	tlv_u32(w, TAG_PACKETS, p->packets_per_s);
	tlv_u32(w, TAG_FLOWS_NEW, p->new_flows_per_s);
	tlv_u32(w, TAG_FLOWS_MAX, p->flows_max);
}

static void put_vm(struct tlv_writer *w, const struct launch_vm *vm)
{
	for (uint32_t i = 0; i < vm->arg_count; i++)
		tlv_text(w, TAG_ARG, vm->args[i]);
	for (uint32_t i = 0; i < vm->file_count; i++)
		tlv_text(w, vm->files[i].writable ? TAG_FILE_WRITE : TAG_FILE_READ, vm->files[i].name);
	tlv_u32(w, TAG_FDS, vm->fd_count);
	tlv_u32(w, TAG_SLOT, vm->slot);
	tlv_u32(w, TAG_QUARTERS, vm->cpu_quarters);
	tlv_u64(w, TAG_MEMORY, vm->memory_bytes);
	tlv_u64(w, TAG_FILE_BYTES, vm->file_bytes_max);
}

int launch_encode_request(const struct launch_request *request, void *data, size_t room)
{
	if (room < LAUNCH_HEADER_SIZE)
		return -EMSGSIZE;
	struct tlv_writer w;
	begin(&w, data, room, request->type, request->serial);
	if (request->type >= LAUNCH_VM_START)
		tlv_text(&w, TAG_ID, request->id);
	else if (request->type != LAUNCH_CONFIG)
		tlv_u32(&w, TAG_SLOT, request->slot);
	if (request->type == LAUNCH_CONFIG) {
		put_config(&w, &request->config);
	} else if (request->type == LAUNCH_NET_POLICY) {
		put_policy(&w, &request->policy);
	} else if (request->type == LAUNCH_NET_PIN) {
		tlv_u32(&w, TAG_ADDRESS, request->pin.address);
		tlv_u32(&w, TAG_TTL, request->pin.ttl);
	} else if (request->type == LAUNCH_VM_LIMITS) {
		tlv_u32(&w, TAG_QUARTERS, request->limits.cpu_quarters);
		tlv_u64(&w, TAG_MEMORY, request->limits.memory_bytes);
	} else if (request->type == LAUNCH_VM_START) {
		put_vm(&w, &request->vm);
	}
	return finish(&w);
}

/* ---- decoding ---- */

struct seen {
	uint64_t bits[2];
};

static bool seen(const struct seen *s, uint16_t tag)
{
	return s->bits[tag / 64] >> tag % 64 & 1;
}

static bool field_fits(struct seen *s, uint16_t type, uint16_t tag)
{
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
		if (fields[i].tag != tag)
			continue;
		for (size_t k = 0; k < 3; k++) {
			if (fields[i].types[k] != type)
				continue;
			if (seen(s, tag) && !fields[i].many)
				return false;
			s->bits[tag / 64] |= UINT64_C(1) << tag % 64;
			return true;
		}
	}
	return false;
}

static bool all_seen(const struct seen *s, uint16_t type)
{
	for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
		for (size_t k = 0; k < 3; k++)
			if (fields[i].types[k] == type && !fields[i].many && !seen(s, fields[i].tag))
				return false;
	return true;
}

static int get_bool(const struct tlv_field *f, bool *value)
{
	uint8_t byte;
	if (tlv_get_u8(f, &byte) < 0 || byte > 1)
		return -EBADMSG;
	*value = byte;
	return 0;
}

static int get_u32_in(const struct tlv_field *f, uint32_t min, uint32_t max, uint32_t *value)
{
	if (tlv_get_u32(f, value) < 0 || *value < min || *value > max)
		return -EBADMSG;
	return 0;
}

static int get_u64_in(const struct tlv_field *f, uint64_t min, uint64_t max, uint64_t *value)
{
	if (tlv_get_u64(f, value) < 0 || *value < min || *value > max)
		return -EBADMSG;
	return 0;
}

static int get_path(const struct tlv_field *f, char *to)
{
	if (tlv_get_text(f, to, LAUNCH_PATH_SIZE) < 0 || to[0] != '/')
		return -EBADMSG;
	return 0;
}

static int get_id(const struct tlv_field *f, char *to)
{
	if (tlv_get_text(f, to, LAUNCH_ID_SIZE) < 0 || !launch_id_ok(to))
		return -EBADMSG;
	return 0;
}

static int get_link(const struct tlv_field *f, char *to)
{
	if (tlv_get_text(f, to, LAUNCH_LINK_SIZE) < 0)
		return -EBADMSG;
	for (const char *p = to; *p; p++)
		if (*p <= ' ' || *p > '~' || *p == '/' || *p == '"')
			return -EBADMSG;
	return 0;
}

static int take_config(struct launch_config *c, const struct tlv_field *f)
{
	switch (f->tag) {
	case TAG_QEMU: return get_path(f, c->qemu);
	case TAG_RUN_DIR: return get_path(f, c->run_dir);
	case TAG_DATA_DIR: return get_path(f, c->data_dir);
	case TAG_UPLINK: return get_link(f, c->uplink);
	case TAG_USER: return get_u32_in(f, 0, INT32_MAX, &c->user);
	case TAG_GROUP: return get_u32_in(f, 0, INT32_MAX, &c->group);
	case TAG_UID_FIRST: return get_u32_in(f, 1, INT32_MAX - 65536, &c->vm_uid_first);
	case TAG_UID_COUNT: return get_u32_in(f, 1, 65536, &c->vm_uid_count);
	case TAG_NET_BASE: return get_u32_in(f, 0, UINT32_MAX, &c->net_base);
	case TAG_KVM: return get_bool(f, &c->kvm);
	case TAG_IO_BYTES: return get_u64_in(f, 0, LAUNCH_IO_BYTES_MAX, &c->io_bytes);
	case TAG_IO_OPS: return get_u32_in(f, 0, LAUNCH_IO_OPS_MAX, &c->io_ops);
	default: return -EBADMSG;
	}
}

static int take_cidr(const struct tlv_field *f, struct policy_cidr *list, uint32_t *count)
{
	if (f->size != CIDR_SIZE || *count >= POLICY_CIDRS_MAX)
		return -EBADMSG;
	struct policy_cidr cidr = { wire_get32(f->value), f->value[4] };
	if (cidr.prefix > 32 || (cidr.prefix < 32 && cidr.address & UINT32_MAX >> cidr.prefix))
		return -EBADMSG;
	list[(*count)++] = cidr;
	return 0;
}

static int take_policy(struct policy *p, const struct tlv_field *f)
{
	switch (f->tag) {
	case TAG_OPEN: return get_bool(f, &p->open);
	case TAG_DNS: return get_bool(f, &p->dns);
	case TAG_ALLOW: return take_cidr(f, p->allow, &p->allow_count);
	case TAG_DENY: return take_cidr(f, p->deny, &p->deny_count);
	case TAG_BANDWIDTH: return tlv_get_u32(f, &p->bandwidth_kbps);
	case TAG_PACKETS: return tlv_get_u32(f, &p->packets_per_s);
	case TAG_FLOWS_NEW: return tlv_get_u32(f, &p->new_flows_per_s);
	case TAG_FLOWS_MAX: return tlv_get_u32(f, &p->flows_max);
	default: return -EBADMSG;
	}
}

static int take_arg(struct launch_vm *vm, const struct tlv_field *f)
{
	char arg[LAUNCH_ARG_SIZE + 1];
	if (tlv_get_text(f, arg, sizeof arg) < 0)
		return -EBADMSG;
	return launch_add_arg(vm, arg) < 0 ? -EBADMSG : 0;
}

static int take_file(struct launch_vm *vm, const struct tlv_field *f)
{
	if (vm->file_count >= LAUNCH_FILES)
		return -EBADMSG;
	struct launch_file *file = &vm->files[vm->file_count];
	if (tlv_get_text(f, file->name, sizeof file->name) < 0 || !file_name_ok(file->name))
		return -EBADMSG;
	for (uint32_t i = 0; i < vm->file_count; i++)
		if (!strcmp(vm->files[i].name, file->name))
			return -EBADMSG;
	file->writable = f->tag == TAG_FILE_WRITE;
	vm->file_count++;
	return 0;
}

static int take_slot(const struct tlv_field *f, uint32_t *slot, bool may_be_none)
{
	if (tlv_get_u32(f, slot) < 0 || (*slot >= LAUNCH_SLOTS && !(may_be_none && *slot == LAUNCH_NO_SLOT)))
		return -EBADMSG;
	return 0;
}

static int take_vm(struct launch_vm *vm, const struct tlv_field *f)
{
	switch (f->tag) {
	case TAG_ARG: return take_arg(vm, f);
	case TAG_FILE_READ:
	case TAG_FILE_WRITE: return take_file(vm, f);
	case TAG_FDS: return get_u32_in(f, 0, LAUNCH_FDS, &vm->fd_count);
	case TAG_SLOT: return take_slot(f, &vm->slot, true);
	case TAG_QUARTERS: return get_u32_in(f, 1, LAUNCH_QUARTERS_MAX, &vm->cpu_quarters);
	case TAG_MEMORY: return get_u64_in(f, 1, LAUNCH_MEMORY_MAX, &vm->memory_bytes);
	case TAG_FILE_BYTES: return get_u64_in(f, 0, INT64_MAX, &vm->file_bytes_max);
	default: return -EBADMSG;
	}
}

static int take(struct launch_request *r, const struct tlv_field *f)
{
	if (f->tag == TAG_ID)
		return get_id(f, r->id);
	if (f->tag == TAG_SLOT && r->type != LAUNCH_VM_START)
		return take_slot(f, &r->slot, false);
	switch (r->type) {
	case LAUNCH_CONFIG: return take_config(&r->config, f);
	case LAUNCH_NET_POLICY: return take_policy(&r->policy, f);
	case LAUNCH_VM_START: return take_vm(&r->vm, f);
	case LAUNCH_NET_PIN:
		return f->tag == TAG_ADDRESS ? tlv_get_u32(f, &r->pin.address) : get_u32_in(f, 1, 86400, &r->pin.ttl);
	case LAUNCH_VM_LIMITS:
		return f->tag == TAG_QUARTERS ? get_u32_in(f, 1, LAUNCH_QUARTERS_MAX, &r->limits.cpu_quarters)
					      : get_u64_in(f, 1, LAUNCH_MEMORY_MAX, &r->limits.memory_bytes);
	default: return -EBADMSG;
	}
}

int launch_decode_request(struct launch_request *request, const void *data, size_t size, struct error *err)
{
	const unsigned char *bytes = data;
	memset(request, 0, sizeof *request);
	if (size < LAUNCH_HEADER_SIZE || size > LAUNCH_MESSAGE_MAX)
		return error_set(err, EBADMSG, "message of %zu bytes", size);
	request->type = wire_get16(bytes + 2);
	request->serial = wire_get32(bytes + 4);
	if (bytes[0] != LAUNCH_VERSION || bytes[1] || request->type < 1 || request->type >= LAUNCH_TYPES)
		return error_set(err, EBADMSG, "version %u, type %u", bytes[0], request->type);
	struct tlv_reader reader;
	struct tlv_field field;
	struct seen s = { 0 };
	int got;
	tlv_read(&reader, bytes + LAUNCH_HEADER_SIZE, size - LAUNCH_HEADER_SIZE);
	while ((got = tlv_next(&reader, &field)) > 0)
		if (field.tag >= TAGS_END || !field_fits(&s, request->type, field.tag) || take(request, &field) < 0)
			return error_set(err, EBADMSG, "type %u: field %u is not right", request->type, field.tag);
	if (got < 0 || !all_seen(&s, request->type))
		return error_set(err, EBADMSG, "type %u: fields are missing or cut", request->type);
	return 0;
}

size_t launch_request_fds(const struct launch_request *request)
{
	return request->type == LAUNCH_VM_START ? request->vm.file_count + request->vm.fd_count : 0;
}

/* ---- replies ---- */

static uint64_t *counter_at(struct policy_counters *c, size_t index)
{
	uint64_t *const at[] = { &c->bytes_out,       &c->bytes_in,       &c->packets_out,     &c->packets_in,
				 &c->refused_private, &c->refused_policy, &c->refused_spoofed, &c->refused_limited };
	return index < sizeof at / sizeof at[0] ? at[index] : NULL;
}
#define COUNTERS 8

static void put_counters(struct tlv_writer *w, const struct policy_counters *from)
{
	struct policy_counters c = *from;
	unsigned char value[COUNTERS * 8];
	for (size_t i = 0; i < COUNTERS; i++)
		wire_put64(value + i * 8, *counter_at(&c, i));
	tlv_bytes(w, TAG_COUNTER, value, sizeof value);
	tlv_u8(w, TAG_REPAIRED, c.repaired);
}

static void put_net(struct tlv_writer *w, const struct launch_net *n)
{
	tlv_u32(w, TAG_GUEST, n->guest_address);
	tlv_u32(w, TAG_GATEWAY, n->gateway);
	tlv_u32(w, TAG_HOST, n->host_address);
	tlv_u8(w, TAG_PREFIX, n->prefix);
	tlv_u16(w, TAG_MTU, n->mtu);
	tlv_bytes(w, TAG_MAC, n->mac, sizeof n->mac);
}

int launch_encode_reply(const struct launch_reply *reply, void *data, size_t room)
{
	if (room < LAUNCH_HEADER_SIZE)
		return -EMSGSIZE;
	struct tlv_writer w;
	begin(&w, data, room, (uint16_t)(reply->type | LAUNCH_REPLY), reply->serial);
	tlv_u32(&w, TAG_CODE, reply->code);
	if (reply->code) {
		tlv_text(&w, TAG_TEXT, reply->text);
	} else if (reply->type == LAUNCH_CONFIG) {
		tlv_u32(&w, TAG_SWEPT, reply->swept);
	} else if (reply->type == LAUNCH_NET_MAKE) {
		put_net(&w, &reply->net);
	} else if (reply->type == LAUNCH_NET_COUNTERS) {
		put_counters(&w, &reply->counters);
	} else if (reply->type == LAUNCH_VM_START) {
		tlv_u32(&w, TAG_PID, reply->pid);
	} else if (reply->type == LAUNCH_VM_STATS) {
		tlv_u64(&w, TAG_CPU, reply->stats.cpu_us);
		tlv_u64(&w, TAG_MEMORY, reply->stats.memory_bytes);
		tlv_u64(&w, TAG_OOM, reply->stats.oom_kills);
		tlv_u32(&w, TAG_PIDS, reply->stats.pids);
	}
	return finish(&w);
}

static int take_counters(struct policy_counters *c, const struct tlv_field *f)
{
	if (f->size != COUNTERS * 8)
		return -EBADMSG;
	for (size_t i = 0; i < COUNTERS; i++)
		*counter_at(c, i) = wire_get64(f->value + i * 8);
	return 0;
}

static int take_mac(struct launch_net *n, const struct tlv_field *f)
{
	if (f->size != sizeof n->mac)
		return -EBADMSG;
	memcpy(n->mac, f->value, sizeof n->mac);
	return 0;
}

static int take_result(struct launch_reply *r, const struct tlv_field *f)
{
	switch (r->type << 8 | f->tag) {
	case LAUNCH_CONFIG << 8 | TAG_SWEPT: return tlv_get_u32(f, &r->swept);
	case LAUNCH_NET_MAKE << 8 | TAG_GUEST: return tlv_get_u32(f, &r->net.guest_address);
	case LAUNCH_NET_MAKE << 8 | TAG_GATEWAY: return tlv_get_u32(f, &r->net.gateway);
	case LAUNCH_NET_MAKE << 8 | TAG_HOST: return tlv_get_u32(f, &r->net.host_address);
	case LAUNCH_NET_MAKE << 8 | TAG_PREFIX: return tlv_get_u8(f, &r->net.prefix);
	case LAUNCH_NET_MAKE << 8 | TAG_MTU: return tlv_get_u16(f, &r->net.mtu);
	case LAUNCH_NET_MAKE << 8 | TAG_MAC: return take_mac(&r->net, f);
	case LAUNCH_NET_COUNTERS << 8 | TAG_COUNTER: return take_counters(&r->counters, f);
	case LAUNCH_NET_COUNTERS << 8 | TAG_REPAIRED: return get_bool(f, &r->counters.repaired);
	case LAUNCH_VM_START << 8 | TAG_PID: return tlv_get_u32(f, &r->pid);
	case LAUNCH_VM_STATS << 8 | TAG_CPU: return tlv_get_u64(f, &r->stats.cpu_us);
	case LAUNCH_VM_STATS << 8 | TAG_MEMORY: return tlv_get_u64(f, &r->stats.memory_bytes);
	case LAUNCH_VM_STATS << 8 | TAG_OOM: return tlv_get_u64(f, &r->stats.oom_kills);
	case LAUNCH_VM_STATS << 8 | TAG_PIDS: return tlv_get_u32(f, &r->stats.pids);
	default: return -EBADMSG;
	}
}

int launch_decode_reply(struct launch_reply *reply, const void *data, size_t size)
{
	const unsigned char *bytes = data;
	memset(reply, 0, sizeof *reply);
	if (size < LAUNCH_HEADER_SIZE || size > LAUNCH_MESSAGE_MAX || bytes[0] != LAUNCH_VERSION || bytes[1])
		return -EBADMSG;
	uint16_t type = wire_get16(bytes + 2);
	if (!(type & LAUNCH_REPLY) || (type & ~LAUNCH_REPLY) >= LAUNCH_TYPES)
		return -EBADMSG;
	reply->type = (uint16_t)(type & ~LAUNCH_REPLY);
	reply->serial = wire_get32(bytes + 4);
	struct tlv_reader reader;
	struct tlv_field field;
	bool has_code = false;
	int got;
	tlv_read(&reader, bytes + LAUNCH_HEADER_SIZE, size - LAUNCH_HEADER_SIZE);
	while ((got = tlv_next(&reader, &field)) > 0) {
		int r;
		if (field.tag == TAG_CODE && !has_code) {
			has_code = true;
			r = get_u32_in(&field, 0, 4095, &reply->code);
		} else if (field.tag == TAG_TEXT && has_code && reply->code) {
			r = tlv_get_text(&field, reply->text, sizeof reply->text);
		} else {
			r = field.tag < TAGS_END && has_code && !reply->code ? take_result(reply, &field) : -EBADMSG;
		}
		if (r < 0)
			return r;
	}
	return got < 0 || !has_code ? -EBADMSG : 0;
}
