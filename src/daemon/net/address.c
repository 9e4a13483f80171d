#include "daemon/net/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/str.h"

bool address_looks_like(const char *text)
{
	if (strchr(text, '/') || strchr(text, ':'))
		return true;
	const char *last = strrchr(text, '.');
	last = last ? last + 1 : text;
	/* A resolver takes a name that ends in a number for an address: 127.1, 0x7f000001, 017700000001. */
	return *last >= '0' && *last <= '9' &&
	       strspn(last, *last == '0' ? "0123456789abcdefABCDEFxX" : "0123456789") == strlen(last);
}

int address_parse(const char *text, struct policy_cidr *cidr, struct error *err)
{
	char quad[INET_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t size = slash ? (size_t)(slash - text) : strlen(text);
	uint64_t prefix = 32;
	struct in_addr address;
	if (strchr(text, ':'))
		return error_set(err, EINVAL,
				 "IPv6 is off inside sandboxes, so there is nothing to allow or deny in it");
	if (slash && (str_u64(slash + 1, 0, 32, &prefix) < 0 || (slash[1] == '0' && slash[2] != '\0')))
		return error_set(err, EINVAL, "the prefix must be 0 to 32");
	if (size >= sizeof(quad))
		return error_set(err, EINVAL, "not an IPv4 address or range");
	memcpy(quad, text, size);
	quad[size] = '\0';
	if (inet_pton(AF_INET, quad, &address) != 1)
		return error_set(err, EINVAL, "not an IPv4 address or range");
	cidr->prefix = (uint8_t)prefix;
	cidr->address = ntohl(address.s_addr) & address_mask(cidr->prefix);
	return 0;
}
