/* Running a command line in a sandbox with its input and output joined to ours: run and exec. */
#pragma once

#include "base/buf.h"
#include "cli/cli.h"

/* Arguments as a shell line that means exactly them. */
int exec_quote(struct buf *line, char *const *arguments, int count);

/*
 * Our standard input, if it is to be passed on: a file, pipe or socket that is not empty. A terminal or /dev/null (or
 * any other device) is not read.
 */
struct exec_input {
	bool present;
	char first[65536]; /* what was read to learn that it is not empty */
	size_t first_size;
	int64_t size; /* of the whole; -1: unknown */
};
/* Waits for the first byte or the end. -EINTR: a signal came. */
int exec_input_open(const struct cli *cli, struct exec_input *input, struct error *err);

struct exec_spec {
	const char *line;               /* a shell line */
	const struct exec_input *input; /* NULL: none */
	int64_t timeout_s;              /* 0: none */
};
/*
 * Uploads the input, runs the line, copies its output as it comes. Options workdir and env are taken from cli. Returns
 * the exit code: the command's, CLI_TIMED_OUT, CLI_INTERRUPTED, CLI_BROKEN_PIPE, or CLI_NOT_RUN with an error printed.
 */
int exec_in_sandbox(struct cli *cli, const char *id, const struct exec_spec *spec);

/* The line that the arguments (a vector, or with -c one shell line) mean. Prints and returns an exit code, or 0. */
int exec_line(const struct cli *cli, int first, struct buf *line);

#define EXEC_OPTIONS                                                                              \
	{ "workdir", 'w', "DIR", "Working directory of the command." },                           \
		{ "command", 'c', "LINE",                                                         \
		  "Run LINE with the sandbox's shell, instead of a command and its arguments." }, \
	{                                                                                         \
		"no-stdin", 'n', NULL, "Do not pass standard input on."                           \
	}
