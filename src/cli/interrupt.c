#include "cli/interrupt.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

static volatile sig_atomic_t count;
static volatile sig_atomic_t first;
static int event = -1;

static void caught(int signal_number)
{
	int saved = errno;
	uint64_t one = 1;
	if (count == 0)
		first = signal_number;
	if (++count >= 3)
		_exit(128 + signal_number);
	if (write(event, &one, sizeof(one)) < 0) {
		/* It is readable already. */
	}
	errno = saved;
}

void interrupt_install(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action = { .sa_handler = caught };

	event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	sigemptyset(&action.sa_mask);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction old;
		/* nohup's SIG_IGN stays. */
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(signals[i], &action, NULL);
	}
	signal(SIGPIPE, SIG_IGN);
}

int interrupt_count(void)
{
	return count;
}

int interrupt_signal(void)
{
	return first;
}

int interrupt_fd(void)
{
	return event;
}

void interrupt_drain(void)
{
	uint64_t value;
	if (read(event, &value, sizeof(value)) < 0) {
		/* Nothing was there. */
	}
}

int interrupt_wait(int fd, short events, int seen)
{
	for (;;) {
		if (count > seen)
			return -EINTR;
		struct pollfd fds[] = { { .fd = fd, .events = events }, { .fd = event, .events = POLLIN } };
		int r = poll(fds, 2, -1);
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0 && fds[1].revents)
			interrupt_drain();
		if (r > 0 && fds[0].revents)
			return 0;
	}
}
