/*
 * DNS messages (RFC 1035, EDNS0 of RFC 6891): questions of guests in, questions to upstreams out, and the other way
 * round. No I/O. Everything that comes in is hostile; answers are walked by libc's ns_* functions.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MESSAGE_QUERY_MAX 512   /* of a guest; more is not a question that we answer */
#define MESSAGE_ANSWER_MAX 1232 /* of an upstream: what we tell it by EDNS0 */
#define MESSAGE_NAME_MAX 253
#define MESSAGE_WIRE_MAX 260     /* name of 255 bytes, type, class */
#define MESSAGE_ADDRESSES_MAX 15 /* so that every reply fits 512 bytes */

enum message_rcode {
	MESSAGE_OK = 0,
	MESSAGE_FORMERR = 1,
	MESSAGE_SERVFAIL = 2,
	MESSAGE_NXDOMAIN = 3,
	MESSAGE_NOTIMP = 4,
	MESSAGE_REFUSED = 5,
};

enum message_type {
	MESSAGE_A = 1,
	MESSAGE_CNAME = 5,
	MESSAGE_PTR = 12,
	MESSAGE_AAAA = 28,
	MESSAGE_OPT = 41,
	MESSAGE_SVCB = 64,
	MESSAGE_HTTPS = 65,
};

struct message_question {
	uint16_t id, type, class;
	bool recursion_desired;
	char name[MESSAGE_NAME_MAX +
		  1]; /* lower case, no dot at the end; "" for the root or one that no rule can match */
	uint8_t wire[MESSAGE_WIRE_MAX]; /* the question as it was asked */
	size_t wire_size;               /* 0: the message was too broken to repeat its question */
};

/*
 * A guest's message. Returns MESSAGE_OK, the rcode to answer with (question->id and flags are set, wire as far as it
 * could be read), or -1: not even a question, answer nothing.
 */
int message_question_parse(const uint8_t *data, size_t size, struct message_question *question);

/* The question for A of name, for an upstream. Returns its size, 0 if name does not fit. to: MESSAGE_QUERY_MAX. */
size_t message_query_make(uint8_t *to, uint16_t id, const char *name);

struct message_answer {
	int rcode;
	bool truncated;
	uint32_t ttl; /* the least of the chain's, seconds; not clamped */
	size_t count;
	uint32_t addresses[MESSAGE_ADDRESSES_MAX]; /* host order, all that the name leads to, also blocked ones */
};

/* Each name that an alias leads to, lower case; false: stop, the answer is refused. */
typedef bool message_alias(const char *name, void *argument);

/*
 * An upstream's answer to message_query_make(id, name). 0, or -EBADMSG: broken or not an answer to that; wait for
 * another. -EPERM: alias said no. Addresses count only if the chain of aliases (at most 8) leads from name to them.
 */
int message_answer_parse(const uint8_t *data, size_t size, uint16_t id, const char *name, struct message_answer *answer,
			 message_alias *alias, void *argument);

/*
 * The reply to a guest: its question, and addresses with this ttl. to: MESSAGE_QUERY_MAX. Returns the size.
 */
size_t message_reply_make(uint8_t *to, const struct message_question *question, int rcode, const uint32_t *addresses,
			  size_t count, uint32_t ttl);
