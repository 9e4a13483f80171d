/*
 * The guest's state machine under a script: the input's bytes choose what the host and the ops do next, so that the
 * fuzzer reaches behind the framing. What comes out is parsed as the host would, and the promises are checked.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "agent/session.h"
#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(x)                 \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

struct script {
	const uint8_t *at;
	size_t left;
};

static struct session session;
static uint32_t owed[GUEST_STREAMS_MAX]; /* DATA taken and not given back */
static unsigned int temper;              /* decides what the ops answer */
static struct {
	unsigned char frame[GUEST_FRAME_MAX];
	size_t have;
} host;

static uint8_t next(struct script *in)
{
	if (in->left == 0)
		return 0;
	in->left--;
	return *in->at++;
}

static size_t index_of(const struct stream *stream)
{
	return (size_t)(stream - session.streams);
}

static void op_reset(void *ctx, bool lost, bool keep)
{
	memset(owed, 0, sizeof(owed));
}

static uint8_t op_phase(void *ctx)
{
	return GUEST_BOOTED;
}

static int op_request(void *ctx, struct stream *stream, const struct request *r, struct error *err)
{
	owed[index_of(stream)] = 0;
	return (int)(++temper % 3) - 1;
}

static int op_open(void *ctx, struct stream *stream, const struct request *r, struct error *err)
{
	owed[index_of(stream)] = 0;
	for (size_t i = 0; i < r->argc; i++)
		CHECK(strlen(r->argv[i]) <= GUEST_PAYLOAD_MAX);
	if (++temper % 4 == 0)
		return -5;
	session_opened(&session, stream, NULL);
	return 0;
}

static void op_data(void *ctx, struct stream *stream, const void *bytes, size_t size)
{
	volatile unsigned char sum = 0;

	CHECK(!stream->ended && size > 0 && size <= GUEST_PAYLOAD_MAX);
	for (size_t i = 0; i < size; i++)
		sum = (unsigned char)(sum + ((const unsigned char *)bytes)[i]);
	owed[index_of(stream)] += (uint32_t)size;
	CHECK(owed[index_of(stream)] <= GUEST_WINDOW);
}

static void op_end(void *ctx, struct stream *stream)
{
	CHECK(stream->ended);
}

static void op_credit(void *ctx, struct stream *stream)
{
	CHECK(stream->out_credit > 0 && stream->out_credit <= GUEST_WINDOW_MAX);
}

static void op_control(void *ctx, struct stream *stream, const struct request *r)
{
	CHECK(stream->kind >= STREAM_EXEC);
}

static const struct session_ops ops = {
	.reset = op_reset,
	.phase = op_phase,
	.request = op_request,
	.open = op_open,
	.data = op_data,
	.end = op_end,
	.credit = op_credit,
	.control = op_control,
};

static void feed(const void *bytes, size_t size)
{
	const unsigned char *at = bytes;

	while (size > 0) {
		size_t room;
		void *to = session_in(&session, &room);
		if (!to)
			return;
		CHECK(room > 0);
		size_t n = room < size ? room : size;
		memcpy(to, at, n);
		session_received(&session, n);
		at += n;
		size -= n;
	}
}

/* Take some of the output; every frame in it must be well-formed. */
static void drain(size_t most)
{
	size_t size;
	const unsigned char *out = session_out(&session, &size);

	if (!out)
		return;
	if (size > most)
		size = most;
	for (size_t i = 0; i < size; i++) {
		struct guest_header h;
		host.frame[host.have++] = out[i];
		if (host.have < GUEST_HEADER_SIZE)
			continue;
		CHECK(guest_get_header(host.frame, &h) == 0);
		CHECK(h.type == GUEST_HELLO || h.type >= GUEST_DATA);
		if (host.have == GUEST_HEADER_SIZE + h.length)
			host.have = 0;
	}
	session_sent(&session, size);
}

