/* The host's side of all slots: the uplink, the host's table, forwarding by the uplink; and what the kernel can do. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "launch/net/netlink.h"

#define HOST_NAME_MAX_ 16 /* of an interface, with its NUL */

struct host {
	char table[24];              /* "akira-TAG" */
	char prefix[12];             /* "ak-TAG-" */
	char uplink[HOST_NAME_MAX_]; /* "" : none now */
	bool automatic;              /* the uplink is that of the default route, whichever it is */
	uint32_t base;
	struct rtnl filter; /* NETLINK_NETFILTER */
	uint32_t rules_generation;
	uint64_t rules_digest;
};

/* Lay down the host's table whole, in one transaction, and let the uplink forward. */
int host_lay(struct host *host, struct error *err);
/*
 * Looks whether the default route moved or somebody altered our table; then lays it down again. 1: it had been
 * altered; 0; -errno.
 */
int host_check(struct host *host, struct error *err);
int host_remove(struct host *host, struct error *err);

/* The interface of the default route with the lowest metric; "" without one. */
void host_default_uplink(char name[HOST_NAME_MAX_]);
/* The MTU of an interface, within 1280..1500; 1500 if it is not known. */
uint16_t host_mtu(const char *name);

/*
 * Lay the rules of a slot in a namespace that is gone afterwards. -EOPNOTSUPP: err names each thing that is missing
 * and the kernel option that brings it.
 */
int host_probe(struct error *err);
