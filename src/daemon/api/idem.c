/*
 * Theory of operation. A POST with an Idempotency-Key is done once. The store remembers the key with a hash of method,
 * path and body, and the answer when there is one. Three things can be found under a key:
 *   - an answer: it is given again (another hash: 409);
 *   - no answer, and the call runs now in this process: wait for it;
 *   - no answer, and nothing runs: a crash cut it short. If what it was to make exists, that is the answer; else the
 *     claim is dropped and the call is done.
 * Only definite answers are kept: what may go differently next time (409, 429, 5xx, 401, 403, a client that left) frees
 * the key. Answers over ANSWER_MAX are not kept; asked again, such a call is refused and not repeated.
 */
#include "daemon/api/internal.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/cond.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/json/text.h"

#define KEY_MAX 200
#define WAIT_S 60
#define ANSWER_MAX ((size_t)1 << 20)

struct idem_flight {
	struct idem_flight *next;
	char org[STORE_ID_MAX], key[STORE_TEXT_MAX];
};

static bool is_key(const char *key)
{
	size_t size = strlen(key);
	for (size_t i = 0; i < size; i++)
		if (key[i] < '!' || key[i] > '~')
			return false;
	return size >= 1 && size <= KEY_MAX;
}

static void hash_request(const struct http_request *request, unsigned char hash[32])
{
	crypto_generichash_state state;

	crypto_generichash_init(&state, NULL, 0, 32);
	crypto_generichash_update(&state, (const unsigned char *)request->method, strlen(request->method) + 1);
	crypto_generichash_update(&state, (const unsigned char *)request->path, strlen(request->path) + 1);
	crypto_generichash_update(&state, (const unsigned char *)(request->body ? request->body : ""),
				  request->body_size);
	crypto_generichash_final(&state, hash, 32);
}

/* ---- what runs now ---- */

static struct idem_flight **flight_find(struct api_server *api, const char *org, const char *key)
{
	struct idem_flight **at = &api->flights;
	while (*at && (strcmp((*at)->org, org) != 0 || strcmp((*at)->key, key) != 0))
		at = &(*at)->next;
	return at;
}

/* 0: ours now; -EALREADY: somebody's for longer than we wait; -ENOMEM. */
static int flight_take(struct api_server *api, const char *org, const char *key)
{
	int64_t deadline = time_mono_ms() + WAIT_S * 1000;
	int result = 0;

	pthread_mutex_lock(&api->idem_lock);
	while (result == 0 && *flight_find(api, org, key))
		if (cond_wait_until(&api->idem_changed, &api->idem_lock, deadline) != 0)
			result = -EALREADY;
	struct idem_flight *flight = result == 0 ? calloc(1, sizeof(*flight)) : NULL;
	if (flight) {
		str_copy(flight->org, sizeof(flight->org), org);
		str_copy(flight->key, sizeof(flight->key), key);
		flight->next = api->flights;
		api->flights = flight;
	} else if (result == 0) {
		result = -ENOMEM;
	}
	pthread_mutex_unlock(&api->idem_lock);
	return result;
}

static void flight_leave(struct api_server *api, const char *org, const char *key)
{
	pthread_mutex_lock(&api->idem_lock);
	struct idem_flight **at = flight_find(api, org, key);
	struct idem_flight *flight = *at;
	if (flight)
		*at = flight->next;
	free(flight);
	pthread_cond_broadcast(&api->idem_changed);
	pthread_mutex_unlock(&api->idem_lock);
}

/* ---- what was ---- */

static void give_again(struct http_request *request, struct http_response *response, const struct store_idem *found)
{
	json_t *answer = found->answer ? json_loads(found->answer, JSON_DECODE_ANY, NULL) : NULL;

	http_add_header(request, "Idempotent-Replayed", "true");
	if (found->status == 409)
		http_add_header(request, "x-should-retry", "false");
	/* What is kept is good: when it cannot be read there is no memory, and nothing else may be answered. */
	http_reply_json(response, found->status, answer || found->answer ? answer : json_object());
	call_detail(request, "answered again for an Idempotency-Key");
}

/* Cut short by a crash: 1 = what it made is there and is the answer; 0 = there is nothing; -errno: it is not known. */
static int recover(struct http_request *request, struct http_response *response, const struct store_idem *found,
		   struct error *err)
{
	struct call *call = call_of(request);
	struct sandbox_info info = { 0 };
	json_t *body;

