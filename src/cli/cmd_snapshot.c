#include "cli/commands.h"

#include <errno.h>
#include <stdio.h>

#include "cli/api.h"
#include "cli/output.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct output_column columns[] = {
	{ "ID", "id" },
	{ "NAME", "name" },
	{ "STATUS", "status" },
	{ "SIZE", "size", output_bytes },
	{ "CREATED", "created_at", output_age },
	{ "USED BY", "depends_on", output_list },
};

static int list(struct cli *cli)
{
	struct error err = { 0 };
	json_t *rows;
	if (api_list(cli, "/v1/snapshots/list", 0, &rows, &err) < 0)
		return cli_fail(cli, &err);
	return api_print_list(cli, rows, columns, COUNT(columns));
}

static int create(struct cli *cli)
{
	struct error err = { 0 };
	char id[API_ID_MAX], path[HTTP_PATH_MAX];
	json_t *answer;
	if (api_find_sandbox(cli, cli->arguments[0], id, &err) < 0)
		return cli_fail(cli, &err);
	json_t *body = json_object();
	if (cli_value(cli, "name"))
		json_object_set_new(body, "name", json_string(cli_value(cli, "name")));
	if (cli_flag(cli, "quick"))
		json_object_set_new(body, "quick", json_true());
	int r = api_make(cli, http_path(path, "/v1/sandboxes/%s/snapshot", id), body, "making the snapshot", &answer,
			 &err);
	json_decref(body);
	if (r == 0 && !cli->json)
		r = api_id_of(answer, id, &err);
	if (r < 0)
		return r == -EINTR ? CLI_INTERRUPTED : cli_fail(cli, &err);
	int done = cli->json ? output_json(answer) : puts(id);
	json_decref(answer);
	return done < 0 || fflush(stdout) == EOF ? CLI_BROKEN_PIPE : CLI_OK;
}

static int rm(struct cli *cli)
{
	int code = CLI_OK;
	for (int i = 0; i < cli->argument_count; i++) {
		struct error err = { 0 };
		char id[API_ID_MAX], path[HTTP_PATH_MAX];
		json_t *answer = NULL;
		int r = api_find_snapshot(cli, cli->arguments[i], id, &err);
		if (r == 0)
			r = api_send(cli, "DELETE", http_path(path, "/v1/snapshots/%s", id), NULL, NULL, &answer, &err);
		json_decref(answer);
		if (r < 0)
			code = cli_fail(cli, &err);
		else
			puts(id);
	}
	return code;
}

static const struct cli_option create_options[] = {
	{ "name", 0, "NAME", "Name; without it, one is made up." },
	{ "quick", 0, NULL, "Only freeze, do not flush the guest's files first: as after a power cut." },
	{ NULL },
};

const struct cli_command command_snapshot_create = {
	.name = "snapshot create",
	.arguments = "SANDBOX",
	.brief = "Keep a sandbox's files and print the snapshot's id",
	.options = create_options,
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = create,
};
const struct cli_command command_snapshot_list = {
	.name = "snapshot list",
	.arguments = "",
	.brief = "List the snapshots",
	.failure = CLI_FAILED,
	.run = list,
};
const struct cli_command command_snapshot_rm = {
	.name = "snapshot rm",
	.arguments = "SNAPSHOT…",
	.brief = "Delete snapshots",
	.details = "A snapshot that sandboxes still use goes when the last of them has ended.",
	.min = 1,
	.max = -1,
	.failure = CLI_FAILED,
	.run = rm,
};
