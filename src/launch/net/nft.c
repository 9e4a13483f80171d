#include "launch/net/nft.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <string.h>

#include "base/str.h"

#define MESSAGE_ROOM 512

static struct nlmsghdr *nfnl_start(void *room, uint16_t type, uint16_t flags, uint8_t family, uint16_t resource)
{
	struct nlmsghdr *message = mnl_nlmsg_put_header(room);
	message->nlmsg_type = type;
	message->nlmsg_flags = flags;
	struct nfgenmsg *header = mnl_nlmsg_put_extra_header(message, sizeof(*header));
	header->nfgen_family = family;
	header->version = NFNETLINK_V0;
	header->res_id = htons(resource);
	return message;
}

static uint16_t nft_type(uint16_t message)
{
	return (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | message);
}

/* ---- generation ---- */

static int generation_seen(const struct nlmsghdr *message, void *argument)
{
	const struct nlattr *attribute;
	mnl_attr_for_each(attribute, message,
			  sizeof(struct nfgenmsg)) if (mnl_attr_get_type(attribute) == NFTA_GEN_ID &&
						       mnl_attr_validate(attribute, MNL_TYPE_U32) == 0) *
		(uint32_t *)argument = ntohl(mnl_attr_get_u32(attribute));
	return 0;
}

int nft_generation(struct rtnl *rtnl, uint32_t *generation)
{
	char room[MESSAGE_ROOM];
	return rtnl_talk(rtnl, nfnl_start(room, nft_type(NFT_MSG_GETGEN), 0, NFPROTO_UNSPEC, 0), generation_seen,
			 generation);
}

/* ---- digest ---- */

struct digest_query {
	const char *table;
	uint16_t table_attribute; /* where a message of this type names its table */
	uint32_t stateful;        /* bits of attributes that say nothing about the rules */
	uint64_t digest;
};

static void digest_bytes(uint64_t *digest, const void *data, size_t size)
{
	const uint8_t *bytes = data;
	for (size_t i = 0; i < size; i++)
		*digest = (*digest ^ bytes[i]) * 0x100000001b3u; /* FNV-1a: against accidents, not forgery */
}

static int digest_seen(const struct nlmsghdr *message, void *argument)
{
	struct digest_query *query = argument;
	const struct nfgenmsg *header = mnl_nlmsg_get_payload(message);
	const struct nlattr *attribute;
	bool ours = false;
	mnl_attr_for_each(attribute, message,
			  sizeof(*header)) if (mnl_attr_get_type(attribute) == query->table_attribute)
		ours = strcmp(mnl_attr_get_str(attribute), query->table) == 0;
	if (!ours)
		return 0;
	digest_bytes(&query->digest, &header->nfgen_family, 1);
	mnl_attr_for_each(attribute, message, sizeof(*header))
	{
		uint16_t type = mnl_attr_get_type(attribute);
		if (type < 32 && query->stateful & 1u << type)
			continue;
		digest_bytes(&query->digest, &type, sizeof(type));
		digest_bytes(&query->digest, mnl_attr_get_payload(attribute), mnl_attr_get_payload_len(attribute));
	}
	return 0;
}

static int digest_dump(struct rtnl *rtnl, uint16_t type, struct digest_query *query)
{
	char room[MESSAGE_ROOM];
	return rtnl_talk(rtnl, nfnl_start(room, nft_type(type), NLM_F_DUMP, NFPROTO_UNSPEC, 0), digest_seen, query);
}

static int digest_elements(struct rtnl *rtnl, const char *set, struct digest_query *query)
{
	char room[MESSAGE_ROOM];
	struct nlmsghdr *request = nfnl_start(room, nft_type(NFT_MSG_GETSETELEM), NLM_F_DUMP, NFPROTO_INET, 0);
	mnl_attr_put_strz(request, NFTA_SET_ELEM_LIST_TABLE, query->table);
	mnl_attr_put_strz(request, NFTA_SET_ELEM_LIST_SET, set);
	return rtnl_talk(rtnl, request, digest_seen, query);
}

