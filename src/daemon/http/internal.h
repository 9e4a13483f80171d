/* What the files of http/ share. Nothing outside of the folder (but its tests and fuzzers) includes it. */
#pragma once

#include <netinet/in.h>
#include <pthread.h>

#include "base/buf.h"
#include "daemon/http/http.h"

/* ---- uri.c ---- */

/* Split and decode METHOD's raw target: path and query. -EINVAL with a reason for the client. */
int uri_parse(const char *raw, struct http_request *request, struct error *err);

/* ---- headers.c ---- */

/*
 * Refuses what could be read in two ways (several or odd lengths, a length and a coding, names that are no tokens,
 * control characters) and finds content_length. -EINVAL: 400 and close. -EFBIG: too many headers.
 */
int headers_check(struct http_request *request, const char *version, struct error *err);
/* Copies; size may hold NULs, which are refused. */
int headers_add(struct http_request *request, const char *name, size_t name_size, const char *value, size_t value_size,
		struct error *err);
void request_clear(struct http_request *request);

/* ---- router.c ---- */

/* NULL and *allow (methods, comma-separated, size 64) filled when only the method is wrong; else empty. */
const struct http_route *route_find(const struct http_route *routes, size_t count, const char *method, const char *path,
				    char param[HTTP_ID_MAX], char allow[64]);

/* ---- json.c ---- */

#define JSON_DEPTH_MAX 32
#define JSON_VALUES_MAX 10000
/* An object, or -EINVAL with a reason for the client. */
int http_json_parse(const char *text, size_t size, json_t **json, struct error *err);

/* ---- address.c ---- */

struct http_cidr {
	struct in6_addr address;
	unsigned bits;
};
int http_cidr_parse(const char *text, struct http_cidr *cidr);
bool http_cidr_has(const struct http_cidr *list, size_t count, const struct in6_addr *address);
/* IPv4 as ::ffff:a.b.c.d */
void http_address_of(const struct sockaddr *socket, struct in6_addr *address);
int http_address_parse(const char *text, struct in6_addr *address);
void http_address_text(const struct in6_addr *address, char text[HTTP_ADDRESS_MAX]);
/* The rightmost address of X-Forwarded-For that is no trusted proxy's, if peer is one; else peer. */
void http_address_client(const struct in6_addr *peer, const char *forwarded, const struct http_cidr *trusted,
			 size_t count, char text[HTTP_ADDRESS_MAX]);

/* ---- connections.c: the open connections and their deadlines ---- */

struct connections;
/*
 * More than are served, so that MHD accepts what connections.c then refuses, in place of leaving it in the queue; and as
 * many as may stand in the queue (listen) at once, for those that were cut and that MHD has yet to clean up.
 */
#define HTTP_SPARE_CONNECTIONS 640

struct http_conn {
	struct http_conn *next, *previous;
	struct connections *connections;
	unsigned references;
	int socket; /* libmicrohttpd's, which closes it after http_conn_closed: to be used under the list's lock alone */
	int watch; /* a duplicate, from its first request on, for who may outlive it; or -1: idle ones need no second */
	struct in6_addr address;
	int64_t deadline; /* CLOCK_MONOTONIC ms; 0: none */
	int64_t waits_ms; /* since when no head of it was let in by a key; 0: one is */
	bool cut;         /* to make room; its thread has not seen it yet */
};
int connections_open(unsigned total, unsigned per_address, const struct http_cidr *trusted, size_t count,
		     struct connections **connections, struct error *err);
