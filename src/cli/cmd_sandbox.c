#include "cli/commands.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "cli/api.h"
#include "cli/output.h"
#include "cli/shape.h"

static const struct output_column columns[] = {
	{ "ID", "id" },
	{ "NAME", "name" },
	{ "STATUS", "status" },
	{ "CPUS", "cpu", output_cpus },
	{ "MEMORY", "memory", output_mib },
	{ "DISK", "disk_size", output_gb },
	{ "CREATED", "created_at", output_age },
};

static const struct output_column details[] = {
	{ "id", "id" },
	{ "name", "name" },
	{ "status", "status" },
	{ "image", "image" },
	{ "cpus", "cpu", output_cpus },
	{ "memory", "memory", output_mib },
	{ "disk", "disk_size", output_gb },
	{ "created", "created_at", output_age },
	{ "expires", "expires_at", output_age },
	{ "idle timeout, s", "idle_timeout_seconds" },
	{ "then", "on_idle" },
	{ "network", "network" },
	{ "metadata", "metadata" },
	{ "ended", "termination.at", output_age },
	{ "reason", "termination.reason" },
	{ "explanation", "termination.message" },
};
#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static int list(struct cli *cli)
{
	struct error err = { 0 };
	json_t *rows;
	if (api_list(cli, "/v1/sandboxes/list", 0, &rows, &err) < 0)
		return cli_fail(cli, &err);
	return api_print_list(cli, rows, columns, COUNT(columns));
}

/* One call on one sandbox, whose answer is printed. */
static int call_and_print(struct cli *cli, const char *method, const char *format, const json_t *body,
			  const char *doing)
{
	struct error err = { 0 };
	char id[API_ID_MAX], path[HTTP_PATH_MAX];
	json_t *answer = NULL;
	int r = api_find_sandbox(cli, cli->arguments[0], id, &err);
	if (r == 0)
		r = api_send(cli, method, http_path(path, format, id), body, doing, &answer, &err);
	if (r < 0)
		return cli_fail(cli, &err);
	return api_print_record(cli, answer, details, COUNT(details));
}

static int get(struct cli *cli)
{
	return call_and_print(cli, "GET", "/v1/sandboxes/%s", NULL, NULL);
}

static int pause_sandbox(struct cli *cli)
{
	return call_and_print(cli, "POST", "/v1/sandboxes/%s/pause", NULL, "pausing the sandbox");
}

static int resume(struct cli *cli)
{
	return call_and_print(cli, "POST", "/v1/sandboxes/%s/resume", NULL, "resuming the sandbox");
}

static int network(struct cli *cli)
{
	struct error err = { 0 };
	json_t *body;
	if (shape_network(cli, &body, &err) < 0)
		return cli_usage(cli, "%s", err.text);
	if (!body)
		return call_and_print(cli, "GET", "/v1/sandboxes/%s", NULL, NULL);
	int code = call_and_print(cli, "PUT", "/v1/sandboxes/%s/network", body, "changing the rules");
	json_decref(body);
	return code;
}

static int timeout(struct cli *cli)
{
	struct error err = { 0 };
	uint64_t seconds = 0;
	if (!cli_value(cli, "lifetime") || cli_number(cli, "lifetime", 1, 31536000, &seconds, &err) < 0)
		return cli_usage(cli, "%s", err.code ? err.text : "needs --lifetime S");
	json_t *body = json_pack("{s:I}", "timeout_seconds", (json_int_t)seconds);
	int code = call_and_print(cli, "PUT", "/v1/sandboxes/%s/timeout", body, NULL);
	json_decref(body);
	return code;
}

static int delete_all(struct cli *cli)
{
	struct error err = { 0 };
	json_t *answer;
	if (api_send(cli, "DELETE", "/v1/sandboxes/delete-all", NULL, "deleting the sandboxes", &answer, &err) < 0)
		return cli_fail(cli, &err);
	int code = json_array_size(json_object_get(answer, "errors")) > 0 ? CLI_FAILED : CLI_OK;
	if (cli->json) {
		output_json(answer);
	} else {
		_cleanup_free_ char *ids = output_list(json_object_get(answer, "deleted_ids"));
		_cleanup_free_ char *safe = output_safe(ids ? ids : "nothing", NULL);
		puts(safe);
	}
	if (code)
		output_error("sandbox rm: some could not be deleted (see --json)");
	json_decref(answer);
	return code;
}