static int digest_once(struct rtnl *rtnl, const char *const *sets, struct digest_query *query)
{
	query->digest = 0xcbf29ce484222325u;
	query->table_attribute = NFTA_TABLE_NAME;
	query->stateful = 1u << NFTA_TABLE_USE | 1u << NFTA_TABLE_HANDLE;
	int rc = digest_dump(rtnl, NFT_MSG_GETTABLE, query);
	query->table_attribute = NFTA_CHAIN_TABLE;
	query->stateful = 1u << NFTA_CHAIN_HANDLE | 1u << NFTA_CHAIN_USE | 1u << NFTA_CHAIN_COUNTERS;
	rc = rc < 0 ? rc : digest_dump(rtnl, NFT_MSG_GETCHAIN, query);
	query->table_attribute = NFTA_RULE_TABLE;
	query->stateful = 1u << NFTA_RULE_HANDLE | 1u << NFTA_RULE_POSITION;
	rc = rc < 0 ? rc : digest_dump(rtnl, NFT_MSG_GETRULE, query);
	query->table_attribute = NFTA_SET_ELEM_LIST_TABLE;
	query->stateful = 0;
	for (; rc == 0 && *sets; sets++)
		rc = digest_elements(rtnl, *sets, query);
	return rc;
}

int nft_digest(struct rtnl *rtnl, const char *table, const char *const *sets, uint64_t *digest)
{
	struct digest_query query = { .table = table };
	int rc = -EINTR;
	for (int i = 0; i < 3 && rc == -EINTR; i++) /* interrupted: somebody changed the rules during the dump */
		rc = digest_once(rtnl, sets, &query);
	/* A set or the table that is gone is a difference, not a failure. */
	*digest = rc == -ENOENT ? 0 : query.digest;
	return rc == -ENOENT ? 0 : rc;
}

/* ---- counters ---- */

struct counters_query {
	const char *table;
	nft_counter_visit *visit;
	void *argument;
};

static void counter_values(const struct nlattr *data, uint64_t *packets, uint64_t *bytes)
{
	const struct nlattr *attribute;
	mnl_attr_for_each_nested(attribute, data)
	{
		if (mnl_attr_validate(attribute, MNL_TYPE_U64) < 0)
			continue;
		uint64_t value = be64toh(mnl_attr_get_u64(attribute));
		if (mnl_attr_get_type(attribute) == NFTA_COUNTER_PACKETS)
			*packets = value;
		else if (mnl_attr_get_type(attribute) == NFTA_COUNTER_BYTES)
			*bytes = value;
	}
}

static int counter_seen(const struct nlmsghdr *message, void *argument)
{
	struct counters_query *query = argument;
	const struct nlattr *attribute;
	const char *table = "", *name = "";
	uint64_t packets = 0, bytes = 0;
	mnl_attr_for_each(attribute, message, sizeof(struct nfgenmsg))
	{
		uint16_t type = mnl_attr_get_type(attribute);
		if (type == NFTA_OBJ_TABLE)
			table = mnl_attr_get_str(attribute);
		else if (type == NFTA_OBJ_NAME)
			name = mnl_attr_get_str(attribute);
		else if (type == NFTA_OBJ_DATA)
			counter_values(attribute, &packets, &bytes);
	}
	if (strcmp(table, query->table) == 0)
		query->visit(name, packets, bytes, query->argument);
	return 0;
}

int nft_counters(struct rtnl *rtnl, uint8_t family, const char *table, nft_counter_visit *visit, void *argument)
{
	char room[MESSAGE_ROOM];
	struct counters_query query = { table, visit, argument };
	struct nlmsghdr *request = nfnl_start(room, nft_type(NFT_MSG_GETOBJ), NLM_F_DUMP, family, 0);
	mnl_attr_put_strz(request, NFTA_OBJ_TABLE, table);
	mnl_attr_put_u32(request, NFTA_OBJ_TYPE, htonl(NFT_OBJECT_COUNTER));
	return rtnl_talk(rtnl, request, counter_seen, &query);
}

/* ---- elements ---- */

static struct nlmsghdr *element_message(char *room, uint32_t sequence, uint16_t type, const struct nft_element *element)
{
	struct nlmsghdr *message = nfnl_start(room, nft_type(type), NLM_F_REQUEST, NFPROTO_INET, 0);
	bool add = type == NFT_MSG_NEWSETELEM;
	message->nlmsg_seq = sequence;
	if (add)
		message->nlmsg_flags |= NLM_F_CREATE | NLM_F_ACK;
	mnl_attr_put_strz(message, NFTA_SET_ELEM_LIST_TABLE, element->table);
	mnl_attr_put_strz(message, NFTA_SET_ELEM_LIST_SET, element->set);
	struct nlattr *list = mnl_attr_nest_start(message, NFTA_SET_ELEM_LIST_ELEMENTS);
	struct nlattr *item = mnl_attr_nest_start(message, NFTA_LIST_ELEM);
	struct nlattr *key = mnl_attr_nest_start(message, NFTA_SET_ELEM_KEY);
	uint32_t address = htonl(element->address);
	mnl_attr_put(message, NFTA_DATA_VALUE, sizeof(address), &address);
	mnl_attr_nest_end(message, key);
	if (add)
		mnl_attr_put_u64(message, NFTA_SET_ELEM_TIMEOUT, htobe64(element->timeout_ms));
	mnl_attr_nest_end(message, item);
	mnl_attr_nest_end(message, list);
	return message;
}

