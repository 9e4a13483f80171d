#include "base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void copies(void **state)
{
	char to[4] = "xxx";

	(void)state;
	assert_int_equal(str_copy(to, sizeof(to), "abc"), 0);
	assert_string_equal(to, "abc");
	assert_int_equal(str_copy(to, sizeof(to), "abcd"), -ENAMETOOLONG);
	assert_string_equal(to, "");
	assert_int_equal(str_copy(to, 0, "a"), -ENAMETOOLONG);
	assert_int_equal(str_copy(to, 1, ""), 0);
}

static void starts_and_ends(void **state)
{
	(void)state;
	assert_true(str_starts("sbx_1", "sbx_"));
	assert_false(str_starts("sb", "sbx_"));
	assert_true(str_starts("", ""));
	assert_true(str_ends("a.tmp", ".tmp"));
	assert_false(str_ends("tmp", ".tmp"));
	assert_true(str_ends("", ""));
}

static void numbers(void **state)
{
	static const char *const wrong[] = { "", " 1", "1 ", "+1", "-1", "0x10", "1e3", "1.0", "\xd9\xa1", "1\n" };
	uint64_t n = 7;

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(str_u64(wrong[i], 0, UINT64_MAX, &n), -EINVAL);
	assert_int_equal(n, 7);
	assert_int_equal(str_u64("18446744073709551615", 0, UINT64_MAX, &n), 0);
	assert_true(n == UINT64_MAX);
	assert_int_equal(str_u64("18446744073709551616", 0, UINT64_MAX, &n), -ERANGE);
	assert_int_equal(str_u64("99999999999999999999999", 0, UINT64_MAX, &n), -ERANGE);
	assert_int_equal(str_u64("0007", 1, 7, &n), 0);
	assert_int_equal(n, 7);
	assert_int_equal(str_u64("8", 1, 7, &n), -ERANGE);
	assert_int_equal(str_u64("0", 1, 7, &n), -ERANGE);
}

/* RFC 3629, section 4, and the sequences of Markus Kuhn's decoder test that must be refused. */
static const struct {
	const char *bytes;
	size_t size;
	bool valid;
} utf8[] = {
	{ "", 0, true },
	{ "a\x7f", 2, true },
	{ "\0", 1, false },
	{ "\xc2\x80", 2, true },
	{ "\xdf\xbf", 2, true },
	{ "\xe0\xa0\x80", 3, true },
	{ "\xef\xbf\xbf", 3, true },
	{ "\xed\x9f\xbf", 3, true },
	{ "\xee\x80\x80", 3, true },
	{ "\xf0\x90\x80\x80", 4, true },
	{ "\xf4\x8f\xbf\xbf", 4, true },
	{ "\x80", 1, false },
	{ "\xbf", 1, false },
	{ "a\x80", 2, false },
	{ "\xc2", 1, false },
	{ "\xe0\xa0", 2, false },
	{ "\xf0\x90\x80", 3, false }, /* cut */
	{ "\xc2\x41", 2, false },
	{ "\xe0\xa0\x41", 3, false },
	{ "\xf0\x90\x80\x41", 4, false },
	{ "\xe0\x41\x80", 3, false },
	{ "\xc2\xc2\x80", 3, false },
	{ "\xc0\xaf", 2, false },
	{ "\xc1\xbf", 2, false },
	{ "\xc0\x80", 2, false }, /* overlong */
	{ "\xe0\x80\xaf", 3, false },
	{ "\xe0\x9f\xbf", 3, false },
	{ "\xf0\x80\x80\xaf", 4, false },
	{ "\xf0\x8f\xbf\xbf", 4, false },
	{ "\xed\xa0\x80", 3, false },
	{ "\xed\xbf\xbf", 3, false },
	{ "\xed\xa0\x80\xed\xb0\x80", 6, false }, /* surrogates */
	{ "\xf4\x90\x80\x80", 4, false },
	{ "\xf5\x80\x80\x80", 4, false },
	{ "\xf8\x88\x80\x80\x80", 5, false },
	{ "\xfc\x84\x80\x80\x80\x80", 6, false },
	{ "\xfe", 1, false },
	{ "\xff", 1, false },
};

static void utf8_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(utf8) / sizeof(utf8[0]); i++) {
		/* A copy of its own, so that a sanitizer sees one byte too far. */
		char *exact = malloc(utf8[i].size + !utf8[i].size);
		assert_non_null(exact);
		memcpy(exact, utf8[i].bytes, utf8[i].size);
		if (str_is_utf8(exact, utf8[i].size) != utf8[i].valid)
			fail_msg("case %zu", i);
		size_t length = 0;
		char *clean = str_to_utf8(exact, utf8[i].size, &length);
		assert_non_null(clean);
		assert_int_equal(strlen(clean), length);
		assert_true(str_is_utf8(clean, length));
		if (utf8[i].valid)
			assert_memory_equal(clean, exact, utf8[i].size);
		free(clean);
		free(exact);
	}
}

