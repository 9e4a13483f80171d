#include "cli/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "cli/api.h"
#include "cli/output.h"

/* SANDBOX:PATH. A path of this host that holds a colon is written ./with:colon, as for scp. */
static const char *remote_path(char *argument, char **sandbox)
{
	char *colon = strchr(argument, ':');
	char *slash = strchr(argument, '/');
	if (!colon || colon == argument || (slash && slash < colon))
		return NULL;
	*colon = '\0';
	*sandbox = argument;
	return colon + 1;
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

static int upload(struct cli *cli, const char *id, const char *from, const char *to, struct error *err)
{
	char path[HTTP_PATH_MAX], full[4096];
	_cleanup_answer_ struct http_answer answer = { 0 };
	bool standard = strcmp(from, "-") == 0;
	_cleanup_fd_ int fd = standard ? dup(STDIN_FILENO) : open(from, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, errno, "%s", from);
	if (S_ISDIR(st.st_mode))
		return error_set(err, EISDIR, "%s is a folder: copy an archive of it (tar)", from);
	if (standard && str_ends(to, "/"))
		return error_set(err, EINVAL, "standard input has no name: give the whole path");
	if (snprintf(full, sizeof(full), "%s%s", to, str_ends(to, "/") ? last_part(from) : "") >= (int)sizeof(full))
		return error_set(err, ENAMETOOLONG, "%.40s… is too long", to);
	struct http_upload file = { .path = full,
				    .fd = fd,
				    .size = S_ISREG(st.st_mode) && !standard ? st.st_size : -1 };
	struct http_request request = {
		.method = "POST",
		.path = http_path(path, "/v1/sandboxes/%s/upload", id),
		.upload = &file,
		.doing = cli->quiet ? NULL : "copying",
		.timeout_ms = HTTP_FOREVER,
	};
	return http_call(cli->http, &request, &answer, err);
}

static int to_fd(void *context, const char *data, size_t size)
{
	return fd_write_all(*(int *)context, data, size);
}

static int fetch(struct cli *cli, const char *id, const char *from, int fd, struct error *err)
{
	char path[HTTP_PATH_MAX];
	_cleanup_answer_ struct http_answer answer = { 0 };
	struct http_request request = {
		.method = "GET",
		.path = http_path(path, "/v1/sandboxes/%s/download?path=%s", id, from),
		.sink = to_fd,
		.context = &fd,
		.doing = cli->quiet ? NULL : "copying",
		.timeout_ms = HTTP_FOREVER,
	};
	return http_call(cli->http, &request, &answer, err);
}

/* Into a new file beside the old one, so that a broken transfer leaves the old one whole. */
static int download(struct cli *cli, const char *id, const char *from, const char *to, struct error *err)
{
	char full[4096], part[4200], tag[40];
	struct stat st;
	if (strcmp(to, "-") == 0)
		return fetch(cli, id, from, STDOUT_FILENO, err);
	bool folder = str_ends(to, "/") || (stat(to, &st) == 0 && S_ISDIR(st.st_mode));
	/* The name is the caller's own argument, not the guest's; still, no "..", which would leave the folder. */
	if (folder && (!*last_part(from) || strcmp(last_part(from), "..") == 0))
		return error_set(err, EINVAL, "%s does not end in the name of a file", from);
	int length = folder ? snprintf(full, sizeof(full), "%s/%s", to, last_part(from))
			    : snprintf(full, sizeof(full), "%s", to);
	if (length >= (int)sizeof(full))
		return error_set(err, ENAMETOOLONG, "%.40s… is too long", to);
	if (stat(full, &st) == 0 && !S_ISREG(st.st_mode)) {
		_cleanup_fd_ int device = open(full, O_WRONLY | O_CLOEXEC | O_NOCTTY);
		return device < 0 ? error_errno(err, errno, "%s", full) : fetch(cli, id, from, device, err);
	}
	str_random_id(tag, ".part");
	snprintf(part, sizeof(part), "%s%s", full, tag);
	_cleanup_fd_ int fd = open(part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return error_errno(err, errno, "%s", part);
	int r = fetch(cli, id, from, fd, err);
	if (r == 0 && rename(part, full) < 0)
		r = error_errno(err, errno, "%s", full);
	if (r < 0)
		unlink(part);
	return r;
}

static int run(struct cli *cli)
{
	struct error err = { 0 };
	char id[API_ID_MAX], *sandbox = NULL, *other = NULL;
	const char *to = remote_path(cli->arguments[1], &sandbox);
	const char *from = remote_path(cli->arguments[0], to ? &other : &sandbox);
	if (!to == !from)
		return cli_usage(cli, "one of the two must be SANDBOX:PATH, the other a file here");
	if (!*(to ? to : from))
		return cli_usage(cli, "SANDBOX: must be followed by a path");
	int r = api_find_sandbox(cli, sandbox, id, &err);
	if (r == 0)
		r = to ? upload(cli, id, cli->arguments[0], to, &err)
		       : download(cli, id, from, cli->arguments[1], &err);
	if (r == -EINTR)
		return CLI_INTERRUPTED;
	if (r == -EPIPE)
		return CLI_BROKEN_PIPE;
	return r < 0 ? cli_fail(cli, &err) : CLI_OK;
}

const struct cli_command command_sandbox_cp = {
	.name = "sandbox cp",
	.arguments = "FROM TO",
	.brief = "Copy a file into or out of a sandbox",
	.details =
		"One of FROM and TO is SANDBOX:PATH, the other a file of this host, or - for standard input or output. A "
		"path of this host with a colon in it is written ./like:this. If TO ends in a slash, the name stays. "
		"An existing file is replaced as a whole, when the copy is complete.",
	.min = 2,
	.max = 2,
	.failure = CLI_FAILED,
	.run = run,
};
