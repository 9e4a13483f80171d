/* What a client may ask for: bounds, names, environment, kept network rules. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/str.h"
#include "daemon/sandbox/internal.h"

struct world {
	char path[64];
	struct sandboxes s;
	struct store_org org;
	struct sandbox_actor actor;
	/* results */
	struct shape shape;
	struct store_sandbox row;
	struct error err;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	unsigned char hash[32];
	char hex[65], text[256];

	assert_non_null(w);
	snprintf(w->path, sizeof(w->path), "/tmp/akira-spec-XXXXXX");
	assert_non_null(mkdtemp(w->path));
	_cleanup_fd_ int dir = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(dir, "images", 0700) | mkdirat(dir, "images/default", 0700), 0);
	crypto_hash_sha256(hash, (const unsigned char *)"data", 4);
	str_hex(hex, hash, sizeof(hash));
	snprintf(text, sizeof(text), "{\"name\":\"akira/default:1\",\"digest\":\"sha256:%s\"}", hex);
	assert_int_equal(fd_write_file(dir, "images/default/image.erofs", "data", 4, 0600, NULL), 0);
	assert_int_equal(fd_write_file(dir, "images/default/manifest.json", text, strlen(text), 0600, NULL), 0);
	assert_int_equal(images_open(w->path, &w->s.config.images, NULL), 0);
	w->org = (struct store_org){
		.id = "org_a",
		.cpu_units_max = 16,
		.memory_mib_max = 4096,
		.storage_gb_max = 20,
		.lifetime_s_max = 7200,
	};
	w->actor = (struct sandbox_actor){ .org = &w->org, .key = "key_a" };
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	images_close(w->s.config.images);
	int r = fd_remove_tree(AT_FDCWD, w->path, NULL);
	free(w);
	return r;
}

static int check(struct world *w, const struct sandbox_spec *spec)
{
	struct image image;
	int r = spec_check(&w->s, &w->actor, spec, &w->shape, &image, &w->row, &w->err);

	if (r == 0) {
		assert_true(image.fd >= 0);
		image_free(&image);
		store_sandbox_free(&w->row);
	} else {
		assert_int_equal(image.fd, -1);
		assert_int_equal(w->err.code, -r);
	}
	return r;
}

static void refused(struct world *w, const struct sandbox_spec *spec, int result, const char *field)
{
	assert_int_equal(check(w, spec), result);
	if (!strstr(w->err.text, field))
		fail_msg("%s is not in: %s", field, w->err.text);
	assert_null(strstr(w->err.text, w->path));
}

static struct sandbox_spec spec_of(void)
{
	return (struct sandbox_spec){ .timeout_s = -1 };
}

static void defaults(void **state)
{
	struct world *w = *state;
	struct sandbox_spec spec = spec_of();

	assert_int_equal(check(w, &spec), 0);
	assert_int_equal(w->shape.cpu_units, 1);
	assert_int_equal(w->shape.memory_mib, 512);
	assert_int_equal(w->shape.storage_gb, 10);
	assert_string_equal(w->shape.image, "akira/default:1");
	assert_int_equal(w->row.timeout_s, 3600);
	assert_int_equal(w->row.status, SANDBOX_CREATING);
	assert_string_equal(w->row.org, "org_a");
	assert_string_equal(w->row.key, "key_a");
	assert_true(str_starts(w->row.name, "sandbox-"));
	assert_true(str_is_name(w->row.name));
	w->org.lifetime_s_max = 60;
	assert_int_equal(check(w, &spec), 0);
	assert_int_equal(w->row.timeout_s, 60);
	w->actor.key = NULL;
	assert_int_equal(check(w, &spec), 0);
	assert_string_equal(w->row.key, "");
}

static void sizes(void **state)
{
	struct world *w = *state;
	struct sandbox_spec spec = spec_of();

	spec.cpu_units = 16;
	spec.memory_mib = 4096;
	spec.storage_gb = 20;
	spec.timeout_s = 7200;
	spec.idle_timeout_s = 86400;
	assert_int_equal(check(w, &spec), 0);
	spec.cpu_units = 17;
	refused(w, &spec, -EINVAL, "resources.cpus");
	spec.cpu_units = UINT32_MAX;
	refused(w, &spec, -EINVAL, "resources.cpus");
	spec.cpu_units = 1;
	spec.memory_mib = 127;
	refused(w, &spec, -EINVAL, "resources.memory");
	spec.memory_mib = 4097;
	refused(w, &spec, -EINVAL, "resources.memory");
	spec.memory_mib = 128;
	spec.storage_gb = 21;
	refused(w, &spec, -EINVAL, "resources.storage");
	spec.storage_gb = 1;
	spec.timeout_s = 7201;
	refused(w, &spec, -EINVAL, "timeout_seconds");
	spec.timeout_s = 1;
	spec.idle_timeout_s = 86401;
	refused(w, &spec, -EINVAL, "idle_timeout_seconds");
	spec.idle_timeout_s = -1;
	refused(w, &spec, -EINVAL, "idle_timeout_seconds");
}

