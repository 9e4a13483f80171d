#include "daemon/net/net.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "daemon/net/resolver.h"

struct net_service {
	struct launcher *launcher;
	struct resolver *resolver;
};

static int pin(uint32_t slot, uint32_t address, uint32_t ttl, void *argument)
{
	static struct log_limit limit;
	struct net_service *service = argument;
	struct error err = { 0 };
	int rc = launcher_net_pin(service->launcher, slot, address, ttl, &err);
	if (rc < 0 && log_allowed(&limit, 5, 60))
		log_warn("net_pin_failed", "slot", LOG_INT(slot), "error", err.text);
	return rc;
}

int net_service_start(struct launcher *launcher, const struct net_service_config *config, struct net_service **service,
		      struct error *err)
{
	struct net_service *made = calloc(1, sizeof(*made));
	if (!made)
		return error_set(err, ENOMEM, "no memory for the network service");
	made->launcher = launcher;
	int rc = resolver_start(config, pin, made, &made->resolver, err);
	if (rc < 0) {
		free(made);
		return rc;
	}
	*service = made;
	return 0;
}

void net_service_stop(struct net_service *service)
{
	if (!service)
		return;
	resolver_stop(service->resolver);
	free(service);
}

int net_service_attach(struct net_service *service, uint32_t slot, const struct launcher_net *net,
		       const struct net_rules *rules, struct error *err)
{
	/* Deny-all until here: once they are empty nothing gets into the sockets before the policy. */
	resolver_drain(net->dns_udp, net->dns_tcp);
	int rc = resolver_add(service->resolver, slot, net->guest_address, net->dns_udp, net->dns_tcp, rules, err);
	if (rc < 0)
		return rc;
	rc = launcher_net_policy(service->launcher, slot, net_rules_policy(rules), err);
	if (rc < 0)
		resolver_remove(service->resolver, slot);
	return rc;
}

struct change {
	struct net_service *service;
	uint32_t slot;
	const struct net_rules *rules;
};

static int change_apply(void *argument, struct error *err)
{
	const struct change *change = argument;
	return launcher_net_policy(change->service->launcher, change->slot, net_rules_policy(change->rules), err);
}

int net_service_update(struct net_service *service, uint32_t slot, const struct net_rules *rules, struct error *err)
{
	struct change change = { service, slot, rules };
	return resolver_update(service->resolver, slot, rules, change_apply, &change, err);
}

void net_service_detach(struct net_service *service, uint32_t slot)
{
	resolver_remove(service->resolver, slot);
}

int net_service_counters(struct net_service *service, uint32_t slot, struct net_dns_counters *counters)
{
	return resolver_counters(service->resolver, slot, counters);
}