/* Every code point and every pair of bytes, against the definition. */
static void utf8_exhaustive(void **state)
{
	(void)state;
	for (uint32_t c = 1; c <= 0x1fffff; c++) {
		unsigned char b[4];
		size_t n;
		if (c < 0x80)
			n = 1, b[0] = (unsigned char)c;
		else if (c < 0x800)
			n = 2, b[0] = (unsigned char)(0xc0 | c >> 6), b[1] = (unsigned char)(0x80 | (c & 63));
		else if (c < 0x10000)
			n = 3, b[0] = (unsigned char)(0xe0 | c >> 12), b[1] = (unsigned char)(0x80 | (c >> 6 & 63)),
			b[2] = (unsigned char)(0x80 | (c & 63));
		else
			n = 4, b[0] = (unsigned char)(0xf0 | c >> 18), b[1] = (unsigned char)(0x80 | (c >> 12 & 63)),
			b[2] = (unsigned char)(0x80 | (c >> 6 & 63)), b[3] = (unsigned char)(0x80 | (c & 63));
		bool valid = c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
		if (str_is_utf8((char *)b, n) != valid)
			fail_msg("U+%X", c);
	}
	for (unsigned int i = 0; i < 65536; i++) {
		unsigned char b[2] = { (unsigned char)(i >> 8), (unsigned char)i };
		bool ascii = b[0] > 0 && b[0] < 0x80 && b[1] > 0 && b[1] < 0x80;
		bool two = b[0] >= 0xc2 && b[0] <= 0xdf && b[1] >= 0x80 && b[1] <= 0xbf;
		if (str_is_utf8((char *)b, 2) != (ascii || two))
			fail_msg("%02x %02x", b[0], b[1]);
	}
}

static void replaces(void **state)
{
	size_t length;

	(void)state;
	char *text = str_to_utf8("a\0b\xff\xe2\x82"
				 "c",
				 7, &length);
	assert_string_equal(text, "a\xef\xbf\xbd"
				  "b\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
				  "c");
	assert_int_equal(length, 15);
	free(text);
	assert_null(str_to_utf8("x", SIZE_MAX, &length));
}

static void hex(void **state)
{
	unsigned char bytes[4];
	char text[9];

	(void)state;
	str_hex(text, "\x00\x7f\xff\x1a", 4);
	assert_string_equal(text, "007fff1a");
	assert_int_equal(str_unhex(bytes, 4, "007FfF1a"), 0);
	assert_memory_equal(bytes, "\x00\x7f\xff\x1a", 4);
	assert_int_equal(str_unhex(bytes, 4, "007fff1"), -EINVAL);
	assert_int_equal(str_unhex(bytes, 4, "007fff1a0"), -EINVAL);
	assert_int_equal(str_unhex(bytes, 4, "007fff1g"), -EINVAL);
	assert_int_equal(str_unhex(bytes, 4, "007fff 1"), -EINVAL);
	assert_int_equal(str_unhex(bytes, 0, ""), 0);
}

static void random_ids(void **state)
{
	char ids[64][40];
	unsigned int seen[128] = { 0 };

	(void)state;
	for (int i = 0; i < 64; i++) {
		str_random_id(ids[i], "sbx");
		assert_int_equal(strlen(ids[i]), 28);
		assert_true(str_starts(ids[i], "sbx_"));
		for (int k = 4; k < 28; k++) {
			assert_non_null(
				strchr("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", ids[i][k]));
			seen[(unsigned char)ids[i][k]]++;
		}
		for (int k = 0; k < i; k++)
			assert_string_not_equal(ids[i], ids[k]);
	}
	/* 1,536 letters of 62: that one is missing has a chance of 10^-9. */
	for (const char *c = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"; *c; c++)
		assert_int_not_equal(seen[(unsigned char)*c], 0);
}

static void names(void **state)
{
	char name[65];

	(void)state;
	memset(name, 'a', 64);
	name[64] = '\0';
	assert_false(str_is_name(name));
	name[63] = '\0';
	assert_true(str_is_name(name));
	assert_true(str_is_name("0.a_b-C"));
	static const char *const wrong[] = {
		"", ".a", "-a", "_a", "a b", "a/b", "a\n", "\xc3\xa4", "a\x80", "..", "a:b"
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_false(str_is_name(wrong[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies),     cmocka_unit_test(starts_and_ends), cmocka_unit_test(numbers),
		cmocka_unit_test(utf8_table), cmocka_unit_test(utf8_exhaustive), cmocka_unit_test(replaces),
		cmocka_unit_test(hex),        cmocka_unit_test(random_ids),      cmocka_unit_test(names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
