/* The exchange of HELLOs: what is believed, and what lies before it in the channel. */
#include "peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "proto/wire.h"

static struct call hello_of(struct peer *p, bool keep, int timeout_ms)
{
	return (struct call){ .run = call_hello, .peer = p, .keep = keep, .timeout_ms = timeout_ms };
}

static void answers(void **state)
{
	struct peer *p = *state;
	struct call call = hello_of(p, false, PEER_MS);

	call_begin(&call);
	peer_expect(p, GUEST_HELLO, 0);
	assert_int_equal(p->keep, 0);
	peer_hello(p, NULL, GUEST_VERSION, GUEST_SET_UP);
	assert_int_equal(call_end(&call), 0);
	assert_int_equal(call.phase, GUEST_SET_UP);
	assert_false(link_is_dead(p->link));
}

static void another_nonce_is_no_answer(void **state)
{
	struct peer *p = *state;
	struct call call = hello_of(p, false, 100);
	static const unsigned char zeros[GUEST_NONCE_SIZE];

	peer_hello(p, zeros, GUEST_VERSION, GUEST_BOOTED); /* before anybody asked: the nonce of a link that has none */
	call_begin(&call);
	peer_expect(p, GUEST_HELLO, 0);
	p->nonce[15] ^= 1;
	peer_hello(p, NULL, GUEST_VERSION, GUEST_BOOTED);
	peer_hello(p, zeros, GUEST_VERSION, GUEST_BOOTED);
	assert_int_equal(call_end(&call), -ETIMEDOUT);
	assert_false(link_is_dead(p->link));
}

static void wrong_answer(struct peer *p, uint32_t version, uint8_t phase)
{
	struct call call = hello_of(p, false, PEER_MS);

	call_begin(&call);
	peer_expect(p, GUEST_HELLO, 0);
	peer_hello(p, NULL, version, phase);
	assert_int_equal(call_end(&call), -ECONNRESET);
	assert_non_null(strstr(call.err.text, "version"));
	assert_true(link_is_dead(p->link));
}

static void another_version(void **state)
{
	wrong_answer(*state, GUEST_VERSION + 1, GUEST_BOOTED);
}

static void impossible_phase(void **state)
{
	wrong_answer(*state, GUEST_VERSION, GUEST_PERSONALISED + 1);
}

/* What a guest was saying when it was paused comes first, from the middle of a frame, and is of any length. */
static void after_half_a_frame(void **state)
{
	struct peer *p = *state;
	struct call call = hello_of(p, false, PEER_MS);
	static unsigned char rest[3 * GUEST_FRAME_MAX + 5];

	memset(rest, 0xff, sizeof(rest)); /* no byte of it could be part of a header */
	peer_write(p, rest, sizeof(rest));
	peer_send(p, GUEST_EXIT, 0, 77, NULL, 0);
	call_begin(&call);
	peer_expect(p, GUEST_HELLO, 0);
	peer_write(p, rest, 40);
	peer_hello(p, NULL, GUEST_VERSION, GUEST_PERSONALISED);
	assert_int_equal(call_end(&call), 0);
	assert_int_equal(call.phase, GUEST_PERSONALISED);
}

static void byte_by_byte(void **state)
{
	struct peer *p = *state;
	struct call call = hello_of(p, false, PEER_MS);
	unsigned char fields[64], header[GUEST_HEADER_SIZE];
	struct tlv_writer w;

	call_begin(&call);
	peer_expect(p, GUEST_HELLO, 0);
	tlv_begin(&w, fields, sizeof(fields));
	tlv_u32(&w, GUEST_TAG_VERSION, GUEST_VERSION);
	tlv_bytes(&w, GUEST_TAG_NONCE, p->nonce, sizeof(p->nonce));
	tlv_u8(&w, GUEST_TAG_PHASE, GUEST_BOOTED);
	guest_put_header(header, &(struct guest_header){ .length = (uint32_t)w.size, .type = GUEST_HELLO });
	peer_write(p, "\xff\xff\xff", 3);
	for (size_t i = 0; i < sizeof(header); i++)
		peer_write(p, header + i, 1);
	for (size_t i = 0; i < w.size; i++)
		peer_write(p, fields + i, 1);
	assert_int_equal(call_end(&call), 0);
	assert_int_equal(call.phase, GUEST_BOOTED);
}

/* The host before us may have stopped in the middle of a frame of any length: a whole one of zeros ends it. */
static void zeros_before_a_hello_that_keeps(void **state)
{
	struct peer *p = *state;
	struct call call = hello_of(p, true, PEER_MS);
	unsigned char byte = 0;
	size_t zeros = 0;

	call_begin(&call);
	/* HELLO's own first byte, its length, is not zero. */
	static unsigned char got[GUEST_FRAME_MAX];
	for (size_t left = GUEST_FRAME_MAX; left > 0;) {
		ssize_t n = recv(p->fd, got, left, 0);
		assert_true(n > 0);
		for (ssize_t i = 0; i < n; i++)
			zeros += got[i] == 0;
		left -= (size_t)n;
	}
	assert_int_equal(zeros, GUEST_FRAME_MAX);
	assert_int_equal(recv(p->fd, &byte, 1, MSG_PEEK), 1);
	assert_int_not_equal(byte, 0);
	peer_expect(p, GUEST_HELLO, 0);
	assert_int_equal(p->keep, 1);
	peer_hello(p, NULL, GUEST_VERSION, GUEST_PERSONALISED);
	assert_int_equal(call_end(&call), 0);
}

static void channel_ends(void **state)
{
	struct peer *p = *state;
	struct call call = hello_of(p, false, PEER_MS);

	call_begin(&call);
	peer_expect(p, GUEST_HELLO, 0);
	shutdown(p->fd, SHUT_RDWR);
	assert_int_equal(call_end(&call), -ECONNRESET);
}

static void malformed_fields(void **state)
{
	struct peer *p = *state;
	struct call call = hello_of(p, false, PEER_MS);
	unsigned char bytes[64];
	struct tlv_writer w;

	call_begin(&call);
	peer_expect(p, GUEST_HELLO, 0);
	tlv_begin(&w, bytes, sizeof(bytes));
	tlv_u32(&w, GUEST_TAG_VERSION, GUEST_VERSION);
	tlv_bytes(&w, GUEST_TAG_NONCE, p->nonce, sizeof(p->nonce));
	bytes[w.size++] = 7; /* the begin of a field */
	peer_answer(p, GUEST_HELLO, 0, &w);
	assert_int_equal(call_end(&call), -ECONNRESET);
	assert_non_null(strstr(call.err.text, "malformed"));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, peer_setup, peer_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(answers),
		CASE(another_nonce_is_no_answer),
		CASE(another_version),
		CASE(impossible_phase),
		CASE(after_half_a_frame),
		CASE(byte_by_byte),
		CASE(zeros_before_a_hello_that_keeps),
		CASE(channel_ends),
		CASE(malformed_fields),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
