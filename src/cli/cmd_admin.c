/* What needs a key with the scope admin or audit:read: organisations, the audit log, usage. */
#include "cli/commands.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "cli/api.h"
#include "cli/output.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct output_column org_columns[] = {
	{ "ID", "id" },
	{ "NAME", "name" },
	{ "TIER", "tier" },
	{ "SUSPENDED", "suspended" },
	{ "CREATED", "created_at", output_age },
};

static const struct output_column org_details[] = {
	{ "id", "id" },         { "name", "name" },
	{ "tier", "tier" },     { "suspended", "suspended" },
	{ "limits", "limits" }, { "created", "created_at", output_age },
};

static const struct output_column audit_columns[] = {
	{ "SEQ", "seq" },         { "WHEN", "at" },         { "ACTION", "action" },
	{ "OUTCOME", "outcome" }, { "STATUS", "status" },   { "TARGET", "target" },
	{ "KEY", "key_id" },      { "ADDRESS", "address" }, { "DETAIL", "detail" },
};

static const struct output_column usage_columns[] = {
	{ "DAY", "day" },
	{ "SANDBOX S", "sandbox_seconds", output_seconds },
	{ "VCPU S", "vcpu_seconds", output_seconds },
	{ "CPU S", "cpu_seconds", output_seconds },
	{ "IN", "bytes_in", output_bytes },
	{ "OUT", "bytes_out", output_bytes },
	{ "COMMANDS", "executions" },
	{ "CREATED", "creates" },
};

static int org_list(struct cli *cli)
{
	struct error err = { 0 };
	json_t *rows;
	if (api_list(cli, "/v1/organisations", 0, &rows, &err) < 0)
		return cli_fail(cli, &err);
	return api_print_list(cli, rows, org_columns, COUNT(org_columns));
}

/* --limit NAME=N, N a number or "none". */
static int put_limits(const struct cli *cli, json_t *body, struct error *err)
{
	size_t at = 0;
	for (const char *text; (text = cli_next(cli, "limit", &at));) {
		char name[64];
		uint64_t number;
		const char *equals = strchr(text, '=');
		if (!equals || equals == text || (size_t)(equals - text) >= sizeof(name))
			return error_set(err, EINVAL, "--limit must be NAME=NUMBER or NAME=none: %s", text);
		memcpy(name, text, (size_t)(equals - text));
		name[equals - text] = '\0';
		if (strcmp(equals + 1, "none") == 0)
			json_object_set_new(body, name, json_integer(-1));
		else if (str_u64(equals + 1, 0, INT64_MAX, &number) == 0)
			json_object_set_new(body, name, json_integer((json_int_t)number));
		else
			return error_set(err, EINVAL, "--limit must be NAME=NUMBER or NAME=none: %s", text);
	}
	return 0;
}

static int org_body(const struct cli *cli, json_t **body, struct error *err)
{
	json_t *limits = json_object();
	int r = put_limits(cli, limits, err);
	*body = json_object();
	if (cli_value(cli, "tier"))
		json_object_set_new(*body, "tier", json_string(cli_value(cli, "tier")));
	if (json_object_size(limits) > 0)
		json_object_set(*body, "limits", limits);
	json_decref(limits);
	return r;
}

static int org_create(struct cli *cli)
{
	struct error err = { 0 };
	json_t *body, *answer = NULL;
	if (org_body(cli, &body, &err) < 0) {
		json_decref(body);
		return cli_usage(cli, "%s", err.text);
	}
	json_object_set_new(body, "name", json_string(cli->arguments[0]));
	int r = api_make(cli, "/v1/organisations", body, NULL, &answer, &err);
	json_decref(body);
	return r < 0 ? cli_fail(cli, &err) : api_print_record(cli, answer, org_details, COUNT(org_details));
}

static int org_change(struct cli *cli, json_t *body)
{
	struct error err = { 0 };
	char id[API_ID_MAX], path[HTTP_PATH_MAX];
	json_t *answer = NULL;
	int r = api_find(cli, "/v1/organisations", "org_", cli->arguments[0], id, &err);
	if (r == 0)
		r = api_send(cli, "PATCH", http_path(path, "/v1/organisations/%s", id), body, NULL, &answer, &err);
	json_decref(body);
	return r < 0 ? cli_fail(cli, &err) : api_print_record(cli, answer, org_details, COUNT(org_details));
}

static int org_set(struct cli *cli)
{
	struct error err = { 0 };
	json_t *body;
	int r = org_body(cli, &body, &err);
	if (r == 0 && json_object_size(body) == 0)
		r = error_set(&err, EINVAL, "nothing to change: see --tier and --limit");
	if (r < 0) {
		json_decref(body);
		return cli_usage(cli, "%s", err.text);
	}
	return org_change(cli, body);
}

static int org_suspend(struct cli *cli)
{
	return org_change(cli, json_pack("{s:b}", "suspended", 1));
}

static int org_resume(struct cli *cli)
{
	return org_change(cli, json_pack("{s:b}", "suspended", 0));
}

static int audit_page(struct cli *cli, const char *cursor, uint64_t limit, json_t **answer, struct error *err)
{
	static const char *const filters[] = { "action", "target", "outcome", "organisation_id" };
	char path[HTTP_PATH_MAX], part[HTTP_PATH_MAX], number[24];
	snprintf(number, sizeof(number), "%llu", (unsigned long long)limit);
	http_path(path, "/v1/audit?limit=%s", number);
	for (size_t i = 0; i < COUNT(filters); i++) {
		const char *value = cli_value(cli, i == 3 ? "org" : filters[i]);
		if (!value)
			continue;
		http_path(part, "&%s=%s", filters[i], value);
		if (strlen(path) + strlen(part) >= sizeof(path))
			return error_set(err, EINVAL, "--%s is too long", filters[i]);
		strcat(path, part);
	}
	if (cursor && strlen(path) + strlen(http_path(part, "&cursor=%s", cursor)) < sizeof(path))
		strcat(path, part);
	return api_get(cli, path, answer, err);
}

