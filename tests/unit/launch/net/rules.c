/* The text of the rules. What the kernel makes of it is tested in tests/attack/network. */
#include "launch/net/rules.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "proto/address.h"

static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };
static const struct rules_addresses addresses = { 0x0a000202, 0x0a000201, mac, mac };

static unsigned count(const char *text, const char *what)
{
	unsigned found = 0;
	for (; (text = strstr(text, what)); text += strlen(what))
		found++;
	return found;
}

static void deny_all_accepts_nothing(void **state)
{
	_cleanup_buf_ struct buf text = { 0 };
	const struct policy nothing = { 0 };
	rules_slot(&text, &addresses, &nothing, 1);
	assert_non_null(strstr(text.data, "flush ruleset\n"));
	assert_int_equal(count(text.data, "verdict_out goto admit"), 0);
	assert_non_null(strstr(text.data, "names counter name n_policy goto refuse")); /* no DNS */
	assert_int_equal(count(text.data, "policy drop;"), 4); /* ingress, forward, input, output */
	assert_false(text.failed);
}

static void every_blocked_range_stands_in_both_tables(void **state)
{
	_cleanup_buf_ struct buf slot = { 0 }, host = { 0 };
	const struct policy nothing = { 0 };
	struct rules_host names = { "akira-t", "ak-t-", "eth0", ADDRESS_IPV4(10, 231, 0, 0) };
	rules_slot(&slot, &addresses, &nothing, 1);
	rules_host(&host, &names);
	for (size_t i = 0; i < ADDRESS_BLOCKED_COUNT; i++) {
		_cleanup_buf_ struct buf range = { 0 };
		uint32_t a = address_blocked[i].address;
		buf_addf(&range, "%u.%u.%u.%u/%u", a >> 24, a >> 16 & 255, a >> 8 & 255, a & 255,
			 address_blocked[i].prefix);
		assert_non_null(strstr(slot.data, range.data));
		assert_non_null(strstr(host.data, range.data));
	}
}

static void ranges_that_nest_are_written_once(void **state)
{
	_cleanup_buf_ struct buf text = { 0 };
	struct policy policy = {
		.allow_count = 4,
		.allow = { { ADDRESS_IPV4(8, 8, 8, 0), 24 },
			   { ADDRESS_IPV4(8, 0, 0, 0), 8 },
			   { ADDRESS_IPV4(8, 0, 0, 0), 8 },
			   { ADDRESS_IPV4(9, 9, 9, 9), 32 } },
	};
	rules_policy(&text, NULL, &policy, 5);
	assert_non_null(strstr(text.data, "verdict_out ip daddr { 8.0.0.0/8, 9.9.9.9/32 } goto admit"));
	assert_null(strstr(text.data, "8.8.8.0"));
}

static void deny_stands_before_allow(void **state)
{
	_cleanup_buf_ struct buf text = { 0 };
	struct policy policy = { .open = true, .deny_count = 1, .deny = { { ADDRESS_IPV4(8, 8, 8, 8), 32 } } };
	rules_policy(&text, NULL, &policy, 5);
	const char *deny = strstr(text.data, "verdict_out ip daddr { 8.8.8.8/32 } counter name n_policy goto refuse");
	assert_non_null(deny);
	assert_non_null(strstr(deny, "verdict_out goto admit"));
	assert_non_null(strstr(text.data, "verdict_in ip saddr { 8.8.8.8/32 } drop"));
}

static void rates_that_stay_are_not_written_again(void **state)
{
	_cleanup_buf_ struct buf same = { 0 }, other = { 0 };
	struct policy before = { .flows_max = 10 }, after = { .open = true, .flows_max = 10 };
	rules_policy(&same, &before, &after, 2);
	assert_null(strstr(same.data, "ct count"));
	after.flows_max = 11;
	rules_policy(&other, &before, &after, 2);
	assert_non_null(strstr(other.data, "ct count over 11 "));
}

static void without_an_uplink_nothing_is_forwarded(void **state)
{
	_cleanup_buf_ struct buf text = { 0 };
	struct rules_host names = { "akira-t", "ak-t-", "", ADDRESS_IPV4(10, 231, 0, 0) };
	rules_host(&text, &names);
	assert_null(strstr(text.data, "ct state { new"));
	assert_null(strstr(text.data, "masquerade"));
	assert_non_null(strstr(text.data, "iifname \"ak-t-*\" drop\noifname \"ak-t-*\" drop\n"));
}

static void the_largest_policy_fits(void **state)
{
	_cleanup_buf_ struct buf text = { 0 };
	struct policy policy = { .allow_count = POLICY_CIDRS_MAX, .deny_count = POLICY_CIDRS_MAX };
	for (uint32_t i = 0; i < POLICY_CIDRS_MAX; i++) {
		policy.allow[i] = (struct policy_cidr){ ADDRESS_IPV4(200, 100, 100, i), 32 };
		policy.deny[i] = (struct policy_cidr){ ADDRESS_IPV4(201, 100, 100, i), 32 };
	}
	rules_slot(&text, &addresses, &policy, UINT32_MAX);
	assert_false(text.failed);
	assert_int_equal(count(text.data, "200.100.100."), 2 * POLICY_CIDRS_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(deny_all_accepts_nothing),
		cmocka_unit_test(every_blocked_range_stands_in_both_tables),
		cmocka_unit_test(ranges_that_nest_are_written_once),
		cmocka_unit_test(deny_stands_before_allow),
		cmocka_unit_test(rates_that_stay_are_not_written_again),
		cmocka_unit_test(without_an_uplink_nothing_is_forwarded),
		cmocka_unit_test(the_largest_policy_fits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
