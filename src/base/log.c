#include "base/log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"

#define LINE_MAX_ 65536
#define LINE_CUT (LINE_MAX_ - 4096) /* room for the keys that follow */

static const char *log_program = "akira";
static bool log_json;
static enum log_level log_minimum = LOG_INFO_;
static const char *const level_names[] = { "debug", "info", "warn", "error" };

void log_init(const char *program, const char *format, enum log_level level)
{
	log_program = program;
	log_minimum = level;
	log_json = strcmp(format, "json") == 0 || (strcmp(format, "auto") == 0 && !isatty(STDERR_FILENO));
}

char *log_number(char to[24], int64_t number)
{
	snprintf(to, 24, "%" PRId64, number);
	return to;
}

/* UTF-8 of a C1 control: some terminals obey these too. */
static bool is_c1(const char *p)
{
	return (unsigned char)p[0] == 0xc2 && (unsigned char)p[1] >= 0x80 && (unsigned char)p[1] <= 0x9f;
}

static void add_escaped(struct buf *line, const char *text)
{
	size_t size = strnlen(text, 8192);
	_cleanup_free_ char *clean = str_to_utf8(text, size, NULL);

	/* A value is cut where it would make the line too long: whoever chose it must not make the line disappear. */
	for (const char *p = clean ? clean : "(no memory)"; *p; p++) {
		unsigned char c = (unsigned char)*p;
		if (line->size >= LINE_CUT && (c & 0xc0) != 0x80)
			break;
		if (c == '"' || c == '\\')
			buf_addf(line, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			buf_addf(line, "\\u%04x", c);
		else if (is_c1(p))
			buf_addf(line, "\\u%04x", (unsigned char)*++p);
		else
			buf_add(line, p, 1);
	}
}

static void add_pair(struct buf *line, const char *key, const char *value)
{
	if (log_json) {
		buf_addf(line, ",\"%s\":\"", key);
		add_escaped(line, value);
		buf_adds(line, "\"");
		return;
	}
	bool quote = !*value || strpbrk(value, " \"\\=\n\t");
	buf_addf(line, " %s=%s", key, quote ? "\"" : "");
	add_escaped(line, value);
	buf_adds(line, quote ? "\"" : "");
}

/* Without memory for the whole line: at least what has happened. */
static void log_short(enum log_level level, const char *now, const char *event)
{
	char line[256];
	int size = snprintf(line, sizeof(line),
			    log_json ? "{\"time\":\"%s\",\"level\":\"%s\",\"program\":\"%s\",\"event\":\"%s\"}\n"
				     : "%s %-5s %s %s (no memory to say more)\n",
			    now, level_names[level], log_program, event);

	if (size > 0 && (size_t)size < sizeof(line))
		(void)fd_write_all(STDERR_FILENO, line, (size_t)size);
}

void log_event(enum log_level level, const char *event, ...)
{
	if (level < log_minimum)
		return;

	_cleanup_buf_ struct buf line = { .max = LINE_MAX_ };
	char now[TIME_TEXT_MAX];
	time_iso(now, time_wall_ms());
	if (log_json)
		buf_addf(&line, "{\"time\":\"%s\",\"level\":\"%s\",\"program\":\"%s\",\"event\":\"%s\"", now,
			 level_names[level], log_program, event);
	else
		buf_addf(&line, "%s %-5s %s %s", now, level_names[level], log_program, event);

	va_list args;
	va_start(args, event);
	const char *key;
	while ((key = va_arg(args, const char *))) {
		const char *value = va_arg(args, const char *);
		if (value)
			add_pair(&line, key, value);
	}
	va_end(args);
	buf_adds(&line, log_json ? "}\n" : "\n");
	if (line.failed)
		log_short(level, now, event);
	else
		(void)fd_write_all(STDERR_FILENO, line.data, line.size);
}

bool log_allowed(struct log_limit *limit, uint32_t burst, uint32_t seconds)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	int64_t now = time_mono_ms();

	pthread_mutex_lock(&lock);
	if (now - limit->since > (int64_t)seconds * 1000) {
		limit->since = now;
		limit->count = 0;
	}
	bool allowed = limit->count < burst;
	if (allowed)
		limit->count++;
	pthread_mutex_unlock(&lock);
	return allowed;
}
