#include "daemon/net/message.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#define HEADER_SIZE 12
#define FLAG_RESPONSE 0x8000u
#define FLAG_TRUNCATED 0x0200u
#define FLAG_RD 0x0100u
#define FLAG_RA 0x0080u
#define OPCODE_MASK 0x7800u
#define ALIASES_MAX 8
#define RECORDS_MAX 128

static uint16_t get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static uint8_t *put16(uint8_t *to, uint32_t value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
	return to + 2;
}

static uint8_t *put32(uint8_t *to, uint32_t value)
{
	return put16(put16(to, value >> 16), value);
}

/* ---- a guest's question ---- */

static char lower(uint8_t byte)
{
	return (char)(byte >= 'A' && byte <= 'Z' ? byte + 32 : byte);
}

/* No other byte may be in a name that rules are about, so that "a\.b" can never be taken for "a.b". */
static bool is_plain(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/*
 * The name at data, without pointers: the first name of a message has nothing to point to. Returns its size on the
 * wire, 0 if it is broken. *plain: the text says all of it.
 */
static size_t name_read(const uint8_t *data, size_t size, char text[MESSAGE_NAME_MAX + 1], bool *plain)
{
	size_t at = 0, length = 0;
	*plain = true;
	while (at < size && data[at] != 0) {
		size_t label = data[at++];
		if (label > 63 || label > size - at || length + label + (length > 0) > MESSAGE_NAME_MAX)
			return 0;
		if (length > 0)
			text[length++] = '.';
		for (size_t i = 0; i < label; i++) {
			text[length] = lower(data[at++]);
			*plain = *plain && is_plain(text[length]);
			length++;
		}
	}
	text[length] = '\0';
	return at < size ? at + 1 : 0;
}

int message_question_parse(const uint8_t *data, size_t size, struct message_question *question)
{
	*question = (struct message_question){ 0 };
	if (size < HEADER_SIZE || get16(data + 2) & FLAG_RESPONSE)
		return -1;
	question->id = get16(data);
	question->recursion_desired = get16(data + 2) & FLAG_RD;
	if (get16(data + 2) & OPCODE_MASK)
		return MESSAGE_NOTIMP;
	if (size > MESSAGE_QUERY_MAX || get16(data + 4) != 1 || get16(data + 6) != 0 || get16(data + 8) != 0 ||
	    get16(data + 10) > 1)
		return MESSAGE_FORMERR;
	bool plain;
	size_t name = name_read(data + HEADER_SIZE, size - HEADER_SIZE, question->name, &plain);
	if (name == 0 || size - HEADER_SIZE - name < 4)
		return MESSAGE_FORMERR;
	const uint8_t *after = data + HEADER_SIZE + name;
	question->type = get16(after);
	question->class = get16(after + 2);
	question->wire_size = name + 4;
	memcpy(question->wire, data + HEADER_SIZE, question->wire_size);
	if (!plain)
		question->name[0] = '\0';
	return question->class == ns_c_in ? MESSAGE_OK : MESSAGE_REFUSED;
}

/* ---- to an upstream and back ---- */

static uint8_t *name_put(uint8_t *to, const char *name)
{
	while (*name) {
		size_t label = strcspn(name, ".");
		*to++ = (uint8_t)label;
		memcpy(to, name, label);
		to += label;
		name += label + (name[label] == '.');
	}
	*to++ = 0;
	return to;
}

static bool name_fits(const char *name)
{
	if (strlen(name) > MESSAGE_NAME_MAX || !*name)
		return false;
	for (;;) {
		size_t label = strcspn(name, ".");
		if (label < 1 || label > 63)
			return false;
		if (!name[label])
			return true;
		name += label + 1;
	}
}

size_t message_query_make(uint8_t *to, uint16_t id, const char *name)
{
	if (!name_fits(name))
		return 0;
	uint8_t *at = put16(put16(to, id), FLAG_RD);
	at = put16(put16(put16(put16(at, 1), 0), 0), 1);
	at = name_put(at, name);
	at = put16(put16(at, MESSAGE_A), ns_c_in);
	*at++ = 0; /* OPT: the root, size that we take, no flags, no options */
	at = put16(put16(at, MESSAGE_OPT), MESSAGE_ANSWER_MAX);
	at = put16(put32(at, 0), 0);
	return (size_t)(at - to);
}

static bool same_name(const char *a, const char *b)
{
	return strcasecmp(a, b) == 0;
}

/* The question that comes back must be ours. */
static bool is_answer_to(ns_msg *message, uint16_t id, const char *name)
{
	ns_rr question;
	return ns_msg_id(*message) == id && ns_msg_getflag(*message, ns_f_qr) && ns_msg_count(*message, ns_s_qd) == 1 &&
	       ns_parserr(message, ns_s_qd, 0, &question) == 0 && ns_rr_type(question) == ns_t_a &&
	       ns_rr_class(question) == ns_c_in && same_name(ns_rr_name(question), name);
}

struct walk {
	ns_msg message;
	char name[NS_MAXDNAME]; /* where the chain has come to */
	struct message_answer *answer;
	message_alias *alias;
	void *argument;
};

static void take_ttl(struct message_answer *answer, uint32_t ttl)
{
	if (ttl < answer->ttl)
		answer->ttl = ttl;
}

/* Records of the chain's present name: 1 = an alias leads on, 0 = none does, -EPERM. */
static int walk_once(struct walk *walk)
{
	int count = ns_msg_count(walk->message, ns_s_an);
	for (int i = 0; i < count && i < RECORDS_MAX; i++) {
		ns_rr record;
		char target[NS_MAXDNAME];
		if (ns_parserr(&walk->message, ns_s_an, i, &record) < 0)
			return 0; /* cut off: what stands before it counts */
		if (ns_rr_class(record) != ns_c_in || !same_name(ns_rr_name(record), walk->name))
			continue;
		if (ns_rr_type(record) == ns_t_a && ns_rr_rdlen(record) == 4) {
			take_ttl(walk->answer, ns_rr_ttl(record));
			if (walk->answer->count < MESSAGE_ADDRESSES_MAX)
				walk->answer->addresses[walk->answer->count++] = ns_get32(ns_rr_rdata(record));
		} else if (ns_rr_type(record) == ns_t_cname && walk->answer->count == 0) {
			if (ns_name_uncompress(ns_msg_base(walk->message), ns_msg_end(walk->message),
					       ns_rr_rdata(record), target, sizeof(target)) < 0)
				return 0;
			take_ttl(walk->answer, ns_rr_ttl(record));
			for (char *c = target; *c; c++)
				*c = lower((uint8_t)*c);
			memcpy(walk->name, target, sizeof(target));
			return walk->alias && !walk->alias(walk->name, walk->argument) ? -EPERM : 1;
		}
	}
	return 0;
}

int message_answer_parse(const uint8_t *data, size_t size, uint16_t id, const char *name, struct message_answer *answer,
			 message_alias *alias, void *argument)
{
	struct walk walk = { .answer = answer, .alias = alias, .argument = argument };
	*answer = (struct message_answer){ .ttl = UINT32_MAX };
	if (size < HEADER_SIZE || size > 65535 || strlen(name) >= sizeof(walk.name) ||
	    ns_initparse(data, (int)size, &walk.message) < 0 || !is_answer_to(&walk.message, id, name))
		return -EBADMSG;
	answer->rcode = ns_msg_getflag(walk.message, ns_f_rcode);
	answer->truncated = ns_msg_getflag(walk.message, ns_f_tc);
	memcpy(walk.name, name, strlen(name) + 1);
	int more = 1;
	for (int i = 0; i <= ALIASES_MAX && more == 1; i++)
		more = walk_once(&walk);
	return more < 0 ? more : 0;
}

/* ---- the reply ---- */

size_t message_reply_make(uint8_t *to, const struct message_question *question, int rcode, const uint32_t *addresses,
			  size_t count, uint32_t ttl)
{
	if (count > MESSAGE_ADDRESSES_MAX || question->wire_size == 0)
		count = question->wire_size == 0 ? 0 : MESSAGE_ADDRESSES_MAX;
	uint32_t flags = FLAG_RESPONSE | FLAG_RA | (uint32_t)rcode | (question->recursion_desired ? FLAG_RD : 0);
	uint8_t *at = put16(put16(to, question->id), flags);
	at = put16(put16(at, question->wire_size ? 1 : 0), (uint32_t)count);
	at = put16(put16(at, 0), 0);
	memcpy(at, question->wire, question->wire_size);
	at += question->wire_size;
	for (size_t i = 0; i < count; i++) {
		at = put16(at, 0xc000 | HEADER_SIZE); /* the question's name */
		at = put16(put16(at, MESSAGE_A), ns_c_in);
		at = put32(put16(put32(at, ttl), 4), addresses[i]);
	}
	return (size_t)(at - to);
}
