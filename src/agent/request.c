#include "agent/request.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/str.h"
#include "proto/tlv.h"

static_assert(REQUEST_TAGS <= 64, "present has one bit a tag");

enum kind { KIND_U8 = 1, KIND_U16, KIND_U32, KIND_U64, KIND_BLOB, KIND_TEXT, KIND_BYTES, KIND_ENV };

struct rule {
	enum kind kind;
	uint64_t min, max; /* of a number; of the size of anything else */
};

/* Only what the host sends; a tag that is not here is never taken. */
static const struct rule rules[REQUEST_TAGS] = {
	[GUEST_TAG_VERSION] = { KIND_U32, 0, UINT32_MAX },
	[GUEST_TAG_NONCE] = { KIND_BLOB, GUEST_NONCE_SIZE, GUEST_NONCE_SIZE },
	[GUEST_TAG_KEEP] = { KIND_U8, 0, 1 },
	[GUEST_TAG_FRESH] = { KIND_U8, 0, 1 },
	[GUEST_TAG_WALL_MS] = { KIND_U64, 0, INT64_MAX },
	[GUEST_TAG_ENTROPY] = { KIND_BLOB, 32, 512 },
	[GUEST_TAG_HOSTNAME] = { KIND_TEXT, 1, 63 },
	[GUEST_TAG_MACHINE_ID] = { KIND_BLOB, 16, 16 },
	[GUEST_TAG_BOOT_ID] = { KIND_BLOB, 16, 16 },
	[GUEST_TAG_ADDRESS] = { KIND_U32, 1, UINT32_MAX },
	[GUEST_TAG_GATEWAY] = { KIND_U32, 1, UINT32_MAX },
	[GUEST_TAG_PREFIX] = { KIND_U32, 1, 30 },
	[GUEST_TAG_MTU] = { KIND_U32, 576, 65535 },
	[GUEST_TAG_DNS] = { KIND_U32, 1, UINT32_MAX },
	[GUEST_TAG_WORKDIR] = { KIND_BYTES, 1, GUEST_PATH_MAX - 1 },
	[GUEST_TAG_ENV] = { KIND_ENV, 2, GUEST_PAYLOAD_MAX },
	[GUEST_TAG_MAX_PROCS] = { KIND_U32, 1, 4194304 },
	[GUEST_TAG_ARG] = { KIND_BYTES, 0, GUEST_PAYLOAD_MAX },
	[GUEST_TAG_SHELL] = { KIND_U8, 0, 1 },
	[GUEST_TAG_CWD] = { KIND_BYTES, 1, GUEST_PATH_MAX - 1 },
	[GUEST_TAG_USER] = { KIND_U32, 0, UINT32_MAX - 1 },
	[GUEST_TAG_STDIN] = { KIND_U8, 0, 1 },
	[GUEST_TAG_PTY] = { KIND_U8, 0, 1 },
	[GUEST_TAG_ROWS] = { KIND_U16, 1, UINT16_MAX },
	[GUEST_TAG_COLS] = { KIND_U16, 1, UINT16_MAX },
	[GUEST_TAG_PATH] = { KIND_BYTES, 1, GUEST_PATH_MAX - 1 },
	[GUEST_TAG_MODE] = { KIND_U32, 0, 07777 },
	[GUEST_TAG_SIGNAL] = { KIND_U32, 1, 64 },
	[GUEST_TAG_PORT] = { KIND_U16, 1, UINT16_MAX },
};

#define BIT(tag) (UINT64_C(1) << GUEST_TAG_##tag)

struct shape {
	uint64_t must, may;
};

/* False for a type that is no request of the host. */
static bool shape_of(uint8_t type, struct shape *shape)
{
	uint64_t must = 0, may = 0;

	switch (type) {
	case GUEST_HELLO: must = BIT(VERSION) | BIT(NONCE) | BIT(KEEP); break;
	case GUEST_SETUP: must = BIT(FRESH); break;
	case GUEST_PERSONALISE:
		must = BIT(WALL_MS) | BIT(ENTROPY) | BIT(HOSTNAME) | BIT(MACHINE_ID) | BIT(BOOT_ID) | BIT(WORKDIR);
		may = BIT(ADDRESS) | BIT(GATEWAY) | BIT(PREFIX) | BIT(MTU) | BIT(DNS) | BIT(ENV) | BIT(MAX_PROCS);
		break;
	case GUEST_OPEN_EXEC:
		must = BIT(ARG) | BIT(STDIN);
		may = BIT(ENV) | BIT(CWD) | BIT(USER) | BIT(SHELL) | BIT(PTY) | BIT(ROWS) | BIT(COLS);
		break;
	case GUEST_STAT:
	case GUEST_OPEN_READ:
	case GUEST_OPEN_WATCH: must = BIT(PATH); break;
	case GUEST_OPEN_WRITE:
		must = BIT(PATH);
		may = BIT(MODE);
		break;
	case GUEST_OPEN_TCP: must = BIT(PORT); break;
	case GUEST_SIGNAL: must = BIT(SIGNAL); break;
	case GUEST_RESIZE: must = BIT(ROWS) | BIT(COLS); break;
	case GUEST_PING:
	case GUEST_SYNC:
	case GUEST_FREEZE:
	case GUEST_THAW:
	case GUEST_GROW:
	case GUEST_WARM:
	case GUEST_METRICS:
	case GUEST_SHUTDOWN:
	case GUEST_CLOSE:
	case GUEST_DETACH: break;
	default: return false;
	}
	*shape = (struct shape){ must, must | may };
	return true;
}