static int rm(struct cli *cli)
{
	int code = CLI_OK;
	if (cli_flag(cli, "all") == (cli->argument_count > 0))
		return cli_usage(cli, "needs SANDBOX… or --all");
	if (cli_flag(cli, "all"))
		return delete_all(cli);
	for (int i = 0; i < cli->argument_count; i++) {
		struct error err = { 0 };
		char id[API_ID_MAX];
		int r = api_find_sandbox(cli, cli->arguments[i], id, &err);
		if (r == 0)
			r = api_delete_sandbox(cli, id, &err);
		if (r < 0)
			code = cli_fail(cli, &err);
		else
			puts(id);
	}
	return code;
}

static int to_stdout(void *context, const char *data, size_t size)
{
	return fd_write_all(STDOUT_FILENO, data, size);
}

static int console(struct cli *cli)
{
	struct error err = { 0 };
	char id[API_ID_MAX], path[HTTP_PATH_MAX];
	_cleanup_answer_ struct http_answer answer = { 0 };
	int r = api_find_sandbox(cli, cli->arguments[0], id, &err);
	struct http_request request = {
		.method = "GET",
		.path = http_path(path, "/v1/sandboxes/%s/console", id),
		.sink = to_stdout,
	};
	if (r == 0)
		r = http_call(cli->http, &request, &answer, &err);
	if (r == -EPIPE)
		return CLI_BROKEN_PIPE;
	return r < 0 ? cli_fail(cli, &err) : CLI_OK;
}

static const struct cli_option rm_options[] = {
	{ "all", 'a', NULL, "All of the organisation's sandboxes." },
	{ NULL },
};

static const struct cli_option network_options[] = {
	{ "network", 0, "allow|deny", "Outbound connections." },
	{ "allow", 0, "CIDR|DOMAIN", "Reachable even with --network deny.", true },
	{ "deny", 0, "CIDR|DOMAIN", "Not reachable.", true },
	{ "bandwidth", 0, "MBIT", "Megabits a second, each direction." },
	{ NULL },
};

static const struct cli_option timeout_options[] = {
	{ "lifetime", 0, "S", "Seconds from now." },
	{ NULL },
};

const struct cli_command command_sandbox_list = {
	.name = "sandbox list",
	.arguments = "",
	.brief = "List the live sandboxes",
	.failure = CLI_FAILED,
	.run = list,
};
const struct cli_command command_sandbox_get = {
	.name = "sandbox get",
	.arguments = "SANDBOX",
	.brief = "Show a sandbox, and why it ended",
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = get,
};
const struct cli_command command_sandbox_rm = {
	.name = "sandbox rm",
	.arguments = "[SANDBOX…]",
	.brief = "Delete sandboxes",
	.options = rm_options,
	.max = -1,
	.failure = CLI_FAILED,
	.run = rm,
};
const struct cli_command command_sandbox_pause = {
	.name = "sandbox pause",
	.arguments = "SANDBOX",
	.brief = "Stop a sandbox, memory and all, until it is needed",
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = pause_sandbox,
};
const struct cli_command command_sandbox_resume = {
	.name = "sandbox resume",
	.arguments = "SANDBOX",
	.brief = "Let a paused sandbox go on",
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = resume,
};
const struct cli_command command_sandbox_network = {
	.name = "sandbox network",
	.arguments = "SANDBOX",
	.brief = "Show or replace what a sandbox may reach",
	.details = "Without options, shows the sandbox. With options, they replace the present rules as a whole.",
	.options = network_options,
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = network,
};
const struct cli_command command_sandbox_timeout = {
	.name = "sandbox timeout",
	.arguments = "SANDBOX",
	.brief = "Give a sandbox a new lifetime, counted from now",
	.options = timeout_options,
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = timeout,
};
const struct cli_command command_sandbox_console = {
	.name = "sandbox console",
	.arguments = "SANDBOX",
	.brief = "Show the last output of the guest's serial console",
	.details =
		"The bytes are the guest's and are not filtered: look at them through `cat -v` if you do not trust it.",
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = console,
};
