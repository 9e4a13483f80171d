/*
 * One slot: a namespace, in it the guest's tap and one end of a veth, the other end on the host.
 *
 *   guest 10.0.2.2 ──tap0 10.0.2.1│ namespace │veth0 BASE+2n+1 ──/31── ak-TAG-nnn BASE+2n│ host ── uplink
 *
 * The namespace is held by descriptors alone (ours, the VM's tap, akirad's DNS sockets): when their processes die it is
 * gone with everything in it, also after SIGKILL, and nothing is left to sweep but, while a VM still holds its tap, the
 * link on the host, which is found by its name.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "launch/net/net.h"
#include "launch/net/netlink.h"
#include "proto/address.h"
#include "proto/policy.h"

#define SLOT_GUEST ADDRESS_IPV4(10, 0, 2, 2)
#define SLOT_GATEWAY ADDRESS_IPV4(10, 0, 2, 1)
#define SLOT_PREFIX 30
#define SLOT_LINK_MAX 16

struct slot_pin {
	uint32_t address;
	int64_t until; /* CLOCK_MONOTONIC ms */
};

struct slot {
	uint32_t number;
	char link[SLOT_LINK_MAX]; /* on the host */
	uint32_t near, far;       /* the /31: host's end, slot's end */
	uint16_t mtu;
	int ns, tap;
	struct rtnl filter;        /* NETLINK_NETFILTER inside */
	uint32_t rules_generation; /* nft's, as it is if nobody else touched the rules */
	uint64_t rules_digest;
	struct policy policy;
	uint32_t policy_generation; /* the mark of flows by pin; never 0 */
	struct slot_pin *pins;      /* POLICY_PINS_MAX, from the first pin on */
	size_t pin_count;
	struct policy_counters past; /* what rule sets since replaced had counted */
	bool repaired;
};

/* host: a socket of NETLINK_ROUTE in the host's namespace. number, link, near, far and mtu are set by the caller. */
int slot_make(struct slot *slot, struct rtnl *host, int *dns_udp, int *dns_tcp, struct error *err);
/* A new tap and the rules of a fresh slot; the VM must have ended (-EBUSY). On failure destroy the slot. */
int slot_reset(struct slot *slot, struct error *err);
/* Removes the link, closes, frees. */
int slot_destroy(struct slot *slot, struct rtnl *host, struct error *err);

int slot_policy(struct slot *slot, const struct policy *policy, struct error *err);
int slot_pin(struct slot *slot, uint32_t address, uint32_t ttl, struct error *err);
int slot_counters(struct slot *slot, struct policy_counters *counters, struct error *err);
/* 1: the rules had been altered and are whole again; 0: nothing to do; -errno: they could not be restored. */
int slot_check(struct slot *slot, struct error *err);
/* Lay all rules down anew, with the policy and the pins that are live. */
int slot_restore(struct slot *slot, struct error *err);

/* Run work in the namespace ns, or in a new one (ns < 0), on a thread of its own, and wait for it. */
int slot_inside(int ns, int (*work)(void *argument, struct error *err), void *argument, struct error *err);
/* /proc/sys/NAME = value, in the namespace of the calling thread. optional: one that this kernel lacks is fine. */
int slot_sysctl(const char *name, const char *value, bool optional, struct error *err);
/* A tap of our name in the calling thread's namespace; -1 on failure. */
int slot_tap_open(struct error *err);
