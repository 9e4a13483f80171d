#include "daemon/api/internal.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static void server_free(struct api_server *server)
{
	metrics_free(server->metrics);
	refusals_free(server->refusals);
	pthread_cond_destroy(&server->idem_changed);
	pthread_mutex_destroy(&server->idem_lock);
	free(server->spool_dir);
	free(server);
}

static struct api_server *server_new(const struct api_config *config, const struct api_context *context)
{
	struct api_server *server = calloc(1, sizeof(*server));
	if (!server)
		return NULL;
	server->context = *context;
	server->spool_dir = strdup(config->spool_dir ? config->spool_dir : "/var/tmp");
	server->metrics = metrics_new();
	server->refusals = refusals_new();
	pthread_mutex_init(&server->idem_lock, NULL);
	pthread_cond_init(&server->idem_changed, NULL);
	if (server->spool_dir && server->metrics && server->refusals)
		return server;
	server_free(server);
	return NULL;
}

static int start_metrics(struct api_server *server, const struct api_config *config, struct error *err)
{
	struct http_hooks hooks = { .context = server, .admit = call_admit, .release = call_release };
	struct http_config http = {
		.address = config->metrics_address,
		.port = config->metrics_port,
		.connections_max = 32,
	};
	return http_start(&http, &metrics_route, 1, &hooks, &server->metrics_http, err);
}

int api_start(const struct api_config *config, const struct api_context *context, struct api_server **out,
	      struct error *err)
{
	size_t count;
	const struct http_route *routes = api_routes(&count);

	if (sodium_init() < 0)
		return error_set(err, EIO, "libsodium does not start");
	struct api_server *server = server_new(config, context);
	if (!server)
		return error_set(err, ENOMEM, "out of memory");
	struct http_hooks hooks = {
		.context = server,
		.admit = call_admit,
		.handle = call_handle,
		.done = call_done,
		.release = call_release,
	};
	int r = http_start(&config->http, routes, count, &hooks, &server->http, err);
	if (r == 0 && config->metrics_address) {
		r = start_metrics(server, config, err);
		if (r < 0)
			http_stop(server->http, 0);
	}
	if (r < 0) {
		server_free(server);
		return r;
	}
	*out = server;
	return 0;
}

int api_stop(struct api_server *server, unsigned grace_ms)
{
	if (!server)
		return 0;
	/* Its handler reads the figures of the other: it goes first. */
	int r = http_stop(server->metrics_http, 1000);
	if (r == 0)
		r = http_stop(server->http, grace_ms);
	if (r == 0)
		server_free(server);
	return r;
}

int api_reload_tls(struct api_server *server, struct error *err)
{
	return http_reload_tls(server->http, err);
}

uint16_t api_port(const struct api_server *server)
{
	return http_port(server->http);
}

uint16_t api_metrics_port(const struct api_server *server)
{
	return server->metrics_http ? http_port(server->metrics_http) : 0;
}
