#include "proto/guest.h"

#include <errno.h>
#include <stdbool.h>

#include "proto/wire.h"

void guest_put_header(unsigned char to[GUEST_HEADER_SIZE], const struct guest_header *header)
{
	wire_put32(to, header->length);
	to[4] = header->type;
	to[5] = header->channel;
	wire_put16(to + 6, 0);
	wire_put32(to + 8, header->stream);
}

static bool known_type(uint8_t type)
{
	return type == GUEST_HELLO || (type >= GUEST_PING && type <= GUEST_STAT) ||
	       (type >= GUEST_OPEN_EXEC && type <= GUEST_OPEN_WATCH) ||
	       (type >= GUEST_SIGNAL && type <= GUEST_DETACH) || (type >= GUEST_DATA && type <= GUEST_CREDIT) ||
	       (type >= GUEST_RESULT && type <= GUEST_ERROR);
}

int guest_get_header(const unsigned char from[GUEST_HEADER_SIZE], struct guest_header *header)
{
	struct guest_header h = {
		.length = wire_get32(from),
		.type = from[4],
		.channel = from[5],
		.stream = wire_get32(from + 8),
	};
	bool data = h.type >= GUEST_DATA && h.type <= GUEST_CREDIT;

	if (h.length > GUEST_PAYLOAD_MAX || !known_type(h.type) || wire_get16(from + 6) != 0)
		return -EBADMSG;
	if (h.channel > (data ? 1 : 0) || (h.stream == 0) != (h.type == GUEST_HELLO))
		return -EBADMSG;
	if ((h.type == GUEST_CREDIT && h.length != 4) || (h.type == GUEST_EOF && h.length != 0))
		return -EBADMSG;
	*header = h;
	return 0;
}
