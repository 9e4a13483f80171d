#include "daemon/http/internal.h"

#include <errno.h>

static bool take_place(struct http_server *server)
{
	pthread_mutex_lock(&server->lock);
	bool free_place = server->jobs < server->config.jobs_max;
	server->jobs += free_place;
	pthread_mutex_unlock(&server->lock);
	return free_place;
}

static void leave_place(struct http_server *server)
{
	pthread_mutex_lock(&server->lock);
	server->jobs--;
	pthread_cond_broadcast(&server->idle);
	pthread_mutex_unlock(&server->lock);
}

static void *work(void *pointer)
{
	struct exchange *exchange = pointer;
	struct http_server *server = exchange->server;

	exchange_handle(exchange);
	exchange_told(exchange, exchange->response.status);
	pthread_mutex_lock(&exchange->lock);
	exchange->finished = true;
	pthread_cond_broadcast(&exchange->changed);
	pthread_mutex_unlock(&exchange->lock);
	exchange_put(exchange);
	leave_place(server);
	return NULL;
}

static int start(struct exchange *exchange)
{
	pthread_attr_t attributes;
	pthread_t thread;

	exchange_get(exchange);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, (size_t)1 << 20);
	int code = pthread_create(&thread, &attributes, work, exchange);
	pthread_attr_destroy(&attributes);
	if (code != 0)
		exchange_put(exchange);
	return -code;
}

int job_run(struct exchange *exchange)
{
	struct http_server *server = exchange->server;

	if (!take_place(server))
		return -EAGAIN;
	if (start(exchange) < 0) {
		leave_place(server);
		return -EAGAIN;
	}
	exchange->early = !exchange_wait(exchange, server->config.early_ms);
	return exchange->early ? -EINPROGRESS : 0;
}