	if (found->target[0] == '\0')
		return 0;
	int r = sandbox_get(call->api->context.sandboxes, &call->actor, found->target, &info, err);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	body = view_sandbox_full(&info.row);
	if (strcmp(request->route->action, "sandbox.clone") == 0)
		body = json_pack("{s:o,s:n}", "sandbox", body, "snapshot");
	call_target(request, found->target);
	http_reply_json(response, 201, body);
	sandbox_info_free(&info);
	return 1;
}

static void keep_answer(const struct http_request *request, const char *key, const struct http_response *response)
{
	struct call *call = call_of(request);
	struct store *store = call->api->context.store;
	struct error err = { 0 };
	_cleanup_free_ char *text = response->json ? json_text(response->json, JSON_COMPACT) : NULL;
	int status = response->status, r;

	bool secret = request->route->flags & HTTP_SECRET;
	bool definite = status < 500 && status != 401 && status != 403 && status != 409 && status != 429 &&
			status != 499;
	if (!definite) {
		r = store_idem_drop(store, call->org.id, key, &err);
	} else if (text && strlen(text) <= ANSWER_MAX && !(secret && status < 400)) {
		r = store_idem_finish(store, call->org.id, key, status, text, &err);
	} else {
		r = store_idem_finish(
			store, call->org.id, key, 409,
			"{\"error\":{\"code\":\"conflict\",\"message\":\"this call was done; its answer was a "
			"stream, a secret or over 1 MiB and is not kept\"}}",
			&err);
	}
	if (r < 0)
		log_error("idempotency_not_kept", "org", call->org.id, "error", err.text);
}

/* Claim in the store, the flight being ours. 1: run it; 0: answered; -errno. */
static int claim(struct http_request *request, struct http_response *response, const char *key, struct error *err)
{
	struct call *call = call_of(request);
	struct store *store = call->api->context.store;
	struct store_idem row = { 0 };

	str_copy(row.org, sizeof(row.org), call->org.id);
	str_copy(row.key, sizeof(row.key), key);
	hash_request(request, row.body_hash);
	for (int attempt = 0; attempt < 2; attempt++) {
		struct store_idem found = { 0 };
		bool nothing = false;
		int r = store_idem_claim(store, &row, &found, err);
		if (r == 0)
			return 1;
		if (r != -EEXIST)
			return r;
		r = 0;
		if (sodium_memcmp(found.body_hash, row.body_hash, sizeof(row.body_hash)) != 0) {
			reply_refusal(request, response, 409, NULL, 0,
				      "Idempotency-Key: was used for another call in the last 24 hours");
		} else if (found.status != 0) {
			give_again(request, response, &found);
		} else {
			r = recover(request, response, &found, err);
			nothing = r == 0;
			if (r > 0)
				keep_answer(request, key, response);
		}
		free(found.answer);
		if (!nothing)
			return r < 0 ? r : 0;
		r = store_idem_drop(store, call->org.id, key, err);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return error_set(err, EBUSY, "Idempotency-Key: is in use");
}

bool idem_begin(struct http_request *request, struct http_response *response)
{
	const char *key = http_header(request, "idempotency-key");
	struct call *call = call_of(request);
	struct error err = { 0 };

	/* An upload is the same twice by nature, and its body is gone before it could be compared. */
	if (!key || strcmp(request->method, "POST") != 0 || request->route->upload || !call->authenticated)
		return true;
	if (!is_key(key)) {
		http_reply_error(response, 400, NULL, "Idempotency-Key: must be 1 to %d visible ASCII characters",
				 KEY_MAX);
		return false;
	}
	int r = flight_take(call->api, call->org.id, key);
	if (r < 0) {
		reply_refusal(request, response, r == -ENOMEM ? 503 : 409, NULL, r == -ENOMEM,
			      "Idempotency-Key: a call with this key is still running");
		return false;
	}
	r = claim(request, response, key, &err);
	if (r == 1) {
		str_copy(call->idem_key, sizeof(call->idem_key), key);
		return true;
	}
	flight_leave(call->api, call->org.id, key);
	if (r < 0)
		reply_failure(request, response, r, &err);
	return false;
}

void idem_end(struct http_request *request, const struct http_response *response)
{
	struct call *call = call_of(request);

	if (call->idem_key[0] == '\0')
		return;
	keep_answer(request, call->idem_key, response);
	flight_leave(call->api, call->org.id, call->idem_key);
	call->idem_key[0] = '\0';
}

void idem_named(const char *id, void *context)
{
	struct http_request *request = context;
	struct call *call = call_of(request);
	struct error err = { 0 };

	call_target(request, id);
	if (call->idem_key[0] &&
	    store_idem_target(call->api->context.store, call->org.id, call->idem_key, id, &err) < 0)
		log_error("idempotency_not_tied", "request", request->id, "error", err.text);
}
