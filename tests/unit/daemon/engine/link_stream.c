/* Streams: frames in order, windows and credit, errors, lies, ends. */
#include "peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/wire.h"

static struct call *call_new(struct peer *p, int (*run)(struct call *call), enum guest_type type)
{
	struct call *call = calloc(1, sizeof(*call));

	assert_non_null(call);
	*call = (struct call){ .run = run, .peer = p, .type = type, .timeout_ms = PEER_MS };
	return call;
}

/* The link dies for this reason, and says so to whoever waits on the stream. */
static void dies(struct link_stream *stream, const char *why)
{
	struct link_frame frame;
	struct error err = { 0 };
	int r;

	while ((r = link_next(stream, PEER_MS, -1, &frame, &err)) > 0)
		;
	assert_int_equal(r, -ECONNRESET);
	if (!strstr(err.text, why))
		fail_msg("it died of \"%s\", not of \"%s\"", err.text, why);
}

/* ---- requests ---- */

static void request_and_result(void **state)
{
	struct peer *p = *state;
	struct call *call = call_new(p, call_request, GUEST_METRICS);
	unsigned char bytes[64];
	struct tlv_writer w;

	call->data = "\1\0\0\0\0\0";
	call->size = 6;
	call_begin(call);
	peer_expect(p, GUEST_METRICS, 1);
	assert_int_equal(p->header.length, 6);
	tlv_begin(&w, bytes, sizeof(bytes));
	tlv_u64(&w, GUEST_TAG_MEM_USED, 12345);
	peer_answer(p, GUEST_RESULT, 1, &w);
	assert_int_equal(call_end(call), 0);
	assert_int_equal(call->reply_size, w.size);
	assert_memory_equal(call->reply, bytes, w.size);
	assert_int_equal(link_last_stream(p->link), 1);
	free(call);
}

static int refused(struct peer *p, uint32_t code, const char *message, struct error *err)
{
	struct call *call = call_new(p, call_request, GUEST_SYNC);

	call_begin(call);
	peer_take(p);
	peer_error(p, p->header.stream, code, message);
	int r = call_end(call);
	*err = call->err;
	free(call);
	return r;
}

static void errors_of_the_guest(void **state)
{
	struct peer *p = *state;
	struct error err;

	assert_int_equal(refused(p, ENOSPC, "the disk is full", &err), -ENOSPC);
	assert_string_equal(err.text, "the disk is full");
	assert_int_equal(err.code, ENOSPC);
	assert_int_equal(refused(p, 133, "", &err), -133);
	assert_int_equal(refused(p, 0, "no error at all", &err), -EIO);
	assert_int_equal(refused(p, 134, NULL, &err), -EIO);
	assert_int_equal(refused(p, UINT32_MAX, NULL, &err), -EIO);
	assert_int_equal(refused(p, 0x80000000u | ENOENT, NULL, &err), -EIO);
	assert_int_equal(refused(p, EIO, "not \xff utf-8", &err), -EIO);
	assert_string_equal(err.text, "not \xef\xbf\xbd utf-8");
	assert_false(link_is_dead(p->link));
}

static void error_with_a_long_message(void **state)
{
	struct peer *p = *state;
	struct error err;
	char message[512];

	memset(message, 'x', sizeof(message) - 1);
	message[sizeof(message) - 1] = '\0';
	assert_int_equal(refused(p, EPERM, message, &err), -EPERM);
	assert_string_equal(err.text, "the guest refused");
}

static void no_answer(void **state)
{
	struct peer *p = *state;
	struct call *call = call_new(p, call_request, GUEST_SYNC);

	call->timeout_ms = 50;
	call_begin(call);
	peer_expect(p, GUEST_SYNC, 1);
	assert_int_equal(call_end(call), -ETIMEDOUT);
	peer_expect(p, GUEST_CLOSE, 1);
	/* The answer comes late: it is nobody's, and no harm. */
	peer_answer(p, GUEST_RESULT, 1, NULL);
	call->timeout_ms = PEER_MS;
	call_begin(call);
	peer_expect(p, GUEST_SYNC, 2);
	peer_answer(p, GUEST_RESULT, 2, NULL);
	assert_int_equal(call_end(call), 0);
	free(call);
}

