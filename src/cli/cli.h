/*
 * What every command of `akira` is made of. A command is one entry of a table; its help, its manual page and its
 * completion come from that entry, so that they cannot disagree with what is parsed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "cli/http.h"

enum {
	CLI_OK = 0,
	CLI_FAILED = 1,      /* the server refused, or could not be reached */
	CLI_USAGE = 2,       /* the arguments make no sense */
	CLI_TIMED_OUT = 124, /* run, exec: the command's time was over */
	CLI_NOT_RUN = 125,   /* run, exec: akira itself failed; other codes are the command's */
	CLI_INTERRUPTED = 130,
	CLI_BROKEN_PIPE = 141,
};

#define CLI_VALUES_MAX 512

struct cli_option {
	const char *name;     /* without the dashes; NULL ends a list */
	char letter;          /* 0: none */
	const char *argument; /* "IMAGE"; NULL: a flag */
	const char *help;     /* one sentence */
	bool many;            /* may be given again */
};

struct cli;

struct cli_command {
	const char *name;      /* words parted by one space: "sandbox create" */
	const char *arguments; /* as the synopsis shows them */
	const char *brief;     /* one line, for lists of commands */
	const char *details;   /* paragraphs; may be NULL */
	const struct cli_option *options;
	int min, max;                /* positional arguments; max -1: any number */
	bool trailing;               /* the arguments end in a command line, which is not searched for options */
	int fixed;                   /* with trailing: how many arguments stand before it */
	bool local;                  /* needs no server */
	int failure;                 /* exit code of a failure: CLI_FAILED or CLI_NOT_RUN */
	int (*run)(struct cli *cli); /* returns the exit code */
};

struct cli {
	const struct cli_command *command;
	struct {
		const struct cli_option *option;
		const char *value;
	} values[CLI_VALUES_MAX];
	size_t value_count;
	char **arguments; /* positional ones, in the program's argv */
	int argument_count;
	bool json, quiet;
	struct http *http; /* NULL when the command is local */
};

/* Ended by NULL. */
extern const struct cli_command *const cli_commands[];
/* Options that each command takes besides its own. */
extern const struct cli_option cli_common_options[];

/* Options and positional arguments of argv[0..argc) into *cli. 0, -ECANCELED when --help was asked, or -EINVAL. */
int cli_parse(struct cli *cli, int argc, char **argv, struct error *err);

/* The value of an option given, or NULL; the last one if it was given several times. */
const char *cli_value(const struct cli *cli, const char *name);
bool cli_flag(const struct cli *cli, const char *name);
/* Each value of an option in turn: *at starts at 0; NULL after the last. */
const char *cli_next(const struct cli *cli, const char *name, size_t *at);
/* 0 and *value untouched when the option is absent; -EINVAL and err naming the option and the bounds. */
int cli_number(const struct cli *cli, const char *name, uint64_t min, uint64_t max, uint64_t *value, struct error *err);

/* Print "akira: COMMAND: …" and return the exit code of a failure / of wrong usage. */
int cli_fail(const struct cli *cli, const struct error *err);
int cli_usage(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* help.c: the commands that begin with these words (NULL: all), one command, a manual page, a bash completion. */
void cli_help_list(const char *words);
void cli_help_command(const struct cli_command *command);
void cli_help_man(void);
void cli_help_bash(void);
