/* The API over a real socket, store and keys; only the domain is the test's. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../http/client.h"
#include "base/buf.h"
#include "base/fd.h"
#include "base/time.h"
#include "daemon/api/api.h"
#include "daemon/auth/auth.h"
#include "fake_domain.h"

static char dir[64];
static struct auth *auth;
static struct api_server *server;
static uint16_t port;
static char admin[AUTH_KEY_MAX];

struct answer {
	int status;
	char *raw;
	json_t *json;
};

static void answer_free(struct answer *answer)
{
	free(answer->raw);
	json_decref(answer->json);
}
#define _cleanup_answer_ __attribute__((cleanup(answer_free)))

static struct answer send_raw(const char *method, const char *path, const char *key, const char *headers,
			      const char *body, size_t size)
{
	_cleanup_buf_ struct buf request = { 0 };
	struct answer answer = { 0 };

	buf_addf(&request, "%s %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s", method, path,
		 headers ? headers : "");
	if (key)
		buf_addf(&request, "x-api-key: %s\r\n", key);
	buf_addf(&request, "Content-Length: %zu\r\n\r\n", size);
	buf_add(&request, body, size);
	int fd = client_connect(port);
	client_send_n(fd, request.data, request.size);
	answer.raw = client_read_all(fd, 20000, NULL);
	close(fd);
	answer.status = client_status(answer.raw);
	answer.json = json_loads(client_body(answer.raw), 0, NULL);
	return answer;
}

static struct answer call(const char *method, const char *path, const char *body)
{
	return send_raw(method, path, admin, body ? "Content-Type: application/json\r\n" : NULL, body ? body : "",
			body ? strlen(body) : 0);
}

static const char *text_of(const struct answer *answer, const char *name)
{
	const char *text = json_string_value(json_object_get(answer->json, name));
	return text ? text : "";
}

static const char *code_of(const struct answer *answer)
{
	const char *text = json_string_value(json_object_get(json_object_get(answer->json, "error"), "code"));
	return text ? text : "";
}

#define expect(answer, wanted)                                                     \
	do {                                                                       \
		if ((answer).status != (wanted))                                   \
			fail_msg("wanted %d, got:\n%.800s", wanted, (answer).raw); \
	} while (0)

static void expect_call(const char *method, const char *path, const char *body, int status, const char *holds)
{
	_cleanup_answer_ struct answer answer = call(method, path, body);
	expect(answer, status);
	if (holds && !strstr(answer.raw, holds))
		fail_msg("%s %s: no %s in\n%.800s", method, path, holds, answer.raw);
}

/* The newest audit row of an action. */
static struct store_audit newest(const char *action)
{
	struct store_audit_filter filter = { .action = action, .limit = 1 };
	struct store_audit *rows = NULL, row = { 0 };
	size_t count = 0;

	assert_int_equal(store_audit_list(fake_store, &filter, &rows, &count, NULL), 0);
	if (count > 0)
		row = rows[0];
	free(rows);
	return row;
}

static int start(void **state)
{
	struct auth_actor host = { .address = "unix" };
	struct error err = { 0 };
	bool made;

	snprintf(dir, sizeof(dir), "/tmp/akira-api-XXXXXX");
	assert_non_null(mkdtemp(dir));
	struct api_config config = { .spool_dir = dir,
				     .http = { .early_ms = 500, .keepalive_ms = 100 },
				     .metrics_address = "127.0.0.1" };
	assert_int_equal(store_open(dir, &fake_store, &err), 0);
	assert_int_equal(auth_bootstrap(fake_store, &host, &made, admin, &err), 0);
	assert_int_equal(auth_new(fake_store, NULL, &auth, &err), 0);
	struct api_context context = { .store = fake_store, .auth = auth, .engine = "qemu" };
	if (api_start(&config, &context, &server, &err) < 0)
		fail_msg("%s", err.text);
	port = api_port(server);
	return 0;
}

static int stop(void **state)
{
	assert_int_equal(api_stop(server, 5000), 0);
	auth_free(auth);
	store_close(fake_store);
	return fd_remove_tree(AT_FDCWD, dir, NULL);
}

static int reset(void **state)
{
	fake = (struct fake){ 0 };
	return 0;
}

static char *make_sandbox(void)
{
	_cleanup_answer_ struct answer answer = call("POST", "/v1/sandboxes/create", "{}");
	expect(answer, 201);
	return strdup(text_of(&answer, "id"));
}

static void path_of(char path[256], const char *id, const char *rest)
{
	snprintf(path, 256, "/v1/sandboxes/%s%s", id, rest);
}

