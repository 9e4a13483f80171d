#include "fake.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/net/message.h"

struct fake_launcher fake;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
	int socket, rcode;
	bool mute;
	uint32_t addresses[MESSAGE_ADDRESSES_MAX];
	size_t count;
	unsigned asked;
	pthread_t thread;
	char text[32];
} upstream = { .socket = -1 };

void fake_reset(void)
{
	fake = (struct fake_launcher){ 0 };
}

int launcher_net_policy(struct launcher *launcher, uint32_t slot, const struct policy *policy, struct error *err)
{
	if (fake.policy_result < 0)
		return error_set(err, -fake.policy_result, "the fake launcher refuses");
	fake.policies++;
	fake.policy = *policy;
	fake.pins = 0;
	return 0;
}

int launcher_net_pin(struct launcher *launcher, uint32_t slot, uint32_t address, uint32_t ttl, struct error *err)
{
	if (fake.pin_result < 0)
		return error_set(err, -fake.pin_result, "the fake launcher refuses");
	if (fake.pins < FAKE_PINS_MAX) {
		fake.addresses[fake.pins] = address;
		fake.ttls[fake.pins++] = ttl;
	}
	return 0;
}

static void *serve(void *unused)
{
	for (;;) {
		uint8_t data[MESSAGE_QUERY_MAX], reply[MESSAGE_QUERY_MAX];
		struct sockaddr_in peer;
		socklen_t size = sizeof(peer);
		struct message_question question;
		ssize_t got = recvfrom(upstream.socket, data, sizeof(data), 0, (struct sockaddr *)&peer, &size);
		if (got <= 0)
			return NULL; /* an empty datagram: the end */
		if (message_question_parse(data, (size_t)got, &question) != MESSAGE_OK)
			continue;
		pthread_mutex_lock(&lock);
		upstream.asked++;
		size_t made = message_reply_make(reply, &question, upstream.rcode, upstream.addresses, upstream.count,
						 60);
		if (!upstream.mute)
			sendto(upstream.socket, reply, made, 0, (struct sockaddr *)&peer, size);
		pthread_mutex_unlock(&lock);
	}
}

const char *fake_upstream_start(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	upstream.socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	upstream.asked = 0;
	upstream.mute = false;
	if (upstream.socket < 0 || bind(upstream.socket, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    getsockname(upstream.socket, (struct sockaddr *)&address, &size) < 0 ||
	    pthread_create(&upstream.thread, NULL, serve, NULL) != 0)
		return NULL;
	snprintf(upstream.text, sizeof(upstream.text), "127.0.0.1:%u", ntohs(address.sin_port));
	return upstream.text;
}

void fake_upstream_answer(int rcode, const uint32_t *addresses, size_t count)
{
	pthread_mutex_lock(&lock);
	upstream.rcode = rcode;
	upstream.count = count;
	memcpy(upstream.addresses, addresses, count * sizeof(*addresses));
	pthread_mutex_unlock(&lock);
}

void fake_upstream_mute(bool mute)
{
	pthread_mutex_lock(&lock);
	upstream.mute = mute;
	pthread_mutex_unlock(&lock);
}

unsigned fake_upstream_asked(void)
{
	pthread_mutex_lock(&lock);
	unsigned asked = upstream.asked;
	pthread_mutex_unlock(&lock);
	return asked;
}

void fake_upstream_stop(void)
{
	struct sockaddr_in self;
	socklen_t size = sizeof(self);
	getsockname(upstream.socket, (struct sockaddr *)&self, &size);
	sendto(upstream.socket, "", 0, 0, (struct sockaddr *)&self, size);
	pthread_join(upstream.thread, NULL);
	close(upstream.socket);
	upstream.socket = -1;
}
