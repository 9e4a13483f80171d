#include "daemon/engine/qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/json/text.h"

#define MESSAGE_MAX (256 << 10)
#define EVENTS_MAX 64
#define EVENT_BYTES_MAX 4096 /* longer ones are not kept: none that we wait for is */
#define SEND_S 10

struct qmp {
	int fd;
	bool broken;
	struct buf in;
	size_t message_bytes; /* of the latest message */
	json_t *events;       /* array, oldest first, at most EVENTS_MAX */
};

static int broken(struct qmp *qmp, struct error *err, int code, const char *why)
{
	qmp->broken = true;
	return error_set(err, code, "the VM's control channel: %s", why);
}

/* A whole line out of what was read, or NULL. */
static json_t *take_line(struct qmp *qmp, bool *malformed)
{
	char *end = qmp->in.size ? memchr(qmp->in.data, '\n', qmp->in.size) : NULL;
	if (!end)
		return NULL;
	size_t length = (size_t)(end - qmp->in.data);
	json_t *message = json_loadb(qmp->in.data, length, 0, NULL);
	if (!json_is_object(message)) {
		json_decref(message);
		message = NULL;
		*malformed = true;
	}
	buf_drop(&qmp->in, length + 1);
	qmp->message_bytes = length;
	return message;
}

static int fill(struct qmp *qmp, int64_t deadline, struct error *err)
{
	struct pollfd poller = { .fd = qmp->fd, .events = POLLIN };
	int ready;

	do
		ready = poll(&poller, 1, time_left_ms(deadline));
	while (ready < 0 && errno == EINTR);
	if (ready <= 0)
		return broken(qmp, err, EIO, "no answer in time");
	void *room = buf_room(&qmp->in, 16384);
	if (!room)
		return broken(qmp, err, EMSGSIZE, "a message is too long");
	ssize_t n = recv(qmp->fd, room, 16384, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		return broken(qmp, err, EIO, "closed");
	if (n > 0)
		buf_grown(&qmp->in, (size_t)n);
	return 0;
}

static int next_message(struct qmp *qmp, int64_t deadline, json_t **message, struct error *err)
{
	for (int passed = 0;; passed++) {
		bool malformed = false;
		*message = take_line(qmp, &malformed);
		if (*message)
			return 0;
		/* Whoever sends a byte at a time never lets poll come to its bound. */
		if (passed > 0 && time_left_ms(deadline) == 0)
			return broken(qmp, err, EIO, "no answer in time");
		if (malformed)
			return broken(qmp, err, EBADMSG, "a message is malformed");
		int r = fill(qmp, deadline, err);
		if (r < 0)
			return r;
	}
}

static void keep_event(struct qmp *qmp, json_t *message)
{
	if (qmp->message_bytes > EVENT_BYTES_MAX)
		return;
	if (json_array_size(qmp->events) >= EVENTS_MAX)
		json_array_remove(qmp->events, 0);
	json_array_append(qmp->events, message);
}

int qmp_open(int fd, int timeout_ms, struct qmp **out, struct error *err)
{
	struct qmp *qmp = calloc(1, sizeof(*qmp));
	if (!qmp) {
		fd_close(&fd);
		return error_set(err, ENOMEM, "no memory for a control channel");
	}
	qmp->fd = fd;
	qmp->in.max = MESSAGE_MAX;
	qmp->events = json_array();
	/* QEMU may answer what it never read: its full socket must not hold us. */
	struct timeval limit = { .tv_sec = SEND_S };
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));

	json_t *greeting = NULL;
	int r = next_message(qmp, time_mono_ms() + timeout_ms, &greeting, err);
	if (r == 0 && !json_object_get(greeting, "QMP"))
		r = broken(qmp, err, EBADMSG, "no greeting");
	json_decref(greeting);
	if (r == 0)
		r = qmp_command(qmp, "qmp_capabilities", NULL, -1, timeout_ms, NULL, err);
	if (r < 0) {
		qmp_free(qmp);
		return r;
	}
	*out = qmp;
	return 0;
}

void qmp_free(struct qmp *qmp)
{
	if (!qmp)
		return;
	fd_close(&qmp->fd);
	buf_free(&qmp->in);
	json_decref(qmp->events);
	free(qmp);
}