static void answer_of_another_kind(void **state)
{
	struct peer *p = *state;
	struct call *call = call_new(p, call_request, GUEST_SYNC);

	call_begin(call);
	peer_expect(p, GUEST_SYNC, 1);
	peer_answer(p, GUEST_EXIT, 1, NULL);
	assert_int_equal(call_end(call), -ECONNRESET);
	assert_true(link_is_dead(p->link));
	free(call);
}

static void fields_that_did_not_fit(void **state)
{
	struct peer *p = *state;
	struct tlv_writer w = { .failed = true };
	struct error err = { 0 };

	assert_int_equal(link_request(p->link, GUEST_SYNC, &w, PEER_MS, NULL, NULL, &err), -E2BIG);
	assert_int_equal(link_last_stream(p->link), 0);
}

/* ---- what the guest may not do ---- */

static void never_opened(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);

	peer_send(p, GUEST_DATA, 0, 2, "x", 1);
	dies(stream, "never opened");
	assert_true(peer_closed(p));
	link_close(stream);
}

static void frames_of_the_host(void **state)
{
	static const enum guest_type types[] = {
		GUEST_PING, GUEST_STAT, GUEST_OPEN_EXEC, GUEST_OPEN_WATCH, GUEST_SIGNAL, GUEST_CLOSE, GUEST_DETACH,
	};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		void *own = NULL;
		peer_greeted(&own);
		struct peer *p = own;
		struct link_stream *stream = peer_open(p);
		peer_send(p, types[i], 0, 1, NULL, 0);
		dies(stream, "only the host");
		link_close(stream);
		peer_teardown(&own);
	}
	(void)state;
}

static void malformed_headers(void **state)
{
	static const unsigned char headers[][GUEST_HEADER_SIZE] = {
		{ 1, 0, 1, 0, GUEST_DATA, 0, 0, 0, 1 }, /* 65,537 bytes */
		{ 0, 0, 0, 0, 0, 0, 0, 0, 1 },          /* no type */
		{ 0, 0, 0, 0, 255, 0, 0, 0, 1 },
		{ 0, 0, 0, 0, GUEST_DATA, 2, 0, 0, 1 }, /* no such channel */
		{ 0, 0, 0, 0, GUEST_DATA, 0, 1, 0, 1 }, /* reserved */
		{ 0, 0, 0, 0, GUEST_DATA, 0, 0, 0, 0 }, /* stream 0 */
		{ 3, 0, 0, 0, GUEST_CREDIT, 0, 0, 0, 1 },
		{ 1, 0, 0, 0, GUEST_EOF, 0, 0, 0, 1 },
	};

	for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
		void *own = NULL;
		peer_greeted(&own);
		struct peer *p = own;
		struct link_stream *stream = peer_open(p);
		peer_write(p, headers[i], GUEST_HEADER_SIZE);
		dies(stream, "malformed");
		link_close(stream);
		peer_teardown(&own);
	}
	(void)state;
}

static void more_than_its_window(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	static unsigned char data[GUEST_PAYLOAD_MAX];

	for (size_t sent = 0; sent < GUEST_WINDOW; sent += sizeof(data))
		peer_send(p, GUEST_DATA, 0, 1, data, sizeof(data));
	peer_send(p, GUEST_DATA, 1, 1, data, 1);
	assert_true(peer_closed(p)); /* nothing was taken meanwhile, so nothing was given back */
	dies(stream, "window");
	link_close(stream);
}

static void flood_of_frames(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);

	for (int i = 0; i < 5000; i++)
		peer_send(p, GUEST_EOF, 0, 1, NULL, 0);
	dies(stream, "too many frames");
	link_close(stream);
}

