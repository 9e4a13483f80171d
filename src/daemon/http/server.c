/*
 * Theory of operation. MHD gives each connection a thread and calls on_request in it: once when the headers are in
 * (exchange_begin: checks, route, admission, all before a byte of the body is read), then for each piece of the body
 * (exchange_data), then once more (exchange_end, the handler, the answer). Handlers block; MHD's own time limit is off,
 * because it would count a working handler as an idle client: connections.c keeps the deadlines instead.
 */
#include "daemon/http/internal.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cond.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#define STOP_MORE_MS 10000

static struct http_conn *conn_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	return info ? info->socket_context : NULL;
}

static enum MHD_Result on_accept(void *context, const struct sockaddr *address, socklen_t size)
{
	struct http_server *server = context;
	struct in6_addr from;

	http_address_of(address, &from);
	return connections_admits(server->connections, &from) ? MHD_YES : MHD_NO;
}

static void on_connection(void *context, struct MHD_Connection *connection, void **slot,
			  enum MHD_ConnectionNotificationCode code)
{
	struct http_server *server = context;
	struct in6_addr from = { 0 };

	if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
		if (*slot)
			http_conn_closed(*slot);
		*slot = NULL;
		return;
	}
	const union MHD_ConnectionInfo *fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	const union MHD_ConnectionInfo *peer = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	if (!fd || !peer)
		return;
	http_address_of(peer->client_addr, &from);
	struct http_conn *conn = connections_add(server->connections, fd->connect_fd, &from);
	*slot = conn;
	if (conn)
		http_conn_deadline(conn, server->config.header_ms);
	else
		shutdown(fd->connect_fd, SHUT_RDWR); /* no memory for it: without a deadline it must not live */
}

static void *on_target(void *context, const char *target, struct MHD_Connection *connection)
{
	struct http_server *server = context;
	struct http_conn *conn = conn_of(connection);

	if (!conn)
		return NULL;
	http_conn_deadline(conn, server->config.header_ms);
	return exchange_new(server, conn, target);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **slot,
			 enum MHD_RequestTerminationCode code)
{
	struct http_server *server = context;
	struct exchange *exchange = *slot;

	*slot = NULL;
	if (!exchange)
		return;
	http_conn_deadline(exchange->conn, server->config.idle_ms);
	http_conn_waits(exchange->conn, true);
	exchange_put(exchange);
}

struct collection {
	struct http_request *request;
	struct error err;
	int result;
};

static enum MHD_Result collect(void *context, enum MHD_ValueKind kind, const char *name, size_t name_size,
			       const char *value, size_t value_size)
{
	struct collection *collection = context;
	collection->result = headers_add(collection->request, name, name_size, value, value_size, &collection->err);
	return collection->result == 0 ? MHD_YES : MHD_NO;
}

/* A route that is open to all proves nothing of who asks: to keep a place by its body or answer takes a key. */
static bool is_anybody(const struct exchange *exchange)
{
	const struct http_route *route = exchange->request.route;
	return exchange->refused || !route || (route->flags & HTTP_OPEN);
}

static enum MHD_Result begin(struct exchange *exchange, struct MHD_Connection *connection, const char *method,
			     const char *version)
{
	struct collection collection = { .request = &exchange->request };

	MHD_get_connection_values_n(connection, MHD_HEADER_KIND, collect, &collection);
	if (collection.result < 0) {
		exchange->begun = exchange->refused = true;
		http_add_header(&exchange->request, "x-request-id", "%s", exchange->request.id);
		http_reply_error(&exchange->response, collection.err.code == ENOMEM ? 500 : 400, NULL, "%s",
				 collection.err.text);
		exchange->response.close = true;
	} else {
		exchange_begin(exchange, method, version);
	}
	http_conn_deadline(exchange->conn, exchange->server->config.body_ms);
	http_conn_waits(exchange->conn, is_anybody(exchange));
	bool expects = http_header(&exchange->request, "expect") != NULL;
	if (exchange->refused && (exchange->response.close || expects))
		return answer_queue(exchange, connection) == 0 ? MHD_YES : MHD_NO;
	return MHD_YES;
}

static enum MHD_Result data(struct exchange *exchange, const char *bytes, size_t size)
{
	int64_t start = time_mono_ms();

	/* A guest that takes its file slowly must not count against the client. */
	http_conn_deadline(exchange->conn, 0);
	exchange_data(exchange, bytes, size);
	int64_t now = time_mono_ms();
	exchange->body_deadline += now - start;
	int64_t left = exchange->body_deadline - now + (int64_t)(exchange->received / 4096 * 1000);
	http_conn_deadline(exchange->conn, left > 0 ? left : 1);
	return exchange->cut ? MHD_NO : MHD_YES;
}

