#include "launch/net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "launch/net/host.h"
#include "launch/net/nft.h"
#include "launch/net/slot.h"
#include "launch/net/slot_rules.h"

#define NET_PREFIX 16

static struct {
	bool ready;
	int lock;
	uint16_t mtu;
	struct host host;
	struct rtnl route;
	struct slot *slots[NET_SLOTS_MAX];
} net = { .lock = -1 };

/* ---- start and end ---- */

static int check_names(const struct net_config *config, struct error *err)
{
	const char *tag = config->tag ? config->tag : "", *uplink = config->uplink ? config->uplink : "";
	size_t size = strlen(tag);
	if (size < 1 || size > 6 || strspn(tag, "0123456789abcdefghijklmnopqrstuvwxyz") != size)
		return error_set(err, EINVAL, "the tag must be 1 to 6 of [0-9a-z]");
	size = strlen(uplink);
	if (size >= HOST_NAME_MAX_ ||
	    strspn(uplink, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-@:") != size)
		return error_set(err, EINVAL, "the uplink is not the name of an interface");
	return 0;
}

static int check_base(uint32_t base, struct error *err)
{
	struct policy_cidr range = { base, NET_PREFIX };
	if (base & ~address_mask(NET_PREFIX) || address_in(SLOT_GATEWAY, &range))
		return error_set(err, EINVAL, "net_base must be the start of a /16, and not 10.2.0.0's 10.0.0.0");
	if (!address_is_blocked(base) || base >> 28 == 14 || base >> 24 == 127 || base >> 24 == 0)
		return error_set(err, EINVAL, "net_base must be a private range");
	return 0;
}

/* Two launchers of one installation would take away each other's slots. */
static int take_lock(const char *run_dir, struct error *err)
{
	_cleanup_fd_ int dir = open(run_dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	_cleanup_fd_ int lock = dir < 0 ? -1 : openat(dir, "net.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (lock < 0)
		return error_errno(err, errno, "cannot open net.lock in %s", run_dir);
	if (flock(lock, LOCK_EX | LOCK_NB) < 0)
		return error_set(err, EBUSY, "another launcher is running: it holds %s/net.lock", run_dir);
	net.lock = fd_steal(&lock);
	return 0;
}

static void host_name(const struct net_config *config)
{
	struct host *host = &net.host;
	snprintf(host->table, sizeof(host->table), "akira-%s", config->tag);
	snprintf(host->prefix, sizeof(host->prefix), "ak-%s-", config->tag);
	host->base = config->net_base;
	host->automatic = !config->uplink || !*config->uplink;
	if (host->automatic)
		host_default_uplink(host->uplink);
	else
		str_copy(host->uplink, sizeof(host->uplink), config->uplink);
	net.mtu = host_mtu(host->uplink);
}

int net_init(const struct net_config *config, struct error *err)
{
	if (net.ready)
		return error_set(err, EALREADY, "net_init was called before");
	int rc = check_names(config, err);
	rc = rc < 0 ? rc : check_base(config->net_base, err);
	rc = rc < 0 ? rc : take_lock(config->run_dir, err);
	if (rc < 0)
		return rc;
	host_name(config);
	rc = rtnl_open(&net.route, NETLINK_ROUTE, err);
	rc = rc < 0 ? rc : rtnl_open(&net.host.filter, NETLINK_NETFILTER, err);
	rc = rc < 0 ? rc : host_probe(err);
	rc = rc < 0 ? rc : host_lay(&net.host, err);
	if (rc < 0) {
		rtnl_close(&net.route);
		rtnl_close(&net.host.filter);
		fd_close(&net.lock);
		return rc;
	}
	if (!*net.host.uplink)
		log_warn("net_no_uplink", "why", "there is no default route: sandboxes reach nothing");
	net.ready = true;
	return 0;
}

struct sweep {
	char (*names)[SLOT_LINK_MAX];
	size_t count;
};

static void sweep_seen(const char *name, void *argument)
{
	struct sweep *sweep = argument;
	if (sweep->count < NET_SLOTS_MAX && str_copy(sweep->names[sweep->count], SLOT_LINK_MAX, name) == 0)
		sweep->count++;
}

uint32_t net_sweep(void)
{
	_cleanup_free_ char *room = calloc(NET_SLOTS_MAX, SLOT_LINK_MAX);
	struct sweep sweep = { (char(*)[SLOT_LINK_MAX])room, 0 };
	struct error err = { 0 };
	uint32_t removed = 0;
	if (!net.ready || !room || rtnl_links(&net.route, net.host.prefix, sweep_seen, &sweep, &err) < 0) {
		log_error("net_sweep_failed", "error", err.text);
		return 0;
	}
	for (size_t i = 0; i < sweep.count; i++) {
		if (rtnl_link_delete(&net.route, sweep.names[i], &err) < 0)
			log_error("net_sweep_failed", "link", sweep.names[i], "error", err.text);
		else
			removed++;
	}
	return removed;
}

void net_end(void)
{
	struct error err = { 0 };
	if (!net.ready)
		return;
	for (uint32_t i = 0; i < NET_SLOTS_MAX; i++)
		if (net_slot_destroy(i, &err) < 0)
			log_error("net_end_failed", "error", err.text);
	if (host_remove(&net.host, &err) < 0)
		log_error("net_end_failed", "error", err.text);
	rtnl_close(&net.route);
	rtnl_close(&net.host.filter);
	fd_close(&net.lock);
	net.ready = false;
}

/* ---- slots ---- */

static struct slot *slot_find(uint32_t number, struct error *err)
{
	struct slot *slot = number < NET_SLOTS_MAX ? net.slots[number] : NULL;
	if (!slot)
		error_set(err, ENOENT, "there is no network slot %u", number);
	return slot;
}

static void describe(const struct slot *slot, struct net_slot *out)
{
	out->guest_address = SLOT_GUEST;
	out->gateway = SLOT_GATEWAY;
	out->prefix = SLOT_PREFIX;
	out->host_address = slot->far;
	out->mtu = slot->mtu;
	memcpy(out->mac, slot_guest_mac, sizeof(out->mac));
}

int net_slot_make(uint32_t number, struct net_slot *out, struct error *err)
{
	*out = (struct net_slot){ .dns_udp = -1, .dns_tcp = -1 };
	if (!net.ready || number >= NET_SLOTS_MAX)
		return error_set(err, EINVAL, "no such slot number: %u", number);
	if (net.slots[number])
		return error_set(err, EEXIST, "network slot %u exists", number);
	struct slot *slot = calloc(1, sizeof(*slot));
	if (!slot)
		return error_set(err, ENOMEM, "no memory for a network slot");
	slot->number = number;
	slot->mtu = net.mtu;
	slot->near = net.host.base + 2 * (number + 1);
	slot->far = slot->near + 1;
	snprintf(slot->link, sizeof(slot->link), "%s%03x", net.host.prefix, number);
	int rc = slot_make(slot, &net.route, &out->dns_udp, &out->dns_tcp, err);
	if (rc < 0) {
		slot_destroy(slot, &net.route, NULL);
		return rc;
	}
	describe(slot, out);
	net.slots[number] = slot;
	return 0;
}

int net_slot_tap(uint32_t number)
{
	struct slot *slot = slot_find(number, NULL);
	return slot ? slot->tap : -ENOENT;
}

static int check_cidrs(const struct policy_cidr *cidrs, uint32_t count, struct error *err)
{
	if (count > POLICY_CIDRS_MAX)
		return error_set(err, EINVAL, "too many address ranges: %u", count);
	for (uint32_t i = 0; i < count; i++)
		if (cidrs[i].prefix > 32 || cidrs[i].address & ~address_mask(cidrs[i].prefix))
			return error_set(err, EINVAL, "not an address range: number %u", i);
	return 0;
}

int net_slot_policy(uint32_t number, const struct policy *policy, struct error *err)
{
	struct slot *slot = slot_find(number, err);
	if (!slot)
		return -ENOENT;
	int rc = check_cidrs(policy->allow, policy->allow_count, err);
	rc = rc < 0 ? rc : check_cidrs(policy->deny, policy->deny_count, err);
	return rc < 0 ? rc : slot_policy(slot, policy, err);
}

int net_slot_pin(uint32_t number, uint32_t address, uint32_t ttl, struct error *err)
{
	struct slot *slot = slot_find(number, err);
	if (!slot)
		return -ENOENT;
	if (ttl < 1 || ttl > 86400)
		return error_set(err, EINVAL, "a pin lasts 1 to 86400 seconds");
	return slot_pin(slot, address, ttl, err);
}

int net_slot_counters(uint32_t number, struct policy_counters *counters, struct error *err)
{
	struct slot *slot = slot_find(number, err);
	if (!slot)
		return -ENOENT;
	int rc = slot_counters(slot, counters, err);
	if (rc == 0)
		slot->repaired = false;
	return rc;
}

/* Best done, not needed: the slot itself lets nothing of an earlier flow through. */
static void forget_flows(const struct slot *slot)
{
	static struct log_limit limit;
	int rc = nft_conntrack_forget(&net.host.filter, slot->far);
	if (rc < 0 && log_allowed(&limit, 1, 3600))
		log_warn("net_flows_not_forgotten", "error", strerror(-rc));
}

int net_slot_reset(uint32_t number, struct error *err)
{
	struct slot *slot = slot_find(number, err);
	if (!slot)
		return -ENOENT;
	int rc = slot_reset(slot, err);
	forget_flows(slot);
	return rc;
}

int net_slot_destroy(uint32_t number, struct error *err)
{
	struct slot *slot = slot_find(number, NULL);
	if (!slot)
		return 0;
	net.slots[number] = NULL;
	forget_flows(slot);
	return slot_destroy(slot, &net.route, err);
}

/* ---- the watch ---- */

/* Rules that cannot be restored: the slot is cut off. A later tick that succeeds connects it again. */
static int slot_watch(struct slot *slot)
{
	struct error err = { 0 };
	int rc = slot_check(slot, &err);
	if (rc == 0)
		return 0;
	rtnl_link_up(&net.route, slot->link, rc > 0, NULL);
	if (rc < 0)
		log_error("net_slot_cut_off", "slot", LOG_INT(slot->number), "error", err.text);
	else
		log_warn("net_rules_restored", "slot", LOG_INT(slot->number));
	return rc > 0;
}

int net_tick(void)
{
	struct error err = { 0 };
	if (!net.ready)
		return 0;
	int repaired = 0;
	int rc = host_check(&net.host, &err);
	if (rc < 0)
		log_error("net_host_rules_lost", "error", err.text);
	if (rc > 0)
		log_warn("net_rules_restored", "table", net.host.table);
	for (uint32_t i = 0; i < NET_SLOTS_MAX; i++) {
		if (!net.slots[i])
			continue;
		repaired += slot_watch(net.slots[i]);
		net.slots[i]->repaired |= rc > 0;
	}
	return repaired + (rc > 0);
}
