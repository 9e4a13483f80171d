/*
 * Structured log to standard error: one JSON object a line, or text when standard error is a terminal. Values are
 * escaped, so that bytes from a guest or a client cannot forge a line. Thread-safe; a line is one write(2).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG_, LOG_INFO_, LOG_WARN_, LOG_ERROR_ };

/* program: a literal that stands in each line. format: "json", "text" or "auto". Before it: text, info. */
void log_init(const char *program, const char *format, enum log_level level);

/*
 * event: a short literal, what happened, in snake_case ("sandbox_created"). Then pairs of key and value, both char *,
 * ended by NULL. A NULL value is left out.
 */
void log_event(enum log_level level, const char *event, ...) __attribute__((sentinel));

#define log_debug(...) log_event(LOG_DEBUG_, __VA_ARGS__, NULL)
#define log_info(...) log_event(LOG_INFO_, __VA_ARGS__, NULL)
#define log_warn(...) log_event(LOG_WARN_, __VA_ARGS__, NULL)
#define log_error(...) log_event(LOG_ERROR_, __VA_ARGS__, NULL)

/* A number as text for log_event; the buffer is a compound literal that lives until the end of the block. */
#define LOG_INT(n) log_number((char[24]){ 0 }, (int64_t)(n))
char *log_number(char to[24], int64_t number);

/* At most `burst` lines a call site in `seconds`; true if this one may be written. One struct a call site, zeroed. */
struct log_limit {
	int64_t since;
	uint32_t count;
};
bool log_allowed(struct log_limit *limit, uint32_t burst, uint32_t seconds);
