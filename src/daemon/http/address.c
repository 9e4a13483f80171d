#include "daemon/http/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/str.h"

int http_address_parse(const char *text, struct in6_addr *address)
{
	struct in_addr four;

	if (inet_pton(AF_INET6, text, address) == 1)
		return 0;
	if (inet_pton(AF_INET, text, &four) != 1)
		return -EINVAL;
	memset(address, 0, sizeof(*address));
	address->s6_addr[10] = address->s6_addr[11] = 0xff;
	memcpy(&address->s6_addr[12], &four, 4);
	return 0;
}

void http_address_of(const struct sockaddr *socket, struct in6_addr *address)
{
	memset(address, 0, sizeof(*address));
	if (socket->sa_family == AF_INET6) {
		struct sockaddr_in6 six;
		memcpy(&six, socket, sizeof(six));
		*address = six.sin6_addr;
	} else if (socket->sa_family == AF_INET) {
		struct sockaddr_in four;
		memcpy(&four, socket, sizeof(four));
		address->s6_addr[10] = address->s6_addr[11] = 0xff;
		memcpy(&address->s6_addr[12], &four.sin_addr, 4);
	}
}

void http_address_text(const struct in6_addr *address, char text[HTTP_ADDRESS_MAX])
{
	if (IN6_IS_ADDR_V4MAPPED(address))
		inet_ntop(AF_INET, &address->s6_addr[12], text, HTTP_ADDRESS_MAX);
	else
		inet_ntop(AF_INET6, address, text, HTTP_ADDRESS_MAX);
}

int http_cidr_parse(const char *text, struct http_cidr *cidr)
{
	char address[HTTP_ADDRESS_MAX];
	size_t size = strcspn(text, "/");
	uint64_t bits;

	if (size >= sizeof(address))
		return -EINVAL;
	memcpy(address, text, size);
	address[size] = '\0';
	if (http_address_parse(address, &cidr->address) < 0)
		return -EINVAL;
	bool four = strchr(address, ':') == NULL;
	bits = four ? 32 : 128;
	if (text[size] == '/' && str_u64(text + size + 1, 0, bits, &bits) < 0)
		return -EINVAL;
	cidr->bits = (unsigned)bits + (four ? 96 : 0);
	return 0;
}

static bool matches(const struct http_cidr *cidr, const struct in6_addr *address)
{
	unsigned whole = cidr->bits / 8, rest = cidr->bits % 8;
	if (memcmp(&cidr->address, address, whole) != 0)
		return false;
	unsigned char mask = (unsigned char)(0xff00 >> rest);
	return rest == 0 || ((cidr->address.s6_addr[whole] ^ address->s6_addr[whole]) & mask) == 0;
}

bool http_cidr_has(const struct http_cidr *list, size_t count, const struct in6_addr *address)
{
	for (size_t i = 0; i < count; i++)
		if (matches(&list[i], address))
			return true;
	return false;
}

/* One element of X-Forwarded-For: spaces around it, perhaps brackets and a port. */
static int parse_element(const char *text, size_t size, struct in6_addr *address)
{
	char copy[HTTP_ADDRESS_MAX + 8];

	while (size > 0 && (*text == ' ' || *text == '\t'))
		text++, size--;
	while (size > 0 && (text[size - 1] == ' ' || text[size - 1] == '\t'))
		size--;
	if (size == 0 || size >= sizeof(copy))
		return -EINVAL;
	memcpy(copy, text, size);
	copy[size] = '\0';
	if (copy[0] == '[') {
		char *end = strchr(copy, ']');
		if (!end)
			return -EINVAL;
		*end = '\0';
		return http_address_parse(copy + 1, address);
	}
	char *colon = strchr(copy, ':');
	if (colon && !strchr(colon + 1, ':'))
		*colon = '\0';
	return http_address_parse(copy, address);
}

void http_address_client(const struct in6_addr *peer, const char *forwarded, const struct http_cidr *trusted,
			 size_t count, char text[HTTP_ADDRESS_MAX])
{
	struct in6_addr address = *peer;
	size_t end = forwarded ? strlen(forwarded) : 0;

	while (end > 0 && http_cidr_has(trusted, count, &address)) {
		size_t start = end;
		while (start > 0 && forwarded[start - 1] != ',')
			start--;
		/* What is no address ends the chain: the last hop that could be read is the client. */
		if (parse_element(forwarded + start, end - start, &address) < 0)
			break;
		end = start > 0 ? start - 1 : 0;
	}
	http_address_text(&address, text);
}
