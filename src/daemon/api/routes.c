#include "daemon/api/internal.h"

#define READ SCOPE_SANDBOXES_READ
#define WRITE SCOPE_SANDBOXES_WRITE

/* Literal siblings of {id} stand before it: list, logs, create, delete-all, verify. */
static const struct http_route routes[] = {
	{ "GET", "/healthz", health_on_get, 0, HTTP_OPEN, 0, "health.get", NULL },
	{ "GET", "/openapi.yaml", health_on_openapi, 0, HTTP_OPEN, 0, "openapi.get", NULL },

	{ "POST", "/v1/sandboxes/create", sandbox_on_create, WRITE, HTTP_LONG | HTTP_MUTATES, 201, "sandbox.create",
	  NULL },
	{ "GET", "/v1/sandboxes/list", sandbox_on_list, READ, 0, 0, "sandbox.list", NULL },
	{ "GET", "/v1/sandboxes/logs", sandbox_on_logs, READ, 0, 0, "sandbox.logs", NULL },
	{ "DELETE", "/v1/sandboxes/delete-all", sandbox_on_delete_all, WRITE, HTTP_LONG | HTTP_MUTATES, 200,
	  "sandbox.delete_all", NULL },
	{ "GET", "/v1/sandboxes/{id}", sandbox_on_get, READ, 0, 0, "sandbox.get", NULL },
	{ "DELETE", "/v1/sandboxes/{id}/delete", sandbox_on_delete, WRITE, HTTP_LONG | HTTP_MUTATES, 200,
	  "sandbox.delete", NULL },
	{ "POST", "/v1/sandboxes/{id}/execute", execute_on_call, WRITE, HTTP_LONG | HTTP_MUTATES, 200,
	  "sandbox.execute", NULL },
	{ "POST", "/v1/sandboxes/{id}/execute_async", execute_on_async, WRITE, HTTP_MUTATES, 0, "sandbox.execute_async",
	  NULL },
	{ "POST", "/v1/sandboxes/{id}/upload", files_on_upload, WRITE, HTTP_LONG | HTTP_MUTATES, 200, "sandbox.upload",
	  &files_upload },
	{ "GET", "/v1/sandboxes/{id}/download", files_on_download, WRITE, HTTP_MUTATES, 0, "sandbox.download", NULL },
	{ "GET", "/v1/sandboxes/{id}/status", sandbox_on_status, READ, 0, 0, "sandbox.status", NULL },
	{ "GET", "/v1/sandboxes/{id}/console", sandbox_on_console, READ, 0, 0, "sandbox.console", NULL },
	{ "POST", "/v1/sandboxes/{id}/snapshot", sandbox_on_snapshot, WRITE, HTTP_LONG | HTTP_MUTATES, 201,
	  "sandbox.snapshot", NULL },
	{ "POST", "/v1/sandboxes/{id}/clone", sandbox_on_clone, WRITE, HTTP_LONG | HTTP_MUTATES, 201, "sandbox.clone",
	  NULL },
	{ "POST", "/v1/sandboxes/{id}/pause", sandbox_on_pause, WRITE, HTTP_LONG | HTTP_MUTATES, 200, "sandbox.pause",
	  NULL },
	{ "POST", "/v1/sandboxes/{id}/resume", sandbox_on_resume, WRITE, HTTP_LONG | HTTP_MUTATES, 200,
	  "sandbox.resume", NULL },
	{ "PUT", "/v1/sandboxes/{id}/timeout", sandbox_on_timeout, WRITE, HTTP_MUTATES, 0, "sandbox.timeout", NULL },
	{ "PUT", "/v1/sandboxes/{id}/network", sandbox_on_network, WRITE, HTTP_LONG | HTTP_MUTATES, 200,
	  "sandbox.network", NULL },

	{ "GET", "/v1/snapshots/list", snapshots_on_list, READ, 0, 0, "snapshot.list", NULL },
	{ "DELETE", "/v1/snapshots/delete-all", snapshots_on_delete_all, WRITE, HTTP_LONG | HTTP_MUTATES, 200,
	  "snapshot.delete_all", NULL },
	{ "DELETE", "/v1/snapshots/{id}", snapshots_on_delete, WRITE, HTTP_MUTATES, 0, "snapshot.delete", NULL },
	{ "POST", "/v1/snapshots/{id}/restore", snapshots_on_restore, WRITE, HTTP_LONG | HTTP_MUTATES, 201,
	  "snapshot.restore", NULL },

	{ "POST", "/v1/keys", keys_on_create, SCOPE_KEYS_MANAGE, HTTP_MUTATES | HTTP_SECRET, 0, "key.create", NULL },
	{ "GET", "/v1/keys", keys_on_list, SCOPE_KEYS_MANAGE, 0, 0, "key.list", NULL },
	{ "POST", "/v1/keys/{id}/rotate", keys_on_rotate, SCOPE_KEYS_MANAGE, HTTP_MUTATES | HTTP_SECRET, 0,
	  "key.rotate", NULL },
	{ "DELETE", "/v1/keys/{id}", keys_on_revoke, SCOPE_KEYS_MANAGE, HTTP_MUTATES, 0, "key.revoke", NULL },

	{ "POST", "/v1/organisations", orgs_on_create, SCOPE_ADMIN, HTTP_MUTATES, 0, "org.create", NULL },
	{ "GET", "/v1/organisations", orgs_on_list, SCOPE_ADMIN, 0, 0, "org.list", NULL },
	{ "GET", "/v1/organisations/{id}", orgs_on_get, SCOPE_ADMIN, 0, 0, "org.get", NULL },
	{ "PATCH", "/v1/organisations/{id}", orgs_on_update, SCOPE_ADMIN, HTTP_LONG | HTTP_MUTATES, 200, "org.update",
	  NULL },

	{ "GET", "/v1/audit", audit_on_list, SCOPE_AUDIT_READ, 0, 0, "audit.list", NULL },
	{ "GET", "/v1/audit/verify", audit_on_verify, SCOPE_ADMIN, HTTP_LONG, 200, "audit.verify", NULL },
	{ "GET", "/v1/usage", usage_on_list, READ, 0, 0, "usage.list", NULL },
};

const struct http_route *api_routes(size_t *count)
{
	*count = sizeof(routes) / sizeof(routes[0]);
	return routes;
}
