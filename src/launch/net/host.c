#include "launch/net/host.h"

#include <errno.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "launch/net/nft.h"
#include "launch/net/rules.h"
#include "launch/net/slot.h"

/* ---- the uplink ---- */

void host_default_uplink(char name[HOST_NAME_MAX_])
{
	*name = '\0';
	_cleanup_file_ FILE *routes = fopen("/proc/net/route", "re");
	char line[256], device[HOST_NAME_MAX_];
	unsigned long best = ~0ul;
	while (routes && fgets(line, sizeof(line), routes)) {
		unsigned long destination, gateway, flags, use, references, metric, mask;
		if (sscanf(line, "%15s %lx %lx %lx %lu %lu %lu %lx", device, &destination, &gateway, &flags, &use,
			   &references, &metric, &mask) != 8)
			continue;
		if (destination != 0 || mask != 0 || !(flags & RTF_UP) || metric >= best)
			continue;
		best = metric;
		str_copy(name, HOST_NAME_MAX_, device);
	}
}

uint16_t host_mtu(const char *name)
{
	struct ifreq request = { 0 };
	_cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!*name || fd < 0 || str_copy(request.ifr_name, sizeof(request.ifr_name), name) < 0 ||
	    ioctl(fd, SIOCGIFMTU, &request) < 0)
		return 1500;
	return (uint16_t)(request.ifr_mtu < 1280 ? 1280 : request.ifr_mtu > 1500 ? 1500 : request.ifr_mtu);
}

/*
 * For this one interface, not ip_forward: a host that was no router does not become one between its other interfaces.
 */
static int uplink_forward(const char *uplink, struct error *err)
{
	char path[160], name[96], now = '0';
	if (!*uplink)
		return 0;
	snprintf(name, sizeof(name), "net/ipv4/conf/%s/forwarding", uplink);
	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	_cleanup_file_ FILE *file = fopen(path, "re");
	if (file && fread(&now, 1, 1, file) == 1 && now == '1')
		return 0;
	int rc = slot_sysctl(name, "1", false, err);
	if (rc == 0)
		log_info("net_forwarding_enabled", "interface", uplink);
	return rc;
}

/* ---- the table ---- */

int host_lay(struct host *host, struct error *err)
{
	_cleanup_buf_ struct buf text = { 0 };
	struct rules_host rules = { host->table, host->prefix, host->uplink, host->base };
	rules_host(&text, &rules);
	int rc = nft_run(-1, &text, err);
	if (rc < 0)
		return error_prefix(err, "the host's table %s", host->table);
	rc = nft_generation(&host->filter, &host->rules_generation);
	if (rc == 0)
		rc = nft_digest(&host->filter, host->table, rules_host_sets, &host->rules_digest);
	if (rc < 0)
		return error_errno(err, -rc, "cannot read back the host's table");
	return uplink_forward(host->uplink, err);
}

static int uplink_moved(struct host *host, struct error *err)
{
	char now[HOST_NAME_MAX_];
	if (!host->automatic)
		return 0;
	host_default_uplink(now);
	if (strcmp(now, host->uplink) == 0)
		return 0;
	log_info("net_uplink_changed", "from", host->uplink, "to", now);
	str_copy(host->uplink, sizeof(host->uplink), now);
	return host_lay(host, err);
}

int host_check(struct host *host, struct error *err)
{
	uint32_t generation = 0;
	uint64_t digest = 0;
	int rc = uplink_moved(host, err);
	if (rc < 0)
		return rc;
	rc = nft_generation(&host->filter, &generation);
	if (rc == 0 && generation == host->rules_generation)
		return 0;
	if (rc == 0)
		rc = nft_digest(&host->filter, host->table, rules_host_sets, &digest);
	if (rc == 0 && digest == host->rules_digest) {
		host->rules_generation = generation; /* somebody changed a table of his own */
		return 0;
	}
	rc = host_lay(host, err);
	return rc < 0 ? rc : 1;
}

int host_remove(struct host *host, struct error *err)
{
	_cleanup_buf_ struct buf text = { 0 };
	rules_host_remove(&text, host->table);
	return nft_run(-1, &text, err);
}

/* ---- what the kernel can do ---- */

static const struct {
	const char *rule; /* in a table inet of its own, with a base chain c at forward and a chain n at postrouting */
	const char *what;
} features[] = {
	{ "add rule inet p c ct state established accept", "connection tracking (CONFIG_NF_CONNTRACK, CONFIG_NFT_CT)" },
	{ "add rule inet p c ct count over 5 drop", "ct count (CONFIG_NFT_CONNLIMIT)" },
	{ "add rule inet p c limit rate 5/second accept", "limit (CONFIG_NFT_LIMIT)" },
	{ "add rule inet p c fib daddr type local drop", "fib (CONFIG_NFT_FIB_INET)" },
	{ "add rule inet p c reject with icmp type admin-prohibited", "reject (CONFIG_NFT_REJECT_INET)" },
	{ "add set inet p s { type ipv4_addr; flags interval; }", "sets of intervals (Linux 5.10)" },
	{ "add set inet p t { type ipv4_addr; flags timeout; }", "sets with timeouts (Linux 5.10)" },
	{ "add rule inet p n masquerade fully-random", "masquerade (CONFIG_NFT_MASQ, CONFIG_NF_NAT)" },
	{ "add table netdev q\nadd chain netdev q i { type filter hook ingress device \"" RULES_TAP "\" priority 0; }",
	  "netdev ingress hooks (CONFIG_NETFILTER_INGRESS, CONFIG_NF_TABLES_NETDEV)" },
};

static bool feature_there(const char *rule)
{
	_cleanup_buf_ struct buf text = { 0 };
	buf_addf(&text,
		 "flush ruleset\nadd table inet p\nadd chain inet p c { type filter hook forward priority 0; }\n"
		 "%s%s\n",
		 strstr(rule, " n ") ? "add chain inet p n { type nat hook postrouting priority 100; }\n" : "", rule);
	return nft_run(-1, &text, NULL) == 0;
}

static int missing_named(struct error *why, struct error *err)
{
	char names[400] = "";
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++)
		if (!feature_there(features[i].rule))
			snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", *names ? ", " : "",
				 features[i].what);
	if (!*names)
		return error_set(err, why->code, "%s", why->text);
	return error_set(err, EOPNOTSUPP, "sandbox networks need of the kernel: %s", names);
}

static int probe_inside(void *argument, struct error *err)
{
	struct slot slot = { .ns = -1, .tap = -1, .policy_generation = 1 };
	struct error why = { 0 };
	_cleanup_rtnl_ struct rtnl rtnl = { 0 };
	int rc = rtnl_open(&rtnl, NETLINK_ROUTE, err);
	rc = rc < 0 ? rc : rtnl_open(&slot.filter, NETLINK_NETFILTER, err);
	if (rc < 0)
		return rc;
	slot.tap = slot_tap_open(err);
	if (slot.tap >= 0) {
		rc = slot_restore(&slot, &why);
		if (rc < 0)
			rc = missing_named(&why, err);
		if (rc == 0)
			rc = rtnl_shape(&rtnl, RULES_TAP, 1000, err);
	} else {
		rc = -EOPNOTSUPP;
	}
	fd_close(&slot.tap);
	rtnl_close(&slot.filter);
	return rc;
}

int host_probe(struct error *err)
{
	return slot_inside(-1, probe_inside, NULL, err);
}
