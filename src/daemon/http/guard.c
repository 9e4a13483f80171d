/*
 * Theory of operation. libmicrohttpd has one time limit, on inactivity, which a client that sends a byte a second never
 * meets. So each connection has a deadline that its phase sets (waiting for a request line, headers, body, the client
 * taking the answer), and one thread looks at all of them once a second and shuts the sockets down whose time is over;
 * the connection's own thread then sees the end of file and cleans up. While a handler works there is no deadline.
 */
#include "daemon/http/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/time.h"

struct guard {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool stop;
	struct conn *first;
	unsigned total_max, address_max;
	const struct cidr *trusted;
	size_t trusted_count;
	struct http_figures figures;
};

static void cut_overdue(struct guard *guard, int64_t now)
{
	for (struct conn *conn = guard->first; conn; conn = conn->next) {
		if (conn->deadline == 0 || conn->deadline > now)
			continue;
		shutdown(conn->fd, SHUT_RDWR);
		conn->deadline = 0;
		guard->figures.timed_out++;
	}
}

static void *watch(void *pointer)
{
	struct guard *guard = pointer;

	pthread_mutex_lock(&guard->lock);
	while (!guard->stop) {
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += 1;
		pthread_cond_timedwait(&guard->wake, &guard->lock, &until);
		cut_overdue(guard, time_mono_ms());
	}
	pthread_mutex_unlock(&guard->lock);
	return NULL;
}

int guard_open(unsigned total, unsigned per_address, const struct cidr *trusted, size_t count, struct guard **out,
	       struct error *err)
{
	pthread_condattr_t attributes;
	struct guard *guard = calloc(1, sizeof(*guard));
	if (!guard)
		return error_set(err, ENOMEM, "out of memory");
	guard->total_max = total;
	guard->address_max = per_address;
	guard->trusted = trusted;
	guard->trusted_count = count;
	pthread_mutex_init(&guard->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&guard->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	int code = pthread_create(&guard->thread, NULL, watch, guard);
	if (code != 0) {
		free(guard);
		return error_errno(err, code, "cannot start the thread that watches connections");
	}
	*out = guard;
	return 0;
}

void guard_close(struct guard *guard)
{
	if (!guard)
		return;
	pthread_mutex_lock(&guard->lock);
	guard->stop = true;
	pthread_cond_signal(&guard->wake);
	pthread_mutex_unlock(&guard->lock);
	pthread_join(guard->thread, NULL);
	pthread_cond_destroy(&guard->wake);
	pthread_mutex_destroy(&guard->lock);
	free(guard);
}

bool guard_admits(struct guard *guard, const struct in6_addr *address)
{
	unsigned same = 0;
	bool trusted = cidr_has(guard->trusted, guard->trusted_count, address);

	pthread_mutex_lock(&guard->lock);
	for (struct conn *conn = guard->first; conn && !trusted; conn = conn->next)
		same += memcmp(&conn->address, address, sizeof(*address)) == 0;
	bool full = guard->figures.open >= guard->total_max;
	bool crowded = same >= guard->address_max;
	guard->figures.refused_full += full;
	guard->figures.refused_address += !full && crowded;
	pthread_mutex_unlock(&guard->lock);
	return !full && !crowded;
}

struct conn *guard_add(struct guard *guard, int fd, const struct in6_addr *address)
{
	struct conn *conn = calloc(1, sizeof(*conn));
	if (!conn)
		return NULL;
	conn->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (conn->fd < 0) {
		free(conn);
		return NULL;
	}
	conn->guard = guard;
	conn->references = 1;
	conn->address = *address;
	pthread_mutex_lock(&guard->lock);
	conn->next = guard->first;
	if (conn->next)
		conn->next->previous = conn;
	guard->first = conn;
	guard->figures.open++;
	guard->figures.accepted++;
	pthread_mutex_unlock(&guard->lock);
	return conn;
}

void conn_closed(struct conn *conn)
{
	struct guard *guard = conn->guard;

	pthread_mutex_lock(&guard->lock);
	if (conn->previous)
		conn->previous->next = conn->next;
	else
		guard->first = conn->next;
	if (conn->next)
		conn->next->previous = conn->previous;
	guard->figures.open--;
	conn->guard = NULL;
	pthread_mutex_unlock(&guard->lock);
	/* Whoever still watches the duplicate must see the end. */
	shutdown(conn->fd, SHUT_RDWR);
	conn_put(conn);
}

struct conn *conn_get(struct conn *conn)
{
	__atomic_add_fetch(&conn->references, 1, __ATOMIC_RELAXED);
	return conn;
}

void conn_put(struct conn *conn)
{
	if (!conn || __atomic_sub_fetch(&conn->references, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	close(conn->fd);
	free(conn);
}

/* Called by the connection's own thread, which is done before conn_closed. */
void conn_deadline(struct conn *conn, int64_t ms_from_now)
{
	struct guard *guard = conn ? conn->guard : NULL;
	if (!guard)
		return;
	pthread_mutex_lock(&guard->lock);
	conn->deadline = ms_from_now > 0 ? time_mono_ms() + ms_from_now : 0;
	pthread_mutex_unlock(&guard->lock);
}

void guard_cut(struct guard *guard)
{
	pthread_mutex_lock(&guard->lock);
	for (struct conn *conn = guard->first; conn; conn = conn->next)
		shutdown(conn->fd, SHUT_RDWR);
	pthread_mutex_unlock(&guard->lock);
}

void guard_figures(struct guard *guard, struct http_figures *figures)
{
	pthread_mutex_lock(&guard->lock);
	*figures = guard->figures;
	pthread_mutex_unlock(&guard->lock);
}
