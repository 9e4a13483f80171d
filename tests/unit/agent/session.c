#include "agent/session.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/wire.h"

/* Ops that write down what they were asked. */

static struct session *s;
static char journal[4096];
static struct stream *last;
static int answer; /* what request and open return */

static void note(const char *format, ...)
{
	size_t used = strlen(journal);
	va_list args;
	va_start(args, format);
	vsnprintf(journal + used, sizeof(journal) - used, format, args);
	va_end(args);
}

static void op_reset(void *ctx, bool lost, bool keep)
{
	note("reset(%d,%d) ", lost, keep);
}

static uint8_t op_phase(void *ctx)
{
	return GUEST_SET_UP;
}

static int op_request(void *ctx, struct stream *stream, const struct request *r, struct error *err)
{
	note("request(%d,%u) ", r->type, stream->id);
	last = stream;
	return answer < 0 ? error_set(err, -answer, "told so") : answer;
}

static int op_open(void *ctx, struct stream *stream, const struct request *r, struct error *err)
{
	note("open(%d,%u) ", r->type, stream->id);
	last = stream;
	if (answer < 0)
		return error_set(err, -answer, "told so");
	session_opened(s, stream, NULL);
	return 0;
}

static void op_data(void *ctx, struct stream *stream, const void *data, size_t size)
{
	note("data(%zu) ", size);
}

static void op_end(void *ctx, struct stream *stream)
{
	note("end ");
}

static void op_credit(void *ctx, struct stream *stream)
{
	note("credit(%u) ", stream->out_credit);
}

