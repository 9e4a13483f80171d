/* The control channel against a QEMU that the test plays, also one that its guest has taken over. */
#include "daemon/engine/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/time.h"

#define GREETING "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\r\n"
#define OK "{\"return\":{}}\r\n"
#define LONG_MS 5000

struct fake {
	int ours, theirs;
	struct qmp *qmp;
	struct error err;
};

static void say(struct fake *f, const char *text)
{
	assert_int_equal(fd_write_all(f->theirs, text, strlen(text)), 0);
}

static int setup(void **state)
{
	struct fake *f = calloc(1, sizeof(*f));
	int pair[2];

	assert_non_null(f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f->ours = pair[0];
	f->theirs = pair[1];
	*state = f;
	return 0;
}

static int opened(void **state)
{
	char text[128] = "";

	setup(state);
	struct fake *f = *state;
	say(f, GREETING OK);
	assert_int_equal(qmp_open(fd_steal(&f->ours), LONG_MS, &f->qmp, &f->err), 0);
	assert_true(read(f->theirs, text, sizeof(text) - 1) > 0);
	assert_string_equal(text, "{\"execute\":\"qmp_capabilities\"}");
	return 0;
}

static int teardown(void **state)
{
	struct fake *f = *state;

	qmp_free(f->qmp);
	fd_close(&f->ours);
	fd_close(&f->theirs);
	free(f);
	return 0;
}

static int run(struct fake *f, int timeout_ms)
{
	return qmp_command(f->qmp, "cont", NULL, -1, timeout_ms, NULL, &f->err);
}

static void stays_broken(struct fake *f)
{
	char byte;

	while (recv(f->theirs, &byte, 1, MSG_DONTWAIT) == 1)
		;
	say(f, OK);
	assert_int_equal(run(f, LONG_MS), -EIO);
	assert_int_equal(qmp_wait_event(f->qmp, "STOP", LONG_MS, NULL, &f->err), -EIO);
	assert_int_equal(recv(f->theirs, &byte, 1, MSG_DONTWAIT), -1); /* nothing was sent any more */
}

/* ---- opening ---- */

static int try_open(struct fake *f, const char *text, int timeout_ms)
{
	say(f, text);
	return qmp_open(fd_steal(&f->ours), timeout_ms, &f->qmp, &f->err);
}

static void greeting_that_is_none(void **state)
{
	assert_int_equal(try_open(*state, "{\"hello\":1}\r\n" OK, LONG_MS), -EBADMSG);
}

static void greeting_that_does_not_come(void **state)
{
	assert_int_equal(try_open(*state, "{\"QMP\":", 50), -EIO);
}

static void capabilities_are_refused(void **state)
{
	assert_int_equal(try_open(*state, GREETING "{\"error\":{\"class\":\"E\",\"desc\":\"no\"}}\n", LONG_MS),
			 -EREMOTEIO);
}

/* ---- commands ---- */

static void result(void **state)
{
	struct fake *f = *state;
	json_t *answer = NULL;
	char text[256] = "";

	say(f, "{\"return\":{\"status\":\"completed\"}}\r\n");
	assert_int_equal(
		qmp_command(f->qmp, "query-migrate", json_pack("{s:i}", "a", 7), -1, LONG_MS, &answer, &f->err), 0);
	assert_string_equal(json_string_value(json_object_get(answer, "status")), "completed");
	json_decref(answer);
	assert_true(read(f->theirs, text, sizeof(text) - 1) > 0);
	assert_string_equal(text, "{\"execute\":\"query-migrate\",\"arguments\":{\"a\":7}}");
}

static void answer_in_pieces(void **state)
{
	struct fake *f = *state;

	say(f, "{\"ret");
	say(f, "urn\":{");
	say(f, "}}\r\n{\"event\":\"STOP\"}\n");
	assert_int_equal(run(f, LONG_MS), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "STOP", LONG_MS, NULL, &f->err), 0);
}

