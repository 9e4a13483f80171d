#include "daemon/api/internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "daemon/json/text.h"

#define METADATA_MAX 32
#define METADATA_BYTES_MAX 4096
#define RULES_MAX 64
#define GB_MAX 65536
#define LIFETIME_MAX 31536000 /* seconds; the organisation's own bound is the domain's affair */

/* What a body says, before it becomes the domain's. */
struct body {
	const char *image, *name, *snapshot_name, *on_idle;
	json_t *env, *metadata, *network, *resources;
	int64_t timeout_s, idle_timeout_s;
	bool wait;
};

struct resources {
	int64_t cpus, memory, storage;
	json_t *storage_any;
};

static bool is_variable(const char *name)
{
	size_t size = strlen(name);
	if (size < 1 || size > 256 || isdigit((unsigned char)name[0]))
		return false;
	for (size_t i = 0; i < size; i++)
		if (!isalnum((unsigned char)name[i]) && name[i] != '_')
			return false;
	return true;
}

static int read_pairs(const json_t *object, const char *field, size_t count_max, size_t bytes_max, bool variables,
		      struct sandbox_pair **pairs, size_t *count, struct error *err)
{
	const char *key;
	json_t *value;
	size_t bytes = 0, n = json_object_size(object);

	if (n > count_max)
		return error_set(err, EINVAL, "%s: at most %zu entries", field, count_max);
	struct sandbox_pair *list = calloc(n + 1, sizeof(*list));
	if (!list)
		return error_set(err, ENOMEM, "out of memory");
	*pairs = list;
	*count = 0;
	json_object_foreach((json_t *)(uintptr_t)object, key, value)
	{
		if (!json_is_string(value))
			return error_set(err, EINVAL, "%s.%.64s: must be a string", field, key);
		if (variables ? !is_variable(key) : key[0] == '\0')
			return error_set(err, EINVAL, "%s.%.64s: is not a usable name", field, key);
		bytes += strlen(key) + json_string_length(value);
		if (bytes > bytes_max)
			return error_set(err, EINVAL, "%s: names and values together at most %zu bytes", field,
					 bytes_max);
		list[(*count)++] = (struct sandbox_pair){ key, json_string_value(value) };
	}
	return 0;
}

int spec_env(const json_t *object, const char *field, struct sandbox_pair **pairs, size_t *count, struct error *err)
{
	return read_pairs(object, field, SANDBOX_ENV_MAX, SANDBOX_ENV_BYTES_MAX, true, pairs, count, err);
}

/* A CIDR, an address or a domain: the domain module judges; here only what no rule can be. */
static bool is_rule(const char *text)
{
	size_t size = strlen(text);
	if (size < 1 || size > 253)
		return false;
	for (size_t i = 0; i < size; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr(".-_:/*", text[i]))
			return false;
	return true;
}

static int read_rules(const json_t *array, const char *field, const char ***rules, size_t *count, struct error *err)
{
	size_t n = json_array_size(array);

	*rules = calloc(n + 1, sizeof(**rules));
	if (!*rules)
		return error_set(err, ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		const char *text = json_string_value(json_array_get(array, i));
		if (!text || !is_rule(text))
			return error_set(err, EINVAL,
					 "network.%s[%zu]: must be a CIDR or a domain, 1 to 253 characters", field, i);
		(*rules)[(*count)++] = text;
	}
	return 0;
}

int spec_network(const json_t *object, struct spec *spec, struct error *err)
{
	struct {
		const char *outbound;
		json_t *allow, *deny;
		int64_t bandwidth;
	} value = { 0 };
#define FIELD(name, kind, member, ...)                                       \
	{                                                                    \
		name, kind, offsetof(__typeof__(value), member), __VA_ARGS__ \
	}
	static const struct check_field fields[] = {
		FIELD("outbound", CHECK_TEXT, outbound, 4, 5),
		FIELD("allow", CHECK_ARRAY, allow, 0, RULES_MAX),
		FIELD("deny", CHECK_ARRAY, deny, 0, RULES_MAX),
		FIELD("bandwidth_mbps", CHECK_INTEGER, bandwidth, 0, 100000),
	};
#undef FIELD
	int r = check_object(object, "network.", fields, CHECK_COUNT(fields), &value, err);
	if (r < 0)
		return r;
	if (value.outbound && strcmp(value.outbound, "allow") != 0 && strcmp(value.outbound, "deny") != 0)
		return error_set(err, EINVAL, "network.outbound: must be allow or deny");
	struct sandbox_network *network = &spec->network;
	network->deny = value.outbound && strcmp(value.outbound, "deny") == 0;
	network->bandwidth_mbps = (uint32_t)value.bandwidth;
	r = read_rules(value.allow, "allow", &spec->allow, &network->allow_count, err);
	if (r == 0)
		r = read_rules(value.deny, "deny", &spec->denied, &network->denied_count, err);
	network->allow = spec->allow;
	network->denied = spec->denied;
	spec->domain.network = network;
	spec->network_json = json_text(object, JSON_COMPACT);
	spec->domain.network_json = spec->network_json;
	return r == 0 && !spec->network_json ? error_set(err, ENOMEM, "out of memory") : r;
}

