#include "cli/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"

#define FILE_MAX 16384

static char *trim(char *text)
{
	text += strspn(text, " \t\r");
	for (size_t length = strlen(text); length > 0 && strchr(" \t\r", text[length - 1]); length--)
		text[length - 1] = '\0';
	return text;
}

static int take_line(struct config *config, char *line, const char *path, struct error *err)
{
	line = trim(line);
	if (!*line || *line == '#')
		return 0;
	char *value = strchr(line, '=');
	if (!value)
		return error_set(err, EINVAL, "%s: a line is not `name = value`", path);
	*value++ = '\0';
	char *name = trim(line);
	value = trim(value);
	int r = 0;
	if (strcmp(name, "api_key") == 0)
		r = str_copy(config->api_key, sizeof(config->api_key), value);
	else if (strcmp(name, "base_url") == 0)
		r = str_copy(config->base_url, sizeof(config->base_url), value);
	if (r < 0)
		return error_set(err, EINVAL, "%s: %s is too long", path, name);
	return 0;
}

/* Whoever may write the file may send us, and our key, elsewhere; whoever may read it has the key. */
static int check_file(int fd, const char *path, struct error *err)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, EPERM, "%s is not a regular file", path);
	if (st.st_mode & (S_IRWXO | S_IWGRP))
		return error_set(err, EPERM, "%s may be read by others (mode %04o): run chmod 600 %s", path,
				 st.st_mode & 07777u, path);
	/* Root may be pointed at the server's own file, which is its user's. */
	if (st.st_uid != 0 && st.st_uid != geteuid() && geteuid() != 0)
		return error_set(err, EPERM, "%s belongs to another user", path);
	return 0;
}

static int read_credentials(struct config *config, const char *path, bool must, struct error *err)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 && !must && (errno == ENOENT || errno == EACCES || errno == ENOTDIR))
		return -ENOENT;
	if (fd < 0)
		return error_errno(err, errno, "%s", path);
	int r = check_file(fd, path, err);
	if (r < 0)
		return r;
	char text[FILE_MAX + 1];
	ssize_t size = fd_read_all(fd, text, FILE_MAX + 1);
	if (size < 0)
		return error_errno(err, (int)-size, "%s", path);
	if (size > FILE_MAX)
		return error_set(err, EFBIG, "%s is longer than %d bytes", path, FILE_MAX);
	text[size] = '\0';
	char *rest = text;
	for (char *line; r == 0 && (line = strsep(&rest, "\n"));)
		r = take_line(config, line, path, err);
	return r;
}

static int read_any_credentials(struct config *config, struct error *err)
{
	const char *path = getenv("AKIRA_CREDENTIALS");
	if (path && *path)
		return read_credentials(config, path, true, err);
	const char *home = getenv("HOME"), *settings = getenv("XDG_CONFIG_HOME");
	char own[4096] = "";
	if (settings && *settings == '/')
		snprintf(own, sizeof(own), "%s/akira/credentials", settings);
	else if (home && *home == '/')
		snprintf(own, sizeof(own), "%s/.config/akira/credentials", home);
	int r = *own ? read_credentials(config, own, false, err) : -ENOENT;
	if (r == -ENOENT)
		r = read_credentials(config, CONFIG_SYSTEM_CREDENTIALS, false, err);
	return r == -ENOENT ? 0 : r;
}

static bool names_loopback(const char *url)
{
	const char *host = strstr(url, "://");
	host = host ? host + 3 : url;
	size_t length = strcspn(host, "/?#");
	if (memchr(host, '@', length))
		return false;
	if (length >= 5 && memcmp(host, "[::1]", 5) == 0)
		return true;
	length = strcspn(host, ":/?#");
	if (length == 9 && memcmp(host, "localhost", 9) == 0)
		return true;
	/* 127.x.y.z: digits and dots alone, or 127.example.com would count. */
	return str_starts(host, "127.") && strspn(host, "0123456789.") == length;
}

static int check_values(struct config *config, struct error *err)
{
	for (const char *p = config->api_key; *p; p++)
		if (*p <= ' ' || *p > '~')
			return error_set(err, EINVAL, "the API key holds characters that no key has");
	if (!str_starts(config->base_url, "http://") && !str_starts(config->base_url, "https://"))
		return error_set(err, EINVAL, "the base URL must begin with http:// or https://");
	for (const char *p = config->base_url; *p; p++)
		if (*p <= ' ' || *p > '~' || *p == '?' || *p == '#')
			return error_set(err, EINVAL, "the base URL holds a character that it must not have");
	for (size_t length = strlen(config->base_url); config->base_url[length - 1] == '/'; length--)
		config->base_url[length - 1] = '\0';
	/* The client's paths bring the /v1 themselves. */
	if (str_ends(config->base_url, "/v1"))
		config->base_url[strlen(config->base_url) - 3] = '\0';
	config->loopback = names_loopback(config->base_url);
	return 0;
}

int config_load(struct config *config, const char *base_url, struct error *err)
{
	*config = (struct config){ .base_url = CONFIG_URL_DEFAULT };
	const char *key = getenv("AKIRA_API_KEY"), *url = base_url ? base_url : getenv("AKIRA_BASE_URL");
	int r = 0;
	/* With both given there is nothing to look for, and a broken file must not stand in the way. */
	if (!(key && *key && url && *url))
		r = read_any_credentials(config, err);
	if (r < 0)
		return r;
	if (key && *key && str_copy(config->api_key, sizeof(config->api_key), key) < 0)
		return error_set(err, EINVAL, "$AKIRA_API_KEY is too long");
	if (url && *url && str_copy(config->base_url, sizeof(config->base_url), url) < 0)
		return error_set(err, EINVAL, "the base URL is too long");
	return check_values(config, err);
}