static void refusal_is_not_the_end(void **state)
{
	struct fake *f = *state;

	say(f, "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such node\"}}\r\n");
	assert_int_equal(run(f, LONG_MS), -EREMOTEIO);
	assert_string_equal(f->err.text, "cont: no such node");
	say(f, "{\"error\":7}\r\n");
	assert_int_equal(run(f, LONG_MS), -EREMOTEIO);
	assert_string_equal(f->err.text, "cont: refused");
	say(f, OK);
	assert_int_equal(run(f, LONG_MS), 0);
}

static void events_between(void **state)
{
	struct fake *f = *state;
	json_t *data = NULL;

	say(f,
	    "{\"event\":\"RESUME\",\"data\":{\"n\":1}}\n{\"event\":\"STOP\",\"data\":{\"n\":2}}\n{\"event\":7}\n" OK);
	assert_int_equal(run(f, LONG_MS), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "STOP", LONG_MS, &data, &f->err), 0);
	assert_int_equal(json_integer_value(json_object_get(data, "n")), 2);
	json_decref(data);
	say(f, "{\"event\":\"JOB\"}\n");
	assert_int_equal(qmp_wait_event(f->qmp, "JOB", LONG_MS, NULL, &f->err), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "RESUME", LONG_MS, NULL, &f->err), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "RESUME", 20, NULL, &f->err), -EIO); /* each is taken once */
}

static void events_of_an_earlier_command_are_forgotten(void **state)
{
	struct fake *f = *state;

	say(f, "{\"event\":\"STOP\"}\n" OK);
	assert_int_equal(run(f, LONG_MS), 0);
	say(f, OK);
	assert_int_equal(run(f, LONG_MS), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "STOP", 20, NULL, &f->err), -EIO);
}

static void malformed(void **state)
{
	static const char *const texts[] = {
		"hello\n", "\n", "[]\n", "{\"return\":{}\n", "\xff\xfe\n", "{\"id\":1}\n", "{}\n", "{\"return\":{},}\n",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		void *own;
		opened(&own);
		struct fake *f = own;
		say(f, texts[i]);
		assert_int_equal(run(f, LONG_MS), -EBADMSG);
		stays_broken(f);
		teardown(&own);
	}
	(void)state;
}

static void no_answer(void **state)
{
	struct fake *f = *state;

	assert_int_equal(run(f, 50), -EIO);
	stays_broken(f); /* its late answer would else be the next command's */
}

static void end_of_file(void **state)
{
	struct fake *f = *state;

	shutdown(f->theirs, SHUT_WR);
	assert_int_equal(run(f, LONG_MS), -EIO);
	assert_int_equal(run(f, LONG_MS), -EIO);
}

/* ---- a hostile one ---- */

struct flood {
	pthread_t thread;
	int fd;
	const char *text;
	size_t size;
};

static void *flood_main(void *context)
{
	struct flood *flood = context;

	while (send(flood->fd, flood->text, flood->size, MSG_NOSIGNAL) > 0)
		;
	return NULL;
}

static void flooded(struct fake *f, const char *text, size_t size, int expected)
{
	struct flood flood = { .fd = f->theirs, .text = text, .size = size };
	int64_t begin = time_mono_ms();

	assert_int_equal(pthread_create(&flood.thread, NULL, flood_main, &flood), 0);
	assert_int_equal(run(f, 300), expected);
	assert_in_range(time_mono_ms() - begin, 0, 20000);
	qmp_free(f->qmp);
	f->qmp = NULL;
	pthread_join(flood.thread, NULL);
}

static void flood_of_events(void **state)
{
	static const char event[] = "{\"event\":\"STOP\"}\n";
	flooded(*state, event, sizeof(event) - 1, -EIO);
}

static void line_without_end(void **state)
{
	static char text[4096];
	memset(text, ' ', sizeof(text));
	flooded(*state, text, sizeof(text), -EMSGSIZE);
}

