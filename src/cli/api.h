/* What several commands do with the API. */
#pragma once

#include "cli/cli.h"

#define API_ID_MAX 128

/* GET, POST with body (borrowed, may be NULL), … : the answer's JSON in *json (the caller's). */
int api_get(struct cli *cli, const char *path, json_t **json, struct error *err);
int api_send(struct cli *cli, const char *method, const char *path, const json_t *body, const char *doing,
	     json_t **json, struct error *err);
/* A POST that makes something: sent with an Idempotency-Key, repeated if the connection breaks, not broken off by ^C. */
int api_make(struct cli *cli, const char *path, const json_t *body, const char *doing, json_t **json,
	     struct error *err);

/* All pages of a list, as one array. limit 0: all (bounded at API_LIST_MAX). */
#define API_LIST_MAX 100000
int api_list(struct cli *cli, const char *path, size_t limit, json_t **rows, struct error *err);

/*
 * What a person wrote to mean a thing: an id (it begins with prefix, "sbx_") is taken as it is, else it is the name of
 * exactly one row of the list at path. -ENOENT: none, -EEXIST: several.
 */
int api_find(struct cli *cli, const char *path, const char *prefix, const char *what, char id[API_ID_MAX],
	     struct error *err);
int api_find_sandbox(struct cli *cli, const char *what, char id[API_ID_MAX], struct error *err);
int api_find_snapshot(struct cli *cli, const char *what, char id[API_ID_MAX], struct error *err);

/* A member that is a string which can be an id. */
int api_id_of(const json_t *object, char id[API_ID_MAX], struct error *err);

int api_delete_sandbox(struct cli *cli, const char *id, struct error *err);

/* An empty line for nothing: prints rows as JSON or as a table; returns the exit code. */
struct output_column;
int api_print_list(struct cli *cli, json_t *rows, const struct output_column *columns, size_t count);
int api_print_record(struct cli *cli, json_t *object, const struct output_column *columns, size_t count);
