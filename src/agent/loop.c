#include "agent/loop.h"

#include <errno.h>
#include <sys/epoll.h>

#include "base/fd.h"

int loop_init(struct loop *loop)
{
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	return loop->epoll < 0 ? -errno : 0;
}

int loop_add(struct loop *loop, struct watch *watch, int fd, uint32_t events, void (*ready)(struct watch *, uint32_t))
{
	struct epoll_event event = { .events = events | EPOLLET, .data.ptr = watch };

	watch->fd = fd;
	watch->ready = ready;
	if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	int code = errno;
	loop_drop(watch);
	return -code;
}

void loop_change(struct loop *loop, struct watch *watch, uint32_t events)
{
	struct epoll_event event = { .events = events | EPOLLET, .data.ptr = watch };

	/* Fails only for a descriptor that is not there. */
	epoll_ctl(loop->epoll, EPOLL_CTL_MOD, watch->fd, &event);
}

void loop_drop(struct watch *watch)
{
	watch->ready = NULL;
	fd_close(&watch->fd);
}

void loop_wait(struct loop *loop, int timeout_ms)
{
	struct epoll_event events[64];
	int count = epoll_wait(loop->epoll, events, 64, timeout_ms);

	for (int i = 0; i < count; i++) {
		struct watch *watch = events[i].data.ptr;
		if (watch->ready)
			watch->ready(watch, events[i].events);
	}
}
