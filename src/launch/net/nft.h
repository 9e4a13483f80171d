/*
 * nftables: whole rule sets go through `nft -f -` as a child, one transaction each; what must be quick or is asked
 * often (a pin, counters, the generation) goes by netlink. A struct rtnl here was opened for NETLINK_NETFILTER.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "launch/net/netlink.h"

/*
 * Run one transaction in the namespace ns (-1: the caller's). All or nothing. err tells what nft said. The caller must
 * not ignore SIGCHLD; a child is started and waited for (at most 10 s).
 */
int nft_run(int ns, const struct buf *text, struct error *err);

/* The number that the kernel raises by one with each transaction of anybody in the namespace. */
int nft_generation(struct rtnl *rtnl, uint32_t *generation);
/*
 * A digest of the tables, chains and rules of one table name (all families), and of the elements of the sets named in
 * `sets` (of the family inet); states (counters, timeouts) do not count.
 */
int nft_digest(struct rtnl *rtnl, const char *table, const char *const *sets, uint64_t *digest);

typedef void nft_counter_visit(const char *name, uint64_t packets, uint64_t bytes, void *argument);
/* Every named counter of the table in this family (NFPROTO_*). */
int nft_counters(struct rtnl *rtnl, uint8_t family, const char *table, nft_counter_visit *visit, void *argument);

struct nft_element {
	const char *table, *set; /* family inet */
	uint32_t address;        /* IPv4, host order */
	uint64_t timeout_ms;
	bool replace; /* the element is there already: -ENOENT if not */
};
int nft_element_add(struct rtnl *rtnl, const struct nft_element *element);

/* Forget all tracked connections of the namespace. */
int nft_conntrack_flush(struct rtnl *rtnl);
/* Forget those that source (host order) opened. -EINVAL: this kernel cannot (before 5.8). */
int nft_conntrack_forget(struct rtnl *rtnl, uint32_t source);
