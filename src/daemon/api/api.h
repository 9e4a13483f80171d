/*
 * The HTTP API (reference: api/openapi.yaml): what each route does with the domain, the store and the keys.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/http/http.h"

struct audit_copy;
struct store;
struct sandboxes;
struct auth;

struct api_context {
	struct store *store;
	struct sandboxes *sandboxes;
	struct auth *auth;
	const struct audit_copy *audit_copy; /* may be NULL */
	const char *engine;                  /* for /healthz: "qemu", "akira-vmm" */
};

struct api_config {
	struct http_config http;
	const char
		*metrics_address; /* NULL: no metrics. Keep it to loopback or a private network: it asks for no key */
	uint16_t metrics_port;
	const char *spool_dir; /* uploads whose file comes before its path wait here, unnamed */
};

struct api_server;
/* Listens when it returns. context's members must outlive the server; config may go. */
int api_start(const struct api_config *config, const struct api_context *context, struct api_server **server,
	      struct error *err);
/* See http_stop. -EBUSY: the context must not be freed. */
int api_stop(struct api_server *server, unsigned grace_ms);
int api_reload_tls(struct api_server *server, struct error *err);
uint16_t api_port(const struct api_server *server);
uint16_t api_metrics_port(const struct api_server *server);
const struct http_route *api_routes(size_t *count);
/* Prometheus text format 0.0.4, malloc'ed; NULL: no memory. */
char *api_metrics(struct api_server *server, size_t *size);
