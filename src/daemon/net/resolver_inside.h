/* What the parts of the resolver share: resolver.c (thread, slots), resolver_io.c (sockets), resolver_ask.c (names). */
#pragma once

#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/log.h"
#include "daemon/net/message.h"
#include "daemon/net/resolver.h"
#include "daemon/net/upstream.h"

#define RESOLVER_ASKED_MAX 1024 /* questions outstanding, of all slots */
#define RESOLVER_SLOT_ASKED_MAX 32
#define RESOLVER_CONNECTIONS_MAX 512 /* TCP, of all slots */
#define RESOLVER_SLOT_CONNECTIONS_MAX 8
#define RESOLVER_RATE 50 /* questions a second and slot */
#define RESOLVER_BURST 100
#define RESOLVER_ATTEMPT_MS 1500
#define RESOLVER_ATTEMPTS_MAX 4
#define RESOLVER_IDLE_MS 10000 /* of a TCP connection */
#define RESOLVER_TTL_MIN 30
#define RESOLVER_TTL_MAX 3600
#define RESOLVER_GRACE 30

/*
 * epoll's 64 bits for a descriptor: kind, index into a table, and the entry's generation, so that an event for an entry
 * that is gone finds nobody.
 */
enum source { SOURCE_WAKE, SOURCE_UDP, SOURCE_LISTEN, SOURCE_CONNECTION, SOURCE_ASKED };

struct origin {
	bool tcp;
	uint32_t connection, generation;
	struct sockaddr_in peer; /* UDP */
};

struct asked {
	bool used;
	uint32_t generation, slot;
	int fd;
	uint16_t id;
	unsigned attempts;
	int64_t deadline;
	struct origin origin;
	struct message_question question;
};

struct connection {
	bool used, waiting,
		serving; /* waiting: its question is out, nothing is read; serving: connection_serve is on it */
	uint32_t generation, slot;
	int fd;
	int64_t deadline;
	size_t have;
	uint8_t data[2 + MESSAGE_QUERY_MAX];
};

struct pinned {
	char *name;
	uint32_t address;
	int64_t until;
};

struct resolver_slot {
	uint32_t number, generation, guest;
	int udp, tcp;
	struct net_rules *rules;
	struct net_dns_counters counters;
	int64_t tokens, tokens_at; /* thousandths of a question; ms */
	unsigned asked, connections;
	struct pinned *pinned; /* POLICY_PINS_MAX, from the first on */
	size_t pinned_count;
	struct log_limit log;
};

struct resolver {
	pthread_t thread;
	pthread_mutex_t lock; /* over everything below; the thread lets it go only while it waits */
	int epoll, wake;
	bool stop;
	uint32_t next_generation;
	int64_t next_deadline; /* the earliest of all entries, or earlier; -1: none */
	struct upstreams upstreams;
	resolver_pin *pin;
	void *pin_argument;
	struct resolver_slot *slots[LAUNCHER_SLOTS_MAX];
	struct asked asked[RESOLVER_ASKED_MAX];
	struct connection connections[RESOLVER_CONNECTIONS_MAX];
};

/* resolver.c */
int resolver_watch(struct resolver *resolver, int fd, enum source source, uint32_t index, uint32_t generation);
void resolver_deadline(struct resolver *resolver, int64_t deadline);

/* resolver_io.c */
void resolver_udp_ready(struct resolver *resolver, struct resolver_slot *slot);
void resolver_listen_ready(struct resolver *resolver, struct resolver_slot *slot);
void resolver_connection_ready(struct resolver *resolver, struct connection *connection);
void resolver_connection_close(struct resolver *resolver, struct connection *connection);
void resolver_reply(struct resolver *resolver, struct resolver_slot *slot, const struct origin *origin,
		    const struct message_question *question, int rcode, const uint32_t *addresses, size_t count,
		    uint32_t ttl);

/* resolver_ask.c. A message of the guest; false: not answered, now or ever. */
bool resolver_ask(struct resolver *resolver, struct resolver_slot *slot, const struct origin *origin,
		  const uint8_t *data, size_t size);
void resolver_asked_ready(struct resolver *resolver, struct asked *asked);
void resolver_asked_late(struct resolver *resolver, struct asked *asked);
void resolver_asked_drop(struct resolver *resolver, struct asked *asked);
/* Pin again, after a change of rules, what was resolved for names that are still allowed. */
void resolver_pin_again(struct resolver *resolver, struct resolver_slot *slot);
void resolver_pins_free(struct resolver_slot *slot);
