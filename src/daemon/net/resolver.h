/*
 * The DNS server that guests see at their gateway: one thread for all slots. It answers A by asking an upstream, and by
 * the slot's rules; it is no general resolver, so that it is no tunnel:
 *   A              of an allowed name: asked upstream (random id, a socket and so a source port of its own for each
 *                  attempt), the chain of aliases followed, always-blocked addresses taken out, at most 15 addresses
 *   AAAA, HTTPS, SVCB of an allowed name: NOERROR, nothing; no question goes out
 *   PTR            NXDOMAIN
 *   anything of a name that the rules refuse: NXDOMAIN; other types: REFUSED; other classes: REFUSED
 * A slot asks 50 times a second (bursts of 100; over it: no answer), has 32 questions outstanding and 8 TCP
 * connections. Names can still carry data out to whoever runs an allowed zone, at that rate.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/net/policy.h"

struct resolver;

/* Under outbound "deny": let the slot reach address for ttl seconds. 0 or -errno; the address is then left out. */
typedef int resolver_pin(uint32_t slot, uint32_t address, uint32_t ttl, void *argument);

int resolver_start(const struct net_service_config *config, resolver_pin *pin, void *argument,
		   struct resolver **resolver, struct error *err);
void resolver_stop(struct resolver *resolver);

/* Throw away what waits in a slot's sockets; leaves the listening one non-blocking. */
void resolver_drain(int udp, int tcp);
/* guest: the only address that is answered. Duplicates the descriptors, copies the rules. -EEXIST. */
int resolver_add(struct resolver *resolver, uint32_t slot, uint32_t guest, int udp, int tcp,
		 const struct net_rules *rules, struct error *err);
/* apply (0 or -errno) runs while no answer is given out; if it succeeds the rules change and pins are made again. */
typedef int resolver_apply(void *argument, struct error *err);
int resolver_update(struct resolver *resolver, uint32_t slot, const struct net_rules *rules, resolver_apply *apply,
		    void *argument, struct error *err);
void resolver_remove(struct resolver *resolver, uint32_t slot);
int resolver_counters(struct resolver *resolver, uint32_t slot, struct net_dns_counters *counters);