static void test_keys_and_scopes(void **state)
{
	_cleanup_answer_ struct answer none = send_raw("GET", "/v1/sandboxes/list", NULL, NULL, "", 0);
	expect(none, 401);
	assert_string_equal(code_of(&none), "unauthorized");
	_cleanup_answer_ struct answer bad = send_raw("GET", "/v1/sandboxes/list", "sk_live_x", NULL, "", 0);
	expect(bad, 401);
	_cleanup_answer_ struct answer health = send_raw("GET", "/healthz", NULL, NULL, "", 0);
	expect(health, 200);
	assert_string_equal(text_of(&health, "acceleration"), "tcg");
	_cleanup_answer_ struct answer document = send_raw("GET", "/openapi.yaml", NULL, NULL, "", 0);
	expect(document, 200);
	assert_non_null(strstr(document.raw, "openapi: 3"));

	_cleanup_answer_ struct answer made = call("POST", "/v1/keys",
						   "{\"name\":\"reader\",\"scopes\":[\"sandboxes:read\"]}");
	expect(made, 201);
	_cleanup_answer_ struct answer reads = send_raw("GET", "/v1/sandboxes/list", text_of(&made, "key"), NULL, "",
							0);
	expect(reads, 200);
	_cleanup_answer_ struct answer writes = send_raw("POST", "/v1/sandboxes/create", text_of(&made, "key"), NULL,
							 "", 0);
	expect(writes, 403);
	assert_string_equal(code_of(&writes), "forbidden");
	struct store_audit row = newest("sandbox.create");
	assert_string_equal(row.outcome, "refused");
	assert_int_equal(row.status, 403);
	assert_string_equal(row.key, text_of(&made, "id"));
	char query[128];
	snprintf(query, sizeof(query), "/v1/sandboxes/list?api_key=%s", text_of(&made, "key"));
	_cleanup_answer_ struct answer by_query = send_raw("GET", query, NULL, NULL, "", 0);
	expect(by_query, 200);

	/* Revoked is refused at once. */
	char path[256];
	snprintf(path, sizeof(path), "/v1/keys/%s", text_of(&made, "id"));
	expect_call("DELETE", path, NULL, 200, "\"status\":\"revoked\"");
	_cleanup_answer_ struct answer late = send_raw("GET", "/v1/sandboxes/list", text_of(&made, "key"), NULL, "", 0);
	expect(late, 401);
}

static void test_create(void **state)
{
	_cleanup_answer_ struct answer answer = call(
		"POST", "/v1/sandboxes/create",
		"{\"name\":\"one\",\"env_vars\":{\"A\":\"b\"},\"resources\":{\"cpus\":2,\"memory\":1024,\"storage\":20},"
		"\"timeout_seconds\":60,\"idle_timeout_seconds\":5,\"on_idle\":\"pause\",\"wait_for_ready\":false,"
		"\"network\":{\"outbound\":\"deny\",\"allow\":[\"example.com\",\"1.1.1.0/24\"]},\"metadata\":{\"k\":\"v\"},"
		"\"image\":null}");
	expect(answer, 201);
	assert_int_equal(fake.last.cpu_units, 2);
	assert_int_equal(fake.last.memory_mib, 1024);
	assert_int_equal(fake.last.storage_gb, 20);
	assert_int_equal(fake.last.timeout_s, 60);
	assert_int_equal(fake.last.idle_timeout_s, 5);
	assert_true(fake.last.idle_pause);
	assert_false(fake.last.wait);
	assert_string_equal(fake.last_env, "{\"A\":\"b\"}");
	assert_string_equal(text_of(&answer, "status"), "running");
	assert_null(json_object_get(answer.json, "env_vars"));
	assert_non_null(strstr(answer.raw, "x-request-id: req_"));
	struct store_audit row = newest("sandbox.create");
	assert_string_equal(row.outcome, "ok");
	assert_string_equal(row.target, text_of(&answer, "id"));
	assert_true(row.duration_us > 0);
	expect_call("GET", "/v1/sandboxes/list?metadata.k=v", NULL, 200, "\"name\":\"one\"");
	expect_call("GET", "/v1/sandboxes/list?metadata.k=w", NULL, 200, "\"data\":[]");
}

