#include "daemon/api/internal.h"

#include <string.h>

#include "openapi.h"

void health_on_get(struct http_request *request, struct http_response *response)
{
	struct api_context *context = &call_of(request)->api->context;
	struct store_totals totals;
	const char *why = NULL;
	const char *acceleration = sandboxes_acceleration(context->sandboxes, &why);

	bool well = store_totals(context->store, NULL, &totals, NULL) == 0;
	http_reply_json(response, well ? 200 : 503,
			json_pack("{s:s,s:s,s:s,s:s,s:s}", "status", well ? "ok" : "degraded", "version", AKIRA_VERSION,
				  "engine", context->engine ? context->engine : "qemu", "acceleration", acceleration,
				  "message", well ? (why ? why : "") : "the database does not answer"));
}

void health_on_openapi(struct http_request *request, struct http_response *response)
{
	http_reply_text(response, 200, "application/yaml", openapi, strlen(openapi));
}
