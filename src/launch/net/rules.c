#include "launch/net/rules.h"

#include "proto/address.h"

const char *const rules_slot_sets[] = { "blocked", NULL };
const char *const rules_host_sets[] = { "blocked", NULL };

#define QUAD "%u.%u.%u.%u"
#define QUAD_OF(a) (a) >> 24, (a) >> 16 & 255, (a) >> 8 & 255, (a)&255
#define MAC "%02x:%02x:%02x:%02x:%02x:%02x"
#define MAC_OF(m) (m)[0], (m)[1], (m)[2], (m)[3], (m)[4], (m)[5]

/* CIDRs nest or are disjoint; nft wants them disjoint. */
static bool is_covered(const struct policy_cidr *cidrs, size_t count, size_t which)
{
	for (size_t i = 0; i < count; i++) {
		bool same = cidrs[i].address == cidrs[which].address && cidrs[i].prefix == cidrs[which].prefix;
		if (i != which && address_within(&cidrs[which], &cidrs[i]) && (!same || i < which))
			return true;
	}
	return false;
}

static void put_cidrs(struct buf *text, const struct policy_cidr *cidrs, size_t count)
{
	const char *separator = "";
	for (size_t i = 0; i < count; i++) {
		if (is_covered(cidrs, count, i))
			continue;
		buf_addf(text, "%s" QUAD "/%u", separator, QUAD_OF(cidrs[i].address), cidrs[i].prefix);
		separator = ", ";
	}
}

/*
 * A rule about a policy's own ranges. They stand in the rule (a set without a name), not in a set that policies share:
 * a packet that is on its way through the old rules while a transaction commits would look into the new set, and
 * between "open, deny X" and "closed" find neither.
 */
static void put_ranges(struct buf *text, const char *chain, const char *field, const struct policy_cidr *cidrs,
		       uint32_t count, const char *verdict)
{
	if (count == 0)
		return;
	buf_addf(text, "add rule inet " RULES_TABLE " %s ip %s { ", chain, field);
	put_cidrs(text, cidrs, count);
	buf_addf(text, " } %s\n", verdict);
}

/* ---- inside a slot: structure ---- */

static void put_frames(struct buf *text, const struct rules_addresses *a)
{
	buf_addf(text,
		 "table netdev " RULES_TABLE " {\n"
		 "counter n_spoofed { }\ncounter n_limited { }\n"
		 "chain rate { }\n"
		 "chain ingress { type filter hook ingress device \"" RULES_TAP "\" priority -500; policy drop;\n"
		 "ether saddr != " MAC " counter name n_spoofed drop\n"
		 "ether type arp arp operation request arp saddr ether " MAC " arp saddr ip " QUAD " arp daddr ip " QUAD
		 " limit rate 20/second burst 50 packets accept\n"
		 "ether type != ip counter name n_spoofed drop\n"
		 "ether daddr != " MAC " counter name n_spoofed drop\n"
		 "ip version != 4 counter name n_spoofed drop\n"
		 "ip hdrlength != 5 counter name n_spoofed drop\n"
		 "ip saddr != " QUAD " counter name n_spoofed drop\n"
		 "ip frag-off & 0xbfff != 0 counter name n_spoofed drop\n"
		 "ip ttl < 2 counter name n_spoofed drop\n"
		 "ip protocol != { icmp, tcp, udp } counter name n_spoofed drop\n"
		 "ip protocol icmp icmp type != echo-request counter name n_spoofed drop\n"
		 "jump rate\naccept\n}\n}\n",
		 MAC_OF(a->guest_mac), MAC_OF(a->guest_mac), QUAD_OF(a->guest), QUAD_OF(a->gateway),
		 MAC_OF(a->gateway_mac), QUAD_OF(a->guest));
}

static void put_sets(struct buf *text)
{
	buf_adds(text, "counter n_out { }\ncounter n_in { }\ncounter n_private { }\ncounter n_policy { }\n"
		       "counter n_limited { }\ncounter n_spoofed { }\n"
		       "set " RULES_PINS " { type ipv4_addr; flags timeout; size 4096; }\n"
		       "set blocked { type ipv4_addr; flags interval; elements = { ");
	put_cidrs(text, address_blocked, ADDRESS_BLOCKED_COUNT);
	buf_adds(text, " } }\n");
}

static void put_ways(struct buf *text)
{
	buf_adds(text,
		 "chain refuse {\n"
		 "ct state established meta l4proto tcp limit rate 50/second burst 50 packets reject with tcp reset\n"
		 "limit rate 50/second burst 50 packets reject with icmp type admin-prohibited\n"
		 "drop\n}\n"
		 "chain rate { }\nchain names { }\nchain admit { }\n"
		 "chain verdict_out { }\nchain verdict_in { }\n"
		 "chain out {\n"
		 "ct state invalid counter name n_spoofed drop\n"
		 "ip daddr @blocked counter name n_private goto refuse\n"
		 "fib daddr type != unicast counter name n_private drop\n"
		 "tcp dport 25 counter name n_policy goto refuse\n"
		 "meta l4proto { tcp, udp } th dport { 53, 853 } counter name n_policy goto refuse\n"
		 "goto verdict_out\n}\n"
		 "chain back {\n"
		 "ct state != { established, related } drop\n"
		 "ct state related meta l4proto icmp limit rate 100/second burst 100 packets counter name n_in accept\n"
		 "goto verdict_in\n}\n");
}