/* Read until the acknowledgement of `last`; the first error of the batch is the result. */
static int batch_result(struct rtnl *rtnl, uint32_t last)
{
	char answer[8192];
	int result = 0;
	for (;;) {
		ssize_t size = mnl_socket_recvfrom(rtnl->socket, answer, sizeof(answer));
		if (size < 0 && errno == EINTR)
			continue;
		if (size < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		int left = (int)size;
		for (struct nlmsghdr *m = (struct nlmsghdr *)answer; mnl_nlmsg_ok(m, left);
		     m = mnl_nlmsg_next(m, &left)) {
			if (m->nlmsg_type != NLMSG_ERROR || mnl_nlmsg_get_payload_len(m) < sizeof(struct nlmsgerr))
				continue;
			const struct nlmsgerr *ack = mnl_nlmsg_get_payload(m);
			if (result == 0 && last - m->nlmsg_seq < 8) /* one of this batch */
				result = ack->error;
			if (m->nlmsg_seq == last)
				return result;
		}
	}
}

int nft_element_add(struct rtnl *rtnl, const struct nft_element *element)
{
	char batch[4 * MESSAGE_ROOM] = { 0 };
	size_t size = 0;
	struct nlmsghdr *part = nfnl_start(batch, NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	part->nlmsg_seq = ++rtnl->sequence;
	size += part->nlmsg_len;
	if (element->replace) {
		part = element_message(batch + size, ++rtnl->sequence, NFT_MSG_DELSETELEM, element);
		size += part->nlmsg_len;
	}
	uint32_t last = ++rtnl->sequence;
	part = element_message(batch + size, last, NFT_MSG_NEWSETELEM, element);
	size += part->nlmsg_len;
	part = nfnl_start(batch + size, NFNL_MSG_BATCH_END, NLM_F_REQUEST, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	part->nlmsg_seq = ++rtnl->sequence;
	size += part->nlmsg_len;
	if (mnl_socket_sendto(rtnl->socket, batch, size) < 0)
		return -errno;
	return batch_result(rtnl, last);
}

/* ---- conntrack ---- */

static uint16_t ct_type(uint16_t message)
{
	return (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | message);
}

int nft_conntrack_flush(struct rtnl *rtnl)
{
	char room[MESSAGE_ROOM];
	return rtnl_talk(rtnl, nfnl_start(room, ct_type(IPCTNL_MSG_CT_DELETE), 0, AF_INET, 0), NULL, NULL);
}

/*
 * A tuple with nothing but its source is an error to kernels that do not know CTA_FILTER, never "all of them".
 */
int nft_conntrack_forget(struct rtnl *rtnl, uint32_t source)
{
	char room[MESSAGE_ROOM];
	struct nlmsghdr *request = nfnl_start(room, ct_type(IPCTNL_MSG_CT_DELETE), 0, AF_INET, 0);
	struct nlattr *tuple = mnl_attr_nest_start(request, CTA_TUPLE_ORIG);
	struct nlattr *ip = mnl_attr_nest_start(request, CTA_TUPLE_IP);
	mnl_attr_put_u32(request, CTA_IP_V4_SRC, htonl(source));
	mnl_attr_nest_end(request, ip);
	mnl_attr_nest_end(request, tuple);
	struct nlattr *filter = mnl_attr_nest_start(request, CTA_FILTER);
	mnl_attr_put_u32(request, CTA_FILTER_ORIG_FLAGS, 1); /* CTA_FILTER_F_CTA_IP_SRC, not in the kernel's headers */
	mnl_attr_put_u32(request, CTA_FILTER_REPLY_FLAGS, 0);
	mnl_attr_nest_end(request, filter);
	return rtnl_talk(rtnl, request, NULL, NULL);
}