static void large_events_are_not_kept(void **state)
{
	struct fake *f = *state;
	static char text[6000];

	memset(text, ' ', sizeof(text));
	memcpy(text, "{\"event\":\"BIG\"", 14);
	memcpy(text + sizeof(text) - 3, "}\n", 3);
	say(f, text);
	say(f, "{\"event\":\"STOP\"}\n" OK);
	assert_int_equal(run(f, LONG_MS), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "STOP", LONG_MS, NULL, &f->err), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "BIG", 20, NULL, &f->err), -EIO);
}

static void many_events(void **state)
{
	struct fake *f = *state;
	char text[64];

	for (int i = 0; i < 200; i++) {
		snprintf(text, sizeof(text), "{\"event\":\"E%d\"}\n", i);
		say(f, text);
	}
	say(f, OK);
	assert_int_equal(run(f, LONG_MS), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "E199", LONG_MS, NULL, &f->err), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "E136", LONG_MS, NULL, &f->err), 0);
	assert_int_equal(qmp_wait_event(f->qmp, "E100", 20, NULL, &f->err), -EIO);
}

static void deep_json(void **state)
{
	struct fake *f = *state;
	static char text[100001];

	memset(text, '[', sizeof(text) - 2);
	text[sizeof(text) - 2] = '\n';
	text[sizeof(text) - 1] = '\0';
	say(f, text);
	assert_int_equal(run(f, LONG_MS), -EBADMSG);
}

/* ---- descriptors, and the end ---- */

static void passes_a_descriptor(void **state)
{
	struct fake *f = *state;
	_cleanup_fd_ int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct stat want, got;
	char text[256];
	int fds[2] = { -1, -1 };
	size_t count;

	say(f, OK);
	assert_int_equal(
		qmp_command(f->qmp, "getfd", json_pack("{s:s}", "fdname", "state"), file, LONG_MS, NULL, &f->err), 0);
	assert_true(fd_recv(f->theirs, text, sizeof(text), fds, 2, &count) > 0);
	assert_int_equal(count, 1);
	assert_int_equal(fstat(file, &want), 0);
	assert_int_equal(fstat(fds[0], &got), 0);
	assert_int_equal(want.st_rdev, got.st_rdev);
	close(fds[0]);
}

static void reason_of_shutdown(void **state)
{
	struct fake *f = *state;
	char reason[32] = "x";

	say(f,
	    "{\"event\":\"POWERDOWN\"}\n{\"event\":\"SHUTDOWN\",\"data\":{\"guest\":true,\"reason\":\"guest-panic\"}}\n");
	shutdown(f->theirs, SHUT_RDWR);
	qmp_shutdown_reason(f->qmp, reason);
	assert_string_equal(reason, "guest-panic");
}

static void no_reason(void **state)
{
	struct fake *f = *state;
	char reason[32] = "x";

	say(f, "{\"event\":\"SHUTDOWN\",\"data\":{\"reason\":\"much longer than thirty-one characters\"}}\n");
	shutdown(f->theirs, SHUT_RDWR);
	qmp_shutdown_reason(f->qmp, reason);
	assert_string_equal(reason, "");
}

#define OPENING(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define CASE(name) cmocka_unit_test_setup_teardown(name, opened, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		OPENING(greeting_that_is_none),
		OPENING(greeting_that_does_not_come),
		OPENING(capabilities_are_refused),
		CASE(result),
		CASE(answer_in_pieces),
		CASE(refusal_is_not_the_end),
		CASE(events_between),
		CASE(events_of_an_earlier_command_are_forgotten),
		cmocka_unit_test(malformed),
		CASE(no_answer),
		CASE(end_of_file),
		CASE(flood_of_events),
		CASE(line_without_end),
		CASE(large_events_are_not_kept),
		CASE(many_events),
		CASE(deep_json),
		CASE(passes_a_descriptor),
		CASE(reason_of_shutdown),
		CASE(no_reason),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
