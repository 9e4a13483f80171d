#include "daemon/api/scope.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *name;
	uint32_t scope;
} scopes_known[] = {
	{ "sandboxes:read", SCOPE_SANDBOXES_READ },
	{ "sandboxes:write", SCOPE_SANDBOXES_WRITE },
	{ "keys:manage", SCOPE_KEYS_MANAGE },
	{ "audit:read", SCOPE_AUDIT_READ },
	{ "admin", SCOPE_ADMIN },
};
#define KNOWN (sizeof(scopes_known) / sizeof(scopes_known[0]))

json_t *scope_names(uint32_t scopes)
{
	json_t *names = json_array();
	for (size_t i = 0; i < KNOWN; i++)
		if (scopes & scopes_known[i].scope)
			json_array_append_new(names, json_string(scopes_known[i].name));
	return names;
}

int scope_parse(const json_t *names, uint32_t *scopes, struct error *err)
{
	*scopes = 0;
	for (size_t i = 0; i < json_array_size(names); i++) {
		const char *name = json_string_value(json_array_get(names, i));
		size_t k = 0;
		while (name && k < KNOWN && strcmp(scopes_known[k].name, name) != 0)
			k++;
		if (!name || k == KNOWN)
			return error_set(err, EINVAL,
					 "scopes[%zu]: must be sandboxes:read, sandboxes:write, keys:manage, "
					 "audit:read or admin",
					 i);
		*scopes |= scopes_known[k].scope;
	}
	return 0;
}

int scope_org(const struct http_request *request, const char *wanted, const char **org, struct error *err)
{
	const struct call *call = call_of(request);

	*org = wanted ? wanted : call->org.id;
	if (strcmp(*org, call->org.id) == 0 || (call->key.scopes & SCOPE_ADMIN))
		return 0;
	return error_set(err, ENOENT, "there is no such organisation");
}
