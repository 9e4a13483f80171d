#include "launch/net/slot.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "launch/net/nft.h"
#include "launch/net/rules.h"
#include "launch/net/slot_rules.h"

const uint8_t slot_guest_mac[6] = { 0x02, 0x61, 0x6b, 0x00, 0x00, 0x02 };
const uint8_t slot_gateway_mac[6] = { 0x02, 0x61, 0x6b, 0x00, 0x00, 0x01 };
static const uint8_t near_mac[6] = { 0x02, 0x61, 0x6b, 0x00, 0x01, 0x01 };
static const uint8_t far_mac[6] = { 0x02, 0x61, 0x6b, 0x00, 0x01, 0x02 };

/* ---- a thread in another namespace ---- */

struct inside {
	int ns;
	int (*work)(void *argument, struct error *err);
	void *argument;
	struct error *err;
	int result;
};

static void *inside_main(void *data)
{
	struct inside *inside = data;
	int rc = inside->ns >= 0 ? setns(inside->ns, CLONE_NEWNET) : unshare(CLONE_NEWNET);
	if (rc < 0)
		inside->result = error_errno(inside->err, errno,
					     "cannot enter a network namespace (CONFIG_NET_NS, root?)");
	else
		inside->result = inside->work(inside->argument, inside->err);
	return NULL;
}

int slot_inside(int ns, int (*work)(void *argument, struct error *err), void *argument, struct error *err)
{
	struct inside inside = { ns, work, argument, err, -EIO };
	pthread_t thread;
	int code = pthread_create(&thread, NULL, inside_main, &inside);
	if (code)
		return error_errno(err, code, "cannot start a thread");
	pthread_join(thread, NULL);
	return inside.result;
}

int slot_sysctl(const char *name, const char *value, bool optional, struct error *err)
{
	char path[128];
	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	_cleanup_fd_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && optional)
		return 0;
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		return error_errno(err, errno, "cannot set the sysctl %s to %s", name, value);
	return 0;
}

/* ---- what a slot is made of ---- */

int slot_tap_open(struct error *err)
{
	_cleanup_fd_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		error_errno(err, errno, "cannot open /dev/net/tun (is the module tun there?)");
		return -1;
	}
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	memcpy(request.ifr_name, RULES_TAP, sizeof(RULES_TAP));
	if (ioctl(fd, TUNSETIFF, &request) < 0) {
		error_errno(err, errno, "cannot make a tap");
		return -1;
	}
	return fd_steal(&fd);
}

/* Before there are links, so that they start with these. */
static int namespace_settings(struct error *err)
{
	static const struct {
		const char *name, *value;
		bool optional;
	} settings[] = {
		{ "net/ipv6/conf/all/disable_ipv6", "1", true }, /* a kernel without IPv6 is fine */
		{ "net/ipv6/conf/default/disable_ipv6", "1", true },
		{ "net/ipv4/ip_forward", "1", false },
		{ "net/ipv4/conf/all/rp_filter", "1", false },
		{ "net/ipv4/conf/default/rp_filter", "1", false },
		{ "net/ipv4/conf/all/accept_redirects", "0", false },
		{ "net/ipv4/conf/default/accept_redirects", "0", false },
		{ "net/ipv4/conf/all/send_redirects", "0", false },
		{ "net/ipv4/conf/default/send_redirects", "0", false },
		{ "net/ipv4/conf/all/accept_source_route", "0", false },
		{ "net/ipv4/conf/default/accept_source_route", "0", false },
	};
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		int rc = slot_sysctl(settings[i].name, settings[i].value, settings[i].optional, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* A connection unknown to the tracker is not taken up in its middle; idle ones end after 2 h 4 min (RFC 5382). */
static int tracking_settings(struct error *err)
{
	int rc = slot_sysctl("net/netfilter/nf_conntrack_tcp_loose", "0", false, err);
	return rc < 0 ? rc : slot_sysctl("net/netfilter/nf_conntrack_tcp_timeout_established", "7440", false, err);
}

static int dns_socket(int type, struct error *err)
{
	_cleanup_fd_ int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(53),
		.sin_addr.s_addr = htonl(SLOT_GATEWAY),
	};
	if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
	    (type == SOCK_STREAM && listen(fd, 16) < 0)) {
		error_errno(err, errno, "cannot bind the gateway's DNS socket");
		return -1;
	}
	return fd_steal(&fd);
}

struct making {
	struct slot *slot;
	struct rtnl *host;
	int dns_udp, dns_tcp;
};

static int tap_set_up(struct slot *slot, struct rtnl *rtnl, struct error *err)
{
	int rc = rtnl_link_set(rtnl, RULES_TAP, slot_gateway_mac, slot->mtu, err);
	rc = rc < 0 ? rc : rtnl_address_add(rtnl, RULES_TAP, SLOT_GATEWAY, SLOT_PREFIX, err);
	rc = rc < 0 ? rc : rtnl_link_up(rtnl, RULES_TAP, true, err);
	return rc < 0 ? rc : rtnl_neighbour_add(rtnl, RULES_TAP, SLOT_GUEST, slot_guest_mac, err);
}

static int veth_set_up(struct slot *slot, struct rtnl *rtnl, struct error *err)
{
	int rc = rtnl_address_add(rtnl, RULES_VETH, slot->far, 31, err);
	rc = rc < 0 ? rc : rtnl_link_up(rtnl, RULES_VETH, true, err);
	rc = rc < 0 ? rc : rtnl_neighbour_add(rtnl, RULES_VETH, slot->near, near_mac, err);
	return rc < 0 ? rc : rtnl_default_route(rtnl, RULES_VETH, slot->near, err);
}