static void send_frame(struct script *in)
{
	static unsigned char payload[GUEST_PAYLOAD_MAX];
	unsigned char header[GUEST_HEADER_SIZE];
	struct guest_header h = { .type = next(in), .stream = next(in) % 32 };
	size_t size = (size_t)next(in) << (next(in) % 9);

	if (size > sizeof(payload))
		size = sizeof(payload);
	size_t given = size < in->left ? size : in->left;
	memset(payload, 0, size);
	if (given > 0)
		memcpy(payload, in->at, given);
	/* Bulk data need not be in the script. */
	size_t used = h.type == GUEST_DATA ? 0 : given;
	in->at += used;
	in->left -= used;
	h.length = (uint32_t)size;
	guest_put_header(header, &h);
	feed(header, sizeof(header));
	feed(payload, size);
}

static void send_hello(uint8_t keep)
{
	unsigned char bytes[GUEST_HEADER_SIZE + 64];
	struct tlv_writer w;

	tlv_begin(&w, bytes + GUEST_HEADER_SIZE, 64);
	tlv_u32(&w, GUEST_TAG_VERSION, 1);
	tlv_bytes(&w, GUEST_TAG_NONCE, "0123456789abcdef", GUEST_NONCE_SIZE);
	tlv_u8(&w, GUEST_TAG_KEEP, keep & 1);
	guest_put_header(bytes, &(struct guest_header){ .length = (uint32_t)w.size, .type = GUEST_HELLO });
	feed(bytes, GUEST_HEADER_SIZE + w.size);
}

static void step_stream(struct script *in, uint8_t what)
{
	struct stream *stream = &session.streams[next(in) % GUEST_STREAMS_MAX];
	uint32_t *taken = &owed[index_of(stream)];
	size_t room;

	if (stream->kind == STREAM_FREE)
		return;
	if (what == 0 && stream->kind >= STREAM_EXEC && stream->opened) {
		void *to = session_room(&session, stream, &room);
		if (!to)
			return;
		CHECK(room > 0 && room <= stream->out_credit && room <= GUEST_PAYLOAD_MAX);
		size_t n = (size_t)next(in) << 8;
		n = n == 0 || n > room ? room : n;
		memset(to, 0xee, n);
		session_data(&session, stream, 0, n);
	} else if (what == 1) {
		uint32_t n = *taken > 3000 ? *taken - 3000 : *taken;
		*taken -= n;
		session_consumed(&session, stream, n);
		CHECK(stream->in_window <= GUEST_WINDOW);
	} else if (what == 2) {
		session_finish(&session, stream, stream->kind == STREAM_EXEC ? GUEST_EXIT : GUEST_RESULT, NULL);
	} else if (what == 3) {
		session_fail(&session, stream, next(in) * 40, "text");
	} else if (stream->kind == STREAM_READ) {
		session_end(&session, stream);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script in = { data, size };

	session_init(&session, &ops, NULL);
	memset(owed, 0, sizeof(owed));
	host.have = 0;
	temper = 0;
	while (in.left > 0) {
		uint8_t step = next(&in);
		switch (step % 12) {
		case 0: {
			size_t n = next(&in);
			n = n < in.left ? n : in.left;
			feed(in.at, n);
			in.at += n;
			in.left -= n;
			break;
		}
		case 1:
		case 2:
		case 3: send_frame(&in); break;
		case 4: send_hello(step >> 4); break;
		case 5: drain((size_t)next(&in) << (next(&in) % 12)); break;
		case 6:
			session_hangup(&session);
			host.have = 0;
			break;
		default: step_stream(&in, step % 12 - 7); break;
		}
		CHECK(session.in_end <= SESSION_IN_SIZE && session.in_start <= session.in_end);
		CHECK(session.out_end <= SESSION_OUT_SIZE && session.out_start <= session.out_end);
	}
	/* Whatever happened: a host that starts anew gets its HELLO. */
	static const unsigned char zeros[GUEST_FRAME_MAX];
	do
		drain(SIZE_MAX);
	while (session_in(&session, &(size_t){ 0 }) && session_out(&session, &(size_t){ 0 }));
	if (session.in_end > session.in_start)
		feed(zeros, sizeof(zeros));
	drain(SIZE_MAX);
	send_hello(0);
	CHECK(session.greeted);
	drain(SIZE_MAX);
	CHECK(host.have == 0);
	return 0;
}