/* A program that writes a byte at a time, alternately on both outputs now and then, is no flood. */
static void many_small_writes(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	struct link_frame frame;
	size_t got[2] = { 0 };
	static const int count = 100000;

	for (int i = 0; i < count; i++) {
		unsigned char byte = (unsigned char)(i / 100);
		peer_send(p, GUEST_DATA, i / 1000 % 2, 1, &byte, 1);
	}
	peer_answer(p, GUEST_EXIT, 1, NULL);
	while (link_next(stream, PEER_MS, -1, &frame, NULL) > 0 && frame.type == GUEST_DATA) {
		for (size_t i = 0; i < frame.size; i++) {
			size_t at = got[frame.channel]++;
			size_t index = at / 1000 * 2000 + frame.channel * 1000u + at % 1000;
			assert_int_equal(frame.data[i], (unsigned char)(index / 100));
		}
	}
	assert_int_equal(frame.type, GUEST_EXIT);
	assert_int_equal(got[0], count / 2);
	assert_int_equal(got[1], count / 2);
	link_close(stream);
}

/* ---- streams ---- */

static void frames_come_in_order(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	struct link_frame frame;

	peer_send(p, GUEST_DATA, 0, 1, "out", 3);
	peer_send(p, GUEST_DATA, 1, 1, "err", 3);
	peer_send(p, GUEST_EOF, 0, 1, NULL, 0);
	peer_answer(p, GUEST_EXIT, 1, NULL);
	peer_send(p, GUEST_DATA, 0, 1, "late", 4); /* after the end: dropped */
	assert_int_equal(link_next(stream, PEER_MS, -1, &frame, NULL), 1);
	assert_int_equal(frame.size, 3);
	assert_memory_equal(frame.data, "out", 3);
	assert_int_equal(link_next(stream, PEER_MS, -1, &frame, NULL), 1);
	assert_int_equal(frame.channel, 1);
	assert_int_equal(link_next(stream, PEER_MS, -1, &frame, NULL), 1);
	assert_int_equal(frame.type, GUEST_EOF);
	assert_int_equal(link_next(stream, PEER_MS, -1, &frame, NULL), 1);
	assert_int_equal(frame.type, GUEST_EXIT);
	assert_int_equal(link_next(stream, 20, -1, &frame, NULL), 0);
	link_close(stream);
	/* It had ended, so no CLOSE was sent: the next frame is another request's. */
	link_close(peer_open(p));
	peer_expect(p, GUEST_CLOSE, 2);
}

static void credit_comes_back(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	struct link_frame frame;
	static unsigned char data[GUEST_PAYLOAD_MAX];
	size_t taken = 0, credit = 0, sent = 0;

	/* Four windows' worth, never more than was granted, and all of it arrives. */
	while (sent < 4 * GUEST_WINDOW) {
		while (sent + sizeof(data) <= GUEST_WINDOW + credit && sent < 4 * GUEST_WINDOW) {
			peer_send(p, GUEST_DATA, 0, 1, data, sizeof(data));
			sent += sizeof(data);
		}
		while (taken < sent) {
			assert_int_equal(link_next(stream, PEER_MS, -1, &frame, NULL), 1);
			taken += frame.size;
		}
		assert_int_equal(link_next(stream, 0, -1, &frame, NULL), 0); /* gives the last one back */
		while (credit < taken) {
			peer_expect(p, GUEST_CREDIT, 1);
			credit += wire_get32(p->payload);
		}
	}
	assert_int_equal(taken, 4 * GUEST_WINDOW);
	assert_int_equal(credit, taken);
	link_close(stream);
}

