#include "daemon/http/internal.h"

#include <errno.h>
#include <string.h>

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

int http_json_parse(const char *text, size_t size, json_t **json, struct error *err)
{
	json_error_t why;
	int r = measure(text, size, err);
	if (r < 0)
		return r;
	json_t *value = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
	if (!value)
		return error_set(err, EINVAL, "body: not valid JSON (line %d, column %d: %.80s)", why.line, why.column,
				 why.text);
	if (!json_is_object(value)) {
		json_decref(value);
		return error_set(err, EINVAL, "body: must be a JSON object");
	}
	*json = value;
	return 0;
}
