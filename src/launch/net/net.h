/*
 * The network of the sandboxes, as root sets it up: one slot a sandbox. A slot is a network namespace with the guest's
 * tap, a veth to the host and its rules. The guest's and the gateway's addresses and MACs are the same in every slot,
 * so that one template fits all. Everything is denied until a policy is applied.
 *
 * Theory of operation: rules.h (what is filtered where) and slot.h (what a slot is made of). A slot keeps three
 * descriptors open: RLIMIT_NOFILE must fit. SIGCHLD must not be ignored, nor children be reaped by another thread meanwhile: nft
 * runs as a child. Linux 5.10 or newer.
 *
 * One thread calls these. None changes the network namespace of its caller. Addresses are IPv4 in host order; errors
 * are 0 or -errno with err filled.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"
#include "proto/policy.h"

#define NET_SLOTS_MAX 4096 /* slots are 0..4095 */

struct net_config {
	const char *uplink; /* interface that leads out; "" or NULL: that of the default route, looked up at net_init */
	uint32_t net_base;  /* start of a /16 from which each slot takes a /31 (two addresses) */
	const char *tag;    /* 1..6 of [0-9a-z], one per installation: goes into the names of links and tables */
	const char
		*run_dir; /* existing folder of root's own, for a lock: two launchers would sweep each other's slots */
};

struct net_slot {
	uint32_t guest_address, gateway; /* the same in every slot */
	uint32_t host_address;           /* of the slot, on the host's side of its veth: unique */
	uint8_t prefix;                  /* of the guest's network */
	uint16_t mtu;
	uint8_t mac[6];       /* the guest's */
	int dns_udp, dns_tcp; /* the caller's: bound to gateway:53 inside the slot, non-blocking; tcp listens */
};

/*
 * To be called first. Checks what the kernel and nft can do (-EOPNOTSUPP names what is missing), keeps a copy of the
 * configuration, lays down the host's table "akira-TAG" and turns on forwarding on the host if there is an uplink and
 * it is off (logged; for that interface alone, not ip_forward). A host without an uplink is fine: packets have nowhere
 * to go. Other tables of the host are not touched: a firewall of its own that drops forwarded packets must let those of
 * the links "ak-TAG-*" pass.
 */
int net_init(const struct net_config *config, struct error *err);
/*
 * Remove every namespace, link and mount of this tag that an earlier launcher left; returns how many slots that were.
 * After net_init, before the first slot.
 */
uint32_t net_sweep(void);
/* Remove all slots and the host's table: the launcher ends. */
void net_end(void);

/*
 * Make the slot, deny-all. -EEXIST if it exists. On success the descriptors in *out are the caller's; they stay good
 * over a reset, and keep the namespace alive until they are closed.
 */
int net_slot_make(uint32_t slot, struct net_slot *out, struct error *err);
/*
 * The tap's descriptor for `-netdev tap,fd=N`: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, single queue. It stays the slot's;
 * the VM process gets a duplicate. Another one after a reset. -ENOENT: no such slot.
 */
int net_slot_tap(uint32_t slot);
/*
 * Replace the policy in one transaction, drop all pins, cut the flows that it no longer allows. On failure the old
 * policy stands.
 */
int net_slot_policy(uint32_t slot, const struct policy *policy, struct error *err);
/*
 * Let the guest reach address for ttl seconds (1..86400); again: the longer of both. -EACCES: always blocked;
 * -ENOSPC: POLICY_PINS_MAX are live.
 */
int net_slot_pin(uint32_t slot, uint32_t address, uint32_t ttl, struct error *err);
/* Since the slot was made or reset. repaired is cleared by reading it. */
int net_slot_counters(uint32_t slot, struct policy_counters *counters, struct error *err);
/*
 * Back to a fresh slot: a new tap, deny-all, no pins, no flows, no neighbours, counters zero. -EBUSY: a VM still holds
 * the old tap. After a failure destroy the slot.
 */
int net_slot_reset(uint32_t slot, struct error *err);
/* Remove it with everything in it. A slot that does not exist: 0. */
int net_slot_destroy(uint32_t slot, struct error *err);

/*
 * To be called about once a second: sees whether somebody else changed the rules of the host's table or of a slot; if
 * so lays them down again whole and marks the slot repaired. Returns how many rule sets were repaired.
 */
int net_tick(void);
