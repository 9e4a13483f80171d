#include "daemon/api/gate.h"

#include "base/log.h"
#include "daemon/auth/auth.h"

/* What the client may know of a refusal: not whether a key ever was. */
static const char *const texts[AUTH_RESULTS] = {
	[AUTH_MISSING] = "an API key is needed, in the header x-api-key",
	[AUTH_MALFORMED] = "the API key is not valid",
	[AUTH_UNKNOWN] = "the API key is not valid",
	[AUTH_REVOKED] = "the API key was revoked",
	[AUTH_EXPIRED] = "the API key has expired",
	[AUTH_SUSPENDED] = "the organisation is suspended",
	[AUTH_SLOWED] = "too many requests from this address without a good key",
};

static int status_of(enum auth_result result)
{
	switch (result) {
	case AUTH_SUSPENDED: return 403;
	case AUTH_SLOWED: return 429;
	case AUTH_FAILED: return 503;
	default: return 401;
	}
}

static void refuse(struct call *call, struct http_request *request, struct http_response *response,
		   enum auth_result result, const struct auth_identity *identity, const struct error *err)
{
	int status = status_of(result);
	int64_t retry = result == AUTH_SLOWED ? identity->retry_after_s : status == 503 ? 5 : 0;

	call_detail(request, "key %s", auth_result_name(result));
	/* Known, though refused: whose key it was belongs into the record. */
	call->key = identity->key;
	call->org = identity->org;
	if (result == AUTH_FAILED)
		log_error("authentication_failed", "request", request->id, "error", err->text);
	if (status == 401)
		http_add_header(request, "WWW-Authenticate", "ApiKey");
	reply_refusal(request, response, status, NULL, retry, texts[result] ? texts[result] : "try again");
}

static bool within_rate(struct call *call, struct http_request *request, struct http_response *response,
			const struct auth_identity *identity)
{
	struct limit_answer answer;

	auth_take(call->api->context.auth, identity, &answer);
	if (answer.limit >= 0) {
		http_add_header(request, "RateLimit-Limit", "%lld", (long long)answer.limit);
		http_add_header(request, "RateLimit-Remaining", "%lld", (long long)answer.remaining);
		http_add_header(request, "RateLimit-Reset", "%lld", (long long)answer.reset_s);
	}
	if (!answer.allowed)
		reply_refusal(request, response, 429, NULL, answer.retry_after_s, "too many requests with this key");
	return answer.allowed;
}

/* Scopes: admin is above all others. */
static bool has_scope(const struct call *call, const struct http_request *request)
{
	return (call->key.scopes & (request->route->scope | SCOPE_ADMIN)) != 0;
}

bool gate_check(struct call *call, struct http_request *request, struct http_response *response)
{
	struct auth_identity identity = { 0 };
	struct error err = { 0 };
	const char *text = http_header(request, "x-api-key");

	if (!text)
		text = http_query(request, "api_key");
	enum auth_result result = auth_check(call->api->context.auth, text, request->address, &identity, &err);
	if (result != AUTH_OK) {
		refuse(call, request, response, result, &identity, &err);
		return false;
	}
	call->authenticated = true;
	call->org = identity.org;
	call->key = identity.key;
	if (!within_rate(call, request, response, &identity))
		return false;
	if (has_scope(call, request))
		return true;
	call_detail(request, "scope missing");
	reply_refusal(request, response, 403, NULL, 0, "the API key does not have the scope that this call needs");
	return false;
}