static void test_create_refusals(void **state)
{
	static const char *const bad[][2] = {
		{ "{\"nope\":1}", "nope" },
		{ "{\"org_id\":\"x\"}", "org_id" },
		{ "{\"name\":\"../x\"}", "name" },
		{ "{\"name\":7}", "name" },
		{ "{\"image\":\"a/../b\"}", "image" },
		{ "{\"resources\":{\"cpus\":0}}", "resources.cpus" },
		{ "{\"resources\":{\"cpus\":1.5}}", "resources.cpus" },
		{ "{\"resources\":{\"memory\":-1}}", "resources.memory" },
		{ "{\"resources\":{\"storage\":\"10Ti\"}}", "resources.storage" },
		{ "{\"resources\":{\"gpus\":1}}", "resources.gpus" },
		{ "{\"env_vars\":{\"A=B\":\"c\"}}", "env_vars" },
		{ "{\"env_vars\":{\"A\":1}}", "env_vars.A" },
		{ "{\"timeout_seconds\":0}", "timeout_seconds" },
		{ "{\"network\":{\"outbound\":\"maybe\"}}", "network.outbound" },
		{ "{\"network\":{\"allow\":[\"a b\"]}}", "network.allow[0]" },
		{ "{\"wait_for_ready\":\"yes\"}", "wait_for_ready" },
		{ "{\"on_idle\":\"explode\"}", "on_idle" },
		{ "{\"snapshot_name\":\"a\"}", "snapshot_name" },
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		expect_call("POST", "/v1/sandboxes/create", bad[i][0], 400, bad[i][1]);
	assert_int_equal(fake.creates, 0);
}

static void test_failures_by_errno(void **state)
{
	static const struct {
		int result, status;
		const char *code, *header;
	} rows[] = {
		{ -EACCES, 403, "forbidden", NULL },
		{ -ENOENT, 404, "not_found", NULL },
		{ -EBUSY, 409, "conflict", "x-should-retry: false" },
		{ -EPROTO, 422, "unprocessable", NULL },
		{ -EDQUOT, 429, "quota_exceeded", "Retry-After: " },
		{ -EAGAIN, 503, "capacity", "Retry-After: " },
		{ -ENOSPC, 507, "capacity", NULL },
		{ -ETIMEDOUT, 504, "timeout", NULL },
		{ -EKEYREVOKED, 401, "unauthorized", NULL },
		{ -EIO, 500, "internal", NULL },
	};
	fake.text = "about /var/lib/secret";
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		fake.result = rows[i].result;
		_cleanup_answer_ struct answer answer = call("POST", "/v1/sandboxes/create", "{}");
		expect(answer, rows[i].status);
		assert_string_equal(code_of(&answer), rows[i].code);
		if (rows[i].header)
			assert_non_null(strstr(answer.raw, rows[i].header));
		/* What is internal stays in the log. */
		assert_int_equal(strstr(answer.raw, "secret") != NULL, rows[i].status != 500);
	}
}

/* What the domain has recorded with its change is not recorded again, unless the answer turned out another. */
static void test_recorded_once(void **state)
{
	static const struct {
		int recorded, result, status;
		bool again;
		const char *outcome;
	} rows[] = {
		{ 0, 0, 200, true, "ok" },          { 200, 0, 200, false, "" },       { 201, 0, 200, true, "ok" },
		{ 200, -EIO, 500, true, "failed" }, { 0, -EIO, 500, true, "failed" },
	};
	_cleanup_free_ char *id = make_sandbox();
	char path[256];

	path_of(path, id, "/pause");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t before = newest("sandbox.pause").seq;
		fake = (struct fake){ .recorded = rows[i].recorded, .result = rows[i].result };
		expect_call("POST", path, NULL, rows[i].status, NULL);
		struct store_audit row = newest("sandbox.pause");
		assert_int_equal(row.seq != before, rows[i].again);
		if (rows[i].again)
			assert_string_equal(row.outcome, rows[i].outcome);
	}
}

/* The store is held for longer than others wait for it: no conflict of the caller's, and worth a second try. */
static void test_a_busy_store(void **state)
{
	static const char body[] = "{\"name\":\"busy\",\"scopes\":[\"sandboxes:read\"]}";
	struct error err;

	assert_int_equal(store_begin(fake_store, &err), 0);
	_cleanup_answer_ struct answer answer = call("POST", "/v1/keys", body);
	store_rollback(fake_store);
	expect(answer, 503);
	assert_string_equal(code_of(&answer), "capacity");
	assert_non_null(strstr(answer.raw, "Retry-After: "));
	expect_call("POST", "/v1/keys", body, 201, "busy");
}

