#include "agent/request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/tlv.h"

static unsigned char bytes[GUEST_PAYLOAD_MAX + 64];
static struct tlv_writer w;
static struct request r;

static void begin(void)
{
	tlv_begin(&w, bytes, sizeof(bytes));
}

/* Decoded from memory of just its size. */
static int decode(uint8_t type)
{
	unsigned char *copy = malloc(w.size ? w.size : 1);
	memcpy(copy, bytes, w.size);
	int result = request_decode(&r, type, copy, w.size);
	free(copy);
	return result;
}

static void exec(void **state)
{
	begin();
	tlv_text(&w, GUEST_TAG_ARG, "one");
	tlv_text(&w, GUEST_TAG_ARG, "");
	tlv_text(&w, GUEST_TAG_ENV, "A=1");
	tlv_text(&w, GUEST_TAG_ENV, "B=");
	tlv_u8(&w, GUEST_TAG_STDIN, 1);
	tlv_text(&w, GUEST_TAG_CWD, "/x");
	assert_int_equal(decode(GUEST_OPEN_EXEC), 0);
	assert_int_equal(r.argc, 2);
	assert_string_equal(r.argv[0], "one");
	assert_string_equal(r.argv[1], "");
	assert_null(r.argv[2]);
	assert_int_equal(r.envc, 2);
	assert_string_equal(r.env[1], "B=");
	assert_null(r.env[2]);
	assert_string_equal(request_text(&r, GUEST_TAG_CWD), "/x");
	assert_int_equal(request_number(&r, GUEST_TAG_STDIN, 9), 1);
	assert_int_equal(request_number(&r, GUEST_TAG_USER, 9), 9);
	assert_false(request_has(&r, GUEST_TAG_PTY));
	assert_null(request_text(&r, GUEST_TAG_PATH));
}

static void nothing_stays_of_the_last(void **state)
{
	exec(state);
	begin();
	assert_int_equal(decode(GUEST_PING), 0);
	assert_int_equal(r.argc, 0);
	assert_int_equal(r.envc, 0);
	assert_null(r.argv[0]);
	assert_null(request_text(&r, GUEST_TAG_CWD));
}

static void env_needs_a_name(void **state)
{
	static const char *const bad[] = { "A", "=", "=x", "" };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		begin();
		tlv_text(&w, GUEST_TAG_ARG, "x");
		tlv_u8(&w, GUEST_TAG_STDIN, 0);
		tlv_text(&w, GUEST_TAG_ENV, bad[i]);
		assert_int_equal(decode(GUEST_OPEN_EXEC), -EBADMSG);
	}
}

static void argument_count(void **state)
{
	for (int count = GUEST_ARGS_MAX; count <= GUEST_ARGS_MAX + 1; count++) {
		begin();
		tlv_u8(&w, GUEST_TAG_STDIN, 0);
		for (int i = 0; i < count; i++)
			tlv_text(&w, GUEST_TAG_ARG, "a");
		assert_int_equal(decode(GUEST_OPEN_EXEC), count <= GUEST_ARGS_MAX ? 0 : -EBADMSG);
	}
	begin();
	tlv_u8(&w, GUEST_TAG_STDIN, 0);
	assert_int_equal(decode(GUEST_OPEN_EXEC), -EBADMSG);
}

static void shell_takes_one_line(void **state)
{
	for (int count = 1; count <= 2; count++) {
		begin();
		tlv_u8(&w, GUEST_TAG_STDIN, 0);
		tlv_u8(&w, GUEST_TAG_SHELL, 1);
		for (int i = 0; i < count; i++)
			tlv_text(&w, GUEST_TAG_ARG, "a");
		assert_int_equal(decode(GUEST_OPEN_EXEC), count == 1 ? 0 : -EBADMSG);
	}
}

/* The longest payload there is, all of it text: the arena must hold it. */
static void longest(void **state)
{
	static char big[GUEST_PAYLOAD_MAX];

	memset(big, 'x', sizeof(big));
	begin();
	tlv_u8(&w, GUEST_TAG_STDIN, 0);
	tlv_bytes(&w, GUEST_TAG_ARG, big, GUEST_PAYLOAD_MAX - 6 - w.size);
	assert_int_equal(w.size, GUEST_PAYLOAD_MAX);
	assert_int_equal(decode(GUEST_OPEN_EXEC), 0);
	assert_int_equal(strlen(r.argv[0]), GUEST_PAYLOAD_MAX - 6 - 7);
	tlv_u8(&w, GUEST_TAG_SHELL, 0);
	assert_int_equal(decode(GUEST_OPEN_EXEC), -EBADMSG);
}