static void op_control(void *ctx, struct stream *stream, const struct request *r)
{
	note("control(%d) ", r->type);
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

/* What the host does. */

static void feed(const void *data, size_t size)
{
	const unsigned char *at = data;

	while (size > 0) {
		size_t room;
		void *to = session_in(s, &room);
		assert_non_null(to);
		size_t n = room < size ? room : size;
		memcpy(to, at, n);
		session_received(s, n);
		at += n;
		size -= n;
	}
}

static void frame(uint8_t type, uint32_t stream, const void *payload, size_t size)
{
	unsigned char header[GUEST_HEADER_SIZE];

	guest_put_header(header, &(struct guest_header){ .length = (uint32_t)size, .type = type, .stream = stream });
	feed(header, sizeof(header));
	feed(payload, size);
}

static size_t hello_bytes(unsigned char to[128], uint8_t keep)
{
	struct tlv_writer w;

	tlv_begin(&w, to + GUEST_HEADER_SIZE, 128 - GUEST_HEADER_SIZE);
	tlv_u32(&w, GUEST_TAG_VERSION, 1);
	tlv_bytes(&w, GUEST_TAG_NONCE, "0123456789abcdef", GUEST_NONCE_SIZE);
	tlv_u8(&w, GUEST_TAG_KEEP, keep);
	guest_put_header(to, &(struct guest_header){ .length = (uint32_t)w.size, .type = GUEST_HELLO });
	return GUEST_HEADER_SIZE + w.size;
}

static void hello(uint8_t keep)
{
	unsigned char bytes[128];
	feed(bytes, hello_bytes(bytes, keep));
}

static void open_exec(uint32_t id)
{
	unsigned char fields[32];
	struct tlv_writer w;

	tlv_begin(&w, fields, sizeof(fields));
	tlv_text(&w, GUEST_TAG_ARG, "x");
	tlv_u8(&w, GUEST_TAG_STDIN, 1);
	frame(GUEST_OPEN_EXEC, id, fields, w.size);
}

static void credit_frame(uint32_t id, uint32_t bytes)
{
	unsigned char payload[4];
	wire_put32(payload, bytes);
	frame(GUEST_CREDIT, id, payload, 4);
}

/* Take one frame of the output; its payload stays valid until the next call. */
static struct guest_header take(const unsigned char **payload)
{
	static unsigned char copy[GUEST_PAYLOAD_MAX];
	struct guest_header h;
	size_t size;
	const unsigned char *out = session_out(s, &size);

	assert_non_null(out);
	assert_true(size >= GUEST_HEADER_SIZE);
	assert_int_equal(guest_get_header(out, &h), 0);
	assert_true(size >= GUEST_HEADER_SIZE + h.length);
	memcpy(copy, out + GUEST_HEADER_SIZE, h.length);
	if (payload)
		*payload = copy;
	session_sent(s, GUEST_HEADER_SIZE + h.length);
	return h;
}

static void expect(uint8_t type, uint32_t stream)
{
	struct guest_header h = take(NULL);
	assert_int_equal(h.type, type);
	assert_int_equal(h.stream, stream);
}

static void expect_nothing(void)
{
	size_t size;
	assert_null(session_out(s, &size));
}

static void expect_journal(const char *text)
{
	assert_string_equal(journal, text);
	journal[0] = '\0';
}

static int setup(void **state)
{
	s = malloc(sizeof(*s));
	session_init(s, &ops, NULL);
	journal[0] = '\0';
	answer = 0;
	return 0;
}

static int setup_greeted(void **state)
{
	setup(state);
	hello(0);
	expect(GUEST_HELLO, 0);
	expect_nothing();
	journal[0] = '\0';
	return 0;
}

static int teardown(void **state)
{
	free(s);
	return 0;
}

static void hello_is_answered(void **state)
{
	const unsigned char *payload;

	hello(1);
	struct guest_header h = take(&payload);
	assert_int_equal(h.type, GUEST_HELLO);
	assert_int_equal(h.stream, 0);
	/* The host searches for this. */
	assert_memory_equal(payload,
			    "\1\0\4\0\0\0\1\0\0\0\2\0\20\0\0\0"
			    "0123456789abcdef",
			    32);
	expect_nothing();
	expect_journal("reset(0,1) ");
}

static void nothing_before_hello(void **state)
{
	frame(GUEST_PING, 1, NULL, 0);
	expect_nothing();
	expect_journal("");
}

static void hello_after_anything(void **state)
{
	static unsigned char junk[3 * SESSION_IN_SIZE];
	unsigned char bytes[128];

	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = (unsigned char)(i * 7);
	feed(junk, sizeof(junk));
	memset(junk, 0, sizeof(junk));
	feed(junk, sizeof(junk));
	/* Byte by byte, and half of one before. */
	size_t size = hello_bytes(bytes, 0);
	feed(bytes, 15);
	for (size_t i = 0; i < size; i++)
		feed(bytes + i, 1);
	expect(GUEST_HELLO, 0);
	frame(GUEST_PING, 1, NULL, 0);
	expect(GUEST_RESULT, 1);
}

static void broken_frames_wait_for_hello(void **state)
{
	static const unsigned char bad[] = { 0, 0, 0, 0, 99, 0, 0, 0, 1, 0, 0, 0 };

	feed(bad, sizeof(bad));
	expect_journal("reset(1,1) ");
	frame(GUEST_PING, 2, NULL, 0);
	expect_nothing();
	hello(0);
	expect(GUEST_HELLO, 0);
}

static void requests(void **state)
{
	frame(GUEST_PING, 7, NULL, 0);
	expect(GUEST_RESULT, 7);
	answer = SESSION_LATER;
	frame(GUEST_SYNC, 8, NULL, 0);
	expect_nothing();
	session_finish(s, last, GUEST_RESULT, NULL);
	expect(GUEST_RESULT, 8);
	answer = -EBUSY;
	frame(GUEST_FREEZE, 9, NULL, 0);
	const unsigned char *payload;
	struct guest_header h = take(&payload);
	assert_int_equal(h.type, GUEST_ERROR);
	assert_int_equal(wire_get32(payload + 6), EBUSY);
	assert_memory_equal(payload + 16, "told so", 7);
	expect_nothing();
}

static void an_open_number_is_not_used_again(void **state)
{
	open_exec(5);
	expect(GUEST_OPENED, 5);
	journal[0] = '\0';
	frame(GUEST_PING, 5, NULL, 0);
	expect_journal("reset(1,1) ");
}

static void streams_are_bounded(void **state)
{
	for (uint32_t id = 1; id <= GUEST_STREAMS_MAX; id++) {
		open_exec(id);
		expect(GUEST_OPENED, id);
	}
	open_exec(GUEST_STREAMS_MAX + 1);
	expect(GUEST_ERROR, GUEST_STREAMS_MAX + 1);
	session_finish(s, last, GUEST_EXIT, NULL);
	expect(GUEST_EXIT, GUEST_STREAMS_MAX);
	open_exec(GUEST_STREAMS_MAX + 2);
	expect(GUEST_OPENED, GUEST_STREAMS_MAX + 2);
}

static void the_window_of_the_host(void **state)
{
	static unsigned char data[GUEST_PAYLOAD_MAX];

	open_exec(1);
	expect(GUEST_OPENED, 1);
	for (size_t sent = 0; sent < GUEST_WINDOW; sent += sizeof(data))
		frame(GUEST_DATA, 1, data, sizeof(data));
	expect_nothing();
	/* Little is not given back at once; much is. */
	session_consumed(s, last, 10);
	expect_nothing();
	session_consumed(s, last, GUEST_WINDOW / 4);
	const unsigned char *payload;
	assert_int_equal(take(&payload).type, GUEST_CREDIT);
	assert_int_equal(wire_get32(payload), GUEST_WINDOW / 4 + 10);
	assert_int_equal(last->in_window, GUEST_WINDOW / 4 + 10);
	journal[0] = '\0';
	frame(GUEST_DATA, 1, data, sizeof(data));
	frame(GUEST_DATA, 1, data, 10);
	expect_journal("data(65536) data(10) ");
	frame(GUEST_DATA, 1, data, 1);
	expect_journal("reset(1,1) ");
}

static void the_window_of_the_guest(void **state)
{
	size_t room, sent = 0, size;

	open_exec(1);
	expect(GUEST_OPENED, 1);
	while (sent < GUEST_WINDOW) {
		void *to = session_room(s, last, &room);
		assert_non_null(to);
		size_t n = room < 50000 ? room : 50000;
		memset(to, 'x', n);
		session_data(s, last, 1, n);
		sent += n;
		struct guest_header h = take(NULL);
		assert_int_equal(h.type, GUEST_DATA);
		assert_int_equal(h.channel, 1);
		assert_int_equal(h.length, n);
	}
	assert_int_equal(sent, GUEST_WINDOW);
	assert_null(session_room(s, last, &room));
	journal[0] = '\0';
	credit_frame(1, 3);
	expect_journal("credit(3) ");
	assert_non_null(session_room(s, last, &room));
	assert_int_equal(room, 3);
	credit_frame(1, GUEST_WINDOW_MAX - 3);
	expect_journal("");
	assert_null(session_out(s, &size));
	credit_frame(1, 1);
	expect_journal("reset(1,1) ");
}

static void data_after_the_end(void **state)
{
	open_exec(1);
	journal[0] = '\0';
	frame(GUEST_EOF, 1, NULL, 0);
	expect_journal("end ");
	frame(GUEST_DATA, 1, "x", 1);
	expect_journal("reset(1,1) ");
}

static void data_of_a_read(void **state)
{
	unsigned char fields[16];
	struct tlv_writer w;

	tlv_begin(&w, fields, sizeof(fields));
	tlv_text(&w, GUEST_TAG_PATH, "/x");
	frame(GUEST_OPEN_READ, 1, fields, w.size);
	journal[0] = '\0';
	frame(GUEST_DATA, 1, "x", 1);
	expect_journal("reset(1,1) ");
}

static void late_frames_are_ignored(void **state)
{
	open_exec(1);
	session_finish(s, last, GUEST_EXIT, NULL);
	journal[0] = '\0';
	frame(GUEST_DATA, 1, "x", 1);
	frame(GUEST_EOF, 1, NULL, 0);
	frame(GUEST_CLOSE, 1, NULL, 0);
	credit_frame(1, UINT32_MAX);
	expect_journal("");
	frame(GUEST_PING, 2, NULL, 0);
	expect_journal("request(16,2) ");
}

static void input_is_held_back(void **state)
{
	size_t room, held = 0;
	void *to;

	/* Nobody takes the output: there is an end to what comes in. */
	for (uint32_t id = 1; (to = session_in(s, &room)); id++) {
		guest_put_header(to, &(struct guest_header){ .type = GUEST_PING, .stream = id });
		session_received(s, GUEST_HEADER_SIZE);
		held = id;
	}
	size_t size;
	session_out(s, &size);
	assert_int_equal(size, held * GUEST_HEADER_SIZE);
	assert_true(size >= SESSION_OUT_DATA && size < SESSION_OUT_DATA + GUEST_FRAME_MAX);
	assert_true(session_full(s));
	for (uint32_t id = 1; id <= held; id++)
		expect(GUEST_RESULT, id);
	assert_non_null(session_in(s, &room));
}

/* A HELLO comes while a frame is half written: that one is finished, the others are dropped. */
static void half_a_frame_is_finished(void **state)
{
	size_t room, size;

	open_exec(1);
	expect(GUEST_OPENED, 1);
	for (int i = 0; i < 2; i++) {
		memset(session_room(s, last, &room), 'a' + i, 100);
		session_data(s, last, 0, 100);
	}
	session_sent(s, 30);
	hello(1);
	const unsigned char *out = session_out(s, &size);
	for (size_t i = 0; i < 112 - 30; i++)
		assert_int_equal(out[i], 'a');
	session_sent(s, 112 - 30);
	expect(GUEST_HELLO, 0);
	expect_nothing();
}

static void hangup(void **state)
{
	size_t room;

	open_exec(1);
	memset(session_room(s, last, &room), 'a', 100);
	session_data(s, last, 0, 100);
	session_sent(s, 30);
	feed("\5\0\0\0\100", 5); /* half a header */
	session_hangup(s);
	expect_nothing();
	hello(0);
	expect(GUEST_HELLO, 0);
	frame(GUEST_PING, 1, NULL, 0);
	expect(GUEST_RESULT, 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define G(f) cmocka_unit_test_setup_teardown(f, setup_greeted, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(hello_is_answered),
		T(nothing_before_hello),
		T(hello_after_anything),
		G(broken_frames_wait_for_hello),
		G(requests),
		G(an_open_number_is_not_used_again),
		G(streams_are_bounded),
		G(the_window_of_the_host),
		G(the_window_of_the_guest),
		G(data_after_the_end),
		G(data_of_a_read),
		G(late_frames_are_ignored),
		G(input_is_held_back),
		G(half_a_frame_is_finished),
		G(hangup),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
