#include "base/error.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void sets(void **state)
{
	struct error err = { 0 };

	(void)state;
	assert_int_equal(error_set(&err, EBUSY, "%s is %d", "it", 7), -EBUSY);
	assert_int_equal(err.code, EBUSY);
	assert_string_equal(err.text, "it is 7");
	assert_int_equal(error_errno(&err, ENOENT, "open %s", "x"), -ENOENT);
	assert_string_equal(err.text, "open x: No such file or directory");
	assert_int_equal(error_prefix(&err, "image %s", "y"), -ENOENT);
	assert_string_equal(err.text, "image y: open x: No such file or directory");
	assert_int_equal(error_set(NULL, EBUSY, "nobody asks"), -EBUSY);
	assert_int_equal(error_errno(NULL, EBUSY, "nobody asks"), -EBUSY);
	assert_int_equal(error_prefix(NULL, "nobody asks"), -EIO);
	err = (struct error){ 0 };
	assert_int_equal(error_prefix(&err, "nothing was set"), -EIO);
}

static void long_texts_are_cut(void **state)
{
	struct error err = { 0 };
	char text[2000];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	error_errno(&err, EIO, "%s", text);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	assert_int_equal(error_prefix(&err, "%s", text), -EIO);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	error_set(&err, EIO, "short");
	assert_int_equal(error_prefix(&err, "%.509s", text), -EIO);
	assert_int_equal(strlen(err.text), ERROR_TEXT_MAX - 1);
	assert_string_equal(err.text + 508, "x: ");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(sets), cmocka_unit_test(long_texts_are_cut) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