static void paths(void **state)
{
	static char path[GUEST_PATH_MAX + 1];

	memset(path, 'p', sizeof(path));
	for (size_t size = GUEST_PATH_MAX - 1; size <= GUEST_PATH_MAX; size++) {
		begin();
		tlv_bytes(&w, GUEST_TAG_PATH, path, size);
		assert_int_equal(decode(GUEST_STAT), size < GUEST_PATH_MAX ? 0 : -EBADMSG);
	}
	begin();
	tlv_bytes(&w, GUEST_TAG_PATH, "a\0b", 3);
	assert_int_equal(decode(GUEST_STAT), -EBADMSG);
	begin();
	tlv_text(&w, GUEST_TAG_PATH, "");
	assert_int_equal(decode(GUEST_STAT), -EBADMSG);
	begin();
	tlv_text(&w, GUEST_TAG_PATH, "a");
	tlv_text(&w, GUEST_TAG_PATH, "b");
	assert_int_equal(decode(GUEST_STAT), -EBADMSG);
}

static void ranges(void **state)
{
	static const struct {
		uint32_t signal;
		int result;
	} cases[] = { { 0, -EBADMSG }, { 1, 0 }, { 64, 0 }, { 65, -EBADMSG } };

	for (size_t i = 0; i < 4; i++) {
		begin();
		tlv_u32(&w, GUEST_TAG_SIGNAL, cases[i].signal);
		assert_int_equal(decode(GUEST_SIGNAL), cases[i].result);
	}
	begin();
	tlv_u8(&w, GUEST_TAG_FRESH, 2);
	assert_int_equal(decode(GUEST_SETUP), -EBADMSG);
	begin();
	tlv_u16(&w, GUEST_TAG_ROWS, 1);
	assert_int_equal(decode(GUEST_RESIZE), -EBADMSG);
	tlv_u16(&w, GUEST_TAG_COLS, 1);
	assert_int_equal(decode(GUEST_RESIZE), 0);
}

static void put_personalise(size_t entropy)
{
	static unsigned char zeros[600];

	begin();
	tlv_u64(&w, GUEST_TAG_WALL_MS, 1);
	tlv_bytes(&w, GUEST_TAG_ENTROPY, zeros, entropy);
	tlv_text(&w, GUEST_TAG_HOSTNAME, "h");
	tlv_bytes(&w, GUEST_TAG_MACHINE_ID, zeros, 16);
	tlv_bytes(&w, GUEST_TAG_BOOT_ID, zeros, 16);
	tlv_text(&w, GUEST_TAG_WORKDIR, "/");
}

static void personalise(void **state)
{
	static const size_t sizes[] = { 31, 32, 512, 513 };

	for (size_t i = 0; i < 4; i++) {
		put_personalise(sizes[i]);
		assert_int_equal(decode(GUEST_PERSONALISE), sizes[i] >= 32 && sizes[i] <= 512 ? 0 : -EBADMSG);
	}
	put_personalise(32);
	tlv_u32(&w, GUEST_TAG_ADDRESS, 5);
	assert_int_equal(decode(GUEST_PERSONALISE), -EBADMSG); /* without prefix */
	tlv_u32(&w, GUEST_TAG_PREFIX, 24);
	assert_int_equal(decode(GUEST_PERSONALISE), 0);
	put_personalise(32);
	tlv_u32(&w, GUEST_TAG_GATEWAY, 5);
	assert_int_equal(decode(GUEST_PERSONALISE), -EBADMSG); /* without address */
	put_personalise(32);
	tlv_u32(&w, GUEST_TAG_ADDRESS, 5);
	tlv_u32(&w, GUEST_TAG_PREFIX, 31);
	assert_int_equal(decode(GUEST_PERSONALISE), -EBADMSG);
}

static void fields_of_answers_are_refused(void **state)
{
	begin();
	tlv_u32(&w, GUEST_TAG_ERRNO, 5);
	for (unsigned int type = 0; type < 256; type++)
		assert_int_equal(decode((uint8_t)type), -EBADMSG);
	begin();
	tlv_u8(&w, 63, 0);
	assert_int_equal(decode(GUEST_PING), -EBADMSG);
	begin();
	tlv_u8(&w, 65535, 0);
	assert_int_equal(decode(GUEST_PING), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exec),
		cmocka_unit_test(nothing_stays_of_the_last),
		cmocka_unit_test(env_needs_a_name),
		cmocka_unit_test(argument_count),
		cmocka_unit_test(shell_takes_one_line),
		cmocka_unit_test(longest),
		cmocka_unit_test(paths),
		cmocka_unit_test(ranges),
		cmocka_unit_test(personalise),
		cmocka_unit_test(fields_of_answers_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
