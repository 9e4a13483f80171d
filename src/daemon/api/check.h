/*
 * What a body or a query may hold, as tables. A message names the field and the bound; a field that stands in no table
 * is refused by name. JSON null counts as absent.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "daemon/http/http.h"

enum check_kind {
	CHECK_TEXT,    /* const char *; min..max bytes */
	CHECK_NAME,    /* const char *; the contract's rule for names */
	CHECK_IMAGE,   /* const char *; reference of an image */
	CHECK_INTEGER, /* int64_t; min..max */
	CHECK_BOOLEAN, /* bool */
	CHECK_OBJECT,  /* json_t *, borrowed */
	CHECK_ARRAY,   /* json_t *, borrowed; min..max elements */
	CHECK_ANY,     /* json_t *, borrowed */
};

struct check_field {
	const char *name;
	enum check_kind kind;
	size_t offset; /* where the value goes; left as it is when the field is absent */
	int64_t min, max;
	bool required;
};

/* Prefix: "" or "resources." for the messages. 0 or -EINVAL. Texts live as long as object. */
int check_object(const json_t *object, const char *prefix, const struct check_field *fields, size_t count, void *to,
		 struct error *err);
#define CHECK_COUNT(fields) (sizeof(fields) / sizeof((fields)[0]))

/* page (from 1) and page_size (1..100), 1 and 20 when absent. */
int check_page(const struct http_request *request, uint32_t *page, uint32_t *size, struct error *err);
/* A time of the query into *ms, left as it is when absent. */
int check_time(const struct http_request *request, const char *name, int64_t *ms, struct error *err);
int check_number(const struct http_request *request, const char *name, uint64_t min, uint64_t max, uint64_t *value,
		 struct error *err);
/* Only these parameters (and api_key) may stand in the query; NULL-ended. */
int check_query(const struct http_request *request, const char *const *names, struct error *err);
