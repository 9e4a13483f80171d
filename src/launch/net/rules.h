/*
 * The text of the rule sets, for `nft -f -`. Numbers and names of ours only: nothing a tenant wrote gets in.
 *
 * Theory of operation. A packet of the guest passes, each stage dropping what it does not know:
 *   1. netdev/ingress of the tap, before the stack sees it: frames of the guest's MAC to the gateway's MAC, IPv4 or an
 *      ARP question for the gateway; no VLAN, no other ethertype; no IP options, fragments, TTL below 2, protocols but
 *      TCP, UDP and ICMP echo; the guest's own source address; packets a second.
 *   2. inet/forward inside the slot: never the always-blocked ranges, never TCP 25, never DNS to others (53, 853), not
 *      what the policy denies; then what the policy allows, within new flows a second and tracked connections. Back only what belongs to a flow, and
 *      only from an address that the policy allows now. So a new policy cuts flows by itself, in the same instant and
 *      in both directions, with no window and no list of connections to walk.
 *      An admitted flow carries the generation of the policy as its mark: it outlives the pin that let it be, not the
 *      policy.
 *   3. inet/input inside the slot: DNS to the gateway, a few pings. inet/output: answers to those.
 *   4. masquerade to the slot's own address; the host's table then checks again, without trust in 1-3: only the slot's
 *      address by its own veth, only to the uplink, never to another slot, the host or an always-blocked range; and
 *      masquerades to the host's.
 * A refused packet is answered (RST or ICMP, 50 a second), so that a program in the guest fails at once and does not
 * hang; a false one is dropped in silence.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "proto/policy.h"

#define RULES_TABLE "akira" /* inside a slot, families netdev and inet */
#define RULES_PINS "pins"   /* the inet set of pinned addresses */
#define RULES_TAP "tap0"
#define RULES_VETH "veth0"

#define RULES_PACKETS_DEFAULT 50000u /* a second, out */
#define RULES_FLOWS_DEFAULT 200u     /* new ones a second */
#define RULES_TRACKED_DEFAULT 2000u

/* The sets with a name whose elements never change, for nft_digest. */
extern const char *const rules_slot_sets[];
extern const char *const rules_host_sets[];

struct rules_addresses {
	uint32_t guest, gateway;
	const uint8_t *guest_mac, *gateway_mac;
};

/* Everything of a slot, whatever was there before: structure and the policy. generation: not 0. */
void rules_slot(struct buf *text, const struct rules_addresses *addresses, const struct policy *policy,
		uint32_t generation);
/*
 * The policy alone, into the structure that rules_slot made, in place of before (NULL: none yet): empties the pins,
 * keeps the counters and, if they are the same, the rates with what they have counted.
 */
void rules_policy(struct buf *text, const struct policy *before, const struct policy *policy, uint32_t generation);

struct rules_host {
	const char *table;  /* "akira-TAG" */
	const char *prefix; /* of the slots' links: "ak-TAG-" */
	const char *uplink; /* "" : none, nothing is forwarded */
	uint32_t base;      /* the /16 of the slots */
};
void rules_host(struct buf *text, const struct rules_host *host);
/* Take the host's table away. */
void rules_host_remove(struct buf *text, const char *table);
