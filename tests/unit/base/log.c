/* Lines of the log, caught from standard error: no value can forge one, or make one disappear. */
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/str.h"

static int saved = -1, caught = -1;
static char text[4 << 20];

static void catch_lines(void)
{
	FILE *file = tmpfile();

	assert_non_null(file);
	caught = dup(fileno(file));
	fclose(file);
	saved = dup(STDERR_FILENO);
	assert_true(caught >= 0 && saved >= 0);
	dup2(caught, STDERR_FILENO);
}

static const char *caught_lines(void)
{
	dup2(saved, STDERR_FILENO);
	fd_close(&saved);
	lseek(caught, 0, SEEK_SET);
	ssize_t n = fd_read_all(caught, text, sizeof(text) - 1);
	fd_close(&caught);
	assert_true(n >= 0);
	text[n] = '\0';
	return text;
}

static size_t count_lines(const char *lines)
{
	size_t n = 0;
	for (; *lines; lines++)
		n += *lines == '\n';
	return n;
}

static void json_line(void **state)
{
	(void)state;
	log_init("test", "json", LOG_INFO_);
	catch_lines();
	log_info("made", "id", "sbx_1", "none", NULL, "n", LOG_INT(-42));
	log_debug("not_written", "id", "sbx_2");
	const char *line = caught_lines();
	assert_non_null(strstr(
		line, "\"level\":\"info\",\"program\":\"test\",\"event\":\"made\",\"id\":\"sbx_1\",\"n\":\"-42\"}\n"));
	assert_true(str_starts(line, "{\"time\":\"2"));
	assert_int_equal(count_lines(line), 1);
}

static void hostile_values(void **state)
{
	static const char hostile[] = "a\"}\n{\"event\":\"forged\"\\\x1b[31m\x7f\r\xff\xc2\x9b"
				      "31m\xe2\x82\xac";

	(void)state;
	for (int json = 0; json < 2; json++) {
		log_init("test", json ? "json" : "text", LOG_INFO_);
		catch_lines();
		log_warn("said", "words", hostile);
		const char *line = caught_lines();
		assert_int_equal(count_lines(line), 1);
		assert_true(str_is_utf8(line, strlen(line)));
		assert_non_null(strstr(
			line, "a\\\"}\\u000a{\\\"event\\\":\\\"forged\\\"\\\\\\u001b[31m\\u007f\\u000d\xef\xbf\xbd"
			      "\\u009b31m\xe2\x82\xac"));
		for (const char *p = line; *p; p++)
			assert_true((unsigned char)*p >= 0x20 || *p == '\n');
	}
}

static void text_line(void **state)
{
	(void)state;
	log_init("test", "text", LOG_DEBUG_);
	catch_lines();
	log_debug("made", "plain", "abc", "spaces", "a b", "empty", "", "equals", "a=b");
	const char *line = caught_lines();
	assert_non_null(strstr(line, "debug test made plain=abc spaces=\"a b\" empty=\"\" equals=\"a=b\"\n"));
}

/* Each byte of these becomes six. */
static void huge_values_are_cut_not_lost(void **state)
{
	static char value[20001];

	(void)state;
	memset(value, '\1', sizeof(value) - 1);
	log_init("test", "json", LOG_INFO_);
	catch_lines();
	log_error("attack", "a", value, "b", value, "c", value, "d", "last");
	const char *line = caught_lines();
	assert_non_null(strstr(line, "\"event\":\"attack\""));
	assert_true(str_ends(line, "\"}\n"));
	assert_int_equal(count_lines(line), 1);
	assert_in_range(strlen(line), 50000, 65536);

	for (size_t i = 0; i + 3 <= sizeof(value); i += 3)
		memcpy(value + i, "\xe2\x82\xac", 3);
	catch_lines();
	log_error("attack", "a", value, "b", value, "c", value, "d", value, "e", value, "f", value, "g", value, "h",
		  value);
	line = caught_lines();
	assert_true(str_ends(line, "\"}\n"));
	assert_true(str_is_utf8(line, strlen(line)));
}

static void *write_lines(void *context)
{
	(void)context;
	for (int i = 0; i < 500; i++)
		log_info("line", "some", "words to make it longer than a moment", "n", LOG_INT(i));
	return NULL;
}

static void lines_of_threads_do_not_mix(void **state)
{
	pthread_t threads[8];

	(void)state;
	log_init("test", "json", LOG_INFO_);
	catch_lines();
	/* As a log file is opened: each write goes to its end. */
	fcntl(STDERR_FILENO, F_SETFL, O_APPEND);
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_lines, NULL), 0);
	for (int i = 0; i < 8; i++)
		pthread_join(threads[i], NULL);
	char *lines = strdup(caught_lines()), *save = NULL;
	size_t count = 0;
	for (char *line = strtok_r(lines, "\n", &save); line; line = strtok_r(NULL, "\n", &save), count++) {
		assert_true(str_starts(line, "{\"time\":"));
		assert_true(str_ends(line, "\"}"));
	}
	assert_int_equal(count, 4000);
	free(lines);
}

static void limits(void **state)
{
	struct log_limit limit = { 0 };
	int allowed = 0;

	(void)state;
	for (int i = 0; i < 100; i++)
		allowed += log_allowed(&limit, 3, 3600);
	assert_int_equal(allowed, 3);
	limit.since -= 3601 * 1000;
	assert_true(log_allowed(&limit, 3, 3600));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json_line),
		cmocka_unit_test(hostile_values),
		cmocka_unit_test(text_line),
		cmocka_unit_test(huge_values_are_cut_not_lost),
		cmocka_unit_test(lines_of_threads_do_not_mix),
		cmocka_unit_test(limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
