/*
 * The HTTP server: connections, parsing, routing, bodies, streaming. It alone names libmicrohttpd, and it knows no word
 * of sandboxes, keys or the store: what belongs to those reaches it as routes and hooks.
 *
 * One thread a connection; handlers block. Everything that a client sends is bounded in size and in time: see struct
 * http_config. Bodies are read only after `admit` has let the request in.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* ---- settings ---- */

struct http_config {                    /* 0 or NULL = the default in brackets */
	const char *address;            /* IPv4 or IPv6, numeric [127.0.0.1] */
	uint16_t port;                  /* 0: the kernel picks one, see http_port */
	const char *tls_cert, *tls_key; /* PEM files; NULL: plain HTTP */
	unsigned connections_max;       /* [1024]; over it the one that waits longest is closed */
	unsigned per_address_max;       /* [128]; trusted proxies are not counted */
	size_t header_bytes_max;        /* request line and headers, bytes [32768] */
	size_t body_bytes_max;          /* JSON bodies, bytes [1 MiB] */
	unsigned idle_ms;               /* until a request line arrived whole [75000] */
	unsigned header_ms;             /* from there until the last header [10000] */
	unsigned body_ms;               /* for a body, plus 1 s for each 4 KiB received [30000] */
	unsigned stall_ms;              /* a client that takes nothing of an answer [300000] */
	unsigned early_ms;              /* HTTP_LONG: headers go without a result after [15000] */
	unsigned keepalive_ms;          /* and then a space each [10000] */
	unsigned jobs_max;              /* HTTP_LONG calls at one time [512]; over it 503 */
	const char *const *trusted_proxies;
	size_t trusted_count; /* addresses or CIDRs whose X-Forwarded-For counts */
	const char *const *cors_origins;
	size_t cors_count; /* exact origins; none: CORS stays closed */
};

/* ---- requests ---- */

struct http_pair {
	char *name, *value;
};

#define HTTP_ID_MAX 40
#define HTTP_HEADERS_MAX 128
#define HTTP_QUERY_MAX 32
#define HTTP_ADDRESS_MAX 48

struct http_route;
struct http_request {
	const struct http_route *route;
	char id[HTTP_ID_MAX]; /* req_… */
	char method[16];
	char *path;              /* decoded, without the query */
	char param[HTTP_ID_MAX]; /* {id} of the pattern; only [A-Za-z0-9_-] */
	struct http_pair *headers;
	size_t header_count;
	struct http_pair *query;
	size_t query_count;             /* decoded; no name stands twice */
	char address[HTTP_ADDRESS_MAX]; /* the client's, as far as the proxies can be trusted */
	json_t *json;                   /* an object; {} when there was no body; NULL before it is read */
	const char *body;
	size_t body_size;        /* the JSON body as it came */
	int watch;               /* the client's socket, for poll(POLLRDHUP) only; -1 without one */
	int64_t started_us;      /* CLOCK_MONOTONIC */
	uint64_t content_length; /* UINT64_MAX: chunked */
	void *user;              /* the hooks' and handlers' own; `release` frees it */
};

/* First header of this name (any case), or NULL. */
const char *http_header(const struct http_request *request, const char *name);
const char *http_query(const struct http_request *request, const char *name);
/* Add a header to whatever answer the request gets (at most 16, cut at 255 bytes; a later one replaces). */
void http_add_header(struct http_request *request, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- answers ---- */

/* A body made bit by bit, in the connection's thread. */
struct http_stream {
	/*
	 * Blocks until there is something; returns bytes (> 0), 0 at the end, -errno to break the connection off.
	 * Back-pressure is that it is not called while the client does not read.
	 */
	ssize_t (*read)(void *context, char *data, size_t size);
	/* Called once, whether the client got all of it or not. */
	void (*done)(void *context);
	void *context;
	uint64_t size; /* UINT64_MAX: unknown, so chunked */
};

struct http_response {
	int status;   /* 0 while none was given */
	json_t *json; /* owned; else: */
	char *text;
	size_t text_size;           /* malloc'ed, owned */
	struct http_stream *stream; /* malloc'ed, owned */
	const char *type;           /* of text and stream; a literal */
	bool close;                 /* close the connection after it */
};

void http_response_clear(struct http_response *response);
/* Takes json. */
void http_reply_json(struct http_response *response, int status, json_t *json);
/* Copies text. */
void http_reply_text(struct http_response *response, int status, const char *type, const char *text, size_t size);
void http_reply_stream(struct http_response *response, int status, const char *type, uint64_t size,
		       ssize_t (*read)(void *, char *, size_t), void (*done)(void *), void *context);
/* {"error":{"code","message"}}; the code from the status where NULL. */
void http_reply_error(struct http_response *response, int status, const char *code, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* invalid_request, unauthorized, …, internal. */
const char *http_error_code(int status);

/* ---- routes ---- */

enum http_flag {
	HTTP_OPEN = 1, /* answers without a key */
	/*
	 * May last: runs in a thread of its own and outlives its client. After early_ms the status line and headers go
	 * out with early_status, then spaces, then the body. A failure known only then is told in the body:
	 * {"status":"error","error":{"code","message"}}.
	 */
	HTTP_LONG = 2,
	HTTP_MUTATES = 4,
	HTTP_SECRET = 8, /* the answer holds a secret: nobody may keep it */
};

struct http_upload {
	/* admitted and about to read; false: the answer is given */
	bool (*begin)(struct http_request *request, struct http_response *response);
	/* false: the answer is given, the rest of the body is thrown away */
	bool (*data)(struct http_request *request, const char *data, size_t size, struct http_response *response);
};

typedef void http_handler(struct http_request *request, struct http_response *response);
struct http_route {
	const char *method, *pattern; /* "/v1/sandboxes/{id}/execute"; literal routes stand before {id} ones */
	http_handler *handler;
	uint32_t scope;     /* for `admit` */
	unsigned flags;     /* enum http_flag, or-ed */
	int early_status;   /* HTTP_LONG */
	const char *action; /* name for the audit log and the metrics */
	const struct http_upload *upload;
};

struct http_hooks { /* each may be NULL */
	void *context;
	/* After routing and before the body. false: refused, the answer is given. request->user is free to use. */
	bool (*admit)(void *context, struct http_request *request, struct http_response *response);
	/* In place of route->handler (which it is to call). */
	void (*handle)(void *context, struct http_request *request, struct http_response *response);
	/* Once a request, when its status and duration are known; route may be NULL. 499: the client left first. */
	void (*done)(void *context, struct http_request *request, int status, int64_t duration_us);
	void (*release)(void *context, struct http_request *request);
};

/* ---- the server ---- */

struct http_server;
/* routes and hooks must outlive the server; config may go. Listens when it returns. */
int http_start(const struct http_config *config, const struct http_route *routes, size_t count,
	       const struct http_hooks *hooks, struct http_server **server, struct error *err);
uint16_t http_port(const struct http_server *server);
/* Read the certificate and key again; on failure the old ones stay. -ENOTSUP without TLS. */
int http_reload_tls(struct http_server *server, struct error *err);
/*
 * Stop accepting, let running requests finish for at most grace_ms, then cut them off. -EBUSY: long calls were still
 * running after 10 s more; the server is stopped, but what their handlers use must not be freed.
 */
int http_stop(struct http_server *server, unsigned grace_ms);

struct http_figures {
	uint64_t open, accepted, refused_full, refused_address, timed_out, jobs;
};
void http_figures(struct http_server *server, struct http_figures *figures);
