#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"

#define WIDTH 78

/* Words of one paragraph, wrapped; indent for each line but the first, which begins at column `at`. */
static void wrap(const char *text, size_t length, int indent, int at)
{
	const char *end = text + length;
	while (text < end) {
		size_t word = strcspn(text, " \n");
		word = text + word > end ? (size_t)(end - text) : word;
		if (at > indent && at + 1 + (int)word > WIDTH) {
			printf("\n%*s", indent, "");
			at = indent;
		} else if (at > indent) {
			putchar(' ');
			at++;
		}
		printf("%.*s", (int)word, text);
		at += (int)word;
		text += word + (text + word < end);
	}
	putchar('\n');
}

static void print_details(const char *details)
{
	while (details && *details) {
		size_t length = strcspn(details, "\n");
		putchar('\n');
		wrap(details, length, 0, 0);
		details += length;
		details += strspn(details, "\n");
	}
}

static void option_name(const struct cli_option *option, char to[64])
{
	char letter[8] = "    ";
	if (option->letter)
		snprintf(letter, sizeof(letter), "-%c, ", option->letter);
	snprintf(to, 64, "%s--%s%s%s", letter, option->name, option->argument ? " " : "",
		 option->argument ? option->argument : "");
}

static void print_options(const struct cli_option *options)
{
	char name[64];
	for (; options && options->name; options++) {
		option_name(options, name);
		printf("  %-28s", name);
		if (strlen(name) > 27)
			printf("\n%30s", "");
		wrap(options->help, strlen(options->help), 30, 30);
	}
}

static bool begins_with_words(const char *name, const char *words)
{
	return !words || (str_starts(name, words) && (name[strlen(words)] == ' ' || !name[strlen(words)]));
}

void cli_help_list(const char *words)
{
	printf("Usage: akira %s%sCOMMAND [OPTIONS] …\n\n", words ? words : "", words ? " " : "");
	for (size_t i = 0; cli_commands[i]; i++)
		if (begins_with_words(cli_commands[i]->name, words))
			printf("  %-18s %s\n", cli_commands[i]->name, cli_commands[i]->brief);
	printf("\n`akira COMMAND --help` tells more; `akira help --man` is the whole manual page.\n"
	       "On the server itself: `akirad admin reset-key`, `akirad admin backup`.\n");
}

void cli_help_command(const struct cli_command *command)
{
	printf("Usage: akira %s [OPTIONS]%s%s\n\n%s.\n", command->name, *command->arguments ? " " : "",
	       command->arguments, command->brief);
	print_details(command->details);
	printf("\nOptions:\n");
	print_options(command->options);
	print_options(cli_common_options);
}

/* Text for roff: a dash that is a dash, no line that begins with a control character. */
static void roff(const char *text)
{
	for (bool start = true; *text; start = *text == '\n', text++) {
		if (start && (*text == '.' || *text == '\''))
			fputs("\\&", stdout);
		if (*text == '\\')
			fputs("\\e", stdout);
		else if (*text == '-')
			fputs("\\-", stdout);
		else if (*text == '\n')
			fputs(start ? "" : "\n.PP\n", stdout);
		else if (strncmp(text, "…", strlen("…")) == 0)
			fputs("...", stdout), text += strlen("…") - 1;
		else
			putchar(*text);
	}
}

static void roff_options(const struct cli_option *options)
{
	for (; options && options->name; options++) {
		fputs(".TP\n", stdout);
		if (options->letter)
			printf("\\fB\\-%c\\fR, ", options->letter);
		fputs("\\fB\\-\\-", stdout);
		roff(options->name);
		fputs("\\fR", stdout);
		if (options->argument) {
			fputs(" \\fI", stdout);
			roff(options->argument);
			fputs("\\fR", stdout);
		}
		putchar('\n');
		roff(options->help);
		putchar('\n');
	}
}

