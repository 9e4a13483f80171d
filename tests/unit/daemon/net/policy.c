#include "daemon/net/policy.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "proto/address.h"

static struct error err;

static struct net_rules *parsed(const char *outbound, const char *allow, const char *deny)
{
	const char *allows[] = { allow }, *denies[] = { deny };
	struct net_request request = { .outbound = outbound,
				       .allow = allows,
				       .allow_count = allow ? 1 : 0,
				       .deny = denies,
				       .deny_count = deny ? 1 : 0 };
	struct net_rules *rules = NULL;
	memset(&err, 0, sizeof(err));
	return net_rules_parse(&request, &rules, &err) == 0 ? rules : NULL;
}

static bool allowed(const char *outbound, const char *allow, const char *deny, const char *name)
{
	struct net_rules *rules = parsed(outbound, allow, deny);
	assert_non_null(rules);
	bool answer = policy_name_allowed(rules, name);
	net_rules_free(rules);
	return answer;
}

static void defaults_to_the_public_internet(void **state)
{
	struct net_rules *rules = NULL;
	assert_int_equal(net_rules_parse(NULL, &rules, NULL), 0);
	const struct policy *policy = net_rules_policy(rules);
	assert_true(policy->open && policy->dns);
	assert_int_equal(policy->allow_count + policy->deny_count, 0);
	assert_int_equal(policy->bandwidth_kbps, 0);
	net_rules_free(rules);
	net_rules_free(NULL);
}

static void sorts_ranges_from_names(void **state)
{
	const char *allow[] = { "8.8.8.0/24", "Example.COM.", "*.example.org", "1.1.1.1" };
	struct net_request request = { .outbound = "deny", .allow = allow, .allow_count = 4, .bandwidth_mbps = 25 };
	struct net_rules *rules = NULL;
	assert_int_equal(net_rules_parse(&request, &rules, NULL), 0);
	assert_false(rules->numbers.open);
	assert_int_equal(rules->numbers.bandwidth_kbps, 25000);
	assert_int_equal(rules->numbers.allow_count, 2);
	assert_int_equal(rules->numbers.allow[1].address, ADDRESS_IPV4(1, 1, 1, 1));
	assert_int_equal(rules->allow_count, 2);
	assert_string_equal(rules->allow[0].text, "example.com");
	assert_string_equal(rules->allow[1].text, "example.org");
	assert_true(rules->allow[1].below && !rules->allow[0].below);
	net_rules_free(rules);
}

static void refuses_with_the_field_and_the_bound(void **state)
{
	assert_null(parsed("maybe", NULL, NULL));
	assert_non_null(strstr(err.text, "network.outbound"));
	assert_null(parsed("deny", "8.8.8.8/40", NULL));
	assert_non_null(strstr(err.text, "network.allow[0]"));
	assert_non_null(strstr(err.text, "0 to 32"));
	assert_null(parsed("deny", "2001:db8::/32", NULL));
	assert_non_null(strstr(err.text, "IPv6"));
	assert_null(parsed("allow", NULL, "bad_-.example"));
	assert_non_null(strstr(err.text, "network.deny[0]"));
	assert_null(parsed("deny",
			   "b\xc3\xbc"
			   "cher.example",
			   NULL));
	assert_non_null(strstr(err.text, "xn--"));
	assert_int_equal(err.code, EINVAL);
}

static void refuses_to_allow_what_is_always_blocked(void **state)
{
	static const char *const ranges[] = { "10.0.0.0/8",     "10.1.2.3",      "169.254.169.254", "127.0.0.1",
					      "192.168.0.0/16", "172.20.0.0/16", "100.100.100.200", "168.63.129.16",
					      "224.0.0.0/8",    "0.0.0.0",       "255.255.255.255", "0.0.0.0/8" };
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		assert_null(parsed("deny", ranges[i], NULL));
		assert_non_null(strstr(err.text, "stay blocked"));
		struct net_rules *rules = parsed("allow", NULL, ranges[i]); /* to deny it is needless, not wrong */
		assert_non_null(rules);
		net_rules_free(rules);
	}
	struct net_rules *rules = parsed("deny", "0.0.0.0/0", NULL); /* wider than what is blocked: the rest of it */
	assert_non_null(rules);
	net_rules_free(rules);
}

