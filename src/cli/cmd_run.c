#include "cli/commands.h"

#include <errno.h>
#include <stdio.h>

#include "cli/api.h"
#include "cli/exec.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/shape.h"

#define RUN_TIMEOUT_MAX 86400
#define LIFE_MARGIN_S 120 /* creating, passing the input on and deleting happen within the lifetime too */

static const struct cli_option options[] = {
	{ "image", 'i', "IMAGE", "Image to run on; without it, the server's default." },
	{ "name", 0, "NAME", "Name of the sandbox." },
	SHAPE_OPTIONS_SIZE,
	SHAPE_OPTIONS_ENV,
	SHAPE_OPTIONS_LIFE,
	EXEC_OPTIONS,
	{ "timeout", 't', "S", "Kill the command after S seconds; the exit code is then 124." },
	{ "keep", 0, NULL, "Do not delete the sandbox; its id is printed on standard error." },
	{ NULL },
};

static int make(struct cli *cli, uint64_t timeout_s, char id[API_ID_MAX])
{
	struct error err = { 0 };
	json_t *body, *answer = NULL;
	int r = shape_body(cli, false, &body, &err);
	if (r < 0)
		return cli_usage(cli, "%s", err.text);
	/* Should this program be killed, the server still ends the sandbox soon after the command's time. */
	if (timeout_s && !cli_flag(cli, "keep"))
		json_object_set_new(body, "timeout_seconds", json_integer((json_int_t)timeout_s + LIFE_MARGIN_S));
	r = api_make(cli, "/v1/sandboxes/create", body, "creating the sandbox (a shape's first one takes longest)",
		     &answer, &err);
	json_decref(body);
	if (r == 0)
		r = api_id_of(answer, id, &err);
	json_decref(answer);
	if (r == -EINTR)
		return CLI_INTERRUPTED;
	return r < 0 ? cli_fail(cli, &err) : 0;
}

static int finish(struct cli *cli, const char *id, int code)
{
	struct error err = { 0 };
	if (cli_flag(cli, "keep") && code != CLI_INTERRUPTED) {
		fprintf(stderr, "akira: kept: %s\n", id);
		return code;
	}
	if (api_delete_sandbox(cli, id, &err) < 0)
		output_error("run: sandbox %s could not be deleted: %s", id, err.text);
	return code;
}

static int run(struct cli *cli)
{
	static struct exec_input input;
	struct error err = { 0 };
	struct buf line __attribute__((cleanup(buf_free))) = { 0 };
	char id[API_ID_MAX];
	uint64_t timeout_s = 0;
	int code = exec_line(cli, 0, &line);
	if (code)
		return code;
	if (cli_number(cli, "timeout", 1, RUN_TIMEOUT_MAX, &timeout_s, &err) < 0)
		return cli_usage(cli, "%s", err.text);
	int r = exec_input_open(cli, &input, &err);
	if (r < 0)
		return r == -EINTR ? CLI_INTERRUPTED : cli_fail(cli, &err);
	code = make(cli, timeout_s, id);
	if (code)
		return code;
	if (interrupt_count() > 0)
		return finish(cli, id, CLI_INTERRUPTED);
	struct exec_spec spec = { .line = buf_text(&line), .input = &input, .timeout_s = (int64_t)timeout_s };
	return finish(cli, id, exec_in_sandbox(cli, id, &spec));
}

const struct cli_command command_run = {
	.name = "run",
	.arguments = "[--] COMMAND [ARGUMENT…]",
	.brief = "Run a command in a new sandbox and delete the sandbox",
	.details =
		"Creates a sandbox, runs COMMAND in it with its output shown as it comes, deletes the sandbox and exits "
		"with the command's exit code. Each ARGUMENT reaches the command exactly as it is given; for a line "
		"with pipes and variables use -c LINE.\n"
		"\n"
		"Standard input that is a file or a pipe is passed on whole before the command starts; a command never "
		"waits for a terminal. In a loop that reads its own input (while read …), use --no-stdin.\n"
		"\n"
		"Output is text: bytes that are not UTF-8 arrive as U+FFFD. It is not filtered, so a terminal obeys "
		"the control sequences in it. For exact bytes write a file and fetch it with `akira sandbox cp`.\n"
		"\n"
		"Ctrl-C kills the command, deletes the sandbox and exits with 130; a third one exits at once.\n"
		"\n"
		"Exit codes: the command's own; 124 its time was over; 125 akira failed; 126 the command cannot be "
		"executed; 127 there is no such command; 128+N it died of signal N.",
	.options = options,
	.min = 0,
	.max = -1,
	.trailing = true,
	.failure = CLI_NOT_RUN,
	.run = run,
};
