#include "cli/commands.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "cli/api.h"
#include "cli/output.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))
#define EXPIRES_DAYS_MAX 3650

static const struct output_column columns[] = {
	{ "ID", "id" },
	{ "NAME", "name" },
	{ "PREFIX", "prefix" },
	{ "SCOPES", "scopes", output_list },
	{ "CREATED", "created_at", output_age },
	{ "LAST USED", "last_used_at", output_age },
	{ "EXPIRES", "expires_at", output_age },
	{ "REVOKED", "revoked_at", output_age },
};

static int list(struct cli *cli)
{
	struct error err = { 0 };
	json_t *rows;
	if (api_list(cli, "/v1/keys", 0, &rows, &err) < 0)
		return cli_fail(cli, &err);
	return api_print_list(cli, rows, columns, COUNT(columns));
}

/* The key goes to standard output alone, so that it can be piped; what to know about it goes to standard error. */
static int print_key(struct cli *cli, json_t *answer)
{
	const char *key = json_string_value(json_object_get(answer, "key"));
	const char *id = json_string_value(json_object_get(answer, "id"));
	int done = 0;
	if (cli->json) {
		done = output_json(answer);
	} else if (!key) {
		json_decref(answer);
		output_error("%s: the server's answer holds no key", cli->command->name);
		return CLI_FAILED;
	} else {
		_cleanup_free_ char *safe = output_safe(key, NULL);
		done = puts(safe);
		if (isatty(STDERR_FILENO) && id) {
			_cleanup_free_ char *shown = output_safe(id, NULL);
			fprintf(stderr, "Key %s: it is shown this once and kept nowhere.\n", shown);
		}
	}
	json_decref(answer);
	return done < 0 || fflush(stdout) == EOF ? CLI_BROKEN_PIPE : CLI_OK;
}

static void put_scopes(const struct cli *cli, json_t *body)
{
	size_t at = 0;
	json_t *scopes = NULL;
	for (const char *text; (text = cli_next(cli, "scope", &at));) {
		if (!scopes)
			scopes = json_array();
		json_array_append_new(scopes, json_string(text));
	}
	/* What a program that uses sandboxes needs, and no more. */
	if (!scopes)
		scopes = json_pack("[s, s]", "sandboxes:read", "sandboxes:write");
	json_object_set_new(body, "scopes", scopes);
}

static int create(struct cli *cli)
{
	struct error err = { 0 };
	uint64_t days = 0;
	char when[TIME_TEXT_MAX];
	json_t *answer;
	if (cli_number(cli, "expires-days", 1, EXPIRES_DAYS_MAX, &days, &err) < 0)
		return cli_usage(cli, "%s", err.text);
	json_t *body = json_pack("{s:s}", "name", cli->arguments[0]);
	if (!body)
		return cli_usage(cli, "the name is not UTF-8");
	put_scopes(cli, body);
	if (days)
		json_object_set_new(body, "expires_at",
				    json_string(time_iso(when, time_wall_ms() + (int64_t)days * 86400000)));
	if (cli_value(cli, "org"))
		json_object_set_new(body, "organisation_id", json_string(cli_value(cli, "org")));
	int r = api_make(cli, "/v1/keys", body, NULL, &answer, &err);
	json_decref(body);
	return r < 0 ? cli_fail(cli, &err) : print_key(cli, answer);
}

static int rotate(struct cli *cli)
{
	struct error err = { 0 };
	char id[API_ID_MAX], path[HTTP_PATH_MAX];
	uint64_t grace = 0;
	json_t *answer;
	if (cli_number(cli, "grace", 0, 31536000, &grace, &err) < 0)
		return cli_usage(cli, "%s", err.text);
	if (api_find(cli, "/v1/keys", "key_", cli->arguments[0], id, &err) < 0)
		return cli_fail(cli, &err);
	json_t *body = json_object();
	if (cli_value(cli, "grace"))
		json_object_set_new(body, "grace_seconds", json_integer((json_int_t)grace));
	int r = api_make(cli, http_path(path, "/v1/keys/%s/rotate", id), body, NULL, &answer, &err);
	json_decref(body);
	return r < 0 ? cli_fail(cli, &err) : print_key(cli, answer);
}

static int revoke_keys(struct cli *cli)
{
	int code = CLI_OK;
	for (int i = 0; i < cli->argument_count; i++) {
		struct error err = { 0 };
		char id[API_ID_MAX], path[HTTP_PATH_MAX];
		json_t *answer = NULL;
		int r = api_find(cli, "/v1/keys", "key_", cli->arguments[i], id, &err);
		if (r == 0)
			r = api_send(cli, "DELETE", http_path(path, "/v1/keys/%s", id), NULL, NULL, &answer, &err);
		json_decref(answer);
		if (r < 0)
			code = cli_fail(cli, &err);
		else
			puts(id);
	}
	return code;
}

static const struct cli_option create_options[] = {
	{ "scope", 0, "SCOPE",
	  "sandboxes:read, sandboxes:write (these two if none is given), keys:manage, audit:read or admin.", true },
	{ "expires-days", 0, "N", "The key ends after N days; without it, never." },
	{ "org", 0, "ORG", "Id of another organisation (needs a key with scope admin)." },
	{ NULL },
};

static const struct cli_option rotate_options[] = {
	{ "grace", 0, "S", "The old key works for S more seconds." },
	{ NULL },
};

const struct cli_command command_key_create = {
	.name = "key create",
	.arguments = "NAME",
	.brief = "Make an API key and print it, this once",
	.details = "If all keys are lost, `akirad admin reset-key` makes one on the server itself.",
	.options = create_options,
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = create,
};
const struct cli_command command_key_list = {
	.name = "key list",
	.arguments = "",
	.brief = "List the API keys",
	.failure = CLI_FAILED,
	.run = list,
};
const struct cli_command command_key_rotate = {
	.name = "key rotate",
	.arguments = "KEY",
	.brief = "Replace a key by a new one and print that",
	.options = rotate_options,
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = rotate,
};
const struct cli_command command_key_revoke = {
	.name = "key revoke",
	.arguments = "KEY…",
	.brief = "End keys at once",
	.min = 1,
	.max = -1,
	.failure = CLI_FAILED,
	.run = revoke_keys,
};
