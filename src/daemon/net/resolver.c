#include "daemon/net/resolver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "daemon/net/resolver_inside.h"

/* ---- the thread ---- */

static uint64_t source_pack(enum source source, uint32_t index, uint32_t generation)
{
	return (uint64_t)source << 60 | (uint64_t)(index & 0xfffffff) << 32 | generation;
}

int resolver_watch(struct resolver *resolver, int fd, enum source source, uint32_t index, uint32_t generation)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = source_pack(source, index, generation) };
	return epoll_ctl(resolver->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void resolver_deadline(struct resolver *resolver, int64_t deadline)
{
	if (resolver->next_deadline < 0 || deadline < resolver->next_deadline)
		resolver->next_deadline = deadline;
}

static void dispatch(struct resolver *r, uint64_t packed)
{
	enum source source = (enum source)(packed >> 60);
	uint32_t index = packed >> 32 & 0xfffffff, generation = (uint32_t)packed;
	if (source == SOURCE_UDP || source == SOURCE_LISTEN) {
		struct resolver_slot *slot = index < LAUNCHER_SLOTS_MAX ? r->slots[index] : NULL;
		if (slot && slot->generation == generation)
			(source == SOURCE_UDP ? resolver_udp_ready : resolver_listen_ready)(r, slot);
	} else if (source == SOURCE_CONNECTION && index < RESOLVER_CONNECTIONS_MAX) {
		struct connection *connection = &r->connections[index];
		if (connection->used && connection->generation == generation)
			resolver_connection_ready(r, connection);
	} else if (source == SOURCE_ASKED && index < RESOLVER_ASKED_MAX) {
		struct asked *asked = &r->asked[index];
		if (asked->used && asked->generation == generation)
			resolver_asked_ready(r, asked);
	}
}

static void expire(struct resolver *r)
{
	int64_t now = time_mono_ms();
	if (r->next_deadline < 0 || now < r->next_deadline)
		return;
	r->next_deadline = -1;
	for (size_t i = 0; i < RESOLVER_ASKED_MAX; i++) {
		if (r->asked[i].used && r->asked[i].deadline <= now)
			resolver_asked_late(r, &r->asked[i]);
		if (r->asked[i].used)
			resolver_deadline(r, r->asked[i].deadline);
	}
	for (size_t i = 0; i < RESOLVER_CONNECTIONS_MAX; i++) {
		if (r->connections[i].used && r->connections[i].deadline <= now)
			resolver_connection_close(r, &r->connections[i]);
		if (r->connections[i].used)
			resolver_deadline(r, r->connections[i].deadline);
	}
}

static void *resolver_main(void *argument)
{
	struct resolver *r = argument;
	struct epoll_event event;
	pthread_mutex_lock(&r->lock);
	while (!r->stop) {
		int timeout = time_left_ms(r->next_deadline);
		pthread_mutex_unlock(&r->lock);
		int count = epoll_wait(r->epoll, &event, 1, timeout);
		pthread_mutex_lock(&r->lock);
		if (count == 1)
			dispatch(r, event.data.u64);
		expire(r);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static void wake(struct resolver *r)
{
	uint64_t one = 1;
	if (write(r->wake, &one, sizeof(one)) < 0)
		log_error("dns_wake_failed", "error", strerror(errno));
}

static int prepare(struct resolver *r, const struct net_service_config *config, struct error *err)
{
	int rc = upstreams_init(&r->upstreams, config, err);
	if (rc < 0)
		return rc;
	r->epoll = epoll_create1(EPOLL_CLOEXEC);
	r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->epoll < 0 || r->wake < 0 || resolver_watch(r, r->wake, SOURCE_WAKE, 0, 0) < 0)
		return error_errno(err, errno, "cannot start the resolver");
	int code = pthread_create(&r->thread, NULL, resolver_main, r);
	return code ? error_errno(err, code, "cannot start the resolver's thread") : 0;
}

static void release(struct resolver *r)
{
	fd_close(&r->epoll);
	fd_close(&r->wake);
	upstreams_free(&r->upstreams);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

int resolver_start(const struct net_service_config *config, resolver_pin *pin, void *argument,
		   struct resolver **resolver, struct error *err)
{
	struct resolver *r = calloc(1, sizeof(*r));
	if (!r)
		return error_set(err, ENOMEM, "no memory for the resolver");
	r->epoll = r->wake = -1;
	r->next_deadline = -1;
	r->pin = pin;
	r->pin_argument = argument;
	pthread_mutex_init(&r->lock, NULL);
	int rc = prepare(r, config, err);
	if (rc < 0) {
		release(r);
		return rc;
	}
	*resolver = r;
	return 0;
}

void resolver_stop(struct resolver *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	wake(r);
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->thread, NULL);
	for (uint32_t i = 0; i < LAUNCHER_SLOTS_MAX; i++)
		resolver_remove(r, i);
	release(r);
}

/* ---- slots ---- */

void resolver_drain(int udp, int tcp)
{
	char byte;
	fd_set_nonblock(tcp, 1); /* the launcher made them so; to wait here for ever would hold up every slot */
	for (int i = 0; i < 100000 && recv(udp, &byte, 1, MSG_DONTWAIT) >= 0; i++)
		;
	for (int i = 0; i < 1000; i++) {
		_cleanup_fd_ int fd = accept4(tcp, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && errno != ECONNABORTED)
			return;
	}
}

static struct net_rules *rules_copy(const struct net_rules *rules)
{
	struct net_rules *copy = malloc(sizeof(*copy));
	if (copy)
		*copy = *rules;
	return copy;
}

static void slot_free(struct resolver_slot *slot)
{
	fd_close(&slot->udp);
	fd_close(&slot->tcp);
	resolver_pins_free(slot);
	free(slot->rules);
	free(slot);
}

static struct resolver_slot *slot_new(uint32_t number, uint32_t guest, int udp, int tcp, const struct net_rules *rules)
{
	struct resolver_slot *slot = calloc(1, sizeof(*slot));
	if (!slot)
		return NULL;
	*slot = (struct resolver_slot){
		.number = number,
		.guest = guest,
		.udp = fcntl(udp, F_DUPFD_CLOEXEC, 3),
		.tcp = fcntl(tcp, F_DUPFD_CLOEXEC, 3),
		.rules = rules_copy(rules),
		.tokens = RESOLVER_BURST * 1000,
		.tokens_at = time_mono_ms(),
	};
	if (slot->udp >= 0 && slot->tcp >= 0 && slot->rules)
		return slot;
	slot_free(slot);
	return NULL;
}

int resolver_add(struct resolver *r, uint32_t number, uint32_t guest, int udp, int tcp, const struct net_rules *rules,
		 struct error *err)
{
	int rc = -EINVAL;
	if (number >= LAUNCHER_SLOTS_MAX)
		return error_set(err, EINVAL, "no such slot: %u", number);
	struct resolver_slot *slot = slot_new(number, guest, udp, tcp, rules);
	if (!slot)
		return error_errno(err, errno ? errno : ENOMEM, "cannot serve slot %u", number);
	pthread_mutex_lock(&r->lock);
	slot->generation = ++r->next_generation;
	if (r->slots[number])
		rc = error_set(err, EEXIST, "slot %u is served already", number);
	else if ((rc = resolver_watch(r, slot->udp, SOURCE_UDP, number, slot->generation)) < 0 ||
		 (rc = resolver_watch(r, slot->tcp, SOURCE_LISTEN, number, slot->generation)) < 0)
		error_errno(err, -rc, "cannot watch slot %u", number);
	else
		r->slots[number] = slot;
	pthread_mutex_unlock(&r->lock);
	if (rc < 0)
		slot_free(slot);
	return rc;
}

int resolver_update(struct resolver *r, uint32_t number, const struct net_rules *rules, resolver_apply *apply,
		    void *argument, struct error *err)
{
	struct net_rules *copy = rules_copy(rules);
	if (!copy)
		return error_set(err, ENOMEM, "no memory for network rules");
	pthread_mutex_lock(&r->lock);
	struct resolver_slot *slot = number < LAUNCHER_SLOTS_MAX ? r->slots[number] : NULL;
	int rc = slot ? apply(argument, err) : error_set(err, ENOENT, "slot %u is not attached", number);
	if (rc == 0) {
		struct net_rules *old = slot->rules;
		slot->rules = copy;
		copy = old;
		resolver_pin_again(r, slot);
	}
	pthread_mutex_unlock(&r->lock);
	free(copy);
	return rc;
}

static void slot_leave(struct resolver *r, struct resolver_slot *slot)
{
	for (size_t i = 0; i < RESOLVER_ASKED_MAX; i++)
		if (r->asked[i].used && r->asked[i].slot == slot->number)
			resolver_asked_drop(r, &r->asked[i]);
	for (size_t i = 0; i < RESOLVER_CONNECTIONS_MAX; i++)
		if (r->connections[i].used && r->connections[i].slot == slot->number)
			resolver_connection_close(r, &r->connections[i]);
	/* The sockets live on in the caller's descriptors, so closing ours does not take them out of epoll. */
	epoll_ctl(r->epoll, EPOLL_CTL_DEL, slot->udp, NULL);
	epoll_ctl(r->epoll, EPOLL_CTL_DEL, slot->tcp, NULL);
}

void resolver_remove(struct resolver *r, uint32_t number)
{
	pthread_mutex_lock(&r->lock);
	struct resolver_slot *slot = number < LAUNCHER_SLOTS_MAX ? r->slots[number] : NULL;
	if (slot) {
		slot_leave(r, slot);
		r->slots[number] = NULL;
	}
	pthread_mutex_unlock(&r->lock);
	if (slot)
		slot_free(slot);
}

int resolver_counters(struct resolver *r, uint32_t number, struct net_dns_counters *counters)
{
	pthread_mutex_lock(&r->lock);
	struct resolver_slot *slot = number < LAUNCHER_SLOTS_MAX ? r->slots[number] : NULL;
	if (slot)
		*counters = slot->counters;
	pthread_mutex_unlock(&r->lock);
	return slot ? 0 : -ENOENT;
}
