/* What a client asks for, held against the bounds of the contract, of the organisation and of the host. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

static int in_range(const char *field, int64_t value, int64_t min, int64_t max, struct error *err)
{
	if (value >= min && value <= max)
		return 0;
	return error_set(err, EINVAL, "%s: must be between %" PRId64 " and %" PRId64 ", is %" PRId64, field, min, max,
			 value);
}

/* An organisation's limit, where it has one, cut to the host's. */
static int64_t at_most(int64_t limit, int64_t host)
{
	return limit >= 0 && limit < host ? limit : host;
}

static int check_sizes(const struct store_org *org, struct store_sandbox *row, struct error *err)
{
	int r = in_range("resources.cpus", row->cpu_units, 1, at_most(org->cpu_units_max, CPU_UNITS_MAX), err);
	if (r == 0)
		r = in_range("resources.memory", row->memory_mib, MEMORY_MIB_MIN,
			     at_most(org->memory_mib_max, MEMORY_MIB_MAX), err);
	if (r == 0)
		r = in_range("resources.storage", row->storage_gb, 1, at_most(org->storage_gb_max, STORAGE_GB_MAX),
			     err);
	if (r == 0)
		r = in_range("timeout_seconds", row->timeout_s, 1, at_most(org->lifetime_s_max, LIFETIME_MAX_S), err);
	if (r == 0)
		r = in_range("idle_timeout_seconds", row->idle_timeout_s, 0, LIFETIME_MAX_S, err);
	return r;
}

static bool is_env_name(const char *name)
{
	if (!isalpha((unsigned char)name[0]) && name[0] != '_')
		return false;
	for (const char *p = name; *p; p++)
		if (!isalnum((unsigned char)*p) && *p != '_')
			return false;
	return true;
}

static int check_env(const struct sandbox_spec *spec, struct error *err)
{
	size_t bytes = 0;

	if (spec->env_count > SANDBOX_ENV_MAX)
		return error_set(err, EINVAL, "env_vars: at most %d variables, there are %zu", SANDBOX_ENV_MAX,
				 spec->env_count);
	for (size_t i = 0; i < spec->env_count; i++) {
		if (!is_env_name(spec->env[i].key))
			return error_set(err, EINVAL,
					 "env_vars: \"%.60s\" is no name of a variable ([A-Za-z_][A-Za-z0-9_]*)",
					 spec->env[i].key);
		bytes += strlen(spec->env[i].key) + strlen(spec->env[i].value) + 2;
	}
	/* They travel to the guest in one message, with the image's own. */
	if (bytes > GUEST_PAYLOAD_MAX - 8192)
		return error_set(err, EINVAL, "env_vars: at most %d bytes together", GUEST_PAYLOAD_MAX - 8192);
	return 0;
}

static int name_it(const struct sandbox_spec *spec, struct store_sandbox *row, struct error *err)
{
	if (spec->name && *spec->name) {
		if (!str_is_name(spec->name))
			return error_set(err, EINVAL,
					 "name: 1 to 63 characters of [A-Za-z0-9._-], the first a letter or digit");
		return str_copy(row->name, sizeof(row->name), spec->name);
	}
	char random[STORE_ID_MAX];
	str_random_id(random, "r");
	snprintf(row->name, sizeof(row->name), "sandbox-%.8s-%" PRId64, random + 2, time_wall_ms() / 1000);
	return 0;
}

static int keep(char **to, const char *text, struct error *err)
{
	if (!text)
		return 0;
	*to = strdup(text);
	return *to ? 0 : error_set(err, ENOMEM, "no memory for a sandbox");
}

static void fill_row(const struct sandbox_actor *actor, const struct sandbox_spec *spec, struct store_sandbox *row)
{
	*row = (struct store_sandbox){
		.status = SANDBOX_CREATING,
		.cpu_units = spec->cpu_units ? spec->cpu_units : DEFAULT_CPU_UNITS,
		.memory_mib = spec->memory_mib ? spec->memory_mib : DEFAULT_MEMORY_MIB,
		.storage_gb = spec->storage_gb ? spec->storage_gb : DEFAULT_STORAGE_GB,
		.timeout_s = spec->timeout_s > 0 ? spec->timeout_s
						 : at_most(actor->org->lifetime_s_max, DEFAULT_TIMEOUT_S),
		.idle_timeout_s = spec->idle_timeout_s,
		.idle_pause = spec->idle_pause,
		.created_ms = time_wall_ms(),
	};
	snprintf(row->org, sizeof(row->org), "%s", actor->org->id);
	snprintf(row->key, sizeof(row->key), "%s", actor->key ? actor->key : "");
}

