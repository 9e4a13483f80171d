/* What the files of api/ share. */
#pragma once

#include <pthread.h>

#include "base/buf.h"
#include "daemon/api/api.h"
#include "daemon/api/check.h"
#include "daemon/sandbox/sandbox.h"
#include "daemon/store/store.h"

/* ---- api.c ---- */

struct idem_flight;
struct refusals;
struct metrics;
struct api_server {
	struct api_context context;
	char *spool_dir;
	struct http_server *http, *metrics_http;
	struct metrics *metrics;
	struct refusals *refusals;
	pthread_mutex_t idem_lock;
	pthread_cond_t idem_changed;
	struct idem_flight *flights; /* calls with an Idempotency-Key that run now */
};

/* What a request means to us; request->user, from admission to release. */
struct call {
	struct api_server *api;
	bool authenticated;
	bool audited;     /* auth/ wrote the record in its own transaction */
	int32_t recorded; /* sandbox/ did: the status in it; else 0 */
	struct store_org org;
	struct store_key key;
	struct sandbox_actor actor;
	char target[STORE_ID_MAX];     /* for the audit log */
	char detail[STORE_TEXT_MAX];   /* never a secret */
	char idem_key[STORE_TEXT_MAX]; /* "" without one; claimed by this call */
	struct upload *upload;
};

static inline struct call *call_of(const struct http_request *request)
{
	return request->user;
}

/* ---- call.c: around each handler ---- */

bool call_admit(void *context, struct http_request *request, struct http_response *response);
void call_handle(void *context, struct http_request *request, struct http_response *response);
void call_done(void *context, struct http_request *request, int status, int64_t duration_us);
void call_release(void *context, struct http_request *request);
void call_target(struct http_request *request, const char *id);
void call_detail(struct http_request *request, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The answer for a negative errno of the domain (the table in sandbox.h). */
void reply_failure(struct http_request *request, struct http_response *response, int result, const struct error *err);
/* {"error":…}; retry_after_s 0: no such header. */
void reply_refusal(struct http_request *request, struct http_response *response, int status, const char *code,
		   int64_t retry_after_s, const char *message);
/* What a client may read of a failure; an internal one goes to the log alone. */
const char *failure_text(const struct http_request *request, int result, const struct error *err);
/* The answer of a delete-all; takes the arrays. */
void reply_deleted(struct http_request *request, struct http_response *response, const char *what, json_t *deleted,
		   json_t *errors);

/* ---- idem.c ---- */

/*
 * For a POST with Idempotency-Key: true = this call is the one to run (idem_end follows); false = answered. Without a
 * key: true.
 */
bool idem_begin(struct http_request *request, struct http_response *response);
void idem_end(struct http_request *request, const struct http_response *response);
/* sandbox_spec.named: ties the key to the id. context: the request. */
void idem_named(const char *id, void *context);

/* ---- refusals.c: audit records of refusals, bounded an address ---- */

struct refusals *refusals_new(void);
void refusals_free(struct refusals *refusals);
/* True if this one is to be written; *suppressed: how many were not since the last that was. */
bool refusals_admit(struct refusals *refusals, const char *address, uint64_t *suppressed);

/* ---- metrics.c ---- */

struct metrics *metrics_new(void);
void metrics_free(struct metrics *metrics);
void metrics_request(struct metrics *metrics, const struct http_route *route, int status, int64_t duration_us);
enum metrics_timer { METRICS_CREATE, METRICS_EXEC, METRICS_TIMERS };
void metrics_time(struct metrics *metrics, enum metrics_timer timer, int64_t us);
void metrics_audit_failed(struct metrics *metrics);
extern const struct http_route metrics_route;

/* ---- view.c: rows as JSON ---- */

json_t *view_time(int64_t ms); /* null for 0 */
const char *view_sandbox_status(enum sandbox_status status);
const char *view_snapshot_status(enum snapshot_status status);
json_t *view_sandbox(const struct store_sandbox *row);       /* create's answer with the extensions */
json_t *view_sandbox_full(const struct store_sandbox *row);  /* with termination */
json_t *view_sandbox_brief(const struct store_sandbox *row); /* an entry of the list */
json_t *view_snapshot(const struct store_snapshot *row);
/* {"data", "pagination"}; takes data. */
json_t *view_page(json_t *data, uint32_t page, uint32_t size, uint64_t total);
/* json_object_set_new, for rows of fields. */
void view_set(json_t *object, const char *name, json_t *value);

/* ---- spec.c: bodies of create, clone, restore ---- */

enum spec_kind { SPEC_CREATE, SPEC_CLONE, SPEC_RESTORE };
struct spec {
	struct sandbox_spec domain;
	struct sandbox_network network;
	const char *snapshot_name; /* clone */
	struct sandbox_pair *env, *metadata;
	const char **allow, **denied;
	char *env_json, *metadata_json, *network_json;
};
int spec_parse(struct http_request *request, enum spec_kind kind, struct spec *spec, struct error *err);
void spec_free(struct spec *spec);
#define _cleanup_spec_ __attribute__((cleanup(spec_free)))
/* env of a body: [A-Za-z_][A-Za-z0-9_]* to text; *pairs malloc'ed, its texts borrowed from object. */
int spec_env(const json_t *object, const char *field, struct sandbox_pair **pairs, size_t *count, struct error *err);
int spec_network(const json_t *object, struct spec *spec, struct error *err);

/* ---- handlers ---- */

http_handler sandbox_on_create, sandbox_on_list, sandbox_on_get, sandbox_on_delete, sandbox_on_delete_all,
	sandbox_on_pause, sandbox_on_resume, sandbox_on_timeout, sandbox_on_console, sandbox_on_network,
	sandbox_on_clone, sandbox_on_snapshot, sandbox_on_status, sandbox_on_logs, execute_on_call, execute_on_async,
	files_on_upload, files_on_download, snapshots_on_list, snapshots_on_delete, snapshots_on_delete_all,
	snapshots_on_restore, keys_on_create, keys_on_list, keys_on_rotate, keys_on_revoke, orgs_on_create,
	orgs_on_list, orgs_on_get, orgs_on_update, audit_on_list, audit_on_verify, usage_on_list, health_on_get,
	health_on_openapi;
extern const struct http_upload files_upload;
void upload_free(struct upload *upload);