static void sends_within_credit(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	struct call *call = call_new(p, call_send, GUEST_DATA);
	size_t size = GUEST_WINDOW + 100000, got = 0;
	unsigned char *data = malloc(size), credit[4];

	assert_non_null(data);
	for (size_t i = 0; i < size; i++)
		data[i] = (unsigned char)(i * 7);
	call->stream = stream;
	call->data = data;
	call->size = size;
	call_begin(call);
	while (got < GUEST_WINDOW) {
		peer_expect(p, GUEST_DATA, 1);
		assert_memory_equal(p->payload, data + got, p->header.length);
		got += p->header.length;
	}
	assert_int_equal(got, GUEST_WINDOW);
	wire_put32(credit, 1);
	peer_send(p, GUEST_CREDIT, 0, 1, credit, 4);
	peer_expect(p, GUEST_DATA, 1);
	assert_int_equal(p->header.length, 1);
	got++;
	wire_put32(credit, UINT32_MAX); /* more than can be: cut to the largest window */
	peer_send(p, GUEST_CREDIT, 0, 1, credit, 4);
	while (got < size) {
		peer_expect(p, GUEST_DATA, 1);
		assert_memory_equal(p->payload, data + got, p->header.length);
		got += p->header.length;
	}
	assert_int_equal(call_end(call), 0);
	link_close(stream);
	free(data);
	free(call);
}

static void no_credit_in_time(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	static unsigned char data[GUEST_WINDOW + 1];
	struct call *call = call_new(p, call_send, GUEST_DATA);

	call->stream = stream;
	call->data = data;
	call->size = sizeof(data);
	call->timeout_ms = 100;
	call_begin(call);
	for (size_t got = 0; got < GUEST_WINDOW; got += p->header.length)
		peer_expect(p, GUEST_DATA, 1);
	assert_int_equal(call_end(call), -ETIMEDOUT);
	assert_false(link_is_dead(p->link));
	link_close(stream);
	free(call);
}

static void send_to_an_ended_stream(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	struct link_frame frame;
	struct error err = { 0 };

	peer_answer(p, GUEST_EXIT, 1, NULL);
	assert_int_equal(link_next(stream, PEER_MS, -1, &frame, NULL), 1);
	assert_int_equal(link_send(stream, "x", 1, PEER_MS, &err), -ECONNRESET);
	link_close(stream);
}

static void client_goes_away(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	struct link_frame frame;
	struct error err = { 0 };
	int client[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, client), 0);
	assert_int_equal(link_next(stream, 0, client[0], &frame, &err), 0);
	close(client[1]);
	assert_int_equal(link_next(stream, PEER_MS, client[0], &frame, &err), -EPIPE);
	close(client[0]);
	link_close(stream);
	peer_expect(p, GUEST_CLOSE, 1);
}

static void close_soon(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	struct link_frame frame;

	assert_int_equal(link_close_soon(stream), 0);
	peer_expect(p, GUEST_CLOSE, 1);
	peer_answer(p, GUEST_EXIT, 1, NULL);
	assert_int_equal(link_next(stream, PEER_MS, -1, &frame, NULL), 1);
	assert_int_equal(frame.type, GUEST_EXIT);
	link_close(stream);
}

/* Nothing blocks: not even when the guest has not read anything for long. */
static void close_soon_when_full(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	int sent = 0;

	while (link_close_soon(stream) == 0)
		assert_true(++sent < 10000000);
	assert_int_equal(link_close_soon(stream), -EAGAIN);
	assert_false(link_is_dead(p->link));
	link_kill(p->link, "the test is over"); /* or link_close would wait for the guest to read */
	link_close(stream);
}

static void signals_and_eof(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	unsigned char bytes[32];
	struct tlv_writer w;

	tlv_begin(&w, bytes, sizeof(bytes));
	tlv_u32(&w, GUEST_TAG_SIGNAL, 15);
	assert_int_equal(link_signal(stream, GUEST_SIGNAL, &w, NULL), 0);
	peer_expect(p, GUEST_SIGNAL, 1);
	assert_memory_equal(p->payload, bytes, w.size);
	assert_int_equal(link_send_eof(stream, NULL), 0);
	peer_expect(p, GUEST_EOF, 1);
	link_close(stream);
	peer_expect(p, GUEST_CLOSE, 1);
}

