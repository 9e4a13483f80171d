#include "proto/tlv.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void round_trip(void **state)
{
	unsigned char bytes[128];
	struct tlv_writer w;
	struct tlv_reader r;
	struct tlv_field f;
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
	char text[8];

	tlv_begin(&w, bytes, sizeof(bytes));
	tlv_u8(&w, 1, 0xab);
	tlv_u16(&w, 2, 0xabcd);
	tlv_u32(&w, 3, 0xdeadbeef);
	tlv_u64(&w, 4, 0x0123456789abcdef);
	tlv_text(&w, 5, "abc");
	tlv_bytes(&w, 6, NULL, 0);
	assert_false(w.failed);
	assert_int_equal(w.size, 6 * 6 + 1 + 2 + 4 + 8 + 3);

	tlv_read(&r, bytes, w.size);
	assert_int_equal(tlv_next(&r, &f), 1);
	assert_int_equal(tlv_get_u8(&f, &u8), 0);
	assert_int_equal(u8, 0xab);
	assert_int_equal(tlv_next(&r, &f), 1);
	assert_int_equal(tlv_get_u16(&f, &u16), 0);
	assert_int_equal(u16, 0xabcd);
	assert_int_equal(tlv_next(&r, &f), 1);
	assert_int_equal(tlv_get_u32(&f, &u32), 0);
	assert_int_equal(u32, 0xdeadbeef);
	assert_int_equal(tlv_next(&r, &f), 1);
	assert_int_equal(tlv_get_u64(&f, &u64), 0);
	assert_true(u64 == 0x0123456789abcdef);
	assert_int_equal(tlv_next(&r, &f), 1);
	assert_int_equal(f.tag, 5);
	assert_int_equal(tlv_get_text(&f, text, sizeof(text)), 0);
	assert_string_equal(text, "abc");
	assert_int_equal(tlv_next(&r, &f), 1);
	assert_int_equal(f.size, 0);
	assert_int_equal(tlv_next(&r, &f), 0);
	assert_int_equal(tlv_next(&r, &f), 0);
}

static void sizes_are_exact(void **state)
{
	unsigned char value[9] = { 0 };
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;

	for (uint32_t size = 0; size <= 9; size++) {
		struct tlv_field f = { .tag = 1, .size = size, .value = value };
		assert_int_equal(tlv_get_u8(&f, &u8), size == 1 ? 0 : -EBADMSG);
		assert_int_equal(tlv_get_u16(&f, &u16), size == 2 ? 0 : -EBADMSG);
		assert_int_equal(tlv_get_u32(&f, &u32), size == 4 ? 0 : -EBADMSG);
		assert_int_equal(tlv_get_u64(&f, &u64), size == 8 ? 0 : -EBADMSG);
	}
}

static void text_is_bounded_and_without_nul(void **state)
{
	char to[4];
	struct tlv_field f = { .size = 3, .value = (const unsigned char *)"abcd" };

	assert_int_equal(tlv_get_text(&f, to, sizeof(to)), 0);
	f.size = 4;
	assert_int_equal(tlv_get_text(&f, to, sizeof(to)), -EBADMSG);
	f = (struct tlv_field){ .size = 2, .value = (const unsigned char *)"a" };
	assert_int_equal(tlv_get_text(&f, to, sizeof(to)), -EBADMSG);
}

static void writer_fails_for_good(void **state)
{
	unsigned char bytes[16];
	struct tlv_writer w;

	tlv_begin(&w, bytes, 9);
	tlv_bytes(&w, 1, "1234", 4);
	assert_true(w.failed);
	tlv_u8(&w, 2, 1); /* would fit */
	assert_int_equal(w.size, 0);
	tlv_begin(&w, bytes, 7);
	tlv_u8(&w, 2, 1);
	assert_false(w.failed);
	assert_int_equal(w.size, 7);
	tlv_bytes(&w, 3, NULL, 0);
	assert_true(w.failed);
}

/* Every cut of a good list, each in memory of its own size so that a read beyond it is seen. */
static void cut_lists(void **state)
{
	unsigned char bytes[64];
	struct tlv_writer w;

	tlv_begin(&w, bytes, sizeof(bytes));
	tlv_u32(&w, 1, 5);
	tlv_text(&w, 2, "abc");
	for (size_t size = 0; size <= w.size; size++) {
		unsigned char *copy = malloc(size ? size : 1);
		struct tlv_reader r;
		struct tlv_field f;
		int more, count = 0;

		memcpy(copy, bytes, size);
		tlv_read(&r, copy, size);
		while ((more = tlv_next(&r, &f)) > 0)
			count++;
		bool whole = size == 0 || size == 10 || size == w.size;
		assert_int_equal(more, whole ? 0 : -EBADMSG);
		assert_int_equal(count, size >= w.size ? 2 : size >= 10 ? 1 : 0);
		free(copy);
	}
}

static void huge_size(void **state)
{
	unsigned char bytes[] = { 1, 0, 0xff, 0xff, 0xff, 0xff, 0 };
	struct tlv_reader r;
	struct tlv_field f;

	tlv_read(&r, bytes, sizeof(bytes));
	assert_int_equal(tlv_next(&r, &f), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(sizes_are_exact),
		cmocka_unit_test(text_is_bounded_and_without_nul),
		cmocka_unit_test(writer_fails_for_good),
		cmocka_unit_test(cut_lists),
		cmocka_unit_test(huge_size),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
