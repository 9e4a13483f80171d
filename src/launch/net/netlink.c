#include "launch/net/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/str.h"

#define TALK_ROOM 32768
#define TALK_TIMEOUT_S 5

int rtnl_open(struct rtnl *rtnl, int bus, struct error *err)
{
	*rtnl = (struct rtnl){ .socket = mnl_socket_open2(bus, SOCK_CLOEXEC) };
	if (!rtnl->socket)
		return error_errno(err, errno, "cannot open a netlink socket (bus %d)", bus);
	struct timeval timeout = { .tv_sec = TALK_TIMEOUT_S };
	setsockopt(mnl_socket_get_fd(rtnl->socket), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	if (mnl_socket_bind(rtnl->socket, 0, MNL_SOCKET_AUTOPID) < 0) {
		int code = errno;
		rtnl_close(rtnl);
		return error_errno(err, code, "cannot bind a netlink socket");
	}
	rtnl->port = mnl_socket_get_portid(rtnl->socket);
	return 0;
}

void rtnl_close(struct rtnl *rtnl)
{
	if (rtnl->socket)
		mnl_socket_close(rtnl->socket);
	rtnl->socket = NULL;
}

struct visitor {
	rtnl_visit *visit;
	void *argument;
};

static int visit_message(const struct nlmsghdr *message, void *data)
{
	struct visitor *visitor = data;
	if (visitor->visit && visitor->visit(message, visitor->argument) < 0)
		return MNL_CB_ERROR;
	return MNL_CB_OK;
}

int rtnl_talk(struct rtnl *rtnl, struct nlmsghdr *request, rtnl_visit *visit, void *argument)
{
	struct visitor visitor = { visit, argument };
	request->nlmsg_seq = ++rtnl->sequence;
	request->nlmsg_flags |= NLM_F_REQUEST;
	if ((request->nlmsg_flags & NLM_F_DUMP) != NLM_F_DUMP) /* its bits mean other things in a change */
		request->nlmsg_flags |= NLM_F_ACK;
	if (mnl_socket_sendto(rtnl->socket, request, request->nlmsg_len) < 0)
		return -errno;
	char answer[TALK_ROOM];
	for (;;) {
		ssize_t size = mnl_socket_recvfrom(rtnl->socket, answer, sizeof(answer));
		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		int done = mnl_cb_run(answer, (size_t)size, rtnl->sequence, rtnl->port, visit_message, &visitor);
		/* An answer to an earlier request that had timed out is not ours. */
		if (done < 0 && errno == EPROTO)
			continue;
		if (done < 0)
			return -errno;
		if (done == MNL_CB_STOP)
			return 0;
	}
}

static struct nlmsghdr *request_start(void *room, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *request = mnl_nlmsg_put_header(room);
	request->nlmsg_type = type;
	request->nlmsg_flags = flags;
	return request;
}

/* The link's index in the namespace of the socket: if_nametoindex would ask that of the calling thread. */
static int link_index(struct rtnl *rtnl, const char *name, struct error *err);

static void put_link_common(struct nlmsghdr *request, const char *name, const uint8_t mac[6], uint16_t mtu)
{
	mnl_attr_put_strz(request, IFLA_IFNAME, name);
	mnl_attr_put(request, IFLA_ADDRESS, 6, mac);
	mnl_attr_put_u32(request, IFLA_MTU, mtu);
}

int rtnl_veth_add(struct rtnl *rtnl, const struct rtnl_veth *veth, struct error *err)
{
	char room[1024];
	struct nlmsghdr *request = request_start(room, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	put_link_common(request, veth->name, veth->mac, veth->mtu);
	struct nlattr *info = mnl_attr_nest_start(request, IFLA_LINKINFO);
	mnl_attr_put_str(request, IFLA_INFO_KIND, "veth");
	struct nlattr *data = mnl_attr_nest_start(request, IFLA_INFO_DATA);
	struct nlattr *peer = mnl_attr_nest_start(request, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	put_link_common(request, veth->peer, veth->peer_mac, veth->mtu);
	mnl_attr_put_u32(request, IFLA_NET_NS_FD, (uint32_t)veth->peer_ns);
	mnl_attr_nest_end(request, peer);
	mnl_attr_nest_end(request, data);
	mnl_attr_nest_end(request, info);
	int rc = rtnl_talk(rtnl, request, NULL, NULL);
	if (rc < 0)
		return error_errno(err, -rc, "cannot make the veth pair %s (is the module veth there?)", veth->name);
	return 0;
}

int rtnl_link_up(struct rtnl *rtnl, const char *name, bool up, struct error *err)
{
	char room[256];
	struct nlmsghdr *request = request_start(room, RTM_NEWLINK, 0);
	struct ifinfomsg *info = mnl_nlmsg_put_extra_header(request, sizeof(*info));
	info->ifi_change = IFF_UP;
	info->ifi_flags = up ? IFF_UP : 0;
	mnl_attr_put_strz(request, IFLA_IFNAME, name);
	int rc = rtnl_talk(rtnl, request, NULL, NULL);
	if (rc < 0)
		return error_errno(err, -rc, "cannot set the link %s %s", name, up ? "up" : "down");
	return 0;
}

int rtnl_link_set(struct rtnl *rtnl, const char *name, const uint8_t mac[6], uint16_t mtu, struct error *err)
{
	char room[256];
	struct nlmsghdr *request = request_start(room, RTM_NEWLINK, 0);
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	put_link_common(request, name, mac, mtu);
	int rc = rtnl_talk(rtnl, request, NULL, NULL);
	if (rc < 0)
		return error_errno(err, -rc, "cannot set MAC and MTU of %s", name);
	return 0;
}

int rtnl_link_delete(struct rtnl *rtnl, const char *name, struct error *err)
{
	char room[256];
	struct nlmsghdr *request = request_start(room, RTM_DELLINK, 0);
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(request, IFLA_IFNAME, name);
	int rc = rtnl_talk(rtnl, request, NULL, NULL);
	if (rc < 0 && rc != -ENODEV)
		return error_errno(err, -rc, "cannot remove the link %s", name);
	return 0;
}

static int index_seen(const struct nlmsghdr *message, void *argument)
{
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);
	*(int *)argument = info->ifi_index;
	return 0;
}

static int link_index(struct rtnl *rtnl, const char *name, struct error *err)
{
	char room[256];
	int index = 0;
	struct nlmsghdr *request = request_start(room, RTM_GETLINK, 0);
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(request, IFLA_IFNAME, name);
	int rc = rtnl_talk(rtnl, request, index_seen, &index);
	if (rc == 0 && index <= 0)
		rc = -ENODEV;
	if (rc < 0)
		return error_errno(err, -rc, "no link %s", name);
	return index;
}

int rtnl_address_add(struct rtnl *rtnl, const char *name, uint32_t address, uint8_t prefix, struct error *err)
{
	int index = link_index(rtnl, name, err);
	if (index < 0)
		return index;
	char room[256];
	struct nlmsghdr *request = request_start(room, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
	struct ifaddrmsg *info = mnl_nlmsg_put_extra_header(request, sizeof(*info));
	info->ifa_family = AF_INET;
	info->ifa_prefixlen = prefix;
	info->ifa_index = (uint32_t)index;
	mnl_attr_put_u32(request, IFA_LOCAL, htonl(address));
	mnl_attr_put_u32(request, IFA_ADDRESS, htonl(address));
	int rc = rtnl_talk(rtnl, request, NULL, NULL);
	if (rc < 0)
		return error_errno(err, -rc, "cannot give %s its address", name);
	return 0;
}

int rtnl_default_route(struct rtnl *rtnl, const char *name, uint32_t gateway, struct error *err)
{
	int index = link_index(rtnl, name, err);
	if (index < 0)
		return index;
	char room[256];
	struct nlmsghdr *request = request_start(room, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
	struct rtmsg *route = mnl_nlmsg_put_extra_header(request, sizeof(*route));
	route->rtm_family = AF_INET;
	route->rtm_table = RT_TABLE_MAIN;
	route->rtm_protocol = RTPROT_STATIC;
	route->rtm_scope = RT_SCOPE_UNIVERSE;
	route->rtm_type = RTN_UNICAST;
	mnl_attr_put_u32(request, RTA_GATEWAY, htonl(gateway));
	mnl_attr_put_u32(request, RTA_OIF, (uint32_t)index);
	int rc = rtnl_talk(rtnl, request, NULL, NULL);
	if (rc < 0)
		return error_errno(err, -rc, "cannot set the default route by %s", name);
	return 0;
}

int rtnl_neighbour_add(struct rtnl *rtnl, const char *name, uint32_t address, const uint8_t mac[6], struct error *err)
{
	int index = link_index(rtnl, name, err);
	if (index < 0)
		return index;
	char room[256];
	struct nlmsghdr *request = request_start(room, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
	struct ndmsg *neighbour = mnl_nlmsg_put_extra_header(request, sizeof(*neighbour));
	neighbour->ndm_family = AF_INET;
	neighbour->ndm_ifindex = index;
	neighbour->ndm_state = NUD_PERMANENT;
	mnl_attr_put_u32(request, NDA_DST, htonl(address));
	mnl_attr_put(request, NDA_LLADDR, 6, mac);
	int rc = rtnl_talk(rtnl, request, NULL, NULL);
	if (rc < 0)
		return error_errno(err, -rc, "cannot fix a neighbour of %s", name);
	return 0;
}

/* ---- shaping ---- */

#define SHAPE_HANDLE 0x00010000u
#define SHAPE_BURST_MIN 16384u /* a whole number of frames also at the slowest rate */
#define SHAPE_BURST_MAX 4194304u
#define SHAPE_QUEUE_MS 100u /* the longest a packet waits for its tokens */

static uint32_t clamp_u32(uint64_t value, uint32_t least, uint32_t most)
{
	return value < least ? least : value > most ? most : (uint32_t)value;
}

/* The kernel wants the time that the burst takes, in its own ticks of 64 ns (PSCHED_SHIFT). */
static uint32_t burst_ticks(uint32_t burst, uint64_t bytes_per_s)
{
	return clamp_u32((uint64_t)burst * 1000000000u / bytes_per_s >> 6, 1, UINT32_MAX);
}

static int shape_remove(struct rtnl *rtnl, int index, const char *name, struct error *err)
{
	char room[256];
	struct nlmsghdr *request = request_start(room, RTM_DELQDISC, 0);
	struct tcmsg *tc = mnl_nlmsg_put_extra_header(request, sizeof(*tc));
	tc->tcm_ifindex = index;
	tc->tcm_parent = TC_H_ROOT;
	int rc = rtnl_talk(rtnl, request, NULL, NULL);
	if (rc < 0 && rc != -ENOENT && rc != -EINVAL) /* there was none */
		return error_errno(err, -rc, "cannot remove the shaper of %s", name);
	return 0;
}

int rtnl_shape(struct rtnl *rtnl, const char *name, uint32_t kbps, struct error *err)
{
	int index = link_index(rtnl, name, err);
	if (index < 0)
		return index;
	if (kbps == 0)
		return shape_remove(rtnl, index, name, err);
	uint64_t rate = (uint64_t)kbps * 1000 / 8;
	uint32_t burst = clamp_u32(rate / 100, SHAPE_BURST_MIN, SHAPE_BURST_MAX); /* 10 ms */
	struct tc_tbf_qopt options = {
		.rate = { .linklayer = TC_LINKLAYER_ETHERNET, .rate = clamp_u32(rate, 1, UINT32_MAX) },
		.limit = clamp_u32(rate * SHAPE_QUEUE_MS / 1000 + burst, 65536, 64u << 20),
		.buffer = burst_ticks(burst, rate),
	};
	char room[1024];
	struct nlmsghdr *request = request_start(room, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE);
	struct tcmsg *tc = mnl_nlmsg_put_extra_header(request, sizeof(*tc));
	tc->tcm_ifindex = index;
	tc->tcm_parent = TC_H_ROOT;
	tc->tcm_handle = SHAPE_HANDLE;
	mnl_attr_put_strz(request, TCA_KIND, "tbf");
	struct nlattr *nest = mnl_attr_nest_start(request, TCA_OPTIONS);
	mnl_attr_put(request, TCA_TBF_PARMS, sizeof(options), &options);
	mnl_attr_put_u32(request, TCA_TBF_BURST, burst);
	mnl_attr_nest_end(request, nest);
	int rc = rtnl_talk(rtnl, request, NULL, NULL);
	if (rc < 0)
		return error_errno(err, -rc, "cannot shape %s (the kernel needs sch_tbf, CONFIG_NET_SCH_TBF)", name);
	return 0;
}

struct drops_query {
	int index;
	uint64_t drops;
};

static int drops_seen(const struct nlmsghdr *message, void *argument)
{
	struct drops_query *query = argument;
	const struct tcmsg *tc = mnl_nlmsg_get_payload(message);
	if (tc->tcm_ifindex != query->index || tc->tcm_handle != SHAPE_HANDLE)
		return 0;
	const struct nlattr *attribute;
	mnl_attr_for_each(attribute, message, sizeof(*tc))
	{
		if (mnl_attr_get_type(attribute) != TCA_STATS ||
		    mnl_attr_get_payload_len(attribute) < offsetof(struct tc_stats, overlimits))
			continue;
		struct tc_stats stats = { 0 };
		memcpy(&stats, mnl_attr_get_payload(attribute), offsetof(struct tc_stats, overlimits));
		query->drops = stats.drops;
	}
	return 0;
}

int rtnl_shape_drops(struct rtnl *rtnl, const char *name, uint64_t *drops)
{
	struct drops_query query = { .index = link_index(rtnl, name, NULL) };
	if (query.index < 0)
		return query.index;
	char room[256];
	struct nlmsghdr *request = request_start(room, RTM_GETQDISC, NLM_F_DUMP);
	struct tcmsg *tc = mnl_nlmsg_put_extra_header(request, sizeof(*tc));
	tc->tcm_ifindex = query.index;
	int rc = rtnl_talk(rtnl, request, drops_seen, &query);
	*drops = query.drops;
	return rc;
}

/* ---- listing ---- */

struct links_query {
	const char *prefix;
	void (*visit)(const char *name, void *argument);
	void *argument;
};

static int link_seen(const struct nlmsghdr *message, void *argument)
{
	struct links_query *query = argument;
	const struct nlattr *attribute;
	mnl_attr_for_each(attribute, message, sizeof(struct ifinfomsg))
	{
		if (mnl_attr_get_type(attribute) != IFLA_IFNAME ||
		    mnl_attr_validate(attribute, MNL_TYPE_NUL_STRING) < 0)
			continue;
		if (str_starts(mnl_attr_get_str(attribute), query->prefix))
			query->visit(mnl_attr_get_str(attribute), query->argument);
	}
	return 0;
}

int rtnl_links(struct rtnl *rtnl, const char *prefix, void (*visit)(const char *name, void *argument), void *argument,
	       struct error *err)
{
	char room[256];
	struct links_query query = { prefix, visit, argument };
	struct nlmsghdr *request = request_start(room, RTM_GETLINK, NLM_F_DUMP);
	mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
	int rc = rtnl_talk(rtnl, request, link_seen, &query);
	if (rc < 0)
		return error_errno(err, -rc, "cannot list the links");
	return 0;
}
