#include "cli/commands.h"

#include <errno.h>
#include <stdio.h>

#include "base/str.h"
#include "cli/api.h"
#include "cli/output.h"
#include "cli/shape.h"

static const struct cli_option create_options[] = {
	{ "image", 'i', "IMAGE", "Image to run on; without it, the server's default." },
	{ "name", 0, "NAME", "Name; without it, one is made up." },
	SHAPE_OPTIONS_SIZE,
	SHAPE_OPTIONS_ENV,
	SHAPE_OPTIONS_LIFE,
	{ "lifetime", 0, "S", "End the sandbox after S seconds; without it, the server's default (an hour)." },
	{ "no-wait", 0, NULL, "Return before the sandbox is ready." },
	{ NULL },
};

static const struct cli_option restore_options[] = {
	{ "image", 'i', "IMAGE", "Image, instead of the snapshot's." },
	{ "name", 0, "NAME", "Name of the new sandbox; without it, one is made up." },
	SHAPE_OPTIONS_SIZE,
	SHAPE_OPTIONS_ENV,
	SHAPE_OPTIONS_LIFE,
	{ "lifetime", 0, "S", "End the sandbox after S seconds." },
	{ "no-wait", 0, NULL, "Return before the sandbox is ready." },
	{ NULL },
};

static const struct cli_option clone_options[] = {
	{ "image", 'i', "IMAGE", "Image, instead of the source's." },
	{ "name", 0, "NAME", "Name of the new sandbox." },
	{ "cpus", 0, "N", "vCPUs, in steps of 0.25." },
	{ "memory", 'm', "SIZE", "Memory: MiB, or with a unit (512m, 2g)." },
	SHAPE_OPTIONS_LIFE,
	{ "lifetime", 0, "S", "End the sandbox after S seconds." },
	{ "snapshot-name", 0, "NAME", "Name of the snapshot that is made on the way." },
	{ "no-wait", 0, NULL, "Return before the sandbox is ready." },
	{ NULL },
};

/* The id, alone on a line, is what a script needs. */
static int print_id(struct cli *cli, json_t *answer, const json_t *sandbox)
{
	struct error err = { 0 };
	char id[API_ID_MAX];
	int code = CLI_OK;
	if (cli->json)
		code = output_json(answer) < 0 ? CLI_BROKEN_PIPE : CLI_OK;
	else if (api_id_of(sandbox, id, &err) < 0)
		code = cli_fail(cli, &err);
	else if (puts(id) == EOF || fflush(stdout) == EOF)
		code = CLI_BROKEN_PIPE;
	json_decref(answer);
	return code;
}

static int make(struct cli *cli, const char *path, json_t *body, const char *doing, const char *member)
{
	struct error err = { 0 };
	json_t *answer;
	if (cli_flag(cli, "no-wait"))
		json_object_set_new(body, "wait_for_ready", json_false());
	int r = api_make(cli, path, body, doing, &answer, &err);
	json_decref(body);
	if (r < 0)
		return r == -EINTR ? CLI_INTERRUPTED : cli_fail(cli, &err);
	return print_id(cli, answer, member ? json_object_get(answer, member) : answer);
}

static int create(struct cli *cli)
{
	struct error err = { 0 };
	json_t *body;
	if (shape_body(cli, false, &body, &err) < 0)
		return cli_usage(cli, "%s", err.text);
	return make(cli, "/v1/sandboxes/create", body, "creating the sandbox (a shape's first one takes longest)",
		    NULL);
}

static int restore(struct cli *cli)
{
	struct error err = { 0 };
	char id[API_ID_MAX], path[HTTP_PATH_MAX], name[64];
	json_t *body;
	if (shape_body(cli, true, &body, &err) < 0)
		return cli_usage(cli, "%s", err.text);
	if (api_find_snapshot(cli, cli->arguments[0], id, &err) < 0) {
		json_decref(body);
		return cli_fail(cli, &err);
	}
	/* The API wants a name. Random, so that several can be told apart. */
	if (!cli_value(cli, "name")) {
		char once[40];
		str_random_id(once, "r");
		snprintf(name, sizeof(name), "restored-%.8s", once + 2);
		json_object_set_new(body, "name", json_string(name));
	}
	return make(cli, http_path(path, "/v1/snapshots/%s/restore", id), body, "restoring the snapshot", NULL);
}

static int clone_sandbox(struct cli *cli)
{
	struct error err = { 0 };
	char id[API_ID_MAX], path[HTTP_PATH_MAX];
	json_t *body;
	if (shape_body(cli, false, &body, &err) < 0)
		return cli_usage(cli, "%s", err.text);
	if (api_find_sandbox(cli, cli->arguments[0], id, &err) < 0) {
		json_decref(body);
		return cli_fail(cli, &err);
	}
	if (cli_value(cli, "snapshot-name"))
		json_object_set_new(body, "snapshot_name", json_string(cli_value(cli, "snapshot-name")));
	return make(cli, http_path(path, "/v1/sandboxes/%s/clone", id), body, "cloning the sandbox", "sandbox");
}

const struct cli_command command_sandbox_create = {
	.name = "sandbox create",
	.arguments = "",
	.brief = "Create a sandbox and print its id",
	.options = create_options,
	.failure = CLI_FAILED,
	.run = create,
};

const struct cli_command command_snapshot_restore = {
	.name = "snapshot restore",
	.arguments = "SNAPSHOT",
	.brief = "Make a sandbox from a snapshot and print its id",
	.options = restore_options,
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = restore,
};

const struct cli_command command_clone = {
	.name = "clone",
	.arguments = "SANDBOX",
	.brief = "Copy a sandbox, files and all, and print the copy's id",
	.details =
		"The copy starts from a snapshot of the source's disk, which stays and is listed by `akira snapshot list`.",
	.options = clone_options,
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = clone_sandbox,
};
