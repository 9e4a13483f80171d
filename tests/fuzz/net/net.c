/*
 * libFuzzer: what reaches akirad's network code from guests (DNS questions), from upstreams (DNS answers) and from
 * clients (the rules). The first byte chooses.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/net/message.h"
#include "daemon/net/policy.h"
#include "proto/address.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A question that was understood is repeated whole in the reply, and its name fits a query. */
static void question(const uint8_t *data, size_t size)
{
	struct message_question first, second;
	uint8_t reply[MESSAGE_QUERY_MAX], query[MESSAGE_QUERY_MAX];
	const uint32_t addresses[MESSAGE_ADDRESSES_MAX] = { 0x01020304 };
	int rcode = message_question_parse(data, size, &first);
	if (rcode < 0)
		return;
	if (strlen(first.name) > MESSAGE_NAME_MAX ||
	    message_reply_make(reply, &first, rcode, addresses, 15, 60) > sizeof(reply))
		abort();
	size_t made = rcode == MESSAGE_OK && *first.name ? message_query_make(query, 1, first.name) : 0;
	if (rcode == MESSAGE_OK && *first.name && made == 0)
		abort();
	if (made &&
	    (message_question_parse(query, made, &second) != MESSAGE_OK || strcmp(first.name, second.name) != 0))
		abort();
}

static bool alias(const char *name, void *argument)
{
	if (strlen(name) > 1024) /* NS_MAXDNAME */
		abort();
	return strcmp(name, "denied.example") != 0;
}

static void answer(const uint8_t *data, size_t size)
{
	struct message_answer parsed;
	if (message_answer_parse(data, size, 0x1234, "a.example", &parsed, alias, NULL) == 0 &&
	    parsed.count > MESSAGE_ADDRESSES_MAX)
		abort();
}

/* Lines: allow, all but the last, which is deny. What is taken is within its bounds. */
static void rules(const uint8_t *data, size_t size)
{
	const char *entries[200];
	size_t count = 0;
	char *text = calloc(1, size + 1), *rest = NULL;
	if (!text)
		return;
	memcpy(text, data, size);
	for (char *line = strtok_r(text, "\n", &rest); line && count < 200; line = strtok_r(NULL, "\n", &rest))
		entries[count++] = line;
	struct net_request request = { .outbound = "deny", .allow = entries, .allow_count = count ? count - 1 : 0 };
	request.deny = entries + request.allow_count;
	request.deny_count = count - request.allow_count;
	struct net_rules *parsed;
	if (net_rules_parse(&request, &parsed, NULL) == 0) {
		for (uint32_t i = 0; i < parsed->numbers.allow_count; i++)
			if (parsed->numbers.allow[i].prefix > 32 ||
			    (parsed->numbers.allow[i].prefix == 32 &&
			     address_is_blocked(parsed->numbers.allow[i].address)))
				abort();
		for (size_t i = 0; i < parsed->allow_count; i++)
			if (strlen(parsed->allow[i].text) > NET_DOMAIN_MAX ||
			    strspn(parsed->allow[i].text, "abcdefghijklmnopqrstuvwxyz0123456789-_.") !=
				    strlen(parsed->allow[i].text))
				abort();
		net_rules_free(parsed);
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	switch (data[0] % 3) {
	case 0: question(data + 1, size - 1); break;
	case 1: answer(data + 1, size - 1); break;
	default: rules(data + 1, size - 1);
	}
	return 0;
}