/* "10Gi", "10G", "10GB", "10" or a number of GB. */
static int read_size(const json_t *value, int64_t *gb, struct error *err)
{
	char text[16];
	uint64_t number;

	if (json_is_integer(value)) {
		*gb = json_integer_value(value);
		return *gb >= 1 && *gb <= GB_MAX
			       ? 0
			       : error_set(err, EINVAL, "resources.storage: must be 1 to %d GB", GB_MAX);
	}
	if (!json_is_string(value) || str_copy(text, sizeof(text), json_string_value(value)) < 0)
		return error_set(err, EINVAL, "resources.storage: must be a size such as 10Gi");
	static const char *const suffixes[] = { "GiB", "Gi", "GB", "G" };
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		if (str_ends(text, suffixes[i])) {
			text[strlen(text) - strlen(suffixes[i])] = '\0';
			break;
		}
	}
	if (str_u64(text, 1, GB_MAX, &number) < 0)
		return error_set(err, EINVAL, "resources.storage: must be a size such as 10Gi, 1 to %d GB", GB_MAX);
	*gb = (int64_t)number;
	return 0;
}

static int read_resources(const json_t *object, enum spec_kind kind, struct sandbox_spec *spec, struct error *err)
{
	static const struct check_field fields[] = {
		{ "cpus", CHECK_INTEGER, offsetof(struct resources, cpus), 1, 1024, false },
		{ "memory", CHECK_INTEGER, offsetof(struct resources, memory), 64, 4194304, false },
		{ "storage", CHECK_ANY, offsetof(struct resources, storage_any), 0, 0, false },
	};
	struct resources resources = { 0 };

	/* A clone's disk is its source's: it takes no storage. */
	int r = check_object(object, "resources.", fields, kind == SPEC_CLONE ? 2 : 3, &resources, err);
	if (r == 0 && resources.storage_any)
		r = read_size(resources.storage_any, &resources.storage, err);
	spec->cpu_units = (uint32_t)resources.cpus;
	spec->memory_mib = (uint32_t)resources.memory;
	spec->storage_gb = (uint32_t)resources.storage;
	return r;
}

static const struct check_field common_fields[] = {
#define FIELD(name, kind, member, ...)                                 \
	{                                                              \
		name, kind, offsetof(struct body, member), __VA_ARGS__ \
	}
	FIELD("image", CHECK_IMAGE, image, 0, 0),
	FIELD("name", CHECK_NAME, name, 0, 0),
	FIELD("env_vars", CHECK_OBJECT, env, 0, 0),
	FIELD("resources", CHECK_OBJECT, resources, 0, 0),
	FIELD("wait_for_ready", CHECK_BOOLEAN, wait, 0, 0),
	FIELD("timeout_seconds", CHECK_INTEGER, timeout_s, 1, LIFETIME_MAX),
	FIELD("idle_timeout_seconds", CHECK_INTEGER, idle_timeout_s, 0, LIFETIME_MAX),
	FIELD("on_idle", CHECK_TEXT, on_idle, 5, 9),
	FIELD("network", CHECK_OBJECT, network, 0, 0),
	FIELD("metadata", CHECK_OBJECT, metadata, 0, 0),
	FIELD("snapshot_name", CHECK_NAME, snapshot_name, 0, 0), /* the last: clone alone has it */
#undef FIELD
};

static int read_maps(const struct body *body, struct spec *spec, struct error *err)
{
	struct sandbox_spec *domain = &spec->domain;
	int r = 0;

	if (body->env) {
		r = spec_env(body->env, "env_vars", &spec->env, &domain->env_count, err);
		domain->env = spec->env;
		domain->env_json = spec->env_json = json_text(body->env, JSON_COMPACT);
	}
	if (r == 0 && body->metadata) {
		r = read_pairs(body->metadata, "metadata", METADATA_MAX, METADATA_BYTES_MAX, false, &spec->metadata,
			       &domain->metadata_count, err);
		domain->metadata = spec->metadata;
		domain->metadata_json = spec->metadata_json = json_text(body->metadata, JSON_COMPACT);
	}
	/* Never a sandbox without what was asked for. */
	if (r == 0 && ((body->env && !spec->env_json) || (body->metadata && !spec->metadata_json)))
		r = error_set(err, ENOMEM, "out of memory");
	if (r == 0 && body->network)
		r = spec_network(body->network, spec, err);
	return r;
}

int spec_parse(struct http_request *request, enum spec_kind kind, struct spec *spec, struct error *err)
{
	struct body body = { .timeout_s = -1, .wait = true };
	struct sandbox_spec *domain = &spec->domain;

	*spec = (struct spec){ 0 };
	size_t count = CHECK_COUNT(common_fields) - (kind != SPEC_CLONE);
	int r = check_object(request->json, "", common_fields, count, &body, err);
	if (r < 0)
		return r;
	if (kind == SPEC_RESTORE && !body.name)
		return error_set(err, EINVAL, "name: is required");
	if (body.on_idle && strcmp(body.on_idle, "pause") != 0 && strcmp(body.on_idle, "terminate") != 0)
		return error_set(err, EINVAL, "on_idle: must be pause or terminate");
	domain->image = body.image;
	domain->name = body.name;
	domain->timeout_s = body.timeout_s;
	domain->idle_timeout_s = body.idle_timeout_s;
	domain->idle_pause = body.on_idle && strcmp(body.on_idle, "pause") == 0;
	domain->wait = body.wait;
	domain->named = idem_named;
	domain->context = request;
	spec->snapshot_name = body.snapshot_name;
	r = read_maps(&body, spec, err);
	if (r == 0 && body.resources)
		r = read_resources(body.resources, kind, domain, err);
	return r;
}

void spec_free(struct spec *spec)
{
	free(spec->env);
	free(spec->metadata);
	free(spec->allow);
	free(spec->denied);
	if (spec->env_json)
		explicit_bzero(spec->env_json, strlen(spec->env_json));
	free(spec->env_json);
	free(spec->metadata_json);
	free(spec->network_json);
}
