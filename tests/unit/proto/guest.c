#include "proto/guest.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include <cmocka.h>

static bool accepted(uint32_t length, unsigned int type, unsigned int channel, uint32_t stream)
{
	unsigned char bytes[GUEST_HEADER_SIZE];
	struct guest_header in = {
		.length = length, .type = (uint8_t)type, .channel = (uint8_t)channel, .stream = stream
	};
	struct guest_header out = { 0 };

	guest_put_header(bytes, &in);
	if (guest_get_header(bytes, &out) < 0)
		return false;
	assert_int_equal(out.length, length);
	assert_int_equal(out.type, type);
	assert_int_equal(out.channel, channel);
	assert_int_equal(out.stream, stream);
	return true;
}

static void layout(void **state)
{
	static const unsigned char want[] = { 0x04, 0x03, 0, 0, GUEST_DATA, 1, 0, 0, 0x78, 0x56, 0x34, 0x12 };
	unsigned char bytes[GUEST_HEADER_SIZE];

	guest_put_header(bytes, &(struct guest_header){
					.length = 0x304, .type = GUEST_DATA, .channel = 1, .stream = 0x12345678 });
	assert_memory_equal(bytes, want, sizeof(want));
}

static void lengths(void **state)
{
	assert_true(accepted(GUEST_PAYLOAD_MAX, GUEST_DATA, 0, 1));
	assert_false(accepted(GUEST_PAYLOAD_MAX + 1, GUEST_DATA, 0, 1));
	assert_false(accepted(UINT32_MAX, GUEST_DATA, 0, 1));
	assert_true(accepted(4, GUEST_CREDIT, 0, 1));
	assert_false(accepted(3, GUEST_CREDIT, 0, 1));
	assert_false(accepted(5, GUEST_CREDIT, 0, 1));
	assert_true(accepted(0, GUEST_EOF, 1, 1));
	assert_false(accepted(1, GUEST_EOF, 0, 1));
}

/* The numbers are the contract: none may move, none may come in between unseen. */
static void types(void **state)
{
	for (unsigned int type = 0; type < 256; type++) {
		bool known = type == 1 || (type >= 16 && type <= 26) || (type >= 32 && type <= 36) ||
			     (type >= 48 && type <= 51) || (type >= 64 && type <= 66) || (type >= 80 && type <= 83);
		uint32_t length = type == GUEST_CREDIT ? 4 : 0;
		assert_int_equal(accepted(length, type, 0, type == GUEST_HELLO ? 0 : 1), known);
	}
}

static void streams(void **state)
{
	assert_true(accepted(0, GUEST_HELLO, 0, 0));
	assert_false(accepted(0, GUEST_HELLO, 0, 1));
	assert_false(accepted(0, GUEST_PING, 0, 0));
	assert_true(accepted(0, GUEST_PING, 0, UINT32_MAX));
}

static void channels(void **state)
{
	assert_true(accepted(1, GUEST_DATA, 1, 1));
	assert_false(accepted(1, GUEST_DATA, 2, 1));
	assert_false(accepted(0, GUEST_PING, 1, 1));
}

static void reserved(void **state)
{
	for (size_t at = 6; at < 8; at++) {
		unsigned char bytes[GUEST_HEADER_SIZE];
		struct guest_header h = { .type = GUEST_PING, .stream = 1 }, untouched = { .stream = 77 };

		guest_put_header(bytes, &h);
		bytes[at] = 1;
		assert_int_equal(guest_get_header(bytes, &untouched), -EBADMSG);
		assert_int_equal(untouched.stream, 77);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(layout),  cmocka_unit_test(lengths),  cmocka_unit_test(types),
		cmocka_unit_test(streams), cmocka_unit_test(channels), cmocka_unit_test(reserved),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
