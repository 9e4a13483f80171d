#include "cli/cli.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/interrupt.h"
#include "cli/output.h"

/* The command whose name is the first one or two of these words; *used: how many. */
static const struct cli_command *find_command(int argc, char **argv, int *used)
{
	for (size_t i = 0; cli_commands[i]; i++) {
		const char *name = cli_commands[i]->name, *space = strchr(name, ' ');
		size_t first = space ? (size_t)(space - name) : strlen(name);
		if (strlen(argv[0]) != first || strncmp(argv[0], name, first) != 0)
			continue;
		if (space && (argc < 2 || strcmp(argv[1], space + 1) != 0))
			continue;
		*used = space ? 2 : 1;
		return cli_commands[i];
	}
	return NULL;
}

static bool is_group(const char *word)
{
	for (size_t i = 0; cli_commands[i]; i++)
		if (str_starts(cli_commands[i]->name, word) && cli_commands[i]->name[strlen(word)] == ' ')
			return true;
	return false;
}

static int help(int argc, char **argv)
{
	int used;
	if (argc > 0 && strcmp(argv[0], "--man") == 0)
		cli_help_man();
	else if (argc > 0 && strcmp(argv[0], "--bash") == 0)
		cli_help_bash();
	else if (argc > 0 && find_command(argc, argv, &used))
		cli_help_command(find_command(argc, argv, &used));
	else
		cli_help_list(argc > 0 && is_group(argv[0]) ? argv[0] : NULL);
	return fflush(stdout) == EOF ? CLI_BROKEN_PIPE : CLI_OK;
}

static int no_command(int argc, char **argv)
{
	if (!is_group(argv[0])) {
		output_error("there is no command '%s'", argv[0]);
		fprintf(stderr, "Try 'akira --help'.\n");
		return CLI_USAGE;
	}
	if (argc > 1 && strcmp(argv[1], "--help") != 0 && strcmp(argv[1], "-h") != 0) {
		output_error("there is no command '%s %s'", argv[0], argv[1]);
		fprintf(stderr, "Try 'akira %s --help'.\n", argv[0]);
		return CLI_USAGE;
	}
	cli_help_list(argv[0]);
	return argc > 1 ? CLI_OK : CLI_USAGE;
}

static int run_command(struct cli *cli, int argc, char **argv)
{
	struct error err = { 0 };
	struct config config;
	int r = cli_parse(cli, argc, argv, &err);
	if (r == -ECANCELED) {
		cli_help_command(cli->command);
		return CLI_OK;
	}
	if (r < 0)
		return cli_usage(cli, "%s", err.text);
	if (!cli->command->local) {
		r = config_load(&config, cli_value(cli, "base-url"), &err);
		if (r == 0)
			r = http_open(&config, &cli->http, &err);
		explicit_bzero(config.api_key, sizeof(config.api_key));
		if (r < 0)
			return cli_fail(cli, &err);
	}
	int code = cli->command->run(cli);
	http_close(cli->http);
	return code;
}

int main(int argc, char **argv)
{
	static struct cli cli;
	int used = 0;
	setlocale(LC_CTYPE, "");
	interrupt_install();
	if (argc < 2) {
		cli_help_list(NULL);
		return CLI_USAGE;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)
		return puts("akira " AKIRA_VERSION) == EOF ? CLI_BROKEN_PIPE : CLI_OK;
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
		return help(argc - 2, argv + 2);
	cli.command = find_command(argc - 1, argv + 1, &used);
	if (!cli.command)
		return no_command(argc - 1, argv + 1);
	int code = run_command(&cli, argc - 1 - used, argv + 1 + used);
	if (fflush(stdout) == EOF && code == CLI_OK)
		code = CLI_BROKEN_PIPE;
	/* A shell that runs us in a loop must see that ^C ended us, and from which signal. */
	return code == CLI_INTERRUPTED && interrupt_signal() ? 128 + interrupt_signal() : code;
}
