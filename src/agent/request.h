/*
 * Requests of the guest protocol (api/guest-protocol.md) taken apart and checked: which fields a message may have,
 * which it must have, sizes and ranges. No I/O, no allocation.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/guest.h"

#define REQUEST_TAGS (GUEST_TAG_PORT + 1)
#define REQUEST_LIST_MAX GUEST_ARGS_MAX

struct request {
	uint8_t type;                   /* enum guest_type */
	uint64_t present;               /* bit per tag */
	uint64_t number[REQUEST_TAGS];  /* of a present tag of kind u8..u64 */
	const char *text[REQUEST_TAGS]; /* of a present tag of kind bytes; a NUL follows the value */
	uint32_t size[REQUEST_TAGS];    /* of the value, without that NUL */
	size_t argc, envc;
	const char *argv[REQUEST_LIST_MAX + 1]; /* NULL-terminated */
	const char *env[REQUEST_LIST_MAX + 1];  /* "K=V", NULL-terminated */
	char arena[GUEST_PAYLOAD_MAX];          /* what the pointers point to: valid until the next request_decode */
};

/*
 * Decode the payload of a HELLO, of a request, of an OPEN, or of a SIGNAL, RESIZE, CLOSE, DETACH. 0, or -EBADMSG when
 * a rule of the protocol is broken.
 */
int request_decode(struct request *r, uint8_t type, const void *payload, size_t size);

static inline bool request_has(const struct request *r, enum guest_tag tag)
{
	return r->present >> tag & 1;
}

/* The number of a field, or what stands for its absence. */
static inline uint64_t request_number(const struct request *r, enum guest_tag tag, uint64_t absent)
{
	return request_has(r, tag) ? r->number[tag] : absent;
}

/* The text of a field, or NULL. */
static inline const char *request_text(const struct request *r, enum guest_tag tag)
{
	return request_has(r, tag) ? r->text[tag] : NULL;
}
