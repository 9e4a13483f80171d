#include "cli/commands.h"

#include <errno.h>

#include "cli/api.h"
#include "cli/exec.h"
#include "cli/shape.h"

static const struct cli_option options[] = {
	SHAPE_OPTIONS_ENV,
	EXEC_OPTIONS,
	{ "timeout", 't', "S", "Kill the command after S seconds; the exit code is then 124." },
	{ NULL },
};

static int run(struct cli *cli)
{
	static struct exec_input input;
	struct error err = { 0 };
	struct buf line __attribute__((cleanup(buf_free))) = { 0 };
	char id[API_ID_MAX];
	uint64_t timeout_s = 0;
	int code = exec_line(cli, 1, &line);
	if (code)
		return code;
	if (cli_number(cli, "timeout", 1, 86400, &timeout_s, &err) < 0)
		return cli_usage(cli, "%s", err.text);
	int r = api_find_sandbox(cli, cli->arguments[0], id, &err);
	if (r == 0)
		r = exec_input_open(cli, &input, &err);
	if (r < 0)
		return r == -EINTR ? CLI_INTERRUPTED : cli_fail(cli, &err);
	struct exec_spec spec = { .line = buf_text(&line), .input = &input, .timeout_s = (int64_t)timeout_s };
	return exec_in_sandbox(cli, id, &spec);
}

const struct cli_command command_sandbox_exec = {
	.name = "sandbox exec",
	.arguments = "SANDBOX [--] COMMAND [ARGUMENT…]",
	.brief = "Run a command in a sandbox",
	.details = "As `akira run`, in a sandbox that exists and stays. SANDBOX is an id or a name.",
	.options = options,
	.min = 1,
	.max = -1,
	.trailing = true,
	.fixed = 1,
	.failure = CLI_NOT_RUN,
	.run = run,
};
