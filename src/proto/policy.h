/*
 * What a sandbox may reach, as akirad asks and akira-launch enforces: numbers only, no names. Domains are akirad's
 * affair (src/daemon/net): it answers the guest's DNS questions and pins the addresses that a rule allows.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define POLICY_CIDRS_MAX 64
#define POLICY_PINS_MAX 1024 /* addresses pinned at one time, per sandbox */

struct policy_cidr {
	uint32_t address; /* IPv4, host order, bits outside the prefix are 0 */
	uint8_t prefix;   /* 0..32 */
};

struct policy {
	/*
	 * open: public addresses are reachable except those in deny. Otherwise only those in allow and those pinned.
	 * Private, link-local, metadata, multicast and host addresses stay blocked whatever stands here.
	 */
	bool open;
	bool dns; /* the resolver answers at all */
	uint32_t allow_count, deny_count;
	struct policy_cidr allow[POLICY_CIDRS_MAX];
	struct policy_cidr deny[POLICY_CIDRS_MAX];
	uint32_t bandwidth_kbps;  /* each direction; 0 = no limit */
	uint32_t packets_per_s;   /* out; 0 = the launcher's default */
	uint32_t new_flows_per_s; /* 0 = default */
	uint32_t flows_max;       /* tracked connections; 0 = default */
};

struct policy_counters {
	uint64_t bytes_out, bytes_in, packets_out, packets_in;
	uint64_t refused_private; /* to addresses that are always blocked */
	uint64_t refused_policy;  /* by the tenant's policy */
	uint64_t refused_spoofed; /* wrong MAC, IP, ARP, ethertype, fragments, protocol */
	uint64_t refused_limited; /* over a rate or a cap */
	bool repaired; /* the rules had been altered from outside since the last look; they are whole again */
};
