#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "support.h"

static void form(void **state)
{
	char text[AUTH_KEY_MAX], prefix[AUTH_PREFIX_MAX];

	for (int i = 0; i < 2000; i++) {
		auth_key_make(text, prefix);
		assert_int_equal(strlen(text), AUTH_KEY_LENGTH);
		assert_int_equal(strlen(prefix), 14);
		assert_memory_equal(text, prefix, 14);
		assert_memory_equal(text, "sk_live_", 8);
		for (size_t k = 8; k < AUTH_KEY_LENGTH; k++)
			assert_true(isalnum((unsigned char)text[k]));
		assert_true(auth_key_wellformed(text));
	}
}

/* Computed by another program (Python's zlib.crc32), so that scanners of secrets can rely on it. */
static void known_sums(void **state)
{
	assert_true(auth_key_wellformed("sk_live_0000000000000000000000000003XzGiN"));
	assert_true(auth_key_wellformed("sk_live_7n42DGM5Tflk9n8mt7Fhc7abcde1lz5bB"));
}

static void random_bits(void **state)
{
	char a[AUTH_KEY_MAX], b[AUTH_KEY_MAX], prefix[AUTH_PREFIX_MAX];
	bool seen[27][128] = { 0 };

	auth_key_make(a, prefix);
	for (int i = 0; i < 3000; i++) {
		auth_key_make(b, prefix);
		assert_string_not_equal(a, b);
		for (size_t k = 0; k < 27; k++)
			seen[k][(unsigned char)b[8 + k]] = true;
	}
	for (size_t k = 0; k < 27; k++) {
		int letters = 0;
		for (size_t c = 0; c < 128; c++)
			letters += seen[k][c];
		/* 2^160 / 62^26 = 36.6: the first digit takes 37 values. */
		assert_int_equal(letters, k == 0 ? 37 : 62);
	}
}

static void every_change_shows(void **state)
{
	char text[AUTH_KEY_MAX], prefix[AUTH_PREFIX_MAX], other[AUTH_KEY_MAX + 8];

	auth_key_make(text, prefix);
	for (size_t k = 0; k < AUTH_KEY_LENGTH; k++)
		for (int c = 1; c < 256; c++) {
			memcpy(other, text, sizeof(text));
			other[k] = (char)c;
			assert_int_equal(auth_key_wellformed(other), strcmp(other, text) == 0);
		}
	for (size_t k = 0; k < AUTH_KEY_LENGTH; k++) { /* cut short */
		memcpy(other, text, sizeof(text));
		other[k] = '\0';
		assert_false(auth_key_wellformed(other));
	}
	snprintf(other, sizeof(other), "%s0", text);
	assert_false(auth_key_wellformed(other));
	snprintf(other, sizeof(other), " %s", text);
	assert_false(auth_key_wellformed(other));
	assert_false(auth_key_wellformed(NULL));
	assert_false(auth_key_wellformed(""));
}

static void hashes(void **state)
{
	unsigned char secret[32] = { 1 }, other[32] = { 2 }, a[32], b[32];

	auth_key_hash(secret, "sk_live_x", a);
	auth_key_hash(secret, "sk_live_x", b);
	assert_memory_equal(a, b, 32);
	auth_key_hash(secret, "sk_live_y", b);
	assert_memory_not_equal(a, b, 32);
	auth_key_hash(other, "sk_live_x", b);
	assert_memory_not_equal(a, b, 32);
	store_subkey(secret, "sk_live_x", b); /* another purpose */
	assert_memory_not_equal(a, b, 32);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(form),        cmocka_unit_test(known_sums),
		cmocka_unit_test(random_bits), cmocka_unit_test(every_change_shows),
		cmocka_unit_test(hashes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