static void put_hooks(struct buf *text, const struct rules_addresses *a)
{
	buf_addf(text,
		 /* The kernel drops these as martians before forward could count them. */
		 "chain prerouting { type filter hook prerouting priority -150; policy accept;\n"
		 "iifname \"" RULES_TAP
		 "\" ip daddr { 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3 } counter name n_private drop\n}\n"
		 "chain forward { type filter hook forward priority 0; policy drop;\n"
		 "meta nfproto != ipv4 drop\n"
		 "iifname \"" RULES_TAP "\" oifname \"" RULES_VETH "\" goto out\n"
		 "iifname \"" RULES_VETH "\" oifname \"" RULES_TAP "\" goto back\n"
		 "iifname \"" RULES_TAP "\" counter name n_private goto refuse\n}\n"
		 "chain input { type filter hook input priority 0; policy drop;\n"
		 "meta nfproto != ipv4 drop\n"
		 "iifname != \"" RULES_TAP "\" drop\n"
		 "ip daddr != " QUAD " counter name n_private goto refuse\n"
		 "meta l4proto { tcp, udp } th dport 53 goto names\n"
		 "icmp type echo-request limit rate 10/second burst 10 packets accept\n"
		 "counter name n_private goto refuse\n}\n"
		 "chain output { type filter hook output priority 0; policy drop;\n"
		 "oifname != \"" RULES_TAP "\" drop\n"
		 "ip daddr != " QUAD " drop\n"
		 "meta l4proto { tcp, udp } ip saddr " QUAD " th sport 53 accept\n"
		 "icmp type { echo-reply, destination-unreachable, time-exceeded } accept\n"
		 "tcp flags & rst == rst accept\n}\n"
		 "chain nat { type nat hook postrouting priority 100; policy accept;\n"
		 "oifname \"" RULES_VETH "\" masquerade fully-random\n}\n",
		 QUAD_OF(a->gateway), QUAD_OF(a->guest), QUAD_OF(a->gateway));
}

void rules_slot(struct buf *text, const struct rules_addresses *addresses, const struct policy *policy,
		uint32_t generation)
{
	buf_adds(text, "flush ruleset\n");
	put_frames(text, addresses);
	buf_adds(text, "table inet " RULES_TABLE " {\n");
	put_sets(text);
	put_ways(text);
	put_hooks(text, addresses);
	buf_adds(text, "}\n");
	rules_policy(text, NULL, policy, generation);
}

/* ---- inside a slot: policy ---- */

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
	return value ? value : otherwise;
}

static void put_rates(struct buf *text, const struct policy *policy)
{
	uint32_t packets = or_default(policy->packets_per_s, RULES_PACKETS_DEFAULT);
	uint32_t flows = or_default(policy->new_flows_per_s, RULES_FLOWS_DEFAULT);
	buf_addf(text,
		 "flush chain netdev " RULES_TABLE " rate\n"
		 "add rule netdev " RULES_TABLE " rate limit rate over %u/second burst %u packets "
		 "counter name n_limited drop\n",
		 packets, packets / 10 + 10);
	buf_addf(text,
		 "flush chain inet " RULES_TABLE " rate\n"
		 "add rule inet " RULES_TABLE " rate limit rate over %u/second burst %u packets "
		 "counter name n_limited drop\n"
		 "add rule inet " RULES_TABLE " rate ct count over %u counter name n_limited goto refuse\n",
		 flows, flows, or_default(policy->flows_max, RULES_TRACKED_DEFAULT));
}

static void put_names(struct buf *text, const struct policy *policy)
{
	buf_adds(text, "flush chain inet " RULES_TABLE " names\n");
	if (!policy->dns) {
		buf_adds(text, "add rule inet " RULES_TABLE " names counter name n_policy goto refuse\n");
		return;
	}
	buf_adds(text,
		 "add rule inet " RULES_TABLE " names meta l4proto udp limit rate over 200/second burst 400 packets "
		 "counter name n_limited drop\n"
		 "add rule inet " RULES_TABLE " names meta l4proto tcp ct state new limit rate over 20/second "
		 "burst 20 packets counter name n_limited drop\n"
		 "add rule inet " RULES_TABLE " names ct state invalid drop\n"
		 "add rule inet " RULES_TABLE " names accept\n");
}

/* A flow is new until it was admitted once: to conntrack, UDP that nobody answers stays new for ever. */
static void put_admit(struct buf *text, uint32_t generation)
{
	buf_addf(text,
		 "flush chain inet " RULES_TABLE " admit\n"
		 "add rule inet " RULES_TABLE " admit ct mark 0 jump rate\n"
		 "add rule inet " RULES_TABLE " admit ct mark != %u ct mark set %u\n"
		 "add rule inet " RULES_TABLE " admit counter name n_out accept\n",
		 generation, generation);
}

