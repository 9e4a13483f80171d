/*
 * What people see. Text from the server (names, error messages, log entries) may hold what a sandbox wrote; on its way
 * to a terminal its control characters are shown, not sent. Only the output of commands, files and the console goes
 * out raw, as that is what was asked for.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* "akira: …" on standard error, neutralised. */
void output_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * A malloc'ed copy in which control characters (C0, C1, DEL), characters that turn the direction of text, and bytes
 * that are not UTF-8 are written as \n, \x1b, \u202e. Never NULL (dies without memory). *width: columns it takes.
 */
char *output_safe(const char *text, size_t *width);

/* Indented on a terminal, one line otherwise. Returns 0 or -errno of the write. */
int output_json(const json_t *value);

struct output_column {
	const char *title;
	const char *key; /* of each row's object; parts of a path parted by '.' */
	/* NULL: the value as it is. Otherwise the words for it, malloc'ed; NULL: "-". */
	char *(*format)(const json_t *value);
};

/*
 * An aligned table of an array of objects. On a terminal, lines are cut to its width (the widest columns give way
 * first, "…" marks a cut); elsewhere nothing is cut.
 */
void output_table(const json_t *rows, const struct output_column *columns, size_t count);
/* One object, a line a column. */
void output_record(const json_t *object, const struct output_column *columns, size_t count);

/* Formatters for columns. */
char *output_age(const json_t *value);     /* ISO time: "3 min ago" */
char *output_bytes(const json_t *value);   /* 1.5 GiB */
char *output_mib(const json_t *value);     /* a number of MiB: 512 MiB */
char *output_gb(const json_t *value);      /* a number of GB: 10 GB */
char *output_cpus(const json_t *value);    /* units of 0.25 vCPU: 1.5 */
char *output_seconds(const json_t *value); /* one digit after the point */
char *output_list(const json_t *value);    /* an array of strings, with commas */

/* "doing… 3 s" on standard error, if that is a terminal, once it takes longer than 2 s. */
struct output_progress {
	const char *doing; /* NULL: silent */
	int64_t since;
	bool shown;
};
void output_progress(struct output_progress *progress);
void output_progress_end(struct output_progress *progress); /* takes the line away */
