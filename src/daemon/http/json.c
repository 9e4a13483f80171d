#include "daemon/http/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PATH_MAX_TEXT 256

/*
 * Count before anything is allocated: jansson's own bound on depth is 2048 and it has none on the number of values.
 * What is not JSON may be miscounted here; jansson refuses it afterwards.
 */
static int measure(const char *text, size_t size, struct error *err)
{
	size_t depth = 0, values = 0;
	bool quoted = false;

	for (size_t i = 0; i < size; i++) {
		char c = text[i];
		if (quoted) {
			if (c == '\\')
				i++;
			else if (c == '"')
				quoted = false;
		} else if (c == '"') {
			quoted = true;
		} else if (c == '{' || c == '[') {
			if (++depth > JSON_DEPTH_MAX)
				return error_set(err, EINVAL, "body: nested deeper than %d", JSON_DEPTH_MAX);
			values++;
		} else if ((c == '}' || c == ']') && depth > 0) {
			depth--;
		} else if (c == ',') {
			values++;
		}
		if (values > JSON_VALUES_MAX)
			return error_set(err, EINVAL, "body: more than %d values", JSON_VALUES_MAX);
	}
	return 0;
}

/* Where the first value stands that is wrong, as a.b[2]; `wrong` tells. Depth is bounded by JSON_DEPTH_MAX. */
static bool find(const json_t *value, bool (*wrong)(const json_t *), char *path, size_t size)
{
	size_t used = strlen(path), index;
	const char *key;
	json_t *inner, *all = (json_t *)(uintptr_t)value;

	if (wrong(value))
		return true;
	if (json_is_object(value)) {
		json_object_foreach(all, key, inner)
		{
			snprintf(path + used, size - used, "%s%.64s", used ? "." : "", key);
			if (find(inner, wrong, path, size))
				return true;
		}
	} else if (json_is_array(value)) {
		json_array_foreach(all, index, inner)
		{
			snprintf(path + used, size - used, "[%zu]", index);
			if (find(inner, wrong, path, size))
				return true;
		}
	}
	path[used] = '\0';
	return false;
}

/* A NUL would end the text early for whoever reads it as a C string. */
static bool has_nul(const json_t *value)
{
	return json_is_string(value) && strlen(json_string_value(value)) != json_string_length(value);
}

static bool is_huge(const json_t *value)
{
	return json_is_real(value) && (json_real_value(value) >= 0x1p63 || json_real_value(value) < -0x1p63);
}

/* jansson says where in the text, people want to know which field. */
static int refuse(const char *text, size_t size, const json_error_t *why, struct error *err)
{
	char path[PATH_MAX_TEXT] = "";
	json_t *value = NULL;

	if (json_error_code(why) == json_error_out_of_memory)
		return error_set(err, ENOMEM, "out of memory");
	if (json_error_code(why) == json_error_numeric_overflow)
		value = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
	bool found = value && find(value, is_huge, path, sizeof(path));
	json_decref(value);
	if (found)
		return error_set(err, EINVAL, "%s: the number is too large", path[0] ? path : "body");
	return error_set(err, EINVAL, "body: not valid JSON (line %d, column %d: %.80s)", why->line, why->column,
			 why->text);
}

int http_json_parse(const char *text, size_t size, json_t **json, struct error *err)
{
	char path[PATH_MAX_TEXT] = "";
	json_error_t why;
	int r = measure(text, size, err);
	if (r < 0)
		return r;
	json_t *value = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
	if (!value)
		return refuse(text, size, &why, err);
	if (!json_is_object(value))
		r = error_set(err, EINVAL, "body: must be a JSON object");
	else if (find(value, has_nul, path, sizeof(path)))
		r = error_set(err, EINVAL, "%s: must not hold a NUL", path);
	if (r < 0)
		json_decref(value);
	else
		*json = value;
	return r;
}
