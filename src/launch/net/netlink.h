/*
 * Requests to rtnetlink, each sent and acknowledged. A struct rtnl belongs to the namespace in which it was opened.
 * Functions return 0 or -errno; err is filled on failure.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct mnl_socket;

struct rtnl {
	struct mnl_socket *socket;
	uint32_t port;
	uint32_t sequence;
};

/* bus: NETLINK_ROUTE or NETLINK_NETFILTER, in the calling thread's namespace. */
int rtnl_open(struct rtnl *rtnl, int bus, struct error *err);
void rtnl_close(struct rtnl *rtnl); /* unopened (zeroed) is fine */
#define _cleanup_rtnl_ __attribute__((cleanup(rtnl_close)))

/* Send one message and read up to its acknowledgement; each answer goes to visit (may be NULL). 0 or -errno. */
struct nlmsghdr;
typedef int rtnl_visit(const struct nlmsghdr *message, void *argument);
int rtnl_talk(struct rtnl *rtnl, struct nlmsghdr *request, rtnl_visit *visit, void *argument);

struct rtnl_veth {
	const char *name; /* this end, here */
	const char *peer; /* the other end, in the namespace peer_ns */
	int peer_ns;
	uint8_t mac[6], peer_mac[6];
	uint16_t mtu;
};

/* Both ends are made down. -EEXIST. */
int rtnl_veth_add(struct rtnl *rtnl, const struct rtnl_veth *veth, struct error *err);
int rtnl_link_up(struct rtnl *rtnl, const char *name, bool up, struct error *err);
int rtnl_link_set(struct rtnl *rtnl, const char *name, const uint8_t mac[6], uint16_t mtu, struct error *err);
/* A link that is not there: 0. */
int rtnl_link_delete(struct rtnl *rtnl, const char *name, struct error *err);
int rtnl_address_add(struct rtnl *rtnl, const char *name, uint32_t address, uint8_t prefix, struct error *err);
int rtnl_default_route(struct rtnl *rtnl, const char *name, uint32_t gateway, struct error *err);
/* A neighbour that is never asked for and never changes. */
int rtnl_neighbour_add(struct rtnl *rtnl, const char *name, uint32_t address, const uint8_t mac[6], struct error *err);
/*
 * Shape what leaves by the link: a token bucket (tbf) of kbps, replacing an earlier one; 0 takes it away.
 */
int rtnl_shape(struct rtnl *rtnl, const char *name, uint32_t kbps, struct error *err);
/* Packets that the shaper dropped so far; 0 without one. */
int rtnl_shape_drops(struct rtnl *rtnl, const char *name, uint64_t *drops);

/* Each link here whose name starts with prefix. */
int rtnl_links(struct rtnl *rtnl, const char *prefix, void (*visit)(const char *name, void *argument), void *argument,
	       struct error *err);
