#include "agent/queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void order_is_kept(void **state)
{
	struct queue q = { 0 };
	unsigned char next_in = 0, next_out = 0;

	for (int round = 0; round < 2000; round++) {
		unsigned char bytes[17];
		for (size_t i = 0; i < sizeof(bytes); i++)
			bytes[i] = next_in++;
		assert_int_equal(queue_add(&q, bytes, sizeof(bytes)), 0);
		size_t take = (size_t)round % 23 < queue_size(&q) ? (size_t)round % 23 : queue_size(&q);
		for (size_t i = 0; i < take; i++)
			assert_int_equal(q.data[q.start + i], next_out++);
		queue_drop(&q, take);
	}
	assert_true(q.room < 65536);
	queue_free(&q);
}

static void empty_holds_nothing(void **state)
{
	struct queue q = { 0 };

	assert_int_equal(queue_add(&q, "abc", 3), 0);
	queue_drop(&q, 3);
	assert_null(q.data);
	assert_int_equal(queue_size(&q), 0);
	assert_int_equal(queue_add(&q, "d", 1), 0);
	assert_int_equal(q.data[q.start], 'd');
	queue_free(&q);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(order_is_kept), cmocka_unit_test(empty_holds_nothing) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
