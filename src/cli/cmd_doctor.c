#include "cli/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/output.h"
#include "doctor/doctor.h"

static const char *colour(enum doctor_status status)
{
	static const char *const colours[DOCTOR_STATUSES] = { "\033[32m", "", "\033[33m", "\033[31m" };
	return isatty(STDOUT_FILENO) && !getenv("NO_COLOR") ? colours[status] : "";
}

static void print_text(const struct doctor_fact *facts, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		_cleanup_free_ char *found = output_safe(facts[i].found, NULL);
		const char *on = colour(facts[i].status);
		printf("%s%-4s%s  %-32s  %s\n", on, doctor_status_name(facts[i].status), *on ? "\033[0m" : "",
		       facts[i].name, found);
		if (*facts[i].advice && facts[i].status != DOCTOR_OK)
			printf("%40s%s\n", "", facts[i].advice);
	}
}

static int print_json(const struct doctor_fact *facts, size_t count)
{
	json_t *rows = json_array();
	for (size_t i = 0; i < count; i++) {
		/* What a file of the host says need not be UTF-8. */
		_cleanup_free_ char *found = output_safe(facts[i].found, NULL);
		json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:s}", "name", facts[i].name, "status",
						      doctor_status_name(facts[i].status), "found", found, "advice",
						      facts[i].advice));
	}
	int r = output_json(rows);
	json_decref(rows);
	return r;
}

static int run(struct cli *cli)
{
	struct doctor_config config = DOCTOR_CONFIG_DEFAULT;
	struct error err = { 0 };
	struct doctor_fact *facts;
	size_t count;
	uint64_t port = config.port;
	if (cli_number(cli, "port", 1, 65535, &port, &err) < 0)
		return cli_usage(cli, "%s", err.text);
	config.port = (uint16_t)port;
	config.state_dir = cli_value(cli, "state-dir") ? cli_value(cli, "state-dir") : config.state_dir;
	config.cache_dir = cli_value(cli, "cache-dir") ? cli_value(cli, "cache-dir") : config.cache_dir;
	if (config.state_dir[0] != '/' || config.cache_dir[0] != '/')
		return cli_usage(cli, "folders must be given from the root on");
	const char *jail = cli_value(cli, "jail");
	int r = jail ? doctor_jail(jail, &facts, &count, &err) : doctor_run(&config, &facts, &count, &err);
	if (r < 0)
		return cli_fail(cli, &err);
	if (cli->json)
		r = print_json(facts, count);
	else
		print_text(facts, count);
	enum doctor_status worst = doctor_worst(facts, count);
	free(facts);
	if (r < 0)
		return CLI_BROKEN_PIPE;
	return worst == DOCTOR_FAIL ? CLI_FAILED : CLI_OK;
}

static const struct cli_option options[] = {
	{ "jail", 0, "SANDBOX|PID", "Instead of the host, examine the VM process of a sandbox, layer by layer." },
	{ "port", 0, "PORT", "akirad's port on this host (8787)." },
	{ "state-dir", 0, "DIR", "akirad's data (/var/lib/akira)." },
	{ "cache-dir", 0, "DIR", "Images and templates (/var/cache/akira)." },
	{ NULL },
};

const struct cli_command command_doctor = {
	.name = "doctor",
	.arguments = "",
	.brief = "Check whether this host can run sandboxes, and how well it isolates them",
	.details =
		"Looks and tries, changes nothing. As root it can try more. Exits with 1 if something FAILs, that is, if "
		"sandboxes cannot run (or, with --jail, if a layer of the jail is missing); a `warn` is something to "
		"improve.\n"
		"\n"
		"KVM is measured, not looked for: below 100 million ring-0 instructions a second it is of no use, and "
		"akirad emulates instead (TCG), which is no hardware boundary.",
	.options = options,
	.local = true,
	.failure = CLI_FAILED,
	.run = run,
};
