#include "doctor/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"

#define HEALTH_MS 3000

static void check_user(struct doctor *d)
{
	char text[DOCTOR_FILE_MAX];
	doctor_read(d, "/etc/passwd", text, sizeof(text));
	bool there = strncmp(text, "akira:", 6) == 0 || strstr(text, "\nakira:");
	doctor_add(d, "user", there ? DOCTOR_OK : DOCTOR_FAIL,
		   there ? NULL : "useradd --system --home-dir /var/lib/akira --shell /usr/sbin/nologin akira",
		   there ? "akira exists" : "there is no user akira, which akirad becomes");
}

static void check_unit(struct doctor *d)
{
	static const char *const paths[] = { "/etc/systemd/system/akirad.service", "/lib/systemd/system/akirad.service",
					     "/usr/lib/systemd/system/akirad.service" };
	if (!doctor_exists(d, "/run/systemd/system")) {
		doctor_add(d, "systemd", DOCTOR_INFO, "Have your own supervisor start akirad as root.",
			   "not running here");
		return;
	}
	for (size_t i = 0; i < 3; i++)
		if (doctor_exists(d, paths[i])) {
			doctor_add(d, "systemd", DOCTOR_OK, NULL, "%s", paths[i]);
			return;
		}
	doctor_add(d, "systemd", DOCTOR_INFO, "Install packaging/akirad.service to have akirad started at boot.",
		   "no akirad.service");
}

static int connect_to(uint16_t port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons(port),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	_cleanup_fd_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno != EINPROGRESS)
		return -errno;
	struct pollfd wait = { .fd = fd, .events = POLLOUT };
	int failure = 0;
	socklen_t size = sizeof(failure);
	if (poll(&wait, 1, HEALTH_MS) <= 0)
		return -ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) < 0 || failure)
		return failure ? -failure : -errno;
	return fd_steal(&fd);
}

/* The whole answer to GET /healthz, in at most size - 1 bytes. */
static int ask_health(int fd, char *answer, size_t size)
{
	static const char question[] = "GET /healthz HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n";
	int64_t deadline = time_mono_ms() + HEALTH_MS;
	size_t used = 0;
	if (send(fd, question, sizeof(question) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(question) - 1)
		return -EIO;
	while (used + 1 < size) {
		struct pollfd wait = { .fd = fd, .events = POLLIN };
		if (poll(&wait, 1, time_left_ms(deadline)) <= 0)
			return -ETIMEDOUT;
		ssize_t got = recv(fd, answer + used, size - 1 - used, 0);
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		used += (size_t)got;
	}
	answer[used] = '\0';
	return 0;
}

static void check_daemon(struct doctor *d)
{
	char answer[4096];
	uint16_t port = d->config->port;
	if (d->config->looks_only)
		return;
	_cleanup_fd_ int fd = connect_to(port);
	if (fd < 0) {
		doctor_add(d, "akirad", DOCTOR_INFO, NULL, "not running: port %u is free", port);
		return;
	}
	int r = ask_health(fd, answer, sizeof(answer));
	char *body = r == 0 ? strstr(answer, "\r\n\r\n") : NULL;
	bool ours = body && strstr(answer, "application/json");
	if (!ours)
		doctor_add(d, "akirad", DOCTOR_FAIL, "Stop that program, or give akirad another port.",
			   "port %u is taken by something else", port);
	else if (!strstr(answer, " 200 "))
		doctor_add(d, "akirad", DOCTOR_FAIL, "See its log: journalctl -u akirad.", "unwell: %.250s", body + 4);
	else
		doctor_add(d, "akirad", DOCTOR_OK, NULL, "%.300s", body + 4);
}

void doctor_check_service(struct doctor *d)
{
	check_user(d);
	check_unit(d);
	check_daemon(d);
}