static int send_command(struct qmp *qmp, const char *name, json_t *arguments, int pass_fd, struct error *err)
{
	json_t *message = json_object();
	json_object_set_new(message, "execute", json_string(name));
	if (arguments)
		json_object_set_new(message, "arguments", arguments);
	_cleanup_free_ char *text = json_text(message, JSON_COMPACT);
	json_decref(message);
	if (!text)
		return error_set(err, ENOMEM, "no memory for a command");
	int r = fd_send(qmp->fd, text, strlen(text), &pass_fd, pass_fd >= 0 ? 1 : 0);
	return r < 0 ? broken(qmp, err, EIO, "cannot be written") : 0;
}

static int take_answer(struct qmp *qmp, json_t *message, const char *name, json_t **result, struct error *err)
{
	json_t *failure = json_object_get(message, "error");
	if (failure) {
		const char *words = json_string_value(json_object_get(failure, "desc"));
		return error_set(err, EREMOTEIO, "%s: %.200s", name, words ? words : "refused");
	}
	json_t *answer = json_object_get(message, "return");
	if (!answer)
		return broken(qmp, err, EBADMSG, "an answer is malformed");
	if (result)
		*result = json_incref(answer);
	return 0;
}

int qmp_command(struct qmp *qmp, const char *name, json_t *arguments, int pass_fd, int timeout_ms, json_t **result,
		struct error *err)
{
	int64_t deadline = time_mono_ms() + timeout_ms;

	if (qmp->broken) {
		json_decref(arguments);
		return error_set(err, EIO, "the VM's control channel is broken");
	}
	json_array_clear(qmp->events);
	int r = send_command(qmp, name, arguments, pass_fd, err);
	while (r == 0) {
		json_t *message = NULL;
		r = next_message(qmp, deadline, &message, err);
		if (r < 0)
			break;
		if (!json_object_get(message, "event")) {
			r = take_answer(qmp, message, name, result, err);
			json_decref(message);
			break;
		}
		keep_event(qmp, message);
		json_decref(message);
		/* A flood of events is no answer. */
		if (time_left_ms(deadline) == 0)
			r = broken(qmp, err, EIO, "no answer in time");
	}
	return r;
}

static json_t *find_event(struct qmp *qmp, const char *name)
{
	size_t i;
	json_t *event;

	json_array_foreach(qmp->events, i, event)
	{
		const char *is = json_string_value(json_object_get(event, "event"));
		if (is && strcmp(is, name) == 0)
			return event;
	}
	return NULL;
}

static bool has_event(struct qmp *qmp, const char *name, json_t **data)
{
	size_t i;
	json_t *event;

	json_array_foreach(qmp->events, i, event)
	{
		const char *is = json_string_value(json_object_get(event, "event"));
		if (!is || strcmp(is, name) != 0)
			continue;
		if (data)
			*data = json_incref(json_object_get(event, "data"));
		json_array_remove(qmp->events, i);
		return true;
	}
	return false;
}

int qmp_wait_event(struct qmp *qmp, const char *name, int timeout_ms, json_t **data, struct error *err)
{
	int64_t deadline = time_mono_ms() + timeout_ms;

	while (!has_event(qmp, name, data)) {
		json_t *message = NULL;
		int r = qmp->broken ? error_set(err, EIO, "the VM's control channel is broken")
				    : next_message(qmp, deadline, &message, err);
		if (r < 0)
			return r;
		keep_event(qmp, message);
		json_decref(message);
		if (time_left_ms(deadline) == 0 && !find_event(qmp, name))
			return broken(qmp, err, EIO, "no event in time");
	}
	return 0;
}

void qmp_shutdown_reason(struct qmp *qmp, char reason[32])
{
	int64_t deadline = time_mono_ms() + 1000;
	json_t *message = NULL;

	/* The peer is gone, so this ends at the end of what it sent. */
	while (!qmp->broken && next_message(qmp, deadline, &message, NULL) == 0) {
		keep_event(qmp, message);
		json_decref(message);
		if (time_left_ms(deadline) == 0)
			break;
	}
	json_t *data = json_object_get(find_event(qmp, "SHUTDOWN"), "data");
	const char *words = json_string_value(json_object_get(data, "reason"));
	if (!words || str_copy(reason, 32, words) < 0)
		reason[0] = '\0';
}
