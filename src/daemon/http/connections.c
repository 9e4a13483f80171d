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
#include <unistd.h>

#include "base/cond.h"
#include "base/fd.h"
#include "base/time.h"

#define CUT_MAX (HTTP_SPARE_CONNECTIONS - 32)

struct connections {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool stop;
	struct http_conn *first;
	unsigned cut; /* of the open ones */
	unsigned total_max, address_max;
	const struct http_cidr *trusted;
	size_t trusted_count;
	struct http_figures figures;
};

static void cut_overdue(struct connections *connections, int64_t now)
{
	for (struct http_conn *conn = connections->first; conn; conn = conn->next) {
		if (conn->deadline == 0 || conn->deadline > now)
			continue;
		shutdown(conn->socket, SHUT_RDWR);
		conn->deadline = 0;
		connections->figures.timed_out++;
	}
}

static void *watch(void *pointer)
{
	struct connections *connections = pointer;

	pthread_mutex_lock(&connections->lock);
	while (!connections->stop) {
		(void)cond_wait_until(&connections->wake, &connections->lock, time_mono_ms() + 1000);
		cut_overdue(connections, time_mono_ms());
	}
	pthread_mutex_unlock(&connections->lock);
	return NULL;
}

int connections_open(unsigned total, unsigned per_address, const struct http_cidr *trusted, size_t count,
		     struct connections **out, struct error *err)
{
	struct connections *connections = calloc(1, sizeof(*connections));
	if (!connections)
		return error_set(err, ENOMEM, "out of memory");
	connections->total_max = total;
	connections->address_max = per_address;
	connections->trusted = trusted;
	connections->trusted_count = count;
	pthread_mutex_init(&connections->lock, NULL);
	pthread_cond_init(&connections->wake, NULL);
	int code = pthread_create(&connections->thread, NULL, watch, connections);
	if (code != 0) {
		free(connections);
		return error_errno(err, code, "cannot start the thread that watches connections");
	}
	*out = connections;
	return 0;
}

void connections_close(struct connections *connections)
{
	if (!connections)
		return;
	pthread_mutex_lock(&connections->lock);
	connections->stop = true;
	pthread_cond_signal(&connections->wake);
	pthread_mutex_unlock(&connections->lock);
	pthread_join(connections->thread, NULL);
	pthread_cond_destroy(&connections->wake);
	pthread_mutex_destroy(&connections->lock);
	free(connections);
}

/*
 * Whoever comes when all places are taken gets that of the connection that has kept its own for the longest time without
 * a call that its key lets in: else a few addresses that say nothing would shut out everybody.
 */
static bool make_room(struct connections *connections)
{
	struct http_conn *longest = NULL;

	for (struct http_conn *conn = connections->first; conn; conn = conn->next)
		if (conn->waits_ms > 0 && !conn->cut && (!longest || conn->waits_ms <= longest->waits_ms))
			longest = conn;
	if (!longest || connections->cut >= CUT_MAX)
		return false;
	shutdown(longest->socket, SHUT_RDWR);
	longest->cut = true;
	connections->cut++;
	return true;
}

bool connections_admits(struct connections *connections, const struct in6_addr *address)
{
	unsigned same = 0;
	bool trusted = http_cidr_has(connections->trusted, connections->trusted_count, address);

	pthread_mutex_lock(&connections->lock);
	for (struct http_conn *conn = connections->first; conn && !trusted; conn = conn->next)
		same += memcmp(&conn->address, address, sizeof(*address)) == 0;
	bool crowded = same >= connections->address_max;
	bool full = connections->figures.open - connections->cut >= connections->total_max;
	if (full && !crowded)
		full = !make_room(connections);
	connections->figures.refused_full += full;
	connections->figures.refused_address += !full && crowded;
	pthread_mutex_unlock(&connections->lock);
	return !full && !crowded;
}

struct http_conn *connections_add(struct connections *connections, int fd, const struct in6_addr *address)
{
	struct http_conn *conn = calloc(1, sizeof(*conn));
	if (!conn)
		return NULL;
	conn->socket = fd;
	conn->watch = -1;
	conn->connections = connections;
	conn->references = 1;
	conn->address = *address;
	pthread_mutex_lock(&connections->lock);
	conn->next = connections->first;
	if (conn->next)
		conn->next->previous = conn;
	connections->first = conn;
	conn->waits_ms = time_mono_ms();
	connections->figures.open++;
	connections->figures.accepted++;
	pthread_mutex_unlock(&connections->lock);
	return conn;
}

void http_conn_closed(struct http_conn *conn)
{
	struct connections *connections = conn->connections;

	pthread_mutex_lock(&connections->lock);
	if (conn->previous)
		conn->previous->next = conn->next;
	else
		connections->first = conn->next;
	if (conn->next)
		conn->next->previous = conn->previous;
	connections->figures.open--;
	connections->cut -= conn->cut;
	conn->connections = NULL;
	pthread_mutex_unlock(&connections->lock);
	/* Whoever still watches the duplicate must see the end. */
	if (conn->watch >= 0)
		shutdown(conn->watch, SHUT_RDWR);
	http_conn_put(conn);
}

int http_conn_watch(struct http_conn *conn)
{
	if (conn->watch < 0)
		conn->watch = fcntl(conn->socket, F_DUPFD_CLOEXEC, 3);
	return conn->watch < 0 ? -errno : conn->watch;
}

struct http_conn *http_conn_get(struct http_conn *conn)
{
	__atomic_add_fetch(&conn->references, 1, __ATOMIC_RELAXED);
	return conn;
}

void http_conn_put(struct http_conn *conn)
{
	if (!conn || __atomic_sub_fetch(&conn->references, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	fd_close(&conn->watch);
	free(conn);
}

/* Called by the connection's own thread, which is done before http_conn_closed. */
void http_conn_deadline(struct http_conn *conn, int64_t ms_from_now)
{
	struct connections *connections = conn ? conn->connections : NULL;
	if (!connections)
		return;
	pthread_mutex_lock(&connections->lock);
	conn->deadline = ms_from_now > 0 ? time_mono_ms() + ms_from_now : 0;
	pthread_mutex_unlock(&connections->lock);
}

void http_conn_waits(struct http_conn *conn, bool waits)
{
	struct connections *connections = conn ? conn->connections : NULL;
	if (!connections)
		return;
	pthread_mutex_lock(&connections->lock);
	conn->waits_ms = waits ? time_mono_ms() : 0;
	pthread_mutex_unlock(&connections->lock);
}

void connections_cut(struct connections *connections)
{
	pthread_mutex_lock(&connections->lock);
	for (struct http_conn *conn = connections->first; conn; conn = conn->next)
		shutdown(conn->socket, SHUT_RDWR);
	pthread_mutex_unlock(&connections->lock);
}

void connections_figures(struct connections *connections, struct http_figures *figures)
{
	pthread_mutex_lock(&connections->lock);
	*figures = connections->figures;
	pthread_mutex_unlock(&connections->lock);
}
