/* Output as kept and as streamed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/api/output.h"

static void test_small_output_is_whole(void **state)
{
	struct output output = { 0 };
	assert_int_equal(output_add(&output, "one ", 4), 0);
	assert_int_equal(output_add(&output, "\xff two", 5), 0);
	json_t *text = output_json(&output);
	assert_string_equal(json_string_value(text), "one \xef\xbf\xbd two");
	assert_false(output.truncated);
	json_decref(text);
	output_free(&output);
}

/* Numbered lines: which are kept shows where the cut is. */
static void kept(size_t lines, size_t piece)
{
	struct output output = { 0 };
	_cleanup_buf_ struct buf all = { 0 };

	for (size_t i = 0; i < lines; i++)
		buf_addf(&all, "%015zu\n", i);
	for (size_t at = 0; at < all.size; at += piece)
		assert_int_equal(output_add(&output, all.data + at, all.size - at < piece ? all.size - at : piece), 0);
	json_t *text = output_json(&output);
	size_t length = json_string_length(text);
	if (all.size <= 2 * OUTPUT_HALF_MAX) {
		assert_false(output.truncated);
		assert_int_equal(length, all.size);
		assert_memory_equal(json_string_value(text), all.data, length);
	} else {
		assert_true(output.truncated);
		assert_int_equal(length, 2 * OUTPUT_HALF_MAX);
		assert_memory_equal(json_string_value(text), all.data, OUTPUT_HALF_MAX);
		assert_memory_equal(json_string_value(text) + OUTPUT_HALF_MAX, all.data + all.size - OUTPUT_HALF_MAX,
				    OUTPUT_HALF_MAX);
	}
	json_decref(text);
	output_free(&output);
}

static void test_first_and_last_are_kept(void **state)
{
	size_t full = 2 * OUTPUT_HALF_MAX / 16;
	kept(full, 65521);
	kept(full + 1, 65521);
	kept(full + 1, 2 * OUTPUT_HALF_MAX + 16);
	kept(3 * full, 4099);
	kept(2 * full, OUTPUT_HALF_MAX);
	kept(2 * full, 3 * OUTPUT_HALF_MAX);
}

static void test_pieces_do_not_split_characters(void **state)
{
	static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z\xff\xe2\x82";
	for (size_t piece = 1; piece < sizeof(text); piece++) {
		struct output_tail tail = { 0 };
		_cleanup_buf_ struct buf all = { 0 };
		size_t length;
		for (size_t at = 0; at < sizeof(text) - 1; at += piece) {
			size_t size = sizeof(text) - 1 - at < piece ? sizeof(text) - 1 - at : piece;
			_cleanup_free_ char *part = output_piece(&tail, text + at, size, &length);
			assert_non_null(part);
			buf_add(&all, part, length);
		}
		_cleanup_free_ char *rest = output_piece(&tail, NULL, 0, &length);
		buf_add(&all, rest, length);
		assert_string_equal(all.data,
				    "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small_output_is_whole),
		cmocka_unit_test(test_first_and_last_are_kept),
		cmocka_unit_test(test_pieces_do_not_split_characters),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
