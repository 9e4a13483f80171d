#include "daemon/net/policy.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "daemon/net/address.h"

/* ---- names ---- */

static bool label_ok(const char *label, size_t size)
{
	if (size < 1 || size > 63 || label[0] == '-' || label[size - 1] == '-')
		return false;
	for (size_t i = 0; i < size; i++)
		if (!islower((unsigned char)label[i]) && !isdigit((unsigned char)label[i]) && label[i] != '-' &&
		    label[i] != '_')
			return false;
	return true;
}

int policy_name_normalise(char *to, const char *from, struct error *err)
{
	size_t size = strlen(from);
	if (size > 1 && from[size - 1] == '.')
		size--;
	if (size < 1 || size > NET_DOMAIN_MAX)
		return error_set(err, EINVAL, "a name has 1 to %d characters", NET_DOMAIN_MAX);
	for (size_t i = 0; i < size; i++) {
		if ((unsigned char)from[i] >= 0x80)
			return error_set(err, EINVAL, "write an international name in its ASCII form (xn--...)");
		to[i] = (char)(from[i] >= 'A' && from[i] <= 'Z' ? from[i] + 32 : from[i]);
	}
	to[size] = '\0';
	for (const char *label = to;;) {
		size_t length = strcspn(label, ".");
		if (!label_ok(label, length))
			return error_set(err, EINVAL,
					 "a name is labels of 1 to 63 letters, digits, '-' or '_', with dots between");
		if (label[length] == '\0')
			return 0;
		label += length + 1;
	}
}

static bool name_matches(const struct policy_name *rule, const char *name)
{
	if (!rule->below)
		return strcmp(rule->text, name) == 0;
	size_t rule_size = strlen(rule->text), size = strlen(name);
	return size > rule_size + 1 && name[size - rule_size - 1] == '.' &&
	       strcmp(name + size - rule_size, rule->text) == 0;
}

static bool any_matches(const struct policy_name *rules, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (name_matches(&rules[i], name))
			return true;
	return false;
}

bool policy_name_denied(const struct net_rules *rules, const char *name)
{
	return any_matches(rules->deny, rules->deny_count, name);
}

bool policy_name_allowed(const struct net_rules *rules, const char *name)
{
	if (policy_name_denied(rules, name))
		return false;
	return rules->numbers.open || any_matches(rules->allow, rules->allow_count, name);
}

/* ---- the request ---- */

struct list {
	const char *field; /* for messages */
	const char *const *entries;
	size_t count;
	struct policy_cidr *cidrs;
	uint32_t *cidr_count;
	struct policy_name *names;
	size_t *name_count;
	bool allow;
};

static int add_cidr(const struct list *list, const char *text, struct error *err)
{
	struct policy_cidr cidr;
	int rc = address_parse(text, &cidr, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; list->allow && i < ADDRESS_BLOCKED_COUNT; i++)
		if (address_within(&cidr, &address_blocked[i]))
			return error_set(err, EINVAL,
					 "private, link-local, metadata, multicast and reserved addresses "
					 "stay blocked and cannot be allowed");
	if (*list->cidr_count == NET_CIDRS_MAX)
		return error_set(err, EINVAL, "at most %d addresses and ranges", NET_CIDRS_MAX);
	list->cidrs[(*list->cidr_count)++] = cidr;
	return 0;
}

static int add_name(const struct list *list, const char *text, struct error *err)
{
	struct policy_name name = { .below = str_starts(text, "*.") };
	int rc = policy_name_normalise(name.text, name.below ? text + 2 : text, err);
	if (rc < 0)
		return rc;
	if (*list->name_count == NET_DOMAINS_MAX)
		return error_set(err, EINVAL, "at most %d names", NET_DOMAINS_MAX);
	list->names[(*list->name_count)++] = name;
	return 0;
}

static int add_entries(const struct list *list, struct error *err)
{
	if (list->count > NET_CIDRS_MAX + NET_DOMAINS_MAX)
		return error_set(err, EINVAL, "network.%s: at most %d addresses and ranges and %d names", list->field,
				 NET_CIDRS_MAX, NET_DOMAINS_MAX);
	for (size_t i = 0; i < list->count; i++) {
		const char *text = list->entries[i] ? list->entries[i] : "";
		int rc = address_looks_like(text) ? add_cidr(list, text, err) : add_name(list, text, err);
		if (rc < 0)
			return error_prefix(err, "network.%s[%zu]", list->field, i);
	}
	return 0;
}

static int parse_plain(const struct net_request *request, struct policy *numbers, struct error *err)
{
	const char *outbound = request->outbound ? request->outbound : "allow";
	if (strcmp(outbound, "allow") != 0 && strcmp(outbound, "deny") != 0)
		return error_set(err, EINVAL, "network.outbound: must be \"allow\" or \"deny\"");
	if (request->bandwidth_mbps < 0 || request->bandwidth_mbps > NET_BANDWIDTH_MAX)
		return error_set(err, EINVAL, "network.bandwidth_mbps: must be 1 to %d", NET_BANDWIDTH_MAX);
	numbers->open = strcmp(outbound, "allow") == 0;
	numbers->dns = true; /* also when nothing may be resolved: NXDOMAIN at once, not a time-out */
	numbers->bandwidth_kbps = (uint32_t)request->bandwidth_mbps * 1000;
	return 0;
}

static int parse(const struct net_request *request, struct net_rules *rules, struct error *err)
{
	struct list allow = { "allow",
			      request->allow,
			      request->allow_count,
			      rules->numbers.allow,
			      &rules->numbers.allow_count,
			      rules->allow,
			      &rules->allow_count,
			      true };
	struct list deny = { "deny",
			     request->deny,
			     request->deny_count,
			     rules->numbers.deny,
			     &rules->numbers.deny_count,
			     rules->deny,
			     &rules->deny_count,
			     false };
	int rc = parse_plain(request, &rules->numbers, err);
	rc = rc < 0 ? rc : add_entries(&allow, err);
	return rc < 0 ? rc : add_entries(&deny, err);
}

int net_rules_parse(const struct net_request *request, struct net_rules **rules, struct error *err)
{
	static const struct net_request nothing;
	struct net_rules *made = calloc(1, sizeof(*made));
	if (!made)
		return error_set(err, ENOMEM, "no memory for network rules");
	struct error local;
	int rc = parse(request ? request : &nothing, made, err ? err : &local);
	if (rc < 0) {
		free(made);
		return rc;
	}
	*rules = made;
	return 0;
}

void net_rules_free(struct net_rules *rules)
{
	free(rules);
}

const struct policy *net_rules_policy(const struct net_rules *rules)
{
	return &rules->numbers;
}
