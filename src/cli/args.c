#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/output.h"

const struct cli_option cli_common_options[] = {
	{ "json", 0, NULL, "Print the server's answer as JSON." },
	{ "quiet", 'q', NULL, "No progress on standard error." },
	{ "base-url", 0, "URL", "The server, instead of $AKIRA_BASE_URL or the credentials file." },
	{ "help", 'h', NULL, "Show this help." },
	{ NULL },
};

static const struct cli_option *find_in(const struct cli_option *list, const char *name, size_t length, char letter)
{
	for (; list && list->name; list++)
		if (letter ? list->letter == letter
			   : strlen(list->name) == length && memcmp(list->name, name, length) == 0)
			return list;
	return NULL;
}

static const struct cli_option *find_option(const struct cli *cli, const char *name, size_t length, char letter)
{
	const struct cli_option *option = find_in(cli->command->options, name, length, letter);
	return option ? option : find_in(cli_common_options, name, length, letter);
}

static int keep(struct cli *cli, const struct cli_option *option, const char *value, struct error *err)
{
	if (!option->many && cli_value(cli, option->name))
		return error_set(err, EINVAL, "--%s is given twice", option->name);
	if (cli->value_count == CLI_VALUES_MAX)
		return error_set(err, EINVAL, "more than %d options", CLI_VALUES_MAX);
	cli->values[cli->value_count].option = option;
	cli->values[cli->value_count++].value = value;
	return 0;
}

/* One word that begins with a dash; *next is what follows it, taken if the option needs a value. Returns words used. */
static int parse_option(struct cli *cli, char *word, char *next, struct error *err)
{
	bool is_long = word[1] == '-';
	char *name = word + (is_long ? 2 : 1);
	size_t length = is_long ? strcspn(name, "=") : 1;
	const struct cli_option *option = find_option(cli, name, length, is_long ? 0 : name[0]);
	char *attached = name[length] ? name + length + (is_long ? 1 : 0) : NULL;

	if (!option)
		return error_set(err, EINVAL, "there is no option %.*s", (int)(length + (is_long ? 2 : 1)), word);
	if (!option->argument) {
		if (attached)
			return error_set(err, EINVAL, "--%s takes no value", option->name);
		int r = keep(cli, option, "", err);
		return r < 0 ? r : 1;
	}
	if (!attached && !next)
		return error_set(err, EINVAL, "--%s needs a value (%s)", option->name, option->argument);
	int r = keep(cli, option, attached ? attached : next, err);
	return r < 0 ? r : attached ? 1 : 2;
}

static int check_count(const struct cli *cli, struct error *err)
{
	const struct cli_command *command = cli->command;
	if (cli->argument_count < command->min)
		return error_set(err, EINVAL, "needs %s", command->arguments);
	if (command->max >= 0 && cli->argument_count > command->max)
		return error_set(err, EINVAL, "one argument too many: %s", cli->arguments[command->max]);
	return 0;
}

/* Positional arguments are moved to the front of argv. */
int cli_parse(struct cli *cli, int argc, char **argv, struct error *err)
{
	bool options = true;
	cli->arguments = argv;
	cli->argument_count = 0;
	for (int i = 0; i < argc;) {
		char *word = argv[i];
		if (options && strcmp(word, "--") == 0) {
			options = false;
			i++;
		} else if (options && word[0] == '-' && word[1]) {
			int used = parse_option(cli, word, i + 1 < argc ? argv[i + 1] : NULL, err);
			if (used < 0)
				return used;
			i += used;
		} else {
			argv[cli->argument_count++] = word;
			i++;
			/* What follows belongs to the command line, dashes and all. */
			if (cli->command->trailing && cli->argument_count > cli->command->fixed)
				options = false;
		}
	}
	cli->json = cli_flag(cli, "json");
	cli->quiet = cli_flag(cli, "quiet");
	if (cli_flag(cli, "help"))
		return -ECANCELED;
	return check_count(cli, err);
}

const char *cli_next(const struct cli *cli, const char *name, size_t *at)
{
	while (*at < cli->value_count) {
		size_t i = (*at)++;
		if (strcmp(cli->values[i].option->name, name) == 0)
			return cli->values[i].value;
	}
	return NULL;
}

const char *cli_value(const struct cli *cli, const char *name)
{
	const char *found = NULL;
	size_t at = 0;
	for (const char *value; (value = cli_next(cli, name, &at));)
		found = value;
	return found;
}

bool cli_flag(const struct cli *cli, const char *name)
{
	return cli_value(cli, name) != NULL;
}

int cli_number(const struct cli *cli, const char *name, uint64_t min, uint64_t max, uint64_t *value, struct error *err)
{
	const char *text = cli_value(cli, name);
	if (text && str_u64(text, min, max, value) < 0)
		return error_set(err, EINVAL, "--%s must be a whole number from %llu to %llu", name,
				 (unsigned long long)min, (unsigned long long)max);
	return 0;
}

int cli_fail(const struct cli *cli, const struct error *err)
{
	output_error("%s: %s", cli->command->name, err->text);
	return cli->command->failure;
}

int cli_usage(const struct cli *cli, const char *format, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	output_error("%s: %s", cli->command->name, text);
	fprintf(stderr, "Try 'akira %s --help'.\n", cli->command->name);
	return cli->command->failure == CLI_NOT_RUN ? CLI_NOT_RUN : CLI_USAGE;
}
