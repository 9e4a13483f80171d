#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "launch/uids.h"

static void test_each_once_then_none(void **state)
{
	struct uids u;
	struct error err;
	bool seen[5] = { false };
	uid_t uid;
	assert_int_equal(uids_init(&u, 1000, 5, &err), 0);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(uids_take(&u, &uid, &err), 0);
		assert_in_range(uid, 1000, 1004);
		assert_false(seen[uid - 1000]);
		seen[uid - 1000] = true;
	}
	assert_int_equal(uids_take(&u, &uid, &err), -EUSERS);
	uids_give(&u, 1002);
	assert_int_equal(uids_take(&u, &uid, &err), 0);
	assert_int_equal(uid, 1002);
	uids_end(&u);
}

static void test_longest_rested_comes_next(void **state)
{
	struct uids u;
	uid_t uid;
	assert_int_equal(uids_init(&u, 10, 3, NULL), 0);
	for (unsigned round = 0; round < 10; round++) {
		assert_int_equal(uids_take(&u, &uid, NULL), 0);
		assert_int_equal(uid, 10 + round % 3);
		uids_give(&u, uid);
	}
	uids_end(&u);
}

static void test_giving_what_was_not_taken_changes_nothing(void **state)
{
	struct uids u;
	uid_t uid;
	assert_int_equal(uids_init(&u, 10, 2, NULL), 0);
	uids_give(&u, 10);
	uids_give(&u, 9);
	uids_give(&u, 12);
	assert_int_equal(u.free, 2);
	assert_int_equal(uids_take(&u, &uid, NULL), 0);
	uids_give(&u, uid);
	uids_give(&u, uid);
	assert_int_equal(u.free, 2);
	assert_true(uids_in_range(&u, 11));
	assert_false(uids_in_range(&u, 12));
	assert_false(uids_in_range(&u, 9));
	assert_false(uids_in_use(&u, 10));
	uids_end(&u);
}

static void test_ranges_that_are_none(void **state)
{
	struct uids u;
	assert_int_equal(uids_init(&u, 0, 5, NULL), -EINVAL);
	assert_int_equal(uids_init(&u, 5, 0, NULL), -EINVAL);
	assert_int_equal(uids_init(&u, 5, UIDS_MAX + 1, NULL), -EINVAL);
	assert_int_equal(uids_init(&u, INT32_MAX, 2, NULL), -EINVAL);
	assert_int_equal(uids_init(&u, UINT32_MAX - 1, 5, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_once_then_none),
		cmocka_unit_test(test_longest_rested_comes_next),
		cmocka_unit_test(test_giving_what_was_not_taken_changes_nothing),
		cmocka_unit_test(test_ranges_that_are_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