/* No limit of the organisation's: the host's stay. */
static void host_bounds(void **state)
{
	struct world *w = *state;
	struct sandbox_spec spec = spec_of();

	w->org.cpu_units_max = w->org.memory_mib_max = w->org.storage_gb_max = w->org.lifetime_s_max = -1;
	spec.cpu_units = CPU_UNITS_MAX;
	spec.memory_mib = MEMORY_MIB_MAX;
	spec.storage_gb = STORAGE_GB_MAX;
	spec.timeout_s = LIFETIME_MAX_S;
	assert_int_equal(check(w, &spec), 0);
	spec.timeout_s++;
	refused(w, &spec, -EINVAL, "86400");
	spec.timeout_s = INT64_MAX;
	refused(w, &spec, -EINVAL, "timeout_seconds");
	spec.timeout_s = 1;
	spec.storage_gb++;
	refused(w, &spec, -EINVAL, "1024");
	spec.storage_gb = 1;
	spec.memory_mib++;
	refused(w, &spec, -EINVAL, "65536");
	spec.memory_mib = 128;
	spec.cpu_units++;
	refused(w, &spec, -EINVAL, "64");
}

static void names(void **state)
{
	struct world *w = *state;
	struct sandbox_spec spec = spec_of();
	char name[65];

	memset(name, 'n', 64);
	name[64] = '\0';
	spec.name = name;
	refused(w, &spec, -EINVAL, "name:");
	name[63] = '\0';
	assert_int_equal(check(w, &spec), 0);
	assert_string_equal(w->row.name, name);
	spec.name = "a/b";
	refused(w, &spec, -EINVAL, "name:");
	spec.name = NULL;
	spec.image = "nothing";
	refused(w, &spec, -EPROTO, "image:");
}

static void environment(void **state)
{
	static const char *const wrong[] = { "", "1A", "A B", "A=B", "A-B", "\xc3\xa4", "A\n" };
	struct world *w = *state;
	struct sandbox_spec spec = spec_of();
	struct sandbox_pair pairs[SANDBOX_ENV_MAX + 1];
	char *value = malloc(57345);

	assert_non_null(value);
	for (size_t i = 0; i <= SANDBOX_ENV_MAX; i++)
		pairs[i] = (struct sandbox_pair){ "_A1", "v" };
	spec.env = pairs;
	spec.env_count = SANDBOX_ENV_MAX;
	assert_int_equal(check(w, &spec), 0);
	spec.env_count++;
	refused(w, &spec, -EINVAL, "env_vars: at most 256");
	spec.env_count = 1;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		pairs[0].key = wrong[i];
		refused(w, &spec, -EINVAL, "env_vars");
	}
	memset(value, 'v', 57344);
	value[57344 - 3] = '\0';
	pairs[0] = (struct sandbox_pair){ "A", value };
	assert_int_equal(check(w, &spec), 0);
	value[57344 - 3] = 'v';
	value[57344 - 2] = '\0';
	refused(w, &spec, -EINVAL, "57344");
	free(value);
}

static void host_names(void **state)
{
	static const char *const cases[][2] = {
		{ "web", "web" }, { "a.b_c", "a-b-c" }, { "a...", "a" }, { "A-1", "A-1" }, { "a__", "a" },
	};
	char hostname[64], name[101];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		hostname_of(cases[i][0], hostname);
		assert_string_equal(hostname, cases[i][1]);
	}
	memset(name, 'x', 100);
	name[100] = '\0';
	hostname_of(name, hostname);
	assert_int_equal(strlen(hostname), 63);
}

static void expect_env(const char *json, const char *const *expected)
{
	char *base[] = { (char *)(uintptr_t) "PATH=/bin", (char *)(uintptr_t) "A=image", NULL };
	struct image image = { .env = base, .fd = -1 };
	char **env = env_of(&image, json);
	size_t i = 0;

	assert_non_null(env);
	for (; expected[i]; i++) {
		assert_non_null(env[i]);
		assert_string_equal(env[i], expected[i]);
	}
	assert_null(env[i]);
	env_free(env);
}