static void death_reaches_every_stream(void **state)
{
	struct peer *p = *state;
	struct link_stream *streams[40];
	struct error err = { 0 };

	for (int i = 0; i < 40; i++)
		streams[i] = peer_open(p);
	peer_send(p, GUEST_DATA, 0, 40, "last words", 10);
	shutdown(p->fd, SHUT_WR);
	for (int i = 0; i < 40; i++)
		dies(streams[i], "the VM ended");
	assert_int_equal(link_send(streams[0], "x", 1, PEER_MS, &err), -ECONNRESET);
	assert_int_equal(link_request(p->link, GUEST_PING, NULL, PEER_MS, NULL, NULL, &err), -ECONNRESET);
	link_kill(p->link, "another reason"); /* only the first counts */
	assert_int_equal(link_request(p->link, GUEST_PING, NULL, PEER_MS, NULL, NULL, &err), -ECONNRESET);
	assert_string_equal(err.text, "the VM ended");
	for (int i = 0; i < 40; i++)
		link_close(streams[i]);
}

/* What came before the end is still delivered. */
static void queued_frames_outlive_the_link(void **state)
{
	struct peer *p = *state;
	struct link_stream *stream = peer_open(p);
	struct link_frame frame;
	struct error err = { 0 };

	peer_send(p, GUEST_DATA, 0, 1, "last words", 10);
	peer_answer(p, GUEST_EXIT, 1, NULL);
	shutdown(p->fd, SHUT_RDWR);
	assert_int_equal(link_next(stream, PEER_MS, -1, &frame, &err), 1);
	assert_memory_equal(frame.data, "last words", 10);
	assert_int_equal(link_next(stream, PEER_MS, -1, &frame, &err), 1);
	assert_int_equal(frame.type, GUEST_EXIT);
	assert_int_equal(link_next(stream, PEER_MS, -1, &frame, &err), -ECONNRESET);
	link_close(stream);
}

static void stream_numbers_end(void **state)
{
	struct link *link;
	struct error err = { 0 };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(link_new(pair[0], UINT32_MAX, &link, &err), 0);
	assert_int_equal(link_request(link, GUEST_PING, NULL, 50, NULL, NULL, &err), -EAGAIN);
	link_put(link);
	close(pair[1]);
	(void)state;
}

/* ---- many at once ---- */

static int use(struct call *call)
{
	for (int i = 0; i < 50; i++) {
		int r = link_request(call->peer->link, GUEST_STAT, NULL, PEER_MS, call->reply, &call->reply_size,
				     &call->err);
		if (r < 0)
			return r;
	}
	return 0;
}

static void many_threads(void **state)
{
	enum { THREADS = 8 };
	struct peer *p = *state;
	struct call *calls[THREADS];

	for (int i = 0; i < THREADS; i++) {
		calls[i] = call_new(p, use, GUEST_STAT);
		call_begin(calls[i]);
	}
	for (int i = 0; i < THREADS * 50; i++) {
		peer_take(p);
		assert_int_equal(p->header.type, GUEST_STAT);
		peer_answer(p, GUEST_RESULT, p->header.stream, NULL);
	}
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(call_end(calls[i]), 0);
		free(calls[i]);
	}
	assert_int_equal(link_last_stream(p->link), THREADS * 50);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, peer_greeted, peer_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(request_and_result),
		CASE(errors_of_the_guest),
		CASE(error_with_a_long_message),
		CASE(no_answer),
		CASE(answer_of_another_kind),
		CASE(fields_that_did_not_fit),
		CASE(never_opened),
		cmocka_unit_test(frames_of_the_host),
		cmocka_unit_test(malformed_headers),
		CASE(more_than_its_window),
		CASE(flood_of_frames),
		CASE(many_small_writes),
		CASE(frames_come_in_order),
		CASE(credit_comes_back),
		CASE(sends_within_credit),
		CASE(no_credit_in_time),
		CASE(send_to_an_ended_stream),
		CASE(client_goes_away),
		CASE(close_soon),
		CASE(close_soon_when_full),
		CASE(signals_and_eof),
		CASE(death_reaches_every_stream),
		CASE(queued_frames_outlive_the_link),
		cmocka_unit_test(stream_numbers_end),
		CASE(many_threads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