static enum MHD_Result finish(struct exchange *exchange, struct MHD_Connection *connection)
{
	http_conn_deadline(exchange->conn, 0);
	exchange_end(exchange);
	if (exchange->ready && (exchange->request.route->flags & HTTP_LONG)) {
		int r = job_run(exchange);
		if (r == -EINPROGRESS)
			return answer_queue_early(exchange, connection) == 0 ? MHD_YES : MHD_NO;
		if (r < 0) {
			http_add_header(&exchange->request, "Retry-After", "5");
			http_reply_error(&exchange->response, 503, NULL, "too many long calls are running");
		}
	} else if (exchange->ready) {
		exchange_handle(exchange);
	}
	return answer_queue(exchange, connection) == 0 ? MHD_YES : MHD_NO;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url, const char *method,
				  const char *version, const char *upload, size_t *upload_size, void **slot)
{
	struct exchange *exchange = *slot;

	if (!exchange)
		return MHD_NO;
	if (!exchange->begun)
		return begin(exchange, connection, method, version);
	if (*upload_size > 0) {
		size_t size = *upload_size;
		*upload_size = 0;
		return data(exchange, upload, size);
	}
	return exchange->queued ? MHD_YES : finish(exchange, connection);
}

/* ---- start and stop ---- */

static void on_message(void *context, const char *format, va_list args) __attribute__((format(printf, 2, 0)));
static void on_message(void *context, const char *format, va_list args)
{
	/* MHD's notes on broken clients; those are no events of ours. */
}

static int listen_on(struct http_server *server, const char *address, uint16_t port, struct error *err)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
				  .ai_socktype = SOCK_STREAM };
	struct addrinfo *found;
	struct sockaddr_storage name;
	socklen_t size = sizeof(name);
	char service[8];
	int on = 1;

	snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(address, service, &hints, &found) != 0)
		return error_set(err, EINVAL, "listen address %s: not a numeric IPv4 or IPv6 address", address);
	_cleanup_fd_ int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r = fd < 0 ? -1 : setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (r == 0)
		r = bind(fd, found->ai_addr, found->ai_addrlen);
	int code = errno;
	freeaddrinfo(found);
	if (r < 0)
		return error_errno(err, code, "cannot listen on %s, port %u", address, port);
	if (listen(fd, 511) < 0 || getsockname(fd, (struct sockaddr *)&name, &size) < 0)
		return error_errno(err, errno, "cannot listen on %s, port %u", address, port);
	struct sockaddr_in in;
	memcpy(&in, &name, sizeof(in));
	server->port = ntohs(in.sin_port); /* the port stands at the same place in both families */
	server->listener = fd_steal(&fd);
	return 0;
}

static void fill_defaults(struct http_config *config)
{
#define DEFAULT(field, value) config->field = config->field ? config->field : (value)
	DEFAULT(address, "127.0.0.1");
	DEFAULT(connections_max, 1024);
	DEFAULT(per_address_max, 128);
	DEFAULT(header_bytes_max, 32768);
	DEFAULT(body_bytes_max, (size_t)1 << 20);
	DEFAULT(idle_ms, 75000);
	DEFAULT(header_ms, 10000);
	DEFAULT(body_ms, 30000);
	DEFAULT(stall_ms, 300000);
	DEFAULT(early_ms, 15000);
	DEFAULT(keepalive_ms, 10000);
	DEFAULT(jobs_max, 512);
#undef DEFAULT
}

static int copy_lists(struct http_server *server, const struct http_config *config, struct error *err)
{
	server->trusted = calloc(config->trusted_count + 1, sizeof(*server->trusted));
	server->origins = calloc(config->cors_count + 1, sizeof(*server->origins));
	if (!server->trusted || !server->origins)
		return error_set(err, ENOMEM, "out of memory");
	for (size_t i = 0; i < config->trusted_count; i++)
		if (http_cidr_parse(config->trusted_proxies[i], &server->trusted[server->trusted_count++]) < 0)
			return error_set(err, EINVAL, "trusted proxy %s: not an address or CIDR",
					 config->trusted_proxies[i]);
	for (size_t i = 0; i < config->cors_count; i++) {
		server->origins[i] = strdup(config->cors_origins[i]);
		if (!server->origins[i])
			return error_set(err, ENOMEM, "out of memory");
		server->origin_count++;
	}
	return 0;
}

bool server_origin_allowed(const struct http_server *server, const char *origin)
{
	for (size_t i = 0; i < server->origin_count; i++)
		if (strcmp(server->origins[i], origin) == 0)
			return true;
	return false;
}

