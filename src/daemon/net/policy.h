/* The rules of one sandbox, parsed: numbers for the launcher, names for the resolver. Their meaning: net.h. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "daemon/net/net.h"

struct policy_name {
	char text[NET_DOMAIN_MAX + 1]; /* lower case, no dot at the end, without the "*." */
	bool below;                    /* "*.": every name below it, not itself */
};

struct net_rules {
	struct policy numbers;
	size_t allow_count, deny_count;
	struct policy_name allow[NET_DOMAINS_MAX], deny[NET_DOMAINS_MAX];
};

/*
 * Lower case, no dot at the end; to holds NET_DOMAIN_MAX + 1. -EINVAL unless it is labels of 1..63 letters, digits,
 * '-' and '_', at most 253 characters in all.
 */
int policy_name_normalise(char *to, const char *from, struct error *err);

/* May this name (normalised) be resolved? */
bool policy_name_allowed(const struct net_rules *rules, const char *name);
/* Is it in deny? Asked of the names that an alias leads over: they need not be in allow. */
bool policy_name_denied(const struct net_rules *rules, const char *name);
