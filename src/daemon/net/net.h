/*
 * What sandboxes may reach, on akirad's side: the tenant's `network` object becomes rules, the rules become numbers
 * for the launcher (proto/policy.h) and the behaviour of the resolver that answers the guest's DNS questions.
 *
 * Meaning of the rules
 *   Always blocked, whatever stands in them: the ranges in proto/address.h, the host itself, other sandboxes, TCP 25,
 *   DNS to others than the gateway (ports 53 and 853), everything inbound, IPv6.
 *   outbound "allow" (default): every other address is reachable but those in deny. `allow` then adds nothing.
 *   outbound "deny": nothing is reachable but the CIDRs in allow and the addresses that names in allow resolved to.
 *   deny wins over allow, for CIDRs as for names. "example.com" is that name alone; "*.example.com" is every name
 *   below it, not itself.
 *   Names resolve through the gateway alone. A name that the rules refuse is answered NXDOMAIN and no question leaves
 *   the host. An answer of an allowed name pins its addresses for its TTL (30..3,600 s, and 30 s of grace); open
 *   connections outlive the pin, new ones do not. Always-blocked addresses are taken out of every answer.
 *   Limits of this: rules are about addresses, not about what is said to them, so sites behind one address (a CDN)
 *   are allowed together; and under outbound "allow" a name in `deny` is not found, but its address stays reachable
 *   by number unless a CIDR denies it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/launcher/launcher.h"

#define NET_CIDRS_MAX POLICY_CIDRS_MAX /* in allow and in deny, each */
#define NET_DOMAINS_MAX 64             /* in allow and in deny, each */
#define NET_DOMAIN_MAX 253             /* characters */
#define NET_BANDWIDTH_MAX 10000        /* Mbit/s */
#define NET_UPSTREAMS_MAX 3

/* The `network` object, already taken out of its JSON. Strings are hostile; NULL and 0 stand for an absent field. */
struct net_request {
	const char *outbound;     /* "allow", "deny" */
	const char *const *allow; /* CIDRs, addresses, names */
	size_t allow_count;
	const char *const *deny;
	size_t deny_count;
	int64_t bandwidth_mbps; /* 0: absent; otherwise 1..NET_BANDWIDTH_MAX */
};

struct net_rules;

/*
 * -EINVAL: err names the field and the bound ("network.allow[3]: …"): for the client, HTTP 422. -ENOMEM. A NULL
 * request is the default rules. *rules is the caller's.
 */
int net_rules_parse(const struct net_request *request, struct net_rules **rules, struct error *err);
void net_rules_free(struct net_rules *rules); /* NULL is fine */
/* The numbers of them, as the launcher enforces them. Valid as long as rules. */
const struct policy *net_rules_policy(const struct net_rules *rules);

struct net_service_config {
	/*
	 * Resolvers to ask: IPv4 or IPv6 addresses, "ADDRESS" or, IPv4 only, "ADDRESS:PORT". None given: the nameserver
	 * lines of resolv_conf, read at start and again when the file changes.
	 */
	const char *const *upstreams;
	size_t upstream_count;   /* 0..NET_UPSTREAMS_MAX */
	const char *resolv_conf; /* NULL: /etc/resolv.conf */
};

struct net_service;

/* One thread that answers the DNS of all slots. launcher must outlive it. No upstream at all: names give SERVFAIL. */
int net_service_start(struct launcher *launcher, const struct net_service_config *config, struct net_service **service,
		      struct error *err);
/* Ends the thread; slots still attached are dropped (their policy stays as it is). NULL is fine. */
void net_service_stop(struct net_service *service);

/*
 * A sandbox takes the slot: questions left by an earlier one are thrown away, the policy is applied, names resolve.
 * net's descriptors stay the caller's (the service duplicates them); rules are copied. On failure the slot is as it
 * was and must not be used. Thread-safe, as are the two below.
 */
int net_service_attach(struct net_service *service, uint32_t slot, const struct launcher_net *net,
		       const struct net_rules *rules, struct error *err);
/*
 * Other rules for an attached slot, at once and atomically; connections that they no longer allow are cut. Addresses
 * pinned for names that stay allowed are pinned again. On failure the old rules stand. -ENOENT: not attached.
 */
int net_service_update(struct net_service *service, uint32_t slot, const struct net_rules *rules, struct error *err);
/*
 * The sandbox has left the slot. After it no pin is made for the slot any more. The caller resets or destroys the slot
 * at the launcher. Not attached: nothing.
 */
void net_service_detach(struct net_service *service, uint32_t slot);

struct net_dns_counters {
	uint64_t questions;
	uint64_t refused;  /* by the rules, or of a type that we do not forward */
	uint64_t limited;  /* over the rate or the number outstanding */
	uint64_t filtered; /* addresses taken out of answers because they are always blocked */
	uint64_t failed;   /* no good answer from any upstream */
};
/* -ENOENT: not attached. */
int net_service_counters(struct net_service *service, uint32_t slot, struct net_dns_counters *counters);