void connections_close(struct connections *connections);
/* Would one more connection be within bounds? */
bool connections_admits(struct connections *connections, const struct in6_addr *address);
struct http_conn *connections_add(struct connections *connections, int fd, const struct in6_addr *address);
/* The duplicate of its socket, or -errno. From the connection's own thread. */
int http_conn_watch(struct http_conn *conn);
void http_conn_closed(struct http_conn *conn); /* off the list; drops the server's reference */
struct http_conn *http_conn_get(struct http_conn *conn);
void http_conn_put(struct http_conn *conn);
void http_conn_deadline(struct http_conn *conn, int64_t ms_from_now); /* <= 0: none */
/* Until it has sent a whole head that was let in by its key it is the first to go when all places are taken. */
void http_conn_waits(struct http_conn *conn, bool waits);
void connections_cut(struct connections *connections); /* shut every connection down */
void connections_figures(struct connections *connections, struct http_figures *figures);

/* ---- tls.c ---- */

struct http_tls;
int http_tls_open(const char *cert, const char *key, struct http_tls **tls, struct error *err);
int http_tls_reload(struct http_tls *tls, struct error *err);
void http_tls_close(struct http_tls *tls);
/* Certificate callback for MHD_OPTION_HTTPS_CERT_CALLBACK. One TLS server a process. */
void *http_tls_callback(void);

/* ---- exchange.c: one request and its answer ---- */

#define OUT_HEADERS_MAX 16
#define OUT_VALUE_MAX 256
struct exchange {
	struct http_request request; /* first: a request is its exchange */
	struct http_server *server;
	struct http_conn *conn; /* NULL in the fuzzer */
	char *raw;              /* the request's target as it came */
	struct http_response response;
	struct buf body;
	bool begun;   /* headers were looked at */
	bool refused; /* response is given, the body does not matter */
	bool ready;   /* for the handler to run: begun, whole body there */
	bool queued;
	bool cut; /* not worth waiting for the end of the body */
	uint64_t received, drained, drain_max;
	int64_t body_deadline;

	pthread_mutex_t lock; /* for all below, and the answer's headers */
	pthread_cond_t changed;
	unsigned references;
	bool finished; /* the handler came back */
	bool early;    /* headers went first */
	bool told;     /* done was called */
	struct {
		const char *name;
		char value[OUT_VALUE_MAX];
	} out[OUT_HEADERS_MAX];
	size_t out_count;
};
struct exchange *exchange_new(struct http_server *server, struct http_conn *conn, const char *raw);
struct exchange *exchange_get(struct exchange *exchange);
void exchange_put(struct exchange *exchange);
/* Headers are in: checks, route, admission. Sets refused. */
void exchange_begin(struct exchange *exchange, const char *method, const char *version);
void exchange_data(struct exchange *exchange, const char *data, size_t size);
/* The body is whole: parse it. Sets ready or refused. */
void exchange_end(struct exchange *exchange);
void exchange_handle(struct exchange *exchange);
/* Until the handler came back, at most ms. */
bool exchange_wait(struct exchange *exchange, unsigned ms);
void exchange_told(struct exchange *exchange, int status);

/* ---- server.c ---- */

struct http_server {
	struct http_config config; /* numbers filled in; no pointer of it is used after the start */
	const struct http_route *routes;
	size_t route_count;
	struct http_hooks hooks;
	struct http_cidr *trusted;
	size_t trusted_count;
	char **origins;
	size_t origin_count;
	struct connections *connections;
	struct http_tls *tls;
	struct MHD_Daemon *daemon;
	int listener;
	uint16_t port;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned active; /* exchanges whose answer is not out yet */
	unsigned jobs;
	bool stopping;
};
bool server_origin_allowed(const struct http_server *server, const char *origin);

/* ---- answer.c ---- */

struct MHD_Connection;
/* Queue the answer; for HTTP_LONG the early one too. 0 or -errno. */
int answer_queue(struct exchange *exchange, struct MHD_Connection *connection);
int answer_queue_early(struct exchange *exchange, struct MHD_Connection *connection);
/* ---- job.c ---- */
/* Run the handler in a thread of its own; waits early_ms at most. 0: finished; -EINPROGRESS; -EAGAIN: too many. */
int job_run(struct exchange *exchange);