static void test_life(void **state)
{
	_cleanup_free_ char *id = make_sandbox();
	char path[256];

	path_of(path, id, "");
	expect_call("GET", path, NULL, 200, "\"termination\":null");
	path_of(path, id, "/pause");
	expect_call("POST", path, "{}", 200, id);
	path_of(path, id, "/timeout");
	expect_call("PUT", path, "{\"timeout_seconds\":9}", 200, id);
	expect_call("PUT", path, "{}", 400, "timeout_seconds: is required");
	path_of(path, id, "/network");
	expect_call("PUT", path, "{\"outbound\":\"deny\"}", 200, id);
	path_of(path, id, "/console");
	expect_call("GET", path, NULL, 200, "boot\xef\xbf\xbd");
	path_of(path, id, "/status?from=2026-01-01T00:00:00Z");
	expect_call("GET", path, NULL, 200, "\"memory_percent\":12.5");
	path_of(path, id, "/snapshot");
	expect_call("POST", path, "{\"name\":\"s1\",\"quick\":true}", 201, "\"consistency\":\"crash\"");
	path_of(path, id, "/clone");
	expect_call("POST", path, NULL, 201, "\"snapshot\":{");
	expect_call("GET", "/v1/snapshots/list", NULL, 200, "\"name\":\"s1\"");
	path_of(path, id, "/delete");
	expect_call("DELETE", path, "{\"create_snapshot\":true,\"snapshot_name\":\"last\"}", 200,
		    "\"snapshot_name\":\"last\"");
	path_of(path, id, "");
	expect_call("GET", path, NULL, 200, "\"reason\":\"deleted\"");
	expect_call("GET", "/v1/sandboxes/sbx_none", NULL, 404, "not_found");
	expect_call("DELETE", "/v1/sandboxes/delete-all", NULL, 200, "deleted_ids");
	expect_call("GET", "/v1/sandboxes/list", NULL, 200, "\"total_items\":0");
	expect_call("DELETE", "/v1/snapshots/delete-all", NULL, 200, "deleted_ids");
	expect_call("POST", "/v1/snapshots/snap_x/restore", "{}", 400, "name: is required");
	expect_call("POST", "/v1/snapshots/snap_x/restore", "{\"name\":\"a\",\"resources\":{\"storage\":\"20Gi\"}}",
		    404, NULL);
}

static void test_pages(void **state)
{
	expect_call("GET", "/v1/sandboxes/list?page=0", NULL, 400, "page");
	expect_call("GET", "/v1/sandboxes/list?page_size=101", NULL, 400, "page_size");
	expect_call("GET", "/v1/sandboxes/list?page=-1", NULL, 400, "page");
	expect_call("GET", "/v1/sandboxes/list?pages=1", NULL, 400, "pages");
	expect_call("GET", "/v1/sandboxes/logs?limit=1001", NULL, 400, "limit");
	expect_call("GET", "/v1/sandboxes/logs?from=yesterday", NULL, 400, "from");
	expect_call("GET", "/v1/sandboxes/logs", NULL, 200, "\"logs\":[]");
}

/* ---- commands ---- */

static void event(enum sandbox_exec_kind kind, const char *data)
{
	struct sandbox_exec_event *e = &fake.events[fake.event_count++];
	*e = (struct sandbox_exec_event){ .kind = kind,
					  .data = data,
					  .size = data ? strlen(data) : 0,
					  .started_ms = 1800000000000,
					  .duration_ms = 7 };
}

static void test_execute(void **state)
{
	_cleanup_free_ char *id = make_sandbox();
	char path[256];

	path_of(path, id, "/execute");
	event(EXEC_STDOUT, "out\xff");
	event(EXEC_STDERR, "err");
	event(EXEC_ENDED, NULL);
	fake.events[2].exit_code = 3;
	_cleanup_answer_ struct answer answer = call("POST", path,
						     "{\"command\":\"x\",\"env\":{\"A\":\"b\"},\"timeout\":5}");
	expect(answer, 200);
	assert_string_equal(text_of(&answer, "status"), "completed");
	assert_string_equal(text_of(&answer, "stdout"), "out\xef\xbf\xbd");
	assert_string_equal(text_of(&answer, "stderr"), "err");
	assert_int_equal(json_integer_value(json_object_get(answer.json, "exit_code")), 3);
	assert_string_equal(text_of(&answer, "completed_at"), "2027-01-15T08:00:00.007Z");
	assert_true(fake_reached(&fake.execs_closed, 1));

	fake.events[2].end = EXEC_TIMED_OUT;
	expect_call("POST", path, "{\"command\":\"x\"}", 200, "\"status\":\"timeout\"");
	fake.events[2].end = EXEC_FAILED;
	strcpy(fake.events[2].message, "the sandbox was deleted");
	expect_call("POST", path, "{\"command\":\"x\"}", 200, "the sandbox was deleted");
	expect_call("POST", path, "{}", 400, "command: is required");
	expect_call("POST", path, "{\"command\":\"\"}", 400, "command");
	expect_call("POST", path, "{\"command\":\"x\",\"timeout\":301}", 400, "timeout");
}