static int start_daemon(struct http_server *server, struct error *err)
{
	const struct http_config *config = &server->config;
	unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_USE_ITC |
			 MHD_USE_ERROR_LOG | (server->tls ? MHD_USE_TLS : 0);
	struct MHD_OptionItem tls[] = {
		{ MHD_OPTION_HTTPS_CERT_CALLBACK, 0, server->tls ? http_tls_callback() : NULL },
		{ MHD_OPTION_HTTPS_PRIORITIES, 0, "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2" },
		{ MHD_OPTION_END, 0, NULL },
	};
	struct MHD_OptionItem none[] = { { MHD_OPTION_END, 0, NULL } };

	server->daemon = MHD_start_daemon(
		flags, 0, on_accept, server, on_request, server, MHD_OPTION_EXTERNAL_LOGGER, on_message, NULL,
		MHD_OPTION_LISTEN_SOCKET, server->listener, MHD_OPTION_CONNECTION_LIMIT,
		config->connections_max + HTTP_SPARE_CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		config->header_bytes_max + 8192, MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_STRICT_FOR_CLIENT, 1,
		MHD_OPTION_THREAD_STACK_SIZE, (size_t)1 << 20, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, server, MHD_OPTION_URI_LOG_CALLBACK, on_target, server,
		MHD_OPTION_ARRAY, server->tls ? tls : none, MHD_OPTION_END);
	return server->daemon ? 0 : error_set(err, EIO, "the HTTP server does not start");
}

static void server_free(struct http_server *server)
{
	connections_close(server->connections);
	http_tls_close(server->tls);
	fd_close(&server->listener);
	for (size_t i = 0; i < server->origin_count; i++)
		free(server->origins[i]);
	free(server->origins);
	free(server->trusted);
	pthread_cond_destroy(&server->idle);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

static int prepare(struct http_server *server, const struct http_config *config, struct error *err)
{
	server->config = *config;
	fill_defaults(&server->config);
	int r = copy_lists(server, config, err);
	if (r == 0 && config->tls_cert)
		r = http_tls_open(config->tls_cert, config->tls_key ? config->tls_key : config->tls_cert, &server->tls,
				  err);
	if (r == 0)
		r = listen_on(server, server->config.address, config->port, err);
	if (r == 0)
		r = connections_open(server->config.connections_max, server->config.per_address_max, server->trusted,
				     server->trusted_count, &server->connections, err);
	return r;
}

int http_start(const struct http_config *config, const struct http_route *routes, size_t count,
	       const struct http_hooks *hooks, struct http_server **out, struct error *err)
{
	struct http_server *server = calloc(1, sizeof(*server));
	if (!server)
		return error_set(err, ENOMEM, "out of memory");
	server->listener = -1;
	server->routes = routes;
	server->route_count = count;
	if (hooks)
		server->hooks = *hooks;
	pthread_mutex_init(&server->lock, NULL);
	pthread_cond_init(&server->idle, NULL);
	int r = prepare(server, config, err);
	if (r == 0)
		r = start_daemon(server, err);
	if (r < 0) {
		server_free(server);
		return r;
	}
	*out = server;
	return 0;
}

uint16_t http_port(const struct http_server *server)
{
	return server->port;
}

int http_reload_tls(struct http_server *server, struct error *err)
{
	return server->tls ? http_tls_reload(server->tls, err) : error_set(err, ENOTSUP, "TLS is not configured");
}

void http_figures(struct http_server *server, struct http_figures *figures)
{
	connections_figures(server->connections, figures);
	pthread_mutex_lock(&server->lock);
	figures->jobs = server->jobs;
	pthread_mutex_unlock(&server->lock);
}

static bool wait_idle(struct http_server *server, unsigned ms)
{
	int64_t deadline = time_mono_ms() + ms;
	int code = 0;

	pthread_mutex_lock(&server->lock);
	while ((server->active > 0 || server->jobs > 0) && code == 0)
		code = cond_wait_until(&server->idle, &server->lock, deadline);
	bool idle = server->active == 0 && server->jobs == 0;
	pthread_mutex_unlock(&server->lock);
	return idle;
}

int http_stop(struct http_server *server, unsigned grace_ms)
{
	if (!server)
		return 0;
	__atomic_store_n(&server->stopping, true, __ATOMIC_RELAXED);
	/* The descriptor is ours again and is closed with the rest: until then nobody may take its number. */
	MHD_quiesce_daemon(server->daemon);
	shutdown(server->listener, SHUT_RDWR);
	bool idle = wait_idle(server, grace_ms);
	connections_cut(server->connections);
	if (!idle && !wait_idle(server, STOP_MORE_MS)) {
		log_error("http_stop_unfinished", "reason", "calls are still running");
		return -EBUSY;
	}
	MHD_stop_daemon(server->daemon);
	server_free(server);
	return 0;
}