int spec_check(struct sandboxes *s, const struct sandbox_actor *actor, const struct sandbox_spec *spec,
	       struct shape *shape, struct image *image, struct store_sandbox *row, struct error *err)
{
	fill_row(actor, spec, row);
	*image = (struct image){ .fd = -1 };
	int r = name_it(spec, row, err);
	if (r == 0)
		r = check_sizes(actor->org, row, err);
	if (r == 0)
		r = check_env(spec, err);
	if (r == 0)
		r = images_find(s->config.images, spec->image, spec->image_digest, image, err);
	if (r == 0)
		r = keep(&row->network, spec->network_json, err);
	if (r == 0)
		r = keep(&row->metadata, spec->metadata_json, err);
	if (r == 0)
		r = keep(&row->env, spec->env_json, err);
	if (r < 0) {
		store_sandbox_free(row);
		image_free(image);
		return r;
	}
	snprintf(row->image, sizeof(row->image), "%s", image->name);
	snprintf(row->image_digest, sizeof(row->image_digest), "%s", image->digest);
	*shape = (struct shape){ .cpu_units = row->cpu_units,
				 .memory_mib = row->memory_mib,
				 .storage_gb = row->storage_gb };
	snprintf(shape->image, sizeof(shape->image), "%s", image->name);
	snprintf(shape->digest, sizeof(shape->digest), "%s", image->digest);
	return 0;
}

void hostname_of(const char *name, char hostname[64])
{
	size_t n = 0;
	for (; n < 63 && name[n]; n++)
		hostname[n] = (name[n] == '.' || name[n] == '_') ? '-' : name[n];
	while (n > 0 && hostname[n - 1] == '-')
		n--;
	hostname[n] = '\0';
}

/* ---- network rules ---- */

int rules_of(const struct sandbox_network *network, struct net_rules **rules, struct error *err)
{
	if (!network)
		return net_rules_parse(NULL, rules, err);
	struct net_request request = {
		.outbound = network->deny ? "deny" : "allow",
		.allow = network->allow,
		.allow_count = network->allow_count,
		.deny = network->denied,
		.deny_count = network->denied_count,
		.bandwidth_mbps = network->bandwidth_mbps,
	};
	return net_rules_parse(&request, rules, err);
}

#define RULES_MAX 256

/* A rule that is left out could be the one that denies: all of them, or false. An absent list is empty. */
static bool split(json_t *list, const char **texts, size_t *count)
{
	size_t i;
	json_t *item;

	*count = 0;
	if (list && !json_is_array(list))
		return json_is_null(list);
	json_array_foreach(list, i, item)
	{
		if (*count == RULES_MAX || !json_is_string(item))
			return false;
		texts[(*count)++] = json_string_value(item);
	}
	return true;
}

int rules_of_json(const char *json, struct net_rules **rules, struct error *err)
{
	if (!json)
		return rules_of(NULL, rules, err);
	json_t *root = json_loads(json, 0, NULL);
	if (!json_is_object(root)) {
		json_decref(root);
		return error_set(err, EIO, "the kept network rules are malformed");
	}
	const char *allow[RULES_MAX], *denied[RULES_MAX];
	const char *outbound = json_string_value(json_object_get(root, "outbound"));
	struct sandbox_network network = {
		.deny = outbound && strcmp(outbound, "deny") == 0,
		.allow = allow,
		.denied = denied,
	};
	json_int_t bandwidth = json_integer_value(json_object_get(root, "bandwidth_mbps"));
	json_t *given = json_object_get(root, "outbound");
	bool good = (!given || network.deny || (outbound && strcmp(outbound, "allow") == 0)) &&
		    split(json_object_get(root, "allow"), allow, &network.allow_count) &&
		    split(json_object_get(root, "deny"), denied, &network.denied_count) && bandwidth >= 0 &&
		    bandwidth <= UINT32_MAX;
	network.bandwidth_mbps = (uint32_t)bandwidth;
	int r = good ? rules_of(&network, rules, err) : error_set(err, EIO, "the kept network rules are malformed");
	json_decref(root);
	return r;
}

/* ---- environment ---- */

static bool named(const char *pair, const char *name)
{
	size_t length = strlen(name);
	return strncmp(pair, name, length) == 0 && pair[length] == '=';
}

static int env_set(char **env, size_t *count, const char *name, const char *value)
{
	char *pair;

	if (asprintf(&pair, "%s=%s", name, value) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < *count; i++) {
		if (named(env[i], name)) {
			free(env[i]);
			env[i] = pair;
			return 0;
		}
	}
	env[(*count)++] = pair;
	return 0;
}

char **env_of(const struct image *image, const char *env_json)
{
	json_t *own = env_json ? json_loads(env_json, 0, NULL) : NULL;
	size_t count = 0, base = 0;
	const char *key;
	json_t *value;
	int r = 0;

	while (image->env && image->env[base])
		base++;
	/* What is kept is good: when it cannot be read there is no memory, and it must not be started without. */
	char **env = env_json && !own ? NULL : calloc(base + json_object_size(own) + 1, sizeof(*env));
	for (size_t i = 0; env && i < base && r == 0; i++) {
		env[count] = strdup(image->env[i]);
		r = env[count] ? 0 : -ENOMEM;
		count += r == 0;
	}
	if (env)
		json_object_foreach(own, key, value) if (r == 0 && json_is_string(value))
			r = env_set(env, &count, key, json_string_value(value));
	json_decref(own);
	if (r < 0) {
		env_free(env);
		return NULL;
	}
	return env;
}

void env_free(char **env)
{
	for (char **e = env; e && *e; e++)
		free(*e);
	free(env);
}