static void test_execute_async(void **state)
{
	_cleanup_free_ char *id = make_sandbox();
	char path[256];

	path_of(path, id, "/execute_async");
	event(EXEC_STDOUT, "a\xc3");
	event(EXEC_STDOUT, "\xa9");
	event(EXEC_NOTHING, NULL);
	event(EXEC_STDERR, "b");
	event(EXEC_ENDED, NULL);
	_cleanup_answer_ struct answer answer = call("POST", path, "{\"command\":\"x\"}");
	expect(answer, 200);
	assert_non_null(strstr(answer.raw, "Content-Type: application/x-ndjson"));
	char *one = strstr(answer.raw, "{\"stdout\":\"a\"}\n"),
	     *two = strstr(answer.raw, "{\"stdout\":\"\xc3\xa9\"}\n");
	char *other = strstr(answer.raw, "{\"stderr\":\"b\"}\n"), *end = strstr(answer.raw, "{\"exit_code\":0}\n");
	assert_true(one && two && other && end && one < two && two < other && other < end);
	assert_true(fake_reached(&fake.execs_closed, 1));
	expect_call("POST", path, "{\"command\":\"x\",\"timeout\":5}", 400, "timeout");
}

/* The client's leaving closes the command, which kills it. */
static void leave(const char *rest)
{
	_cleanup_free_ char *id = make_sandbox();
	char request[512];

	reset(NULL);
	fake.wait_for_client = true;
	event(EXEC_STDOUT, "first");
	snprintf(request, sizeof(request),
		 "POST /v1/sandboxes/%s/%s HTTP/1.1\r\nHost: a\r\nx-api-key: %s\r\n"
		 "Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"command\":\"x\"}",
		 id, rest, admin);
	int fd = client_connect(port);
	client_send(fd, request);
	/* The answer's beginning: early headers, or the first line. */
	_cleanup_free_ char *head = client_read_until(fd, "\r\n\r\n", 10000);
	assert_non_null(head);
	close(fd);
	assert_true(fake_reached(&fake.execs_closed, 1));
}

static void test_client_leaves(void **state)
{
	leave("execute_async");
	leave("execute");
}

/* A stream does not outlive the key that opened it. */
static void test_revoked_while_it_streams(void **state)
{
	_cleanup_free_ char *id = make_sandbox();
	char request[512], path[256];

	_cleanup_answer_ struct answer key = call("POST", "/v1/keys",
						  "{\"name\":\"w\",\"scopes\":[\"sandboxes:write\"]}");
	expect(key, 201);
	fake.wait_for_client = true;
	event(EXEC_STDOUT, "first");
	snprintf(request, sizeof(request),
		 "POST /v1/sandboxes/%s/execute_async HTTP/1.1\r\nHost: a\r\nx-api-key: %s\r\n"
		 "Connection: close\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"command\":\"x\"}",
		 id, text_of(&key, "key"));
	int fd = client_connect(port);
	client_send(fd, request);
	_cleanup_free_ char *head = client_read_until(fd, "first", 10000);
	assert_non_null(head);
	snprintf(path, sizeof(path), "/v1/keys/%s", text_of(&key, "id"));
	int64_t start_ms = time_mono_ms();
	expect_call("DELETE", path, NULL, 200, NULL);
	_cleanup_free_ char *rest = client_read_all(fd, 10000, NULL);
	close(fd);
	assert_non_null(strstr(rest, "no longer good"));
	assert_true(time_mono_ms() - start_ms < 5000);
	assert_true(fake_reached(&fake.execs_closed, 1));
}

/* ---- files ---- */

static struct answer upload(const char *id, const char *body)
{
	char path[256];
	path_of(path, id, "/upload");
	return send_raw("POST", path, admin, "Content-Type: multipart/form-data; boundary=XX\r\n", body, strlen(body));
}

#define PART(name) "--XX\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n"

