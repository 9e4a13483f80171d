#include "cli/shape.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define CPU_UNITS_MAX 4096
#define LIFE_MAX 31536000

int shape_size(const char *text, uint64_t unit_default, uint64_t unit, uint64_t *value)
{
	static const char letters[] = "kmgt";
	char digits[24];
	size_t length = strspn(text, "0123456789");
	if (length == 0 || length >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, length);
	digits[length] = '\0';
	uint64_t number, bytes = unit_default;
	if (str_u64(digits, 1, UINT64_MAX, &number) < 0)
		return -EINVAL;
	const char *suffix = text + length;
	if (*suffix) {
		const char *letter = strchr(letters, *suffix | 0x20);
		if (!letter || (suffix[1] && strcasecmp(suffix + 1, "b") != 0 && strcasecmp(suffix + 1, "i") != 0 &&
				strcasecmp(suffix + 1, "ib") != 0))
			return -EINVAL;
		bytes = (uint64_t)1024 << (10 * (letter - letters));
	}
	if (__builtin_mul_overflow(number, bytes, &number))
		return -ERANGE;
	*value = number / unit + (number % unit != 0);
	return 0;
}

static int put_cpus(const struct cli *cli, json_t *resources, struct error *err)
{
	const char *text = cli_value(cli, "cpus");
	if (!text)
		return 0;
	char *end;
	double units = strtod(text, &end) * 4;
	if (end == text || *end || !(units >= 1 && units <= CPU_UNITS_MAX) || units != floor(units))
		return error_set(err, EINVAL, "--cpus must be a multiple of 0.25, from 0.25 to %d", CPU_UNITS_MAX / 4);
	json_object_set_new(resources, "cpus", json_integer((json_int_t)units));
	return 0;
}

static int put_resources(const struct cli *cli, bool storage_text, json_t *body, struct error *err)
{
	json_t *resources = json_object();
	const char *memory = cli_value(cli, "memory"), *storage = cli_value(cli, "storage");
	uint64_t value;
	int r = put_cpus(cli, resources, err);
	if (r == 0 && memory) {
		r = shape_size(memory, MIB, MIB, &value);
		if (r == 0)
			json_object_set_new(resources, "memory", json_integer((json_int_t)value));
		else
			error_set(err, EINVAL, "--memory must be a size, such as 512, 512m or 2g");
	}
	if (r == 0 && storage) {
		r = shape_size(storage, GIB, GIB, &value);
		if (r < 0)
			error_set(err, EINVAL, "--storage must be a size, such as 10 or 10g");
		else if (storage_text)
			json_object_set_new(resources, "storage", json_sprintf("%lluGi", (unsigned long long)value));
		else
			json_object_set_new(resources, "storage", json_integer((json_int_t)value));
	}
	if (r == 0 && json_object_size(resources) > 0)
		json_object_set(body, "resources", resources);
	json_decref(resources);
	return r;
}

/* NAME=VALUE or, with inherit, NAME alone. Values that are not UTF-8 cannot be sent as JSON. */
static int put_pair(json_t *object, const char *option, const char *text, bool inherit, struct error *err)
{
	char name[256];
	const char *equals = strchr(text, '=');
	size_t length = equals ? (size_t)(equals - text) : strlen(text);
	if (length == 0 || length >= sizeof(name) || (!equals && !inherit))
		return error_set(err, EINVAL, "--%s must be NAME=VALUE: %s", option, text);
	memcpy(name, text, length);
	name[length] = '\0';
	const char *value = equals ? equals + 1 : getenv(name);
	if (!value)
		return 0; /* as docker does: what is not set here is not set there */
	if (json_object_set_new(object, name, json_string(value)) < 0)
		return error_set(err, EINVAL, "--%s %s: not UTF-8", option, name);
	return 0;
}

static int pairs(const struct cli *cli, const char *option, bool inherit, json_t **object, struct error *err)
{
	*object = NULL;
	size_t at = 0;
	for (const char *text; (text = cli_next(cli, option, &at));) {
		if (!*object)
			*object = json_object();
		int r = put_pair(*object, option, text, inherit, err);
		if (r < 0) {
			json_decref(*object);
			*object = NULL;
			return r;
		}
	}
	return 0;
}

int shape_env(const struct cli *cli, json_t **env, struct error *err)
{
	return pairs(cli, "env", true, env, err);
}

static json_t *list_of(const struct cli *cli, const char *option)
{
	json_t *list = NULL;
	size_t at = 0;
	for (const char *text; (text = cli_next(cli, option, &at));) {
		if (!list)
			list = json_array();
		json_array_append_new(list, json_string(text));
	}
	return list;
}

int shape_network(const struct cli *cli, json_t **network, struct error *err)
{
	const char *outbound = cli_value(cli, "network");
	json_t *allow = list_of(cli, "allow"), *deny = list_of(cli, "deny");
	uint64_t bandwidth = 0;
	*network = NULL;
	int r = cli_number(cli, "bandwidth", 1, 10000, &bandwidth, err);
	if (r == 0 && outbound && strcmp(outbound, "allow") != 0 && strcmp(outbound, "deny") != 0)
		r = error_set(err, EINVAL, "--network must be allow or deny");
	if (r == 0 && (outbound || allow || deny || bandwidth)) {
		*network = json_object();
		if (outbound)
			json_object_set_new(*network, "outbound", json_string(outbound));
		if (allow)
			json_object_set(*network, "allow", allow);
		if (deny)
			json_object_set(*network, "deny", deny);
		if (bandwidth)
			json_object_set_new(*network, "bandwidth_mbps", json_integer((json_int_t)bandwidth));
	}
	json_decref(allow);
	json_decref(deny);
	return r;
}

static int put_life(const struct cli *cli, json_t *body, struct error *err)
{
	uint64_t seconds = 0;
	int r = cli_number(cli, "lifetime", 1, LIFE_MAX, &seconds, err);
	if (r == 0 && cli_value(cli, "lifetime"))
		json_object_set_new(body, "timeout_seconds", json_integer((json_int_t)seconds));
	if (r == 0)
		r = cli_number(cli, "idle-timeout", 0, LIFE_MAX, &seconds, err);
	if (r == 0 && cli_value(cli, "idle-timeout"))
		json_object_set_new(body, "idle_timeout_seconds", json_integer((json_int_t)seconds));
	if (r == 0 && cli_value(cli, "on-idle"))
		json_object_set_new(body, "on_idle", json_string(cli_value(cli, "on-idle")));
	return r;
}

static int put_objects(const struct cli *cli, json_t *body, struct error *err)
{
	json_t *object;
	int r = shape_env(cli, &object, err);
	if (r == 0 && object)
		json_object_set_new(body, "env_vars", object);
	if (r == 0)
		r = pairs(cli, "metadata", false, &object, err);
	if (r == 0 && object)
		json_object_set_new(body, "metadata", object);
	if (r == 0)
		r = shape_network(cli, &object, err);
	if (r == 0 && object)
		json_object_set_new(body, "network", object);
	return r;
}

int shape_body(const struct cli *cli, bool storage_text, json_t **body, struct error *err)
{
	static const char *const texts[] = { "image", "name" };
	*body = json_object();
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		if (cli_value(cli, texts[i]))
			json_object_set_new(*body, texts[i], json_string(cli_value(cli, texts[i])));
	int r = put_resources(cli, storage_text, *body, err);
	if (r == 0)
		r = put_life(cli, *body, err);
	if (r == 0)
		r = put_objects(cli, *body, err);
	if (r < 0) {
		json_decref(*body);
		*body = NULL;
	}
	return r;
}
