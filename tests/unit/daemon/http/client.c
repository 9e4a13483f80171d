#include "client.h"

#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/time.h"

int client_connect(uint16_t port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

/* The server may have closed already: that is for the reading side to see. */
void client_send_n(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
		if (n <= 0)
			return;
		data += n;
		size -= (size_t)n;
	}
}

void client_send(int fd, const char *text)
{
	client_send_n(fd, text, strlen(text));
}

static char *read_some(int fd, const char *needle, int ms, bool *closed)
{
	struct buf all = { 0 };
	int64_t deadline = time_mono_ms() + ms;
	bool end = false;

	while (!end && !(needle && strstr(buf_text(&all), needle))) {
		struct pollfd wait = { .fd = fd, .events = POLLIN };
		if (poll(&wait, 1, time_left_ms(deadline)) <= 0)
			break;
		char part[65536];
		ssize_t n = recv(fd, part, sizeof(part), 0);
		end = n <= 0;
		if (!end)
			assert_int_equal(buf_add(&all, part, (size_t)n), 0);
	}
	if (closed)
		*closed = end;
	if (needle && !strstr(buf_text(&all), needle)) {
		buf_free(&all);
		return NULL;
	}
	return all.data ? all.data : strdup("");
}

char *client_read_all(int fd, int ms, bool *closed)
{
	return read_some(fd, NULL, ms, closed);
}

char *client_read_until(int fd, const char *needle, int ms)
{
	return read_some(fd, needle, ms, NULL);
}

char *client_once(uint16_t port, const char *request)
{
	bool closed;
	int fd = client_connect(port);

	client_send(fd, request);
	char *answer = client_read_all(fd, 20000, &closed);
	close(fd);
	assert_true(closed);
	return answer;
}

int client_status(const char *answer)
{
	int status = 0;
	sscanf(answer, "HTTP/1.1 %d", &status);
	return status;
}

const char *client_body(const char *answer)
{
	const char *end = strstr(answer, "\r\n\r\n");
	return end ? end + 4 : "";
}
