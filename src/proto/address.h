/*
 * The IPv4 ranges that no sandbox ever reaches, whatever a tenant allows. They stand here once: akirad refuses them in
 * a tenant's rules and takes them out of DNS answers, the launcher drops packets to them.
 *
 * Sources: IANA IPv4 special-purpose address registry (RFC 6890 and what followed it), RFC 5771 (multicast), RFC 1112
 * (240/4); 168.63.129.16 is Azure's host, 100.100.100.200 Alibaba's metadata (inside 100.64/10, named for clarity).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/policy.h"

#define ADDRESS_IPV4(a, b, c, d) ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

static const struct policy_cidr address_blocked[] = {
	{ ADDRESS_IPV4(0, 0, 0, 0), 8 },        /* this network */
	{ ADDRESS_IPV4(10, 0, 0, 0), 8 },       /* private */
	{ ADDRESS_IPV4(100, 64, 0, 0), 10 },    /* carrier-grade NAT; 100.100.100.200 */
	{ ADDRESS_IPV4(127, 0, 0, 0), 8 },      /* loopback */
	{ ADDRESS_IPV4(168, 63, 129, 16), 32 }, /* Azure's host */
	{ ADDRESS_IPV4(169, 254, 0, 0), 16 },   /* link-local; metadata services */
	{ ADDRESS_IPV4(172, 16, 0, 0), 12 },    /* private */
	{ ADDRESS_IPV4(192, 0, 0, 0), 24 },     /* IETF protocol assignments; Oracle's metadata 192.0.0.192 */
	{ ADDRESS_IPV4(192, 0, 2, 0), 24 },     /* documentation */
	{ ADDRESS_IPV4(192, 88, 99, 0), 24 },   /* 6to4 relays */
	{ ADDRESS_IPV4(192, 168, 0, 0), 16 },   /* private */
	{ ADDRESS_IPV4(198, 18, 0, 0), 15 },    /* benchmarks */
	{ ADDRESS_IPV4(198, 51, 100, 0), 24 },  /* documentation */
	{ ADDRESS_IPV4(203, 0, 113, 0), 24 },   /* documentation */
	{ ADDRESS_IPV4(224, 0, 0, 0), 4 },      /* multicast */
	{ ADDRESS_IPV4(240, 0, 0, 0), 4 },      /* reserved, broadcast */
};

#define ADDRESS_BLOCKED_COUNT (sizeof(address_blocked) / sizeof(address_blocked[0]))

/* The bits of a prefix (0..32). */
static inline uint32_t address_mask(uint8_t prefix)
{
	return prefix == 0 ? 0 : UINT32_MAX << (32 - prefix);
}

static inline bool address_in(uint32_t address, const struct policy_cidr *cidr)
{
	return (address & address_mask(cidr->prefix)) == cidr->address;
}

/* Does inner lie wholly inside outer? */
static inline bool address_within(const struct policy_cidr *inner, const struct policy_cidr *outer)
{
	return inner->prefix >= outer->prefix && address_in(inner->address, outer);
}

/* Is this address (host order) always blocked? */
static inline bool address_is_blocked(uint32_t address)
{
	for (size_t i = 0; i < ADDRESS_BLOCKED_COUNT; i++)
		if (address_in(address, &address_blocked[i]))
			return true;
	return false;
}
