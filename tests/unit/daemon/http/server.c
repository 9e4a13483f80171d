/* The server as its clients see it: raw bytes over 127.0.0.1. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/time.h"
#include "client.h"
#include "daemon/http/http.h"

static struct http_server *server;
static uint16_t port;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool released;
static int streams_done, last_status, done_count;

static void on_echo(struct http_request *request, struct http_response *response)
{
	http_reply_json(response, 200,
			json_pack("{s:s, s:s, s:O, s:s}", "id", request->param, "address", request->address, "body",
				  request->json, "q", http_query(request, "q") ? http_query(request, "q") : ""));
}

static void on_slow(struct http_request *request, struct http_response *response)
{
	pthread_mutex_lock(&lock);
	while (!released)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	if (http_query(request, "fail"))
		http_reply_error(response, 503, NULL, "no room");
	else
		http_reply_json(response, 201, json_pack("{s:s}", "id", "sbx_1"));
}

static void release(bool value)
{
	pthread_mutex_lock(&lock);
	released = value;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* Says one line, then waits until its client leaves. */
struct endless {
	int watch;
	bool said;
};
static ssize_t endless_read(void *context, char *data, size_t size)
{
	struct endless *endless = context;
	if (!endless->said) {
		endless->said = true;
		memcpy(data, "{}\n", 3);
		return 3;
	}
	struct pollfd wait = { .fd = endless->watch, .events = POLLRDHUP };
	assert_int_equal(poll(&wait, 1, 20000), 1);
	return -EPIPE;
}

