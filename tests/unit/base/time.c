#include "base/time.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct {
	const char *text;
	int64_t ms;
} good[] = {
	{ "1970-01-01T00:00:00Z", 0 },
	{ "1970-01-01T01:00:00+01:00", 0 },
	{ "2026-01-31T12:34:56.789Z", 1769862896789 },
	{ "2026-01-31t12:34:56.789z", 1769862896789 },
	{ "2026-01-31T12:34:56.7Z", 1769862896700 },
	{ "2026-01-31T12:34:56.789999999Z", 1769862896789 },
	{ "2026-01-31T14:04:56.789+01:30", 1769862896789 },
	{ "2026-01-31T11:34:56.789-01:00", 1769862896789 },
	{ "2024-02-29T00:00:00Z", 1709164800000 },
	{ "2000-02-29T23:59:59Z", 951868799000 },
	{ "9999-12-31T23:59:59.999Z", 253402300799999 },
	{ "2016-12-31T23:59:60Z", 1483228800000 }, /* a leap second */
};

static const char *const wrong[] = {
	"",
	"2026",
	"2026-01-31",
	"2026-01-31T12:34:56",
	"2026-01-31 12:34:56Z",
	"2026-13-01T00:00:00Z",
	"2026-00-01T00:00:00Z",
	"2026-01-00T00:00:00Z",
	"2026-01-32T00:00:00Z",
	"2026-02-29T00:00:00Z",
	"2026-04-31T00:00:00Z",
	"2100-02-29T00:00:00Z",
	"2026-01-31T24:00:00Z",
	"2026-01-31T12:60:00Z",
	"2026-01-31T12:34:61Z",
	"1969-12-31T23:59:59Z",
	"1970-01-01T00:00:00+00:01",
	"0026-01-31T12:34:56Z",
	"2026-01-31T12:34:56.Z",
	"2026-01-31T12:34:56.12345678901Z",
	"2026-01-31T12:34:56,5Z",
	"2026-01-31T12:34:56ZZ",
	"2026-01-31T12:34:56+1:00",
	"2026-01-31T12:34:56+0100",
	"2026-01-31T12:34:56+24:00",
	"2026-01-31T12:34:56+00:60",
	"2026-01-31T12:34:56++1:00",
	"2026-01-31T12:34:56+ 1:00",
	"2026-01-31T12:34:56+-1:00",
	"2026-01-31T12:34:56+01:-1",
	"2026- 1-31T12:34:56Z",
	"2026-1-031T12:34:56Z",
	"+026-01-31T12:34:56Z",
	"2026-01-31T 2:34:56Z",
	" 2026-01-31T12:34:56Z",
	"2026-01-31T12:34:56Z ",
	"2026/01/31T12:34:56Z",
	"2026-01-31T12-34-56Z",
	"99999-01-01T00:00:00Z",
};

static void parses(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		int64_t ms = -1;
		if (time_parse_iso(good[i].text, &ms) != 0 || ms != good[i].ms)
			fail_msg("%s: %lld", good[i].text, (long long)ms);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		int64_t ms = -1;
		if (time_parse_iso(wrong[i], &ms) != -EINVAL || ms != -1)
			fail_msg("%s was taken", wrong[i]);
	}
}

static void writes(void **state)
{
	char text[TIME_TEXT_MAX];

	(void)state;
	assert_string_equal(time_iso(text, 0), "1970-01-01T00:00:00.000Z");
	assert_string_equal(time_iso(text, 1769862896789), "2026-01-31T12:34:56.789Z");
	assert_string_equal(time_iso(text, -1), "1969-12-31T23:59:59.999Z");
	assert_string_equal(time_iso(text, 253402300799999), "9999-12-31T23:59:59.999Z");
	assert_in_range(strlen(time_iso(text, INT64_MAX)), 0, TIME_TEXT_MAX - 1);
	assert_in_range(strlen(time_iso(text, INT64_MIN)), 0, TIME_TEXT_MAX - 1);
}

static void round_trip(void **state)
{
	(void)state;
	/* A step that is no multiple of a day, over all leap years of the range. */
	for (int64_t ms = 0; ms < 253402300799999; ms += 86399999999) {
		char text[TIME_TEXT_MAX];
		int64_t again = -1;
		assert_int_equal(time_parse_iso(time_iso(text, ms), &again), 0);
		assert_true(again == ms);
	}
}

static void deadlines(void **state)
{
	int64_t now = time_mono_ms();

	(void)state;
	assert_int_equal(time_left_ms(-1), -1);
	assert_int_equal(time_left_ms(INT64_MIN), -1);
	assert_int_equal(time_left_ms(0), 0);
	assert_int_equal(time_left_ms(now - 1), 0);
	assert_in_range(time_left_ms(now + 60000), 1, 60000);
	assert_int_equal(time_left_ms(INT64_MAX), INT32_MAX);
	assert_true(time_mono_us() / 1000 >= now);
	assert_true(time_wall_ms() > 1700000000000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses),
		cmocka_unit_test(writes),
		cmocka_unit_test(round_trip),
		cmocka_unit_test(deadlines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