static void test_upload(void **state)
{
	_cleanup_free_ char *id = make_sandbox();
	_cleanup_answer_ struct answer first = upload(id, PART("path") "/a/b\r\n" PART("file") "bytes\r\n--XX--\r\n");
	expect(first, 200);
	assert_string_equal(fake.last_path, "/a/b");
	assert_memory_equal(fake.file, "bytes", 5);
	assert_true(fake.finished);

	_cleanup_answer_ struct answer second = upload(id, PART("file") "other\r\n" PART("path") "/c\r\n--XX--\r\n");
	expect(second, 200);
	assert_string_equal(fake.last_path, "/c");
	assert_memory_equal(fake.file, "other", 5);
	assert_int_equal(fake.files_closed, 2);

	_cleanup_answer_ struct answer buffer = upload(id, PART("path") "/a\r\n" PART("file[0]") "104\r\n--XX--\r\n");
	expect(buffer, 400);
	assert_non_null(strstr(buffer.raw, "File or Blob"));
	_cleanup_answer_ struct answer no_path = upload(id, PART("file") "x\r\n--XX--\r\n");
	expect(no_path, 400);
	fake.finished = false;
	_cleanup_answer_ struct answer cut = upload(id, PART("path") "/a\r\n" PART("file") "x\r\n");
	expect(cut, 400);
	assert_false(fake.finished);
	char path[256];
	path_of(path, id, "/upload");
	expect_call("POST", path, "{}", 415, "multipart/form-data");

	fake.result = -ENOENT;
	_cleanup_answer_ struct answer gone = upload(id, PART("path") "/a\r\n" PART("file") "x\r\n--XX--\r\n");
	expect(gone, 404);
}

/* Whoever is in the middle of sending learns all the same why it failed. */
static void test_upload_to_a_full_disk(void **state)
{
	_cleanup_free_ char *id = make_sandbox();
	_cleanup_buf_ struct buf body = { 0 };
	size_t size = (size_t)12 << 20;

	buf_adds(&body, PART("path") "/a\r\n" PART("file"));
	memset(buf_room(&body, size), 'x', size);
	buf_grown(&body, size);
	buf_adds(&body, "\r\n--XX--\r\n");
	_cleanup_answer_ struct answer answer = upload(id, body.data);
	expect(answer, 507);
	assert_false(fake.finished);
}

static void test_download(void **state)
{
	_cleanup_free_ char *id = make_sandbox();
	char path[256];

	fake.file_size = sizeof(fake.file);
	for (size_t i = 0; i < sizeof(fake.file); i++)
		fake.file[i] = (char)('a' + i % 23);
	path_of(path, id, "/download?path=%2Fa");
	_cleanup_answer_ struct answer answer = call("GET", path, NULL);
	expect(answer, 200);
	assert_non_null(strstr(answer.raw, "Content-Length: 65536"));
	assert_memory_equal(client_body(answer.raw), fake.file, sizeof(fake.file));
	path_of(path, id, "/download");
	expect_call("GET", path, NULL, 400, "path");
}

/* ---- idempotency ---- */

static struct answer idempotent(const char *key, const char *body)
{
	char headers[256];
	snprintf(headers, sizeof(headers), "Content-Type: application/json\r\nIdempotency-Key: %s\r\n", key);
	return send_raw("POST", "/v1/sandboxes/create", admin, headers, body, strlen(body));
}

static void test_idempotency(void **state)
{
	_cleanup_answer_ struct answer one = idempotent("k1", "{\"name\":\"a\"}"),
				       two = idempotent("k1", "{\"name\":\"a\"}");
	expect(one, 201);
	expect(two, 201);
	assert_string_equal(text_of(&one, "id"), text_of(&two, "id"));
	assert_int_equal(fake.creates, 1);
	_cleanup_answer_ struct answer other = idempotent("k1", "{\"name\":\"b\"}");
	expect(other, 409);
	assert_non_null(strstr(other.raw, "x-should-retry: false"));

	/* What failed for want of room may be tried again. */
	fake.result = -EAGAIN;
	_cleanup_answer_ struct answer full = idempotent("k2", "{}");
	expect(full, 503);
	fake.result = 0;
	_cleanup_answer_ struct answer again = idempotent("k2", "{}");
	expect(again, 201);
	_cleanup_answer_ struct answer spaces = idempotent("a b", "{}");
	expect(spaces, 400);
}

static void *create_again(void *context)
{
	struct answer *answer = context;
	*answer = idempotent("k3", "{}");
	return NULL;
}

static void test_idempotency_at_once(void **state)
{
	pthread_t threads[16];
	struct answer answers[16];

	fake_hold(1);
	for (size_t i = 0; i < 16; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, create_again, &answers[i]), 0);
	assert_true(fake_reached(&fake.creates, 1));
	fake_hold(0);
	for (size_t i = 0; i < 16; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < 16; i++) {
		expect(answers[i], 201);
		assert_string_equal(text_of(&answers[i], "id"), text_of(&answers[0], "id"));
	}
	for (size_t i = 0; i < 16; i++)
		answer_free(&answers[i]);
	assert_int_equal(fake.creates, 1);
}

