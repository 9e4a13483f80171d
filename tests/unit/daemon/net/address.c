#include "daemon/net/address.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void parses_addresses_and_ranges(void **state)
{
	struct policy_cidr cidr;
	assert_int_equal(address_parse("8.8.4.4", &cidr, NULL), 0);
	assert_int_equal(cidr.address, ADDRESS_IPV4(8, 8, 4, 4));
	assert_int_equal(cidr.prefix, 32);
	assert_int_equal(address_parse("8.8.4.4/8", &cidr, NULL), 0);
	assert_int_equal(cidr.address, ADDRESS_IPV4(8, 0, 0, 0)); /* bits outside the prefix are cleared */
	assert_int_equal(cidr.prefix, 8);
	assert_int_equal(address_parse("0.0.0.0/0", &cidr, NULL), 0);
	assert_int_equal(cidr.prefix, 0);
	assert_int_equal(address_parse("255.255.255.255/32", &cidr, NULL), 0);
}

static void refuses_what_only_looks_like_one(void **state)
{
	static const char *const wrong[] = {
		"",
		"/",
		"/8",
		"1.2.3",
		"1.2.3.4.5",
		"256.1.1.1",
		"01.2.3.4",
		"0x8.8.4.4",
		"8.8.4.4/",
		"8.8.4.4/33",
		"8.8.4.4/08",
		"8.8.4.4/+8",
		"8.8.4.4/ 8",
		"8.8.4.4/-1",
		" 8.8.4.4",
		"8.8.4.4 ",
		"8.8.4.4/8/8",
		"134744072",
		"::1",
		"2001:db8::/32",
		"::ffff:10.0.0.1",
		"8.8.4.4/99999999999999999999",
		"8.8.4.4\n",
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct policy_cidr cidr;
		struct error err = { 0 };
		assert_true(address_parse(wrong[i], &cidr, &err) < 0);
		assert_true(err.text[0] != '\0');
	}
}

static void tells_addresses_from_names(void **state)
{
	static const char *const addresses[] = { "1.2.3.4", "10.0.0.0/8", "127.1",        "2130706433", "0x7f000001",
						 "::1",     "a/b",        "017700000001", "1.2.3.0x4" };
	static const char *const names[] = { "example.com", "*.example.com", "1.example.com", "xn--p1ai",
					     "9front.org",  "deadbeef",      "a.b.c0x1" };
	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
		assert_true(address_looks_like(addresses[i]));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_false(address_looks_like(names[i]));
}

/* The first and the last address of each range, and their neighbours outside. */
static void blocks_exactly_the_ranges(void **state)
{
	for (size_t i = 0; i < ADDRESS_BLOCKED_COUNT; i++) {
		const struct policy_cidr *range = &address_blocked[i];
		uint32_t first = range->address, last = range->address | ~address_mask(range->prefix);
		assert_int_equal(range->address & ~address_mask(range->prefix), 0);
		assert_true(address_is_blocked(first));
		assert_true(address_is_blocked(last));
	}
	static const uint32_t open[] = {
		ADDRESS_IPV4(1, 0, 0, 0),         ADDRESS_IPV4(9, 255, 255, 255),   ADDRESS_IPV4(11, 0, 0, 0),
		ADDRESS_IPV4(100, 63, 255, 255),  ADDRESS_IPV4(100, 128, 0, 0),     ADDRESS_IPV4(126, 255, 255, 255),
		ADDRESS_IPV4(128, 0, 0, 0),       ADDRESS_IPV4(168, 63, 129, 15),   ADDRESS_IPV4(168, 63, 129, 17),
		ADDRESS_IPV4(169, 253, 255, 255), ADDRESS_IPV4(169, 255, 0, 0),     ADDRESS_IPV4(172, 15, 255, 255),
		ADDRESS_IPV4(172, 32, 0, 0),      ADDRESS_IPV4(192, 0, 1, 0),       ADDRESS_IPV4(192, 0, 3, 0),
		ADDRESS_IPV4(192, 88, 98, 255),   ADDRESS_IPV4(192, 88, 100, 0),    ADDRESS_IPV4(192, 167, 255, 255),
		ADDRESS_IPV4(192, 169, 0, 0),     ADDRESS_IPV4(198, 17, 255, 255),  ADDRESS_IPV4(198, 20, 0, 0),
		ADDRESS_IPV4(198, 51, 99, 255),   ADDRESS_IPV4(198, 51, 101, 0),    ADDRESS_IPV4(203, 0, 112, 255),
		ADDRESS_IPV4(203, 0, 114, 0),     ADDRESS_IPV4(223, 255, 255, 255),
	};
	for (size_t i = 0; i < sizeof(open) / sizeof(open[0]); i++)
		assert_false(address_is_blocked(open[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_addresses_and_ranges),
		cmocka_unit_test(refuses_what_only_looks_like_one),
		cmocka_unit_test(tells_addresses_from_names),
		cmocka_unit_test(blocks_exactly_the_ranges),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