static int audit_list(struct cli *cli)
{
	struct error err = { 0 };
	uint64_t most = 50;
	json_t *rows = json_array(), *answer = NULL;
	char cursor[256] = "";
	if (cli_number(cli, "limit", 1, API_LIST_MAX, &most, &err) < 0) {
		json_decref(rows);
		return cli_usage(cli, "%s", err.text);
	}
	do {
		uint64_t left = most - json_array_size(rows);
		if (audit_page(cli, *cursor ? cursor : NULL, left > 1000 ? 1000 : left, &answer, &err) < 0) {
			json_decref(rows);
			return cli_fail(cli, &err);
		}
		json_t *data = json_object_get(answer, "data");
		const char *next = json_string_value(json_object_get(answer, "next_cursor"));
		if (json_array_size(data) == 0 || !next || str_copy(cursor, sizeof(cursor), next) < 0)
			cursor[0] = '\0';
		if (data)
			json_array_extend(rows, data);
		json_decref(answer);
	} while (*cursor && json_array_size(rows) < most);
	return api_print_list(cli, rows, audit_columns, COUNT(audit_columns));
}

static int audit_verify(struct cli *cli)
{
	struct error err = { 0 };
	json_t *answer = NULL;
	if (api_get(cli, "/v1/audit/verify", &answer, &err) < 0)
		return cli_fail(cli, &err);
	bool valid = json_is_true(json_object_get(answer, "valid"));
	static const struct output_column verdict[] = {
		{ "whole", "valid" },
		{ "records", "rows" },
		{ "first bad", "first_bad_seq" },
		{ "problem", "message" },
	};
	int code = api_print_record(cli, answer, verdict, COUNT(verdict));
	return valid ? code : CLI_FAILED;
}

static int usage(struct cli *cli)
{
	struct error err = { 0 };
	char path[HTTP_PATH_MAX];
	json_t *answer = NULL;
	const char *from = cli_value(cli, "from"), *to = cli_value(cli, "to");
	if (from && to)
		http_path(path, "/v1/usage?from=%s&to=%s", from, to);
	else if (from || to)
		http_path(path, from ? "/v1/usage?from=%s" : "/v1/usage?to=%s", from ? from : to);
	else
		http_path(path, "/v1/usage");
	if (api_get(cli, path, &answer, &err) < 0)
		return cli_fail(cli, &err);
	json_t *rows = json_incref(json_object_get(answer, "data"));
	json_decref(answer);
	return api_print_list(cli, rows ? rows : json_array(), usage_columns, COUNT(usage_columns));
}

static const struct cli_option org_options[] = {
	{ "tier", 0, "TIER", "beta, pro or enterprise." },
	{ "limit", 0, "NAME=N", "A limit of the organisation, such as sandboxes=20; N may be none.", true },
	{ NULL },
};
static const struct cli_option audit_options[] = {
	{ "action", 0, "ACTION", "Only these, such as sandbox.create." },
	{ "target", 0, "ID", "Only what was done to this." },
	{ "outcome", 0, "WORD", "ok, refused or failed." },
	{ "org", 0, "ORG", "Id of another organisation, or all (scope admin)." },
	{ "limit", 'l', "N", "At most N records (50)." },
	{ NULL },
};
static const struct cli_option usage_options[] = {
	{ "from", 0, "DAY", "First day (2026-01-31)." },
	{ "to", 0, "DAY", "Last day." },
	{ NULL },
};

const struct cli_command command_org_list = {
	.name = "org list",
	.arguments = "",
	.brief = "List the organisations",
	.failure = CLI_FAILED,
	.run = org_list,
};
const struct cli_command command_org_create = {
	.name = "org create",
	.arguments = "NAME",
	.brief = "Make an organisation",
	.options = org_options,
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = org_create,
};
const struct cli_command command_org_set = {
	.name = "org set",
	.arguments = "ORG",
	.brief = "Change an organisation's tier and limits",
	.options = org_options,
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = org_set,
};
const struct cli_command command_org_suspend = {
	.name = "org suspend",
	.arguments = "ORG",
	.brief = "Refuse an organisation's calls and stop its sandboxes",
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = org_suspend,
};
const struct cli_command command_org_resume = {
	.name = "org resume",
	.arguments = "ORG",
	.brief = "End a suspension",
	.min = 1,
	.max = 1,
	.failure = CLI_FAILED,
	.run = org_resume,
};
const struct cli_command command_audit_list = {
	.name = "audit list",
	.arguments = "",
	.brief = "Show the audit log, newest first",
	.options = audit_options,
	.failure = CLI_FAILED,
	.run = audit_list,
};
const struct cli_command command_audit_verify = {
	.name = "audit verify",
	.arguments = "",
	.brief = "Check that no record was altered or removed",
	.details = "Exits with 1 if the chain is broken.",
	.failure = CLI_FAILED,
	.run = audit_verify,
};
const struct cli_command command_usage = {
	.name = "usage",
	.arguments = "",
	.brief = "Show what was used, a line a day",
	.options = usage_options,
	.failure = CLI_FAILED,
	.run = usage,
};
