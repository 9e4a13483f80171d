#include "cli/api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "cli/output.h"

#define PAGE_SIZE 100
#define ID_CHARACTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

static int call(struct cli *cli, struct http_request *request, json_t **json, struct error *err)
{
	_cleanup_answer_ struct http_answer answer = { 0 };
	if (cli->quiet)
		request->doing = NULL;
	int r = http_call(cli->http, request, &answer, err);
	*json = r == 0 ? json_incref(answer.json) : NULL;
	return r;
}

int api_get(struct cli *cli, const char *path, json_t **json, struct error *err)
{
	struct http_request request = { .method = "GET", .path = path, .doing = "asking the server" };
	return call(cli, &request, json, err);
}

int api_send(struct cli *cli, const char *method, const char *path, const json_t *body, const char *doing,
	     json_t **json, struct error *err)
{
	struct http_request request = {
		.method = method,
		.path = path,
		.body = body,
		.doing = doing,
		.timeout_ms = HTTP_LONG_MS,
	};
	return call(cli, &request, json, err);
}

int api_make(struct cli *cli, const char *path, const json_t *body, const char *doing, json_t **json, struct error *err)
{
	char once[40];
	str_random_id(once, "cli");
	struct http_request request = {
		.method = "POST",
		.path = path,
		.body = body,
		.doing = doing,
		.once = once,
		.patient = true,
		.timeout_ms = HTTP_LONG_MS,
	};
	return call(cli, &request, json, err);
}

static int one_page(struct cli *cli, const char *path, unsigned page, size_t size, json_t *rows, bool *more,
		    struct error *err)
{
	char full[HTTP_PATH_MAX];
	json_t *answer;
	snprintf(full, sizeof(full), "%s%cpage=%u&page_size=%zu", path, strchr(path, '?') ? '&' : '?', page, size);
	int r = api_get(cli, full, &answer, err);
	if (r < 0)
		return r;
	json_t *data = json_object_get(answer, "data");
	if (!json_is_array(data)) {
		json_decref(answer);
		return error_set(err, EPROTO, "the server's answer holds no list");
	}
	*more = json_array_size(data) == size;
	json_array_extend(rows, data);
	json_decref(answer);
	return 0;
}

int api_list(struct cli *cli, const char *path, size_t limit, json_t **rows, struct error *err)
{
	bool more = true;
	size_t most = limit && limit < API_LIST_MAX ? limit : API_LIST_MAX;
	*rows = json_array();
	for (unsigned page = 1; more && json_array_size(*rows) < most; page++) {
		int r = one_page(cli, path, page, most < PAGE_SIZE ? most : PAGE_SIZE, *rows, &more, err);
		if (r < 0) {
			json_decref(*rows);
			*rows = NULL;
			return r;
		}
	}
	while (json_array_size(*rows) > most)
		json_array_remove(*rows, json_array_size(*rows) - 1);
	return 0;
}

int api_id_of(const json_t *object, char id[API_ID_MAX], struct error *err)
{
	const char *text = json_string_value(json_object_get(object, "id"));
	if (!text || !*text || strspn(text, ID_CHARACTERS) != strlen(text) || str_copy(id, API_ID_MAX, text) < 0)
		return error_set(err, EPROTO, "the server's answer holds no id");
	return 0;
}

int api_find(struct cli *cli, const char *path, const char *prefix, const char *what, char id[API_ID_MAX],
	     struct error *err)
{
	json_t *rows, *row;
	size_t index, found = 0;
	if (str_starts(what, prefix) && strspn(what, ID_CHARACTERS) == strlen(what))
		return str_copy(id, API_ID_MAX, what) < 0 ? error_set(err, EINVAL, "%.20s… is no id", what) : 0;
	int r = api_list(cli, path, 0, &rows, err);
	if (r < 0)
		return r;
	json_array_foreach(rows, index, row)
	{
		const char *name = json_string_value(json_object_get(row, "name"));
		if (r == 0 && name && strcmp(name, what) == 0) {
			found++;
			r = api_id_of(row, id, err);
		}
	}
	json_decref(rows);
	if (r == 0 && found == 0)
		return error_set(err, ENOENT, "there is no '%s'", what);
	if (r == 0 && found > 1)
		return error_set(err, EEXIST, "%zu have the name '%s': use the id", found, what);
	return r;
}

int api_find_sandbox(struct cli *cli, const char *what, char id[API_ID_MAX], struct error *err)
{
	return api_find(cli, "/v1/sandboxes/list", "sbx_", what, id, err);
}

int api_find_snapshot(struct cli *cli, const char *what, char id[API_ID_MAX], struct error *err)
{
	return api_find(cli, "/v1/snapshots/list", "snap_", what, id, err);
}

int api_delete_sandbox(struct cli *cli, const char *id, struct error *err)
{
	char path[HTTP_PATH_MAX];
	struct http_request request = {
		.method = "DELETE",
		.path = http_path(path, "/v1/sandboxes/%s/delete", id),
		.doing = "deleting the sandbox",
		.patient = true,
		.once = "delete", /* deleting twice is harmless, so a broken connection is tried again */
	};
	json_t *json;
	int r = call(cli, &request, &json, err);
	json_decref(json);
	return r;
}

int api_print_list(struct cli *cli, json_t *rows, const struct output_column *columns, size_t count)
{
	int r = 0;
	if (cli->json)
		r = output_json(rows);
	else
		output_table(rows, columns, count);
	json_decref(rows);
	return r < 0 || fflush(stdout) == EOF ? CLI_BROKEN_PIPE : CLI_OK;
}

int api_print_record(struct cli *cli, json_t *object, const struct output_column *columns, size_t count)
{
	int r = 0;
	if (cli->json)
		r = output_json(object);
	else
		output_record(object, columns, count);
	json_decref(object);
	return r < 0 || fflush(stdout) == EOF ? CLI_BROKEN_PIPE : CLI_OK;
}