static int take_number(struct request *r, const struct tlv_field *f, const struct rule *rule)
{
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t value = 0;
	int result;

	switch (rule->kind) {
	case KIND_U8:
		result = tlv_get_u8(f, &u8);
		value = result ? 0 : u8;
		break;
	case KIND_U16:
		result = tlv_get_u16(f, &u16);
		value = result ? 0 : u16;
		break;
	case KIND_U32:
		result = tlv_get_u32(f, &u32);
		value = result ? 0 : u32;
		break;
	default: result = tlv_get_u64(f, &value); break;
	}
	if (result < 0 || value < rule->min || value > rule->max)
		return -EBADMSG;
	r->number[f->tag] = value;
	return 0;
}

static bool bytes_allowed(const struct rule *rule, const struct tlv_field *f)
{
	if (f->size < rule->min || f->size > rule->max)
		return false;
	if (rule->kind == KIND_BLOB)
		return true;
	if (memchr(f->value, 0, f->size))
		return false;
	if (rule->kind == KIND_ENV) /* a name, then '=' */
		return f->value[0] != '=' && memchr(f->value, '=', f->size);
	return rule->kind != KIND_TEXT || str_is_utf8((const char *)f->value, f->size);
}

static int take_bytes(struct request *r, const struct tlv_field *f, const struct rule *rule, size_t *used)
{
	if (!bytes_allowed(rule, f))
		return -EBADMSG;

	/* The 6 bytes before each value in the payload pay for its NUL here, so the arena always has room. */
	char *to = r->arena + *used;
	memcpy(to, f->value, f->size);
	to[f->size] = '\0';
	*used += f->size + 1;

	if (f->tag == GUEST_TAG_ARG || f->tag == GUEST_TAG_ENV) {
		const char **list = f->tag == GUEST_TAG_ARG ? r->argv : r->env;
		size_t *count = f->tag == GUEST_TAG_ARG ? &r->argc : &r->envc;
		if (*count == REQUEST_LIST_MAX)
			return -EBADMSG;
		list[(*count)++] = to;
		list[*count] = NULL;
	}
	r->text[f->tag] = to;
	r->size[f->tag] = f->size;
	return 0;
}

static int take_field(struct request *r, const struct tlv_field *f, uint64_t may, size_t *used)
{
	bool repeated = f->tag == GUEST_TAG_ARG || f->tag == GUEST_TAG_ENV;

	if (f->tag >= REQUEST_TAGS || !(may >> f->tag & 1))
		return -EBADMSG;
	if ((r->present >> f->tag & 1) && !repeated)
		return -EBADMSG;
	r->present |= UINT64_C(1) << f->tag;
	const struct rule *rule = &rules[f->tag];
	return rule->kind <= KIND_U64 ? take_number(r, f, rule) : take_bytes(r, f, rule, used);
}

/* Rules that span fields. */
static bool fields_agree(const struct request *r)
{
	switch (r->type) {
	case GUEST_OPEN_EXEC:
		if (request_number(r, GUEST_TAG_SHELL, 0) && r->argc != 1)
			return false;
		return request_has(r, GUEST_TAG_ROWS) == request_has(r, GUEST_TAG_COLS);
	case GUEST_PERSONALISE:
		return request_has(r, GUEST_TAG_ADDRESS) == request_has(r, GUEST_TAG_PREFIX) &&
		       (!request_has(r, GUEST_TAG_GATEWAY) || request_has(r, GUEST_TAG_ADDRESS));
	default: return true;
	}
}

int request_decode(struct request *r, uint8_t type, const void *payload, size_t size)
{
	struct tlv_reader reader;
	struct tlv_field field;
	struct shape shape;
	size_t used = 0;
	int more;

	r->type = type;
	r->present = 0;
	r->argc = r->envc = 0;
	r->argv[0] = r->env[0] = NULL;
	if (size > GUEST_PAYLOAD_MAX || !shape_of(type, &shape))
		return -EBADMSG;

	tlv_read(&reader, payload, size);
	while ((more = tlv_next(&reader, &field)) > 0)
		if (take_field(r, &field, shape.may, &used) < 0)
			return -EBADMSG;
	if (more < 0 || (r->present & shape.must) != shape.must || !fields_agree(r))
		return -EBADMSG;
	return 0;
}