/* A crash between the making and the answer: the claim is there, with a target or without, and no answer. */
static void test_idempotency_after_a_crash(void **state)
{
	_cleanup_answer_ struct answer one = idempotent("k4", "{}");
	expect(one, 201);
	struct store_idem found = { 0 }, row = { .key = "k4" };
	struct store_org *orgs;
	size_t count;
	uint64_t total;
	assert_int_equal(store_org_list(fake_store, 1, 1, &orgs, &count, &total, NULL), 0);
	strcpy(row.org, orgs[0].id);
	free(orgs);
	assert_int_equal(store_idem_claim(fake_store, &row, &found, NULL), -EEXIST);
	free(found.answer);
	memcpy(row.body_hash, found.body_hash, sizeof(row.body_hash));
	assert_int_equal(store_idem_drop(fake_store, row.org, "k4", NULL), 0);
	assert_int_equal(store_idem_claim(fake_store, &row, &found, NULL), 0);
	assert_int_equal(store_idem_target(fake_store, row.org, "k4", text_of(&one, "id"), NULL), 0);
	_cleanup_answer_ struct answer two = idempotent("k4", "{}");
	expect(two, 201);
	assert_string_equal(text_of(&one, "id"), text_of(&two, "id"));
	assert_int_equal(fake.creates, 1);

	assert_int_equal(store_idem_drop(fake_store, row.org, "k4", NULL), 0);
	assert_int_equal(store_idem_claim(fake_store, &row, &found, NULL), 0);
	_cleanup_answer_ struct answer three = idempotent("k4", "{}");
	expect(three, 201);
	assert_int_equal(fake.creates, 2);
}

static void test_a_key_is_not_kept(void **state)
{
	static const char body[] = "{\"name\":\"idem\",\"scopes\":[\"sandboxes:read\"]}";
	static const char headers[] = "Content-Type: application/json\r\nIdempotency-Key: k5\r\n";
	_cleanup_answer_ struct answer one = send_raw("POST", "/v1/keys", admin, headers, body, sizeof(body) - 1);
	_cleanup_answer_ struct answer two = send_raw("POST", "/v1/keys", admin, headers, body, sizeof(body) - 1);
	expect(one, 201);
	expect(two, 409);
}

/* ---- administration ---- */

static void test_organisations(void **state)
{
	char path[256], body[256];

	_cleanup_answer_ struct answer org = call(
		"POST", "/v1/organisations",
		"{\"name\":\"other\",\"tier\":\"beta\",\"limits\":{\"requests_per_minute\":5}}");
	expect(org, 201);
	snprintf(body, sizeof(body),
		 "{\"name\":\"k\",\"scopes\":[\"sandboxes:read\",\"sandboxes:write\"],\"organisation_id\":\"%s\"}",
		 text_of(&org, "id"));
	_cleanup_answer_ struct answer key = call("POST", "/v1/keys", body);
	expect(key, 201);
	_cleanup_answer_ struct answer lists = send_raw("GET", "/v1/sandboxes/list", text_of(&key, "key"), NULL, "", 0);
	expect(lists, 200);
	assert_non_null(strstr(lists.raw, "RateLimit-Limit: "));
	/* Another organisation's sandbox does not exist. */
	_cleanup_free_ char *id = make_sandbox();
	path_of(path, id, "");
	_cleanup_answer_ struct answer foreign = send_raw("GET", path, text_of(&key, "key"), NULL, "", 0);
	expect(foreign, 404);

	snprintf(path, sizeof(path), "/v1/organisations/%s", text_of(&org, "id"));
	expect_call("PATCH", path, "{\"suspended\":true,\"running\":\"stop\"}", 200, "\"stopped_count\":3");
	_cleanup_answer_ struct answer suspended = send_raw("GET", "/v1/sandboxes/list", text_of(&key, "key"), NULL, "",
							    0);
	expect(suspended, 403);
	expect_call("PATCH", path, "{\"suspended\":false,\"running\":\"keep\"}", 400, "running");
	expect_call("PATCH", path, "{\"tier\":\"gold\"}", 400, "tier");
	expect_call("GET", "/v1/organisations", NULL, 200, "\"name\":\"other\"");
	expect_call("GET", "/v1/organisations/org_none", NULL, 404, NULL);
}

static void test_audit(void **state)
{
	_cleanup_answer_ struct answer page = call("GET", "/v1/audit?limit=1", NULL);
	expect(page, 200);
	const char *cursor = text_of(&page, "next_cursor");
	assert_string_not_equal(cursor, "");
	char path[256];
	snprintf(path, sizeof(path), "/v1/audit?limit=1&cursor=%s", cursor);
	expect_call("GET", path, NULL, 200, "\"seq\":");
	path[strlen(path) - 1] ^= 1;
	expect_call("GET", path, NULL, 400, "cursor");
	expect_call("GET", "/v1/audit?cursor=5", NULL, 400, "cursor");
	expect_call("GET", "/v1/audit/verify", NULL, 200, "\"valid\":true");
	expect_call("GET", "/v1/usage", NULL, 200, "\"current\":{");
	expect_call("GET", "/v1/usage?from=2026-13-01", NULL, 400, "from");
}