static void endless_done(void *context)
{
	free(context);
	pthread_mutex_lock(&lock);
	streams_done++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void on_endless(struct http_request *request, struct http_response *response)
{
	struct endless *endless = calloc(1, sizeof(*endless));
	endless->watch = request->watch;
	http_reply_stream(response, 200, "application/x-ndjson", UINT64_MAX, endless_read, endless_done, endless);
}

static bool admit(void *context, struct http_request *request, struct http_response *response)
{
	if (request->route->flags & HTTP_OPEN)
		return true;
	const char *key = http_header(request, "x-api-key");
	if (key && strcmp(key, "good") == 0)
		return true;
	http_reply_error(response, 401, NULL, "no key");
	return false;
}

static void done(void *context, struct http_request *request, int status, int64_t duration_us)
{
	pthread_mutex_lock(&lock);
	last_status = status;
	done_count++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static const struct http_route routes[] = {
	{ "GET", "/open", on_echo, 0, HTTP_OPEN, 0, "open", NULL },
	{ "POST", "/open", on_echo, 0, HTTP_OPEN, 0, "open", NULL },
	{ "POST", "/closed", on_echo, 0, 0, 0, "closed", NULL },
	{ "GET", "/things/list", on_slow, 0, HTTP_OPEN | HTTP_LONG, 200, "list", NULL },
	{ "GET", "/things/{id}", on_echo, 0, HTTP_OPEN, 0, "thing", NULL },
	{ "POST", "/slow", on_slow, 0, HTTP_OPEN | HTTP_LONG, 201, "slow", NULL },
	{ "GET", "/endless", on_endless, 0, HTTP_OPEN, 0, "endless", NULL },
};

static int start(void **state)
{
	static const char *const proxies[] = { "10.0.0.0/8", "127.0.0.1" };
	static const char *const origins[] = { "https://good.example" };
	struct http_config config = {
		.trusted_proxies = proxies,
		.trusted_count = 2,
		.cors_origins = origins,
		.cors_count = 1,
		.early_ms = 300,
		.keepalive_ms = 100,
		.header_ms = 1500,
		.body_ms = 1500,
		.idle_ms = 4000,
	};
	struct http_hooks hooks = { .admit = admit, .done = done };
	struct error err = { 0 };
	int r = http_start(&config, routes, sizeof(routes) / sizeof(routes[0]), &hooks, &server, &err);
	if (r < 0)
		print_error("%s\n", err.text);
	assert_int_equal(r, 0);
	port = http_port(server);
	return 0;
}

static int stop(void **state)
{
	return http_stop(server, 5000);
}

static void expect_status(const char *request, int status, const char *holds)
{
	_cleanup_free_ char *answer = client_once(port, request);
	if (client_status(answer) != status || (holds && !strstr(answer, holds)))
		fail_msg("request:\n%.200s\nanswer (wanted %d, %s):\n%.600s", request, status, holds ? holds : "",
			 answer);
}

#define HEAD "Host: a\r\nConnection: close\r\n"

static void test_routes(void **state)
{
	expect_status("GET /open?q=a%20b HTTP/1.1\r\n" HEAD "\r\n", 200, "\"q\":\"a b\"");
	expect_status("GET /things/sbx_1 HTTP/1.1\r\n" HEAD "\r\n", 200, "\"id\":\"sbx_1\"");
	expect_status("GET /nothing HTTP/1.1\r\n" HEAD "\r\n", 404, "not_found");
	expect_status("DELETE /open HTTP/1.1\r\n" HEAD "\r\n", 405, "Allow: GET, POST");
	expect_status("GET /things/..%2f..%2fetc HTTP/1.1\r\n" HEAD "\r\n", 404, NULL);
	expect_status("GET /things/%00 HTTP/1.1\r\n" HEAD "\r\n", 400, NULL);
	expect_status("GET /open/ HTTP/1.1\r\n" HEAD "\r\n", 404, NULL);
	expect_status("GET /open HTTP/1.1\r\n" HEAD "\r\n", 200, "x-request-id: req_");
	expect_status("GET /open HTTP/1.1\r\n" HEAD "\r\n", 200, "X-Content-Type-Options: nosniff");
}

static void test_query(void **state)
{
	expect_status("GET /open?q=1&q=2 HTTP/1.1\r\n" HEAD "\r\n", 400, "q stands twice");
	expect_status("GET /open?q=%zz HTTP/1.1\r\n" HEAD "\r\n", 400, "percent");
	expect_status("GET /open?q=%00 HTTP/1.1\r\n" HEAD "\r\n", 400, "percent");
	expect_status("GET /open?q=%ff HTTP/1.1\r\n" HEAD "\r\n", 400, "percent");
	expect_status("GET /open?=1 HTTP/1.1\r\n" HEAD "\r\n", 400, "no name");
}

static void post(const char *type, const char *body, int status, const char *holds)
{
	char request[4096];
	snprintf(request, sizeof(request), "POST /open HTTP/1.1\r\n" HEAD "%s%s%sContent-Length: %zu\r\n\r\n%s",
		 type ? "Content-Type: " : "", type ? type : "", type ? "\r\n" : "", strlen(body), body);
	expect_status(request, status, holds);
}

static void test_json(void **state)
{
	post("application/json", "{\"a\":1}", 200, "\"body\":{\"a\":1}");
	post("application/json; charset=utf-8", "{}", 200, "\"body\":{}");
	post(NULL, "", 200, "\"body\":{}");
	post("text/plain", "{}", 415, "application/json");
	post(NULL, "{}", 415, NULL);
	post("application/jsonp", "{}", 415, NULL);
	post("application/json", "{\"a\":1,\"a\":2}", 400, "duplicate");
	post("application/json", "{} x", 400, NULL);
	post("application/json", "[]", 400, "object");
	post("application/json", "{\"a\":\"\\u0000\"}", 400, NULL);
	post("application/json", "{\"a\":\"\\ud800\"}", 400, NULL);
	post("application/json", "{\"a\":\"\xff\"}", 400, NULL);
	post("application/json", "{\"a\":1e999}", 400, NULL);
	post("application/json", "{\"a\":18446744073709551616}", 400, NULL);
	post("application/json", "{\"a\":NaN}", 400, NULL);
	post("application/json", "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}", 400,
	     "deeper");
}

static void test_ambiguous_framing(void **state)
{
	expect_status("POST /open HTTP/1.1\r\n" HEAD "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		      400, NULL);
	expect_status("POST /open HTTP/1.1\r\n" HEAD "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, NULL);
	expect_status("POST /open HTTP/1.1\r\n" HEAD "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400, NULL);
	expect_status("POST /open HTTP/1.1\r\n" HEAD "Content-Length: +2\r\n\r\n{}", 400, NULL);
	expect_status("POST /open HTTP/1.1\r\n" HEAD "Content-Length: 0x2\r\n\r\n{}", 400, NULL);
	expect_status("POST /open HTTP/1.1\r\n" HEAD "Content-Length: -1\r\n\r\n{}", 400, NULL);
	expect_status("POST /open HTTP/1.1\r\n" HEAD "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400, NULL);
	expect_status("POST /open HTTP/1.1\r\n" HEAD "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"
		      "0\r\n\r\n",
		      400, NULL);
	expect_status("GET /open HTTP/1.1\r\nConnection: close\r\n\r\n", 400, NULL);
	expect_status("GET /open HTTP/1.1\r\nHost: a\r\n" HEAD "\r\n", 400, NULL);
	expect_status("GET /open HTTP/1.1\r\n" HEAD "X-A: a\x01z\r\n\r\n", 400, NULL);
	expect_status("GET /open HTTP/1.1\r\n" HEAD "X\x01: a\r\n\r\n", 400, NULL);
	expect_status("GET http://a/open HTTP/1.1\r\n" HEAD "\r\n", 400, NULL);
}

/* After what is refused for its framing, nothing that follows may be taken for a request. */
static void test_no_desync(void **state)
{
	_cleanup_free_ char *answer = client_once(
		port,
		"POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
		"GET /open?q=smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
	assert_int_equal(client_status(answer), 400);
	assert_null(strstr(answer, "smuggled"));
}

static void test_pipelining(void **state)
{
	_cleanup_free_ char *answer = client_once(
		port, "GET /open?q=one HTTP/1.1\r\nHost: a\r\n\r\nGET /open?q=two HTTP/1.1\r\n" HEAD "\r\n");
	char *first = strstr(answer, "\"one\""), *second = strstr(answer, "\"two\"");
	assert_non_null(first);
	assert_non_null(second);
	assert_true(first < second);
}

static void test_body_too_large(void **state)
{
	/* 200 MB are announced and none are sent: the answer must not wait for them. */
	expect_status("POST /open HTTP/1.1\r\n" HEAD
		      "Content-Type: application/json\r\nContent-Length: 200000000\r\n\r\n",
		      413, NULL);
	size_t size = ((size_t)1 << 20) + 1;
	_cleanup_free_ char *body = malloc(size);
	memset(body, ' ', size);
	int fd = client_connect(port);
	client_send(fd,
		    "POST /open HTTP/1.1\r\n" HEAD "Content-Type: application/json\r\nContent-Length: 1048577\r\n\r\n");
	client_send_n(fd, body, size);
	_cleanup_free_ char *answer = client_read_all(fd, 10000, NULL);
	close(fd);
	assert_int_equal(client_status(answer), 413);
}

static void test_chunked_body(void **state)
{
	expect_status("POST /open HTTP/1.1\r\n" HEAD
		      "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
		      "3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n",
		      200, "\"body\":{\"a\":1}");
	expect_status("POST /open HTTP/1.1\r\n" HEAD
		      "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
		      "fffffffffffffffff\r\n",
		      413, NULL);
	expect_status("POST /open HTTP/1.1\r\n" HEAD
		      "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
		      "zz\r\n{}\r\n0\r\n\r\n",
		      400, NULL);
}

static void test_admission_before_the_body(void **state)
{
	expect_status("POST /closed HTTP/1.1\r\n" HEAD "Content-Length: 100000000\r\n\r\n", 401, NULL);
	expect_status("POST /closed HTTP/1.1\r\n" HEAD "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n", 401, NULL);
	expect_status("POST /closed HTTP/1.1\r\n" HEAD "x-api-key: good\r\n\r\n", 200, NULL);
}

static void test_early_headers(void **state)
{
	release(false);
	int fd = client_connect(port);
	client_send(fd, "POST /slow HTTP/1.1\r\n" HEAD "\r\n");
	_cleanup_free_ char *head = client_read_until(fd, "\r\n\r\n", 5000);
	assert_non_null(head);
	assert_int_equal(client_status(head), 201);
	assert_null(strstr(head, "sbx_1"));
	release(true);
	_cleanup_free_ char *rest = client_read_all(fd, 5000, NULL);
	close(fd);
	assert_non_null(strstr(rest, "{\"id\":\"sbx_1\"}"));
	expect_status("POST /slow HTTP/1.1\r\n" HEAD "\r\n", 201, "Content-Length");
}

static void test_late_failure(void **state)
{
	release(false);
	int fd = client_connect(port);
	client_send(fd, "POST /slow?fail=1 HTTP/1.1\r\n" HEAD "\r\n");
	_cleanup_free_ char *head = client_read_until(fd, "\r\n\r\n", 5000);
	assert_int_equal(client_status(head), 201);
	release(true);
	_cleanup_free_ char *rest = client_read_all(fd, 5000, NULL);
	close(fd);
	assert_non_null(strstr(rest, "\"status\":\"error\""));
	assert_non_null(strstr(rest, "\"code\":\"capacity\""));
}

static void test_stream_ends_with_its_client(void **state)
{
	int before = streams_done;
	int fd = client_connect(port);
	client_send(fd, "GET /endless HTTP/1.1\r\n" HEAD "\r\n");
	_cleanup_free_ char *head = client_read_until(fd, "{}\n", 5000);
	assert_non_null(head);
	close(fd);
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	pthread_mutex_lock(&lock);
	int code = 0;
	while (streams_done == before && code == 0)
		code = pthread_cond_timedwait(&changed, &lock, &until);
	pthread_mutex_unlock(&lock);
	assert_int_equal(code, 0);
}

/* A client that dribbles is cut off at the phase's deadline, however busy it keeps the line. */
static void dribble(const char *start, const char *drop, int bound_ms)
{
	int64_t begin = time_mono_ms();
	int fd = client_connect(port);
	client_send(fd, start);
	for (;;) {
		struct pollfd wait = { .fd = fd, .events = POLLIN };
		assert_true(time_mono_ms() - begin < bound_ms);
		if (poll(&wait, 1, 100) > 0)
			break;
		client_send(fd, drop);
	}
	close(fd);
}

static void test_slow_clients(void **state)
{
	dribble("GE", "T", 6000);
	dribble("GET /open HTTP/1.1\r\nHost: a\r\n", "X-A: b\r\n", 6000);
	dribble("POST /open HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
		" ", 6000);
}

static void test_forwarded_for(void **state)
{
	/* 127.0.0.1 is a trusted proxy here, and so is 10/8. */
	expect_status("GET /open HTTP/1.1\r\n" HEAD "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.9\r\n\r\n", 200,
		      "\"address\":\"2.2.2.2\"");
	expect_status("GET /open HTTP/1.1\r\n" HEAD "X-Forwarded-For: junk\r\n\r\n", 200, "\"address\":\"127.0.0.1\"");
	expect_status("GET /open HTTP/1.1\r\n" HEAD "\r\n", 200, "\"address\":\"127.0.0.1\"");
}

static void test_cors(void **state)
{
	expect_status("OPTIONS /open HTTP/1.1\r\n" HEAD "Origin: https://good.example\r\n\r\n", 204,
		      "Access-Control-Allow-Methods: GET, POST");
	expect_status("OPTIONS /open HTTP/1.1\r\n" HEAD "Origin: https://evil.example\r\n\r\n", 405, NULL);
	_cleanup_free_ char *answer = client_once(port,
						  "GET /open HTTP/1.1\r\n" HEAD "Origin: https://evil.example\r\n\r\n");
	assert_null(strstr(answer, "Access-Control"));
}

static void test_header_flood(void **state)
{
	char request[40000] = "GET /open HTTP/1.1\r\n" HEAD;
	size_t used = strlen(request);
	for (int i = 0; i < 500; i++)
		used += (size_t)snprintf(request + used, sizeof(request) - used, "X-%d: y\r\n", i);
	strcpy(request + used, "\r\n");
	expect_status(request, 400, NULL);
	memset(request + 60, 'a', 39000);
	strcpy(request + 39000, "\r\n\r\n");
	_cleanup_free_ char *answer = client_once(port, request);
	assert_in_range(client_status(answer), 400, 499);
}

static void test_expect_continue(void **state)
{
	int fd = client_connect(port);
	client_send(fd, "POST /open HTTP/1.1\r\n" HEAD "Content-Type: application/json\r\nExpect: 100-continue\r\n"
			"Content-Length: 2\r\n\r\n");
	_cleanup_free_ char *head = client_read_until(fd, "\r\n\r\n", 5000);
	assert_non_null(head);
	assert_int_equal(client_status(head), 100);
	client_send(fd, "{}");
	_cleanup_free_ char *answer = client_read_all(fd, 5000, NULL);
	assert_int_equal(client_status(answer), 200);
	close(fd);
}

static void test_connection_bound(void **state)
{
	struct http_config config = { .connections_max = 8, .per_address_max = 4 };
	struct http_server *small;
	struct http_figures figures;
	int fds[5];
	bool closed;

	assert_int_equal(http_start(&config, routes, 1, NULL, &small, NULL), 0);
	for (int i = 0; i < 5; i++)
		fds[i] = client_connect(http_port(small));
	_cleanup_free_ char *nothing = client_read_all(fds[4], 5000, &closed);
	assert_true(closed);
	client_send(fds[0], "GET /open HTTP/1.1\r\n" HEAD "\r\n");
	_cleanup_free_ char *answer = client_read_all(fds[0], 5000, NULL);
	assert_int_equal(client_status(answer), 200);
	http_figures(small, &figures);
	assert_int_equal(figures.refused_address, 1);
	for (int i = 0; i < 5; i++)
		close(fds[i]);
	assert_int_equal(http_stop(small, 1000), 0);
}

/* Takes all eight places with heads that were taken, and bodies that do not come; then one more asks. */
static bool another_is_served(const char *path)
{
	struct http_config config = { .connections_max = 8 };
	struct http_server *small;
	char head[256];
	int fds[8];

	snprintf(head, sizeof(head),
		 "POST %s HTTP/1.1\r\n" HEAD "Content-Type: application/json\r\nExpect: 100-continue\r\n"
		 "Content-Length: 2\r\n\r\n",
		 path);
	assert_int_equal(http_start(&config, routes, 3, NULL, &small, NULL), 0);
	for (int i = 0; i < 8; i++) {
		fds[i] = client_connect(http_port(small));
		client_send(fds[i], head);
		_cleanup_free_ char *taken = client_read_until(fds[i], "\r\n\r\n", 5000);
		assert_int_equal(client_status(taken), 100);
	}
	int more = client_connect(http_port(small));
	client_send(more, "GET /open HTTP/1.1\r\n" HEAD "\r\n");
	_cleanup_free_ char *answer = client_read_all(more, 5000, NULL);
	int status = client_status(answer);
	for (int i = 0; i < 8; i++)
		close(fds[i]);
	close(more);
	assert_int_equal(http_stop(small, 5000), 0);
	return status == 200;
}

static void test_open_routes_keep_no_place(void **state)
{
	assert_true(another_is_served("/open"));
	assert_false(another_is_served("/closed"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_routes),
		cmocka_unit_test(test_query),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_ambiguous_framing),
		cmocka_unit_test(test_no_desync),
		cmocka_unit_test(test_pipelining),
		cmocka_unit_test(test_body_too_large),
		cmocka_unit_test(test_chunked_body),
		cmocka_unit_test(test_admission_before_the_body),
		cmocka_unit_test(test_early_headers),
		cmocka_unit_test(test_late_failure),
		cmocka_unit_test(test_stream_ends_with_its_client),
		cmocka_unit_test(test_slow_clients),
		cmocka_unit_test(test_forwarded_for),
		cmocka_unit_test(test_cors),
		cmocka_unit_test(test_header_flood),
		cmocka_unit_test(test_expect_continue),
		cmocka_unit_test(test_connection_bound),
		cmocka_unit_test(test_open_routes_keep_no_place),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
