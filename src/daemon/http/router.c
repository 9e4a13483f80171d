#include "daemon/http/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

static bool is_id(const char *text, size_t size)
{
	if (size == 0 || size >= HTTP_ID_MAX)
		return false;
	for (size_t i = 0; i < size; i++)
		if (!isalnum((unsigned char)text[i]) && text[i] != '_' && text[i] != '-')
			return false;
	return true;
}

static bool matches(const char *pattern, const char *path, char param[HTTP_ID_MAX])
{
	param[0] = '\0';
	while (*pattern) {
		if (str_starts(pattern, "{id}")) {
			size_t size = strcspn(path, "/");
			if (!is_id(path, size))
				return false;
			memcpy(param, path, size);
			param[size] = '\0';
			path += size;
			pattern += 4;
		} else if (*pattern++ != *path++) {
			return false;
		}
	}
	return *path == '\0';
}

static void add_method(char allow[64], const char *method)
{
	size_t used = strlen(allow);
	if (!strstr(allow, method))
		snprintf(allow + used, 64 - used, "%s%s", used ? ", " : "", method);
}

const struct http_route *route_find(const struct http_route *routes, size_t count, const char *method, const char *path,
				    char param[HTTP_ID_MAX], char allow[64])
{
	allow[0] = '\0';
	for (size_t i = 0; i < count; i++) {
		if (!matches(routes[i].pattern, path, param))
			continue;
		if (strcmp(routes[i].method, method) == 0)
			return &routes[i];
		add_method(allow, routes[i].method);
	}
	param[0] = '\0';
	return NULL;
}
