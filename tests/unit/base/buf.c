#include "base/buf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void grows(void **state)
{
	_cleanup_buf_ struct buf buf = { 0 };

	(void)state;
	assert_string_equal(buf_text(&buf), "");
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(buf_addf(&buf, "%03d,", i), 0);
		assert_int_equal(strlen(buf_text(&buf)), buf.size);
	}
	assert_int_equal(buf.size, 4000);
	assert_memory_equal(buf.data + 3996, "999,", 5);
	assert_int_equal(buf_add(&buf, NULL, 0), 0);
	assert_int_equal(buf_adds(&buf, ""), 0);
	assert_int_equal(buf.size, 4000);
}

static void bound_is_exact(void **state)
{
	_cleanup_buf_ struct buf buf = { .max = 10 };

	(void)state;
	assert_int_equal(buf_add(&buf, "0123456789", 10), 0);
	assert_string_equal(buf_text(&buf), "0123456789");
	assert_int_equal(buf_add(&buf, "", 0), 0);
	assert_int_equal(buf_adds(&buf, "x"), -EFBIG);
	assert_true(buf.failed);
	assert_string_equal(buf_text(&buf), "0123456789");
}

static void failure_is_sticky(void **state)
{
	_cleanup_buf_ struct buf buf = { .max = 4 };

	(void)state;
	assert_int_equal(buf_adds(&buf, "ab"), 0);
	assert_int_equal(buf_addf(&buf, "%s", "cde"), -EFBIG);
	assert_int_equal(buf_adds(&buf, "c"), -EFBIG); /* it would fit */
	assert_null(buf_room(&buf, 0));
	assert_string_equal(buf_text(&buf), "ab");
	buf_clear(&buf);
	assert_string_equal(buf_text(&buf), "");
	assert_int_equal(buf_adds(&buf, "abcd"), 0);
}

static void sizes_do_not_wrap(void **state)
{
	_cleanup_buf_ struct buf buf = { 0 };

	(void)state;
	assert_int_equal(buf_adds(&buf, "abc"), 0);
	assert_null(buf_room(&buf, SIZE_MAX));
	buf_clear(&buf);
	assert_null(buf_room(&buf, SIZE_MAX - 2));
	buf_clear(&buf);
	assert_null(buf_room(&buf, BUF_MAX_DEFAULT + 1));
}

static void room_and_grown(void **state)
{
	_cleanup_buf_ struct buf buf = { 0 };

	(void)state;
	char *to = buf_room(&buf, 100);
	assert_non_null(to);
	memcpy(to, "hello", 5);
	buf_grown(&buf, 5);
	assert_string_equal(buf_text(&buf), "hello");
}

static void drops(void **state)
{
	_cleanup_buf_ struct buf buf = { 0 };

	(void)state;
	buf_drop(&buf, 5); /* empty */
	buf_adds(&buf, "hello world");
	buf_drop(&buf, 0);
	buf_drop(&buf, 6);
	assert_string_equal(buf_text(&buf), "world");
	buf_drop(&buf, SIZE_MAX);
	assert_string_equal(buf_text(&buf), "");
	assert_int_equal(buf.size, 0);
}

static void holds_any_byte(void **state)
{
	_cleanup_buf_ struct buf buf = { 0 };

	(void)state;
	assert_int_equal(buf_add(&buf, "a\0b\xff", 4), 0);
	assert_int_equal(buf.size, 4);
	assert_memory_equal(buf.data, "a\0b\xff", 5);
	buf_free(&buf);
	assert_null(buf.data);
	buf_free(&buf); /* again */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows),
		cmocka_unit_test(bound_is_exact),
		cmocka_unit_test(failure_is_sticky),
		cmocka_unit_test(sizes_do_not_wrap),
		cmocka_unit_test(room_and_grown),
		cmocka_unit_test(drops),
		cmocka_unit_test(holds_any_byte),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
