/* Calls to the API: one at a time, in the foreground, with an end to each wait. Only http.c names libcurl. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "cli/config.h"

#define HTTP_ANSWER_MAX ((size_t)64 << 20) /* bytes of one JSON answer */
#define HTTP_CONNECT_MS 10000
#define HTTP_CALL_MS 120000 /* unless the request says otherwise */
#define HTTP_LONG_MS 660000 /* snapshots and clones: the server's own bound is ten minutes */
#define HTTP_FOREVER -1

struct http;

int http_open(const struct config *config, struct http **http, struct error *err);
void http_close(struct http *http); /* NULL is fine */

struct http_upload {
	const char *path; /* in the sandbox */
	int fd;           /* read to its end */
	int64_t size;     /* -1: unknown, sent in chunks */
	const char *first;
	size_t first_size; /* bytes already taken from fd, sent before the rest; may be NULL, 0 */
};

struct http_request {
	const char *method;
	const char *path;   /* begins with /v1; its parts encoded (http_path) */
	const json_t *body; /* borrowed; NULL: none (a POST then sends {}) */
	struct http_upload *upload;
	const char *once;   /* Idempotency-Key; a call with one is repeated once if the connection breaks */
	const char *doing;  /* for the progress line: "creating the sandbox"; NULL: silent */
	int64_t timeout_ms; /* for the whole call; 0: HTTP_CALL_MS */
	bool patient;       /* a signal does not break the call off (a second one does) */
	/* A 2xx body goes here as it comes, not into the answer. A value < 0 ends the call and is what it returns. */
	int (*sink)(void *context, const char *data, size_t size);
	void *context;
};

struct http_answer {
	long status;   /* 0: none came */
	json_t *json;  /* NULL: none, or a sink took the body */
	char code[64]; /* of an error body */
	char request_id[80];
	int64_t retry_after_s; /* 0: not said */
};
void http_answer_free(struct http_answer *answer);
#define _cleanup_answer_ __attribute__((cleanup(http_answer_free)))

/*
 * 0: the status was 2xx. -EREMOTEIO: it was not; err holds the server's message, its code and the request's id.
 * -ETIMEDOUT: timeout_ms; -EINTR: a signal came; -ECONNREFUSED, -EIO: no server, or the connection broke; a sink's own
 * value. *answer is filled as far as it came and is the caller's in every case. 429 and 503 are waited out and tried
 * again twice, if the server says how long (at most 30 s).
 */
int http_call(struct http *http, const struct http_request *request, struct http_answer *answer, struct error *err);

/*
 * A path: in format, each %s is replaced by the next string with all but [A-Za-z0-9._~-] percent-encoded. Returns to.
 * A result that does not fit is empty, which no route matches.
 */
#define HTTP_PATH_MAX 8192
char *http_path(char to[HTTP_PATH_MAX], const char *format, ...);