/* Hammering at the door fills no log: what is not written is counted. */
static void test_refusals_are_bounded(void **state)
{
	struct store_audit_filter filter = { .action = "snapshot.list", .limit = 100 };
	struct store_audit *rows;
	size_t count;

	for (int i = 0; i < 40; i++) {
		_cleanup_answer_ struct answer answer = send_raw("GET", "/v1/snapshots/list", NULL, NULL, "", 0);
		assert_true(answer.status == 401 || answer.status == 429);
	}
	assert_int_equal(store_audit_list(fake_store, &filter, &rows, &count, NULL), 0);
	assert_in_range(count, 0, 10);
	free(rows);
}

static void test_metrics(void **state)
{
	uint16_t api = port;
	port = api_metrics_port(server);
	_cleanup_answer_ struct answer answer = send_raw("GET", "/metrics", NULL, NULL, "", 0);
	_cleanup_answer_ struct answer nothing = send_raw("GET", "/v1/sandboxes/list", NULL, NULL, "", 0);
	port = api;
	expect(answer, 200);
	expect(nothing, 404);
	assert_non_null(
		strstr(answer.raw,
		       "akira_http_requests_total{method=\"POST\",route=\"/v1/sandboxes/create\",status=\"201\"}"));
	assert_non_null(strstr(answer.raw, "akira_execution_duration_seconds_bucket{le=\"+Inf\"}"));
	assert_non_null(strstr(answer.raw, "akira_sandboxes{status=\"running\"}"));
	assert_non_null(strstr(answer.raw, "akira_organisation_refused_packets_total{organisation=\"org_fake\"} 7\n"));
	assert_non_null(
		strstr(answer.raw, "akira_organisation_cpu_seconds_total{organisation=\"org_fake\"} 1.500000\n"));
}

/* Every route of the table: never without a key, never a 500. */
static void test_every_route_needs_a_key(void **state)
{
	size_t count;
	const struct http_route *routes = api_routes(&count);

	for (size_t i = 0; i < count; i++) {
		char path[256];
		const char *id = strstr(routes[i].pattern, "{id}");
		if (routes[i].flags & HTTP_OPEN)
			continue;
		if (id)
			snprintf(path, sizeof(path), "%.*sx_1%s", (int)(id - routes[i].pattern), routes[i].pattern,
				 id + 4);
		else
			snprintf(path, sizeof(path), "%s", routes[i].pattern);
		_cleanup_answer_ struct answer answer = send_raw(routes[i].method, path, NULL, NULL, "", 0);
		assert_true(answer.status == 401 || answer.status == 429);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_keys_and_scopes, reset),
		cmocka_unit_test_setup(test_create, reset),
		cmocka_unit_test_setup(test_create_refusals, reset),
		cmocka_unit_test_setup(test_failures_by_errno, reset),
		cmocka_unit_test_setup(test_recorded_once, reset),
		cmocka_unit_test_setup(test_a_busy_store, reset),
		cmocka_unit_test_setup(test_life, reset),
		cmocka_unit_test_setup(test_pages, reset),
		cmocka_unit_test_setup(test_execute, reset),
		cmocka_unit_test_setup(test_execute_async, reset),
		cmocka_unit_test_setup(test_client_leaves, reset),
		cmocka_unit_test_setup(test_revoked_while_it_streams, reset),
		cmocka_unit_test_setup(test_upload, reset),
		cmocka_unit_test_setup(test_upload_to_a_full_disk, reset),
		cmocka_unit_test_setup(test_download, reset),
		cmocka_unit_test_setup(test_idempotency, reset),
		cmocka_unit_test_setup(test_idempotency_at_once, reset),
		cmocka_unit_test_setup(test_idempotency_after_a_crash, reset),
		cmocka_unit_test_setup(test_a_key_is_not_kept, reset),
		cmocka_unit_test_setup(test_organisations, reset),
		cmocka_unit_test_setup(test_audit, reset),
		cmocka_unit_test_setup(test_metrics, reset),
		/* The last two: this address is slowed down by them. */
		cmocka_unit_test_setup(test_refusals_are_bounded, reset),
		cmocka_unit_test_setup(test_every_route_needs_a_key, reset),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
