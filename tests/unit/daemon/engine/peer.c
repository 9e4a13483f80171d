#include "peer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "proto/wire.h"

int peer_setup(void **state)
{
	struct peer *p = calloc(1, sizeof(*p));
	struct error err = { 0 };
	int pair[2];

	assert_non_null(p);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	p->fd = pair[0];
	assert_int_equal(link_new(pair[1], 1, &p->link, &err), 0);
	*state = p;
	return 0;
}

int peer_greeted(void **state)
{
	peer_setup(state);
	struct peer *p = *state;
	struct call *call = calloc(1, sizeof(*call));

	assert_non_null(call);
	*call = (struct call){ .run = call_hello, .peer = p, .timeout_ms = PEER_MS };
	call_begin(call);
	peer_expect(p, GUEST_HELLO, 0);
	peer_hello(p, NULL, GUEST_VERSION, GUEST_PERSONALISED);
	assert_int_equal(call_end(call), 0);
	free(call);
	return 0;
}

int peer_teardown(void **state)
{
	struct peer *p = *state;

	link_put(p->link);
	fd_close(&p->fd);
	free(p);
	return 0;
}

void peer_write(struct peer *p, const void *data, size_t size)
{
	size_t done = 0;

	/* The link may have died of it meanwhile: that is what some tests are about. */
	while (done < size) {
		ssize_t n = send(p->fd, (const char *)data + done, size - done, MSG_NOSIGNAL);
		if (n < 0)
			return;
		done += (size_t)n;
	}
}

void peer_send(struct peer *p, enum guest_type type, uint8_t channel, uint32_t stream, const void *data, size_t size)
{
	struct guest_header header = {
		.length = (uint32_t)size,
		.type = (uint8_t)type,
		.channel = channel,
		.stream = stream,
	};
	unsigned char bytes[GUEST_FRAME_MAX];

	guest_put_header(bytes, &header);
	if (size > 0)
		memcpy(bytes + GUEST_HEADER_SIZE, data, size);
	peer_write(p, bytes, GUEST_HEADER_SIZE + size);
}

void peer_answer(struct peer *p, enum guest_type type, uint32_t stream, const struct tlv_writer *fields)
{
	peer_send(p, type, 0, stream, fields ? fields->data : NULL, fields ? fields->size : 0);
}

void peer_error(struct peer *p, uint32_t stream, uint32_t code, const char *message)
{
	unsigned char bytes[1024];
	struct tlv_writer w;

	tlv_begin(&w, bytes, sizeof(bytes));
	tlv_u32(&w, GUEST_TAG_ERRNO, code);
	if (message)
		tlv_text(&w, GUEST_TAG_MESSAGE, message);
	peer_answer(p, GUEST_ERROR, stream, &w);
}

static size_t read_bounded(struct peer *p, void *to, size_t size)
{
	size_t done = 0;

	while (done < size) {
		struct pollfd poller = { .fd = p->fd, .events = POLLIN };
		if (poll(&poller, 1, PEER_MS) <= 0)
			return done;
		ssize_t n = recv(p->fd, (char *)to + done, size - done, 0);
		if (n <= 0)
			return done;
		done += (size_t)n;
	}
	return done;
}

void peer_take(struct peer *p)
{
	unsigned char header[GUEST_HEADER_SIZE];

	assert_int_equal(read_bounded(p, header, sizeof(header)), sizeof(header));
	assert_int_equal(guest_get_header(header, &p->header), 0);
	assert_int_equal(read_bounded(p, p->payload, p->header.length), p->header.length);
	if (p->header.type == GUEST_HELLO) {
		struct tlv_reader reader;
		struct tlv_field field;
		tlv_read(&reader, p->payload, p->header.length);
		while (tlv_next(&reader, &field) > 0) {
			if (field.tag == GUEST_TAG_NONCE)
				memcpy(p->nonce, field.value, sizeof(p->nonce));
			if (field.tag == GUEST_TAG_KEEP)
				p->keep = field.value[0];
		}
	}
}

void peer_expect(struct peer *p, enum guest_type type, uint32_t stream)
{
	peer_take(p);
	assert_int_equal(p->header.type, type);
	assert_int_equal(p->header.stream, stream);
}

bool peer_closed(struct peer *p)
{
	unsigned char byte;
	return read_bounded(p, &byte, 1) == 0;
}

void peer_hello(struct peer *p, const unsigned char *nonce, uint32_t version, uint8_t phase)
{
	unsigned char bytes[128];
	struct tlv_writer w;

	tlv_begin(&w, bytes, sizeof(bytes));
	tlv_u32(&w, GUEST_TAG_VERSION, version);
	tlv_bytes(&w, GUEST_TAG_NONCE, nonce ? nonce : p->nonce, GUEST_NONCE_SIZE);
	tlv_text(&w, GUEST_TAG_AGENT, "a test");
	tlv_u8(&w, GUEST_TAG_PHASE, phase);
	peer_answer(p, GUEST_HELLO, 0, &w);
}

/* ---- calls ---- */

static void *call_main(void *context)
{
	struct call *call = context;
	call->result = call->run(call);
	return NULL;
}

void call_begin(struct call *call)
{
	assert_int_equal(pthread_create(&call->thread, NULL, call_main, call), 0);
}

int call_end(struct call *call)
{
	assert_int_equal(pthread_join(call->thread, NULL), 0);
	return call->result;
}

int call_hello(struct call *call)
{
	return link_hello(call->peer->link, call->keep, call->timeout_ms, &call->phase, &call->err);
}

static struct tlv_writer fields_of(const struct call *call)
{
	return (struct tlv_writer){
		.data = (unsigned char *)(uintptr_t)call->data,
		.size = call->size,
		.room = call->size,
	};
}

int call_request(struct call *call)
{
	struct tlv_writer w = fields_of(call);
	return link_request(call->peer->link, call->type, &w, call->timeout_ms, call->reply, &call->reply_size,
			    &call->err);
}

int call_open(struct call *call)
{
	struct tlv_writer w = fields_of(call);
	return link_open(call->peer->link, call->type, &w, call->timeout_ms, &call->stream, call->reply,
			 &call->reply_size, &call->err);
}

int call_send(struct call *call)
{
	return link_send(call->stream, call->data, call->size, call->timeout_ms, &call->err);
}

struct link_stream *peer_open(struct peer *p)
{
	struct call *call = calloc(1, sizeof(*call));

	assert_non_null(call);
	*call = (struct call){ .run = call_open, .peer = p, .type = GUEST_OPEN_EXEC, .timeout_ms = PEER_MS };
	call_begin(call);
	peer_take(p);
	assert_int_equal(p->header.type, GUEST_OPEN_EXEC);
	peer_answer(p, GUEST_OPENED, p->header.stream, NULL);
	assert_int_equal(call_end(call), 0);
	struct link_stream *stream = call->stream;
	free(call);
	return stream;
}
