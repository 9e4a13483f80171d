#include "daemon/api/check.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/str.h"
#include "base/time.h"

static bool is_image(const char *text)
{
	size_t size = strlen(text);
	if (size < 1 || size > 255 || !isalnum((unsigned char)text[0]) || strstr(text, ".."))
		return false;
	for (size_t i = 0; i < size; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("._-/:@", text[i]))
			return false;
	return true;
}

static int check_text(const json_t *value, const char *prefix, const struct check_field *field, void *to,
		      struct error *err)
{
	const char *text = json_string_value(value);
	size_t size = text ? json_string_length(value) : 0;

	if (!text)
		return error_set(err, EINVAL, "%s%s: must be a string", prefix, field->name);
	if (field->kind == CHECK_NAME && !str_is_name(text))
		return error_set(err, EINVAL, "%s%s: must be 1 to 63 characters, [A-Za-z0-9][A-Za-z0-9._-]*", prefix,
				 field->name);
	if (field->kind == CHECK_IMAGE && !is_image(text))
		return error_set(err, EINVAL, "%s%s: must be 1 to 255 characters, [A-Za-z0-9][A-Za-z0-9._/:@-]*",
				 prefix, field->name);
	if (field->kind == CHECK_TEXT && (size < (size_t)field->min || size > (size_t)field->max))
		return error_set(err, EINVAL, "%s%s: must be %" PRId64 " to %" PRId64 " bytes", prefix, field->name,
				 field->min, field->max);
	memcpy(to, &text, sizeof(text));
	return 0;
}

static int check_integer(const json_t *value, const char *prefix, const struct check_field *field, void *to,
			 struct error *err)
{
	int64_t number = json_integer_value(value);

	if (!json_is_integer(value) || number < field->min || number > field->max)
		return error_set(err, EINVAL, "%s%s: must be an integer from %" PRId64 " to %" PRId64, prefix,
				 field->name, field->min, field->max);
	memcpy(to, &number, sizeof(number));
	return 0;
}

static int check_array(json_t *value, const char *prefix, const struct check_field *field, void *to, struct error *err)
{
	size_t size = json_array_size(value);

	if (!json_is_array(value) || size < (size_t)field->min || size > (size_t)field->max)
		return error_set(err, EINVAL, "%s%s: must be an array of %" PRId64 " to %" PRId64 " elements", prefix,
				 field->name, field->min, field->max);
	memcpy(to, &value, sizeof(value));
	return 0;
}

static int check_value(json_t *value, const char *prefix, const struct check_field *field, void *to, struct error *err)
{
	switch (field->kind) {
	case CHECK_TEXT:
	case CHECK_NAME:
	case CHECK_IMAGE: return check_text(value, prefix, field, to, err);
	case CHECK_INTEGER: return check_integer(value, prefix, field, to, err);
	case CHECK_BOOLEAN:
		if (!json_is_boolean(value))
			return error_set(err, EINVAL, "%s%s: must be true or false", prefix, field->name);
		*(bool *)to = json_is_true(value);
		return 0;
	case CHECK_OBJECT:
		if (!json_is_object(value))
			return error_set(err, EINVAL, "%s%s: must be an object", prefix, field->name);
		memcpy(to, &value, sizeof(value));
		return 0;
	case CHECK_ARRAY: return check_array(value, prefix, field, to, err);
	case CHECK_ANY: memcpy(to, &value, sizeof(value)); return 0;
	}
	return error_set(err, EINVAL, "%s%s: has no type", prefix, field->name);
}

static bool is_known(const char *name, const struct check_field *fields, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(fields[i].name, name) == 0)
			return true;
	return false;
}

int check_object(const json_t *object, const char *prefix, const struct check_field *fields, size_t count, void *to,
		 struct error *err)
{
	const char *name;
	json_t *value;

	json_object_foreach(
		(json_t *)(uintptr_t)object, name,
		value) if (!is_known(name, fields, count)) return error_set(err, EINVAL,
									    "%s%.64s: there is no such field", prefix,
									    name);
	for (size_t i = 0; i < count; i++) {
		value = json_object_get(object, fields[i].name);
		if (!value || json_is_null(value)) {
			if (fields[i].required)
				return error_set(err, EINVAL, "%s%s: is required", prefix, fields[i].name);
			continue;
		}
		int r = check_value(value, prefix, &fields[i], (char *)to + fields[i].offset, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int check_number(const struct http_request *request, const char *name, uint64_t min, uint64_t max, uint64_t *value,
		 struct error *err)
{
	const char *text = http_query(request, name);

	if (text && str_u64(text, min, max, value) < 0)
		return error_set(err, EINVAL, "%s: must be an integer from %" PRIu64 " to %" PRIu64, name, min, max);
	return 0;
}

int check_page(const struct http_request *request, uint32_t *page, uint32_t *size, struct error *err)
{
	uint64_t number = 1, count = 20;
	int r = check_number(request, "page", 1, 1000000, &number, err);
	if (r == 0)
		r = check_number(request, "page_size", 1, 100, &count, err);
	*page = (uint32_t)number;
	*size = (uint32_t)count;
	return r;
}

int check_time(const struct http_request *request, const char *name, int64_t *ms, struct error *err)
{
	const char *text = http_query(request, name);

	if (text && time_parse_iso(text, ms) < 0)
		return error_set(err, EINVAL, "%s: must be an ISO 8601 time such as 2026-01-31T12:34:56Z", name);
	return 0;
}

int check_query(const struct http_request *request, const char *const *names, struct error *err)
{
	for (size_t i = 0; i < request->query_count; i++) {
		const char *const *known = names;
		while (*known && strcmp(*known, request->query[i].name) != 0)
			known++;
		if (!*known && strcmp(request->query[i].name, "api_key") != 0)
			return error_set(err, EINVAL, "%.64s: there is no such query parameter",
					 request->query[i].name);
	}
	return 0;
}
