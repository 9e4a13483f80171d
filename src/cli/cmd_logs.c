#include "cli/commands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "cli/api.h"
#include "cli/output.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct output_column columns[] = {
	{ "WHEN", "timestamp", output_age },
	{ "SANDBOX", "sandbox_id" },
	{ "STATUS", "status" },
	{ "EXIT", "exit_code" },
	{ "MS", "execution_time_ms" },
	{ "COMMAND", "command" },
};

/* "30m", "2h", "7d" ago, or an ISO time; the API wants the latter. */
static int when(const char *option, const char *text, char to[TIME_TEXT_MAX], struct error *err)
{
	int64_t ms;
	char *end;
	if (time_parse_iso(text, &ms) == 0) {
		time_iso(to, ms);
		return 0;
	}
	errno = 0;
	unsigned long long number = strtoull(text, &end, 10);
	static const char units[] = "smhd";
	static const int64_t seconds[] = { 1, 60, 3600, 86400 };
	const char *unit = *end ? strchr(units, *end) : NULL;
	if (errno || end == text || text[0] == '-' || !unit || end[1] || number > 36500)
		return error_set(err, EINVAL, "--%s must be a time such as 30m, 2h, 7d or 2026-01-31T12:00:00Z",
				 option);
	time_iso(to, time_wall_ms() - (int64_t)number * seconds[unit - units] * 1000);
	return 0;
}

static int run(struct cli *cli)
{
	struct error err = { 0 };
	char id[API_ID_MAX] = "", from[TIME_TEXT_MAX] = "", to[TIME_TEXT_MAX] = "", limit[24], path[HTTP_PATH_MAX];
	uint64_t most = 100;
	json_t *answer;
	int r = cli_number(cli, "limit", 1, 1000, &most, &err);
	if (r == 0 && cli_value(cli, "since"))
		r = when("since", cli_value(cli, "since"), from, &err);
	if (r == 0 && cli_value(cli, "until"))
		r = when("until", cli_value(cli, "until"), to, &err);
	if (r < 0)
		return cli_usage(cli, "%s", err.text);
	if (cli->argument_count > 0 && api_find_sandbox(cli, cli->arguments[0], id, &err) < 0)
		return cli_fail(cli, &err);
	snprintf(limit, sizeof(limit), "%llu", (unsigned long long)most);
	http_path(path, "/v1/sandboxes/logs?limit=%s", limit);
	const struct {
		const char *name, *value;
	} filters[] = { { "sandbox_id", id }, { "from", from }, { "to", to } };
	for (size_t i = 0; i < COUNT(filters); i++) {
		char part[HTTP_PATH_MAX];
		if (*filters[i].value)
			strcat(path, http_path(part, "&%s=%s", filters[i].name, filters[i].value));
	}
	if (api_get(cli, path, &answer, &err) < 0)
		return cli_fail(cli, &err);
	json_t *rows = json_incref(json_object_get(answer, "logs"));
	json_decref(answer);
	return api_print_list(cli, rows ? rows : json_array(), columns, COUNT(columns));
}

static const struct cli_option options[] = {
	{ "since", 0, "TIME", "From then on: 30m, 2h, 7d ago, or an ISO time; without it, an hour ago." },
	{ "until", 0, "TIME", "Until then." },
	{ "limit", 'l', "N", "At most N entries, 1 to 1000 (100)." },
	{ NULL },
};

const struct cli_command command_logs = {
	.name = "logs",
	.arguments = "[SANDBOX]",
	.brief = "Show which commands were run",
	.details = "With --json, each entry also holds the command's output as far as the server keeps it.",
	.options = options,
	.max = 1,
	.failure = CLI_FAILED,
	.run = run,
};
