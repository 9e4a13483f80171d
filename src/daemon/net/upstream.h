/* The resolvers that questions are passed on to: configured, or as resolv.conf names them. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/error.h"
#include "daemon/net/net.h"

struct upstream {
	struct sockaddr_storage address;
	socklen_t size;
};

struct upstreams {
	struct upstream list[NET_UPSTREAMS_MAX];
	size_t count;
	char *resolv_conf;  /* NULL: configured, never read again */
	int64_t looked_at;  /* CLOCK_MONOTONIC ms */
	int64_t changed_at; /* of the file, ns */
};

/* "ADDRESS" or "IPV4:PORT", as net.h says. -EINVAL. */
int upstream_parse(const char *text, struct upstream *upstream, struct error *err);
int upstreams_init(struct upstreams *upstreams, const struct net_service_config *config, struct error *err);
void upstreams_free(struct upstreams *upstreams);
/* Read resolv.conf again if it changed; looks at most every 5 s. */
void upstreams_refresh(struct upstreams *upstreams);