static void put_verdict_out(struct buf *text, const struct policy *policy, uint32_t generation)
{
	buf_adds(text, "flush chain inet " RULES_TABLE " verdict_out\n");
	put_ranges(text, "verdict_out", "daddr", policy->deny, policy->deny_count, "counter name n_policy goto refuse");
	if (policy->open) {
		buf_adds(text, "add rule inet " RULES_TABLE " verdict_out goto admit\n");
		return;
	}
	put_ranges(text, "verdict_out", "daddr", policy->allow, policy->allow_count, "goto admit");
	buf_addf(text,
		 "add rule inet " RULES_TABLE " verdict_out ip daddr @" RULES_PINS " goto admit\n"
		 "add rule inet " RULES_TABLE " verdict_out ct state established ct mark %u goto admit\n"
		 "add rule inet " RULES_TABLE " verdict_out counter name n_policy goto refuse\n",
		 generation);
}

static void put_verdict_in(struct buf *text, const struct policy *policy, uint32_t generation)
{
	buf_adds(text, "flush chain inet " RULES_TABLE " verdict_in\n");
	put_ranges(text, "verdict_in", "saddr", policy->deny, policy->deny_count, "drop");
	if (policy->open) {
		buf_adds(text, "add rule inet " RULES_TABLE " verdict_in counter name n_in accept\n");
		return;
	}
	put_ranges(text, "verdict_in", "saddr", policy->allow, policy->allow_count, "counter name n_in accept");
	buf_addf(text,
		 "add rule inet " RULES_TABLE " verdict_in ip saddr @" RULES_PINS " counter name n_in accept\n"
		 "add rule inet " RULES_TABLE " verdict_in ct mark %u counter name n_in accept\n"
		 "add rule inet " RULES_TABLE " verdict_in drop\n",
		 generation);
}

static bool same_rates(const struct policy *a, const struct policy *b)
{
	return a->packets_per_s == b->packets_per_s && a->new_flows_per_s == b->new_flows_per_s &&
	       a->flows_max == b->flows_max;
}

void rules_policy(struct buf *text, const struct policy *before, const struct policy *policy, uint32_t generation)
{
	buf_adds(text, "flush set inet " RULES_TABLE " " RULES_PINS "\n");
	/* A rule that counts connections starts from nothing when it is made anew. */
	if (!before || !same_rates(before, policy))
		put_rates(text, policy);
	put_names(text, policy);
	put_admit(text, generation);
	put_verdict_out(text, policy, generation);
	put_verdict_in(text, policy, generation);
}

/* ---- the host ---- */

static void put_host_checks(struct buf *text, const struct rules_host *host)
{
	buf_addf(text, "set blocked { type ipv4_addr; flags interval; elements = { ");
	put_cidrs(text, address_blocked, ADDRESS_BLOCKED_COUNT);
	buf_addf(text,
		 " } }\n"
		 "chain from_slot {\n"
		 "meta nfproto != ipv4 drop\n"
		 "ip saddr != " QUAD "/16 drop\n"
		 "fib saddr . iif oif missing drop\n" /* not the address of this veth's own slot */
		 "ip daddr @blocked drop\n"
		 "fib daddr type != unicast drop\n}\n" /* the host's own addresses, before any DNAT of the host's */
		 "chain prerouting { type filter hook prerouting priority -300; policy accept;\n"
		 "iifname \"%s*\" jump from_slot\n}\n"
		 "chain input { type filter hook input priority -10; policy accept;\n"
		 "iifname \"%s*\" drop\n}\n"
		 "chain output { type filter hook output priority -10; policy accept;\n"
		 "oifname != \"%s*\" accept\n"
		 "icmp type { destination-unreachable, time-exceeded } accept\n"
		 "drop\n}\n",
		 QUAD_OF(host->base), host->prefix, host->prefix, host->prefix);
}

void rules_host(struct buf *text, const struct rules_host *host)
{
	rules_host_remove(text, host->table);
	buf_addf(text, "table inet %s {\n", host->table);
	put_host_checks(text, host);
	buf_adds(text, "chain forward { type filter hook forward priority -10; policy accept;\n");
	if (*host->uplink)
		buf_addf(text,
			 "iifname \"%s*\" oifname \"%s\" ct state { new, established, related } accept\n"
			 "iifname \"%s\" oifname \"%s*\" ct state { established, related } accept\n",
			 host->prefix, host->uplink, host->uplink, host->prefix);
	buf_addf(text, "iifname \"%s*\" drop\noifname \"%s*\" drop\n}\n", host->prefix, host->prefix);
	buf_adds(text, "chain nat { type nat hook postrouting priority 100; policy accept;\n");
	if (*host->uplink)
		buf_addf(text, "ip saddr " QUAD "/16 oifname \"%s\" masquerade fully-random\n", QUAD_OF(host->base),
			 host->uplink);
	buf_adds(text, "}\n}\n");
}

void rules_host_remove(struct buf *text, const char *table)
{
	/* add first: deleting a table that is not there is an error */
	buf_addf(text, "add table inet %s\ndelete table inet %s\n", table, table);
}
