/* Images are built and listed on the server's own host: the files are the truth, and building needs root there. */
#include "cli/commands.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "cli/api.h"
#include "cli/output.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))
#define MANIFEST_MAX ((size_t)1 << 20)
#define BUILD_SCRIPT "/usr/share/akira/images/build"
#define CACHE_DEFAULT "/var/cache/akira"

static const struct output_column columns[] = {
	{ "IMAGE", "name" },
	{ "ALIASES", "aliases", output_list },
	{ "SIZE", "size", output_bytes },
	{ "CREATED", "created", output_age },
	{ "BUILD", "build" },
	{ "DIGEST", "digest" },
};

static int images_dir(const struct cli *cli, char path[4096])
{
	const char *dir = cli_value(cli, "dir"), *cache = getenv("AKIRA_CACHE");
	if (dir)
		return snprintf(path, 4096, "%s", dir);
	return snprintf(path, 4096, "%s/images", cache && *cache ? cache : CACHE_DEFAULT);
}

static void add_manifest(int dir, const char *name, json_t *rows)
{
	char path[300];
	_cleanup_free_ char *text = NULL;
	size_t size;
	if (name[0] == '.' || snprintf(path, sizeof(path), "%s/manifest.json", name) >= (int)sizeof(path))
		return;
	if (fd_read_file(dir, path, MANIFEST_MAX, &text, &size, NULL) < 0)
		return;
	json_t *manifest = json_loadb(text, size, 0, NULL);
	if (json_is_object(manifest)) {
		/* NAME@DIGEST is kept for what was made from it; nothing new starts from it. */
		json_object_set_new(manifest, "build", json_string(strchr(name, '@') ? "earlier" : "present"));
		json_array_append(rows, manifest);
	} else {
		output_error("image list: %s is no manifest", path);
	}
	json_decref(manifest);
}

static int list(struct cli *cli)
{
	struct error err = { 0 };
	char path[4096];
	images_dir(cli, path);
	DIR *dir = opendir(path);
	if (!dir && errno != ENOENT) {
		error_errno(&err, errno, "%s", path);
		return cli_fail(cli, &err);
	}
	json_t *rows = json_array();
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		add_manifest(dirfd(dir), entry->d_name, rows);
	if (dir)
		closedir(dir);
	if (json_array_size(rows) == 0 && !cli->json)
		fprintf(stderr, "akira: no image in %s: `akira image build default` makes one\n", path);
	return api_print_list(cli, rows, columns, COUNT(columns));
}

/* $AKIRA_IMAGES_BUILD; else the source tree that this program was built in; else what the package installs. */
static const char *build_script(char own[4096])
{
	const char *script = getenv("AKIRA_IMAGES_BUILD");
	if (script && *script)
		return script;
	ssize_t size = readlink("/proc/self/exe", own, 4095);
	for (int up = 0; size > 0 && up < 5; up++) {
		while (size > 0 && own[size - 1] != '/')
			size--;
		if (size <= 1 || size > 4000)
			break;
		snprintf(own + size, 4096 - (size_t)size, "images/build");
		if (access(own, X_OK) == 0)
			return own;
		size--;
	}
	return access(BUILD_SCRIPT, X_OK) == 0 ? BUILD_SCRIPT : NULL;
}

static int build(struct cli *cli)
{
	char own[4096], dir[4096];
	const char *script = build_script(own);
	const char *arguments[10] = { script };
	int count = 1;
	if (!script) {
		output_error("image build: there is no images/build script here (expected: " BUILD_SCRIPT ")");
		return CLI_FAILED;
	}
	if (cli->argument_count > 0)
		arguments[count++] = cli->arguments[0];
	else
		arguments[count++] = "--list";
	if (cli_value(cli, "dir")) {
		images_dir(cli, dir);
		arguments[count++] = "--out";
		arguments[count++] = dir;
	}
	if (cli_value(cli, "sources")) {
		arguments[count++] = "--sources";
		arguments[count++] = cli_value(cli, "sources");
	}
	if (cli_flag(cli, "force"))
		arguments[count++] = "--force";
	if (cli_flag(cli, "prune"))
		arguments[count++] = "--prune";
	/* The script has its own progress, messages and handling of signals. */
	execv(script, (char *const *)(uintptr_t)arguments);
	output_error("image build: %s cannot be run", script);
	return CLI_FAILED;
}

static const struct cli_option list_options[] = {
	{ "dir", 0, "DIR", "Folder of the images (/var/cache/akira/images)." },
	{ NULL },
};
static const struct cli_option build_options[] = {
	{ "dir", 0, "DIR", "Folder of the images (/var/cache/akira/images)." },
	{ "sources", 0, "FILE", "apt's one-line sources to install from." },
	{ "force", 0, NULL, "Build even if the definition has not changed (newer packages)." },
	{ "prune", 0, NULL, "Remove the earlier builds of NAME, and build nothing." },
	{ NULL },
};

const struct cli_command command_image_list = {
	.name = "image list",
	.arguments = "",
	.brief = "List the images on this host",
	.options = list_options,
	.local = true,
	.failure = CLI_FAILED,
	.run = list,
};
const struct cli_command command_image_build = {
	.name = "image build",
	.arguments = "[NAME]",
	.brief = "Build an image on this host, as root",
	.details =
		"Without NAME, lists the images that can be built. Looks for the definitions in the source tree of this "
		"program, then in /usr/share/akira/images; $AKIRA_IMAGES_BUILD names another script.",
	.options = build_options,
	.max = 1,
	.local = true,
	.failure = CLI_FAILED,
	.run = build,
};
