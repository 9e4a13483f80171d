/* The guests' sockets: UDP, and TCP with two bytes of length before each message (RFC 7766). */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/time.h"
#include "daemon/net/resolver_inside.h"

#define AT_ONCE 16

void resolver_udp_ready(struct resolver *r, struct resolver_slot *slot)
{
	for (int i = 0; i < AT_ONCE; i++) {
		uint8_t data[MESSAGE_QUERY_MAX + 1]; /* one more, so that too long a message is seen to be */
		struct origin origin = { 0 };
		socklen_t size = sizeof(origin.peer);
		ssize_t got = recvfrom(slot->udp, data, sizeof(data), MSG_DONTWAIT, (struct sockaddr *)&origin.peer,
				       &size);
		if (got < 0)
			return;
		/* The rules let nobody else in; should they ever fail, no other host gets answers from here. */
		if (size != sizeof(origin.peer) || ntohl(origin.peer.sin_addr.s_addr) != slot->guest)
			continue;
		resolver_ask(r, slot, &origin, data, (size_t)got);
	}
}

/* ---- TCP ---- */

static void connection_serve(struct resolver *r, struct connection *connection);

void resolver_connection_close(struct resolver *r, struct connection *connection)
{
	if (r->slots[connection->slot])
		r->slots[connection->slot]->connections--;
	fd_close(&connection->fd);
	connection->used = false;
}

static struct connection *connection_new(struct resolver *r)
{
	for (size_t i = 0; i < RESOLVER_CONNECTIONS_MAX; i++)
		if (!r->connections[i].used)
			return &r->connections[i];
	return NULL;
}

void resolver_listen_ready(struct resolver *r, struct resolver_slot *slot)
{
	struct sockaddr_in peer = { 0 };
	socklen_t size = sizeof(peer);
	_cleanup_fd_ int fd = accept4(slot->tcp, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct connection *connection = connection_new(r);
	if (fd < 0 || ntohl(peer.sin_addr.s_addr) != slot->guest)
		return;
	if (!connection || slot->connections >= RESOLVER_SLOT_CONNECTIONS_MAX) {
		slot->counters.limited++;
		return;
	}
	uint32_t index = (uint32_t)(connection - r->connections), generation = ++r->next_generation;
	if (resolver_watch(r, fd, SOURCE_CONNECTION, index, generation) < 0)
		return;
	*connection = (struct connection){
		.used = true,
		.generation = generation,
		.slot = slot->number,
		.fd = fd_steal(&fd),
		.deadline = time_mono_ms() + RESOLVER_IDLE_MS,
	};
	slot->connections++;
	resolver_deadline(r, connection->deadline);
}

static void connection_watch(struct resolver *r, struct connection *connection, bool reading)
{
	uint32_t index = (uint32_t)(connection - r->connections);
	struct epoll_event event = {
		.events = reading ? EPOLLIN : 0,
		.data.u64 = (uint64_t)SOURCE_CONNECTION << 60 | (uint64_t)index << 32 | connection->generation,
	};
	epoll_ctl(r->epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

/* Questions that are there whole, one after the other; the next one only when the last was answered. */
static void connection_serve(struct resolver *r, struct connection *connection)
{
	uint32_t generation = connection->generation;
	connection->serving = true;
	while (connection->used && connection->generation == generation && !connection->waiting &&
	       connection->have >= 2) {
		size_t size = (size_t)connection->data[0] << 8 | connection->data[1];
		if (size > MESSAGE_QUERY_MAX) {
			resolver_connection_close(r, connection);
			return;
		}
		if (connection->have < 2 + size)
			break;
		struct origin origin = { .tcp = true, .generation = generation };
		origin.connection = (uint32_t)(connection - r->connections);
		uint8_t message[MESSAGE_QUERY_MAX];
		memcpy(message, connection->data + 2, size);
		connection->have -= 2 + size;
		memmove(connection->data, connection->data + 2 + size, connection->have);
		connection->waiting = true;
		if (!resolver_ask(r, r->slots[connection->slot], &origin, message, size)) {
			resolver_connection_close(r, connection);
			return;
		}
	}
	if (!connection->used || connection->generation != generation)
		return;
	connection->serving = false;
	connection_watch(r, connection, !connection->waiting);
}

void resolver_connection_ready(struct resolver *r, struct connection *connection)
{
	size_t room = sizeof(connection->data) - connection->have;
	ssize_t got = recv(connection->fd, connection->data + connection->have, room, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) { /* also: hung up while its question is out */
		resolver_connection_close(r, connection);
		return;
	}
	connection->have += (size_t)got;
	if (!connection->waiting)
		connection_serve(r, connection);
}

static void connection_reply(struct resolver *r, const struct origin *origin, const uint8_t *data, size_t size)
{
	struct connection *connection = &r->connections[origin->connection];
	if (!connection->used || connection->generation != origin->generation)
		return;
	uint8_t framed[2 + MESSAGE_QUERY_MAX] = { (uint8_t)(size >> 8), (uint8_t)size };
	memcpy(framed + 2, data, size);
	/* A guest that does not read so few bytes is not waited for. */
	if (send(connection->fd, framed, 2 + size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)(2 + size)) {
		resolver_connection_close(r, connection);
		return;
	}
	connection->deadline = time_mono_ms() + RESOLVER_IDLE_MS;
	connection->waiting = false;
	if (!connection->serving) /* it waited for an upstream: go on with what it sent since */
		connection_serve(r, connection);
}

void resolver_reply(struct resolver *r, struct resolver_slot *slot, const struct origin *origin,
		    const struct message_question *question, int rcode, const uint32_t *addresses, size_t count,
		    uint32_t ttl)
{
	uint8_t data[MESSAGE_QUERY_MAX];
	size_t size = message_reply_make(data, question, rcode, addresses, count, ttl);
	if (!origin->tcp) {
		/* Lost if the socket's buffer is full: a guest asks again. */
		sendto(slot->udp, data, size, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&origin->peer,
		       sizeof(origin->peer));
		return;
	}
	connection_reply(r, origin, data, size);
}