static void merged_environment(void **state)
{
	struct image nothing = { .fd = -1 };

	(void)state;
	expect_env(NULL, (const char *const[]){ "PATH=/bin", "A=image", NULL });
	expect_env("{}", (const char *const[]){ "PATH=/bin", "A=image", NULL });
	expect_env("{\"A\":\"own\",\"B\":\"x=y\"}", (const char *const[]){ "PATH=/bin", "A=own", "B=x=y", NULL });
	expect_env("{\"PAT\":\"\",\"PATHS\":\"1\"}",
		   (const char *const[]){ "PATH=/bin", "A=image", "PAT=", "PATHS=1", NULL });
	expect_env("{\"A\":7}", (const char *const[]){ "PATH=/bin", "A=image", NULL });
	expect_env("[1]", (const char *const[]){ "PATH=/bin", "A=image", NULL });
	assert_null(env_of(&nothing, "broken")); /* what was kept cannot be broken: there is no memory to read it */
	char **env = env_of(&nothing, NULL);
	assert_non_null(env);
	assert_null(env[0]);
	env_free(env);
	env_free(NULL);
}

static void kept_rules(void **state)
{
	static const char *const good[] = {
		"{}",
		"{\"outbound\":\"allow\"}",
		"{\"outbound\":\"deny\",\"allow\":[\"1.1.1.0/24\",\"example.com\"]}",
		"{\"deny\":[\"198.51.100.1\"],\"bandwidth_mbps\":10}",
		"{\"allow\":null,\"deny\":null}",
	};
	static const char *const wrong[] = {
		"",
		"[]",
		"null",
		"{",
		"{\"outbound\":7}",
		"{\"outbound\":\"perhaps\"}",
		"{\"deny\":\"198.51.100.1\"}",
		"{\"deny\":[7]}",
		"{\"deny\":{}}",
		"{\"bandwidth_mbps\":-1}",
		"{\"bandwidth_mbps\":4294967297}",
	};
	struct error err = { 0 };
	struct net_rules *rules;

	(void)state;
	assert_int_equal(rules_of_json(NULL, &rules, &err), 0);
	net_rules_free(rules);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		if (rules_of_json(good[i], &rules, &err) < 0)
			fail_msg("%s: %s", good[i], err.text);
		net_rules_free(rules);
	}
	/* Rules that cannot be read are no reason to have none. */
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		if (rules_of_json(wrong[i], &rules, &err) != -EIO)
			fail_msg("%s was taken", wrong[i]);
	char *many = malloc(300 * 16 + 32), *at = many;
	assert_non_null(many);
	at += sprintf(at, "{\"deny\":[");
	for (int i = 0; i < 300; i++)
		at += sprintf(at, "%s\"10.0.0.%d\"", i ? "," : "", i % 256);
	sprintf(at, "]}");
	assert_int_equal(rules_of_json(many, &rules, &err), -EIO);
	free(many);
}

static void rows(void **state)
{
	struct store_sandbox from = { .id = "sbx_1", .env = (char *)(uintptr_t) "{}" }, to;

	(void)state;
	assert_int_equal(row_copy(&to, &from), 0);
	assert_string_equal(to.id, "sbx_1");
	assert_string_equal(to.env, "{}");
	assert_ptr_not_equal(to.env, from.env);
	assert_null(to.network);
	store_sandbox_free(&to);
}

/* The table in sandbox.h: what may go out as it is. */
static void errors_of_the_host(void **state)
{
	static const int kept[] = { EINVAL, EBUSY, EPROTO, EDQUOT, EAGAIN, ENOSPC, ETIMEDOUT, EKEYREVOKED };
	static const int hidden[] = { EPIPE,     ENOENT, EEXIST, EACCES,     EFBIG,  EPERM,
				      EREMOTEIO, ENOMEM, EIO,    ECONNRESET, ENOTSUP };
	struct error err;

	(void)state;
	assert_int_equal(host_error(0, NULL), 0);
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		err.code = kept[i];
		assert_int_equal(host_error(-kept[i], &err), -kept[i]);
		assert_int_equal(err.code, kept[i]);
	}
	for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++) {
		err.code = hidden[i];
		assert_int_equal(host_error(-hidden[i], &err), -EIO);
		assert_int_equal(err.code, EIO);
		assert_int_equal(host_error(-hidden[i], NULL), -EIO);
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(defaults),
		CASE(sizes),
		CASE(host_bounds),
		CASE(names),
		CASE(environment),
		cmocka_unit_test(host_names),
		cmocka_unit_test(merged_environment),
		cmocka_unit_test(kept_rules),
		cmocka_unit_test(rows),
		cmocka_unit_test(errors_of_the_host),
	};
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
