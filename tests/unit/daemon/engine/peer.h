/* The guest's end of an agent channel, played by the test: it writes bytes of its own choice and reads whole frames. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/engine/link.h"

#define PEER_MS 5000 /* a bound for what happens at once */

struct peer {
	int fd;
	struct link *link;
	unsigned char nonce[GUEST_NONCE_SIZE]; /* of the latest HELLO */
	uint8_t keep;
	/* the latest frame */
	struct guest_header header;
	unsigned char payload[GUEST_PAYLOAD_MAX];
};

int peer_setup(void **state);   /* a link that has said no HELLO yet */
int peer_greeted(void **state); /* one that has */
int peer_teardown(void **state);

void peer_write(struct peer *p, const void *data, size_t size);
void peer_send(struct peer *p, enum guest_type type, uint8_t channel, uint32_t stream, const void *data, size_t size);
void peer_answer(struct peer *p, enum guest_type type, uint32_t stream, const struct tlv_writer *fields);
void peer_error(struct peer *p, uint32_t stream, uint32_t code, const char *message);
/* Read the next frame, which must come. */
void peer_take(struct peer *p);
void peer_expect(struct peer *p, enum guest_type type, uint32_t stream);
/* No whole frame is there and none comes before the channel ends or `ms` are over. */
bool peer_closed(struct peer *p);
/* Answer HELLO with this nonce (NULL: the right one), version and phase. */
void peer_hello(struct peer *p, const unsigned char *nonce, uint32_t version, uint8_t phase);

/* A call of the link in a thread of its own, while the test plays the guest. */
struct call {
	int (*run)(struct call *call);
	struct peer *peer;
	struct link_stream *stream;
	enum guest_type type;
	const void *data;
	size_t size;
	bool keep;
	int timeout_ms;
	enum guest_phase phase;
	unsigned char reply[GUEST_PAYLOAD_MAX];
	size_t reply_size;
	int result;
	struct error err;
	unsigned long thread;
};
void call_begin(struct call *call);
int call_end(struct call *call); /* its result */
int call_hello(struct call *call);
int call_request(struct call *call);
int call_open(struct call *call);
int call_send(struct call *call);
/* An open stream, its number in peer->header.stream. */
struct link_stream *peer_open(struct peer *p);