static int veth_add(struct slot *slot, struct rtnl *host, struct error *err)
{
	struct rtnl_veth veth = { .name = slot->link, .peer = RULES_VETH, .peer_ns = slot->ns, .mtu = slot->mtu };
	memcpy(veth.mac, near_mac, 6);
	memcpy(veth.peer_mac, far_mac, 6);
	return rtnl_veth_add(host, &veth, err);
}

/* In the new namespace. The rules stand before any link is up. */
static int make_inside(void *argument, struct error *err)
{
	struct making *making = argument;
	struct slot *slot = making->slot;
	_cleanup_rtnl_ struct rtnl rtnl = { 0 };
	slot->ns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (slot->ns < 0)
		return error_errno(err, errno, "cannot hold the new namespace");
	int rc = namespace_settings(err);
	if (rc == 0)
		rc = rtnl_open(&rtnl, NETLINK_ROUTE, err);
	if (rc == 0)
		rc = rtnl_open(&slot->filter, NETLINK_NETFILTER, err);
	if (rc < 0 || (slot->tap = slot_tap_open(err)) < 0)
		return rc < 0 ? rc : -err->code;
	rc = slot_restore(slot, err);
	rc = rc < 0 ? rc : tracking_settings(err);
	rc = rc < 0 ? rc : veth_add(slot, making->host, err);
	rc = rc < 0 ? rc : tap_set_up(slot, &rtnl, err);
	rc = rc < 0 ? rc : veth_set_up(slot, &rtnl, err);
	if (rc < 0)
		return rc;
	making->dns_udp = dns_socket(SOCK_DGRAM, err);
	making->dns_tcp = making->dns_udp < 0 ? -1 : dns_socket(SOCK_STREAM, err);
	return making->dns_tcp < 0 ? -err->code : 0;
}

/*
 * Forwarding is turned on for this link alone, never for the host as a whole. Its IPv6 is off.
 */
static int host_side(struct slot *slot, struct rtnl *host, struct error *err)
{
	static const struct {
		const char *protocol, *name, *value;
	} settings[] = {
		{ "ipv6", "disable_ipv6", "1" },     { "ipv4", "forwarding", "1" },     { "ipv4", "rp_filter", "1" },
		{ "ipv4", "accept_redirects", "0" }, { "ipv4", "send_redirects", "0" },
	};
	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
		char name[96];
		snprintf(name, sizeof(name), "net/%s/conf/%s/%s", settings[i].protocol, slot->link, settings[i].name);
		int rc = slot_sysctl(name, settings[i].value, settings[i].protocol[3] == '6', err);
		if (rc < 0)
			return rc;
	}
	int rc = rtnl_address_add(host, slot->link, slot->near, 31, err);
	rc = rc < 0 ? rc : rtnl_link_up(host, slot->link, true, err);
	return rc < 0 ? rc : rtnl_neighbour_add(host, slot->link, slot->far, far_mac, err);
}

int slot_make(struct slot *slot, struct rtnl *host, int *dns_udp, int *dns_tcp, struct error *err)
{
	struct making making = { slot, host, -1, -1 };
	struct error local;
	err = err ? err : &local;
	slot->ns = slot->tap = -1;
	slot->policy_generation = 1;
	int rc = slot_inside(-1, make_inside, &making, err);
	if (rc == 0)
		rc = host_side(slot, host, err);
	if (rc < 0) {
		fd_close(&making.dns_udp);
		fd_close(&making.dns_tcp);
		return rc;
	}
	*dns_udp = making.dns_udp;
	*dns_tcp = making.dns_tcp;
	return 0;
}

/* The tap is made anew, since a VM that was broken into may have altered it: its MAC, its options, frames in it. */
static int reset_inside(void *argument, struct error *err)
{
	struct slot *slot = argument;
	_cleanup_rtnl_ struct rtnl rtnl = { 0 };
	int rc = rtnl_open(&rtnl, NETLINK_ROUTE, err);
	if (rc < 0)
		return rc;
	fd_close(&slot->tap);
	nft_conntrack_flush(&slot->filter);
	slot->tap = slot_tap_open(err);
	if (slot->tap < 0)
		return -err->code;
	rc = slot_restore(slot, err);
	rc = rc < 0 ? rc : rtnl_shape(&rtnl, RULES_VETH, 0, err);
	return rc < 0 ? rc : tap_set_up(slot, &rtnl, err);
}

int slot_reset(struct slot *slot, struct error *err)
{
	struct error local;
	slot->policy = (struct policy){ 0 };
	slot->pin_count = 0;
	if (++slot->policy_generation == 0)
		slot->policy_generation = 1;
	int rc = slot_inside(slot->ns, reset_inside, slot, err ? err : &local);
	slot->past = (struct policy_counters){ 0 };
	slot->repaired = false;
	return rc;
}

int slot_destroy(struct slot *slot, struct rtnl *host, struct error *err)
{
	int rc = rtnl_link_delete(host, slot->link, err);
	fd_close(&slot->tap);
	rtnl_close(&slot->filter);
	fd_close(&slot->ns);
	free(slot->pins);
	free(slot);
	return rc;
}
