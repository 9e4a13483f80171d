#include "daemon/net/upstream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"

#define LOOK_MS 5000
#define FILE_MAX 65536

static int parse_ipv4(const char *text, struct upstream *upstream)
{
	char quad[INET_ADDRSTRLEN];
	const char *colon = strchr(text, ':');
	size_t size = colon ? (size_t)(colon - text) : strlen(text);
	uint64_t port = 53;
	struct sockaddr_in address = { .sin_family = AF_INET };
	if (size >= sizeof(quad) || (colon && str_u64(colon + 1, 1, 65535, &port) < 0))
		return -EINVAL;
	memcpy(quad, text, size);
	quad[size] = '\0';
	if (inet_pton(AF_INET, quad, &address.sin_addr) != 1)
		return -EINVAL;
	address.sin_port = htons((uint16_t)port);
	memcpy(&upstream->address, &address, sizeof(address));
	upstream->size = sizeof(address);
	return 0;
}

static int parse_ipv6(const char *text, struct upstream *upstream)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(53) };
	if (inet_pton(AF_INET6, text, &address.sin6_addr) != 1)
		return -EINVAL;
	memcpy(&upstream->address, &address, sizeof(address));
	upstream->size = sizeof(address);
	return 0;
}

int upstream_parse(const char *text, struct upstream *upstream, struct error *err)
{
	*upstream = (struct upstream){ 0 };
	if (parse_ipv4(text, upstream) == 0 || parse_ipv6(text, upstream) == 0)
		return 0;
	return error_set(err, EINVAL, "not the address of a resolver: %.64s", text);
}

static void read_line(struct upstreams *upstreams, char *line)
{
	char *rest = NULL, *word = strtok_r(line, " \t\r", &rest);
	if (!word || strcmp(word, "nameserver") != 0 || upstreams->count == NET_UPSTREAMS_MAX)
		return;
	word = strtok_r(NULL, " \t\r", &rest);
	if (word && upstream_parse(word, &upstreams->list[upstreams->count], NULL) == 0)
		upstreams->count++;
}

static void read_file(struct upstreams *upstreams)
{
	_cleanup_free_ char *data = NULL;
	size_t size;
	struct error err = { 0 };
	upstreams->count = 0;
	if (fd_read_file(AT_FDCWD, upstreams->resolv_conf, FILE_MAX, &data, &size, &err) < 0) {
		log_warn("dns_no_resolv_conf", "error", err.text);
		return;
	}
	char *rest = NULL;
	for (char *line = strtok_r(data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		read_line(upstreams, line);
	if (upstreams->count == 0)
		log_warn("dns_no_upstream", "file", upstreams->resolv_conf);
}

static int64_t file_changed(const char *path)
{
	struct stat st;
	return stat(path, &st) < 0 ? -1 : (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

int upstreams_init(struct upstreams *upstreams, const struct net_service_config *config, struct error *err)
{
	*upstreams = (struct upstreams){ 0 };
	if (config->upstream_count > NET_UPSTREAMS_MAX)
		return error_set(err, EINVAL, "at most %d resolvers", NET_UPSTREAMS_MAX);
	for (size_t i = 0; i < config->upstream_count; i++) {
		int rc = upstream_parse(config->upstreams[i], &upstreams->list[i], err);
		if (rc < 0)
			return rc;
		upstreams->count++;
	}
	if (upstreams->count > 0)
		return 0;
	upstreams->resolv_conf = strdup(config->resolv_conf ? config->resolv_conf : "/etc/resolv.conf");
	if (!upstreams->resolv_conf)
		return error_set(err, ENOMEM, "no memory for the resolver");
	upstreams->changed_at = file_changed(upstreams->resolv_conf);
	upstreams->looked_at = time_mono_ms();
	read_file(upstreams);
	return 0;
}

void upstreams_free(struct upstreams *upstreams)
{
	free(upstreams->resolv_conf);
	*upstreams = (struct upstreams){ 0 };
}

void upstreams_refresh(struct upstreams *upstreams)
{
	int64_t now = time_mono_ms();
	if (!upstreams->resolv_conf || now - upstreams->looked_at < LOOK_MS)
		return;
	upstreams->looked_at = now;
	int64_t changed = file_changed(upstreams->resolv_conf);
	if (changed == upstreams->changed_at)
		return;
	upstreams->changed_at = changed;
	read_file(upstreams);
}