static void roff_command(const struct cli_command *command)
{
	printf(".SS akira %s\n.PP\n\\fBakira %s\\fR [\\fIOPTIONS\\fR] \\fI", command->name, command->name);
	roff(command->arguments);
	fputs("\\fR\n.PP\n", stdout);
	roff(command->brief);
	fputs(".\n", stdout);
	if (command->details) {
		fputs(".PP\n", stdout);
		roff(command->details);
		putchar('\n');
	}
	roff_options(command->options);
}

void cli_help_man(void)
{
	printf(".TH AKIRA 1 \"\" \"Akira %s\" \"User Commands\"\n"
	       ".SH NAME\nakira \\- run untrusted code in micro\\-VMs\n"
	       ".SH SYNOPSIS\n\\fBakira\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] ...\n"
	       ".SH DESCRIPTION\n\\fBakira\\fR is the command line client of the Akira server, "
	       "\\fBakirad\\fR(8). SANDBOX and SNAPSHOT are ids or names.\n"
	       ".SH COMMON OPTIONS\n",
	       AKIRA_VERSION);
	roff_options(cli_common_options);
	fputs(".SH COMMANDS\n", stdout);
	for (size_t i = 0; cli_commands[i]; i++)
		roff_command(cli_commands[i]);
	fputs(".SH EXIT STATUS\n0 success; 1 the server refused or could not be reached; 2 wrong usage; 130 interrupted; "
	      "141 standard output was closed. \\fBrun\\fR and \\fBsandbox exec\\fR exit with the command's own code, and with "
	      "124 its time was over, 125 akira itself failed, 126 the command cannot be executed, 127 there is no such "
	      "command, 128+N it died of signal N.\n"
	      ".SH ENVIRONMENT\n"
	      ".TP\n\\fBAKIRA_API_KEY\\fR\nThe key.\n"
	      ".TP\n\\fBAKIRA_BASE_URL\\fR\nThe server (http://127.0.0.1:8787).\n"
	      ".TP\n\\fBAKIRA_CREDENTIALS\\fR\nThe credentials file to use instead of those below.\n"
	      ".TP\n\\fBAKIRA_CACHE\\fR\nFolder of images and templates on this host (/var/cache/akira).\n"
	      ".SH FILES\n"
	      ".TP\n\\fI~/.config/akira/credentials\\fR\nLines \\(lqapi_key = ...\\(rq and \\(lqbase_url = ...\\(rq. Refused if "
	      "others may read it.\n"
	      ".TP\n\\fI/var/lib/akira/credentials\\fR\nWhat the server's first start wrote; read if it may be.\n"
	      ".SH SEE ALSO\n\\fBakirad\\fR(8)\n",
	      stdout);
}

static void bash_options(const struct cli_option *options)
{
	for (; options && options->name; options++)
		printf(" --%s", options->name);
}

void cli_help_bash(void)
{
	fputs("# bash completion for akira; made by `akira help --bash`\n"
	      "_akira() {\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} words=\"${COMP_WORDS[*]:1:COMP_CWORD-1}\"\n"
	      "\tcase $words in\n",
	      stdout);
	for (size_t i = 0; cli_commands[i]; i++) {
		printf("\t\"%s\" | \"%s \"*)\n\t\tmapfile -t COMPREPLY < <(compgen -W '", cli_commands[i]->name,
		       cli_commands[i]->name);
		bash_options(cli_commands[i]->options);
		bash_options(cli_common_options);
		fputs("' -- \"$cur\")\n\t\t[[ $cur == -* ]] || mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n\t\t;;\n",
		      stdout);
	}
	fputs("\t*)\n\t\tlocal all='", stdout);
	for (size_t i = 0; cli_commands[i]; i++)
		printf("%s\n", cli_commands[i]->name);
	fputs("help'\n"
	      "\t\tmapfile -t COMPREPLY < <(while read -r first second; do\n"
	      "\t\t\tif [[ -z $words ]]; then echo \"$first\"; elif [[ $words == \"$first\" ]]; then echo \"$second\"; fi\n"
	      "\t\tdone <<<\"$all\" | sort -u | grep -- \"^$cur\")\n"
	      "\t\t;;\n"
	      "\tesac\n"
	      "}\n"
	      "complete -F _akira akira\n",
	      stdout);
}