static void bounds_counts_and_numbers(void **state)
{
	static char texts[130][32];
	const char *entries[130];
	for (size_t i = 0; i < 130; i++) {
		snprintf(texts[i], sizeof(texts[i]), i < 65 ? "8.8.%zu.0/24" : "n%zu.example", i);
		entries[i] = texts[i];
	}
	struct net_request request = { .allow = entries, .allow_count = 64 };
	struct net_rules *rules = NULL;
	assert_int_equal(net_rules_parse(&request, &rules, &err), 0);
	net_rules_free(rules);
	request.allow_count = 65;
	assert_int_equal(net_rules_parse(&request, &rules, &err), -EINVAL);
	assert_non_null(strstr(err.text, "at most 64"));
	request.allow = entries + 65;
	assert_int_equal(net_rules_parse(&request, &rules, &err), -EINVAL);
	request.allow_count = 64;
	assert_int_equal(net_rules_parse(&request, &rules, &err), 0);
	net_rules_free(rules);
	request.allow = entries;
	request.allow_count = SIZE_MAX; /* not even looked at */
	assert_int_equal(net_rules_parse(&request, &rules, &err), -EINVAL);
	static const int64_t wrong[] = { -1, 10001, INT64_MAX, INT64_MIN };
	for (size_t i = 0; i < 4; i++) {
		struct net_request other = { .bandwidth_mbps = wrong[i] };
		assert_int_equal(net_rules_parse(&other, &rules, &err), -EINVAL);
		assert_non_null(strstr(err.text, "bandwidth_mbps"));
	}
	const char *none[] = { NULL, "" };
	struct net_request empty = { .deny = none, .deny_count = 1 };
	assert_int_equal(net_rules_parse(&empty, &rules, &err), -EINVAL);
}

static void normalises_names(void **state)
{
	char name[NET_DOMAIN_MAX + 1], longest[300];
	assert_int_equal(policy_name_normalise(name, "WWW.Example.COM.", NULL), 0);
	assert_string_equal(name, "www.example.com");
	assert_int_equal(policy_name_normalise(name, "xn--bcher-kva.example", NULL), 0);
	for (size_t i = 0; i < 253; i++)
		longest[i] = i % 50 == 49 ? '.' : 'a';
	longest[253] = '\0';
	assert_int_equal(policy_name_normalise(name, longest, NULL), 0);
	longest[253] = 'a';
	longest[254] = '\0';
	assert_int_equal(policy_name_normalise(name, longest, NULL), -EINVAL);
	memset(longest, 'a', 64);
	strcpy(longest + 64, ".com");
	assert_int_equal(policy_name_normalise(name, longest, NULL), -EINVAL);
	assert_int_equal(policy_name_normalise(name, longest + 1, NULL), 0);
	static const char *const wrong[] = { "",    ".",   "..", "a..b",  ".a",   "a.b..",  "-a.b", "a-.b",
					     "a b", "a/b", "*",  "a.*.b", "a\nb", "http:x", "a@b",  "a,b" };
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(policy_name_normalise(name, wrong[i], NULL), -EINVAL);
}

static void matches_names(void **state)
{
	assert_true(allowed("deny", "example.com", NULL, "example.com"));
	assert_false(allowed("deny", "example.com", NULL, "www.example.com"));
	assert_false(allowed("deny", "example.com", NULL, "evilexample.com"));
	assert_false(allowed("deny", "example.com", NULL, "example.com.evil"));
	assert_true(allowed("deny", "*.example.com", NULL, "a.b.example.com"));
	assert_false(allowed("deny", "*.example.com", NULL, "example.com"));
	assert_false(allowed("deny", "*.example.com", NULL, "xexample.com"));
	assert_false(allowed("deny", "*.example.com", NULL, ".example.com"));
	assert_false(allowed("deny", "*.example.com", "a.example.com", "a.example.com")); /* deny wins */
	assert_true(allowed("allow", NULL, "example.com", "example.org"));
	assert_false(allowed("allow", "example.com", "example.com", "example.com"));
	assert_false(allowed("deny", "8.8.8.8", NULL, "example.com"));
	assert_false(allowed("deny", NULL, NULL, "example.com"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults_to_the_public_internet),
		cmocka_unit_test(sorts_ranges_from_names),
		cmocka_unit_test(refuses_with_the_field_and_the_bound),
		cmocka_unit_test(refuses_to_allow_what_is_always_blocked),
		cmocka_unit_test(bounds_counts_and_numbers),
		cmocka_unit_test(normalises_names),
		cmocka_unit_test(matches_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
