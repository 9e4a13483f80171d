#include "daemon/admin.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "daemon/auth/auth.h"
#include "daemon/privileges.h"

int credentials_write(const struct config *config, const char *key, uint16_t port, struct error *err)
{
	char text[512];
	/* A client on this host reaches a server that listens everywhere by loopback. */
	bool any = strcmp(config->address, "0.0.0.0") == 0 || strcmp(config->address, "::") == 0;
	const char *address = any ? "127.0.0.1" : config->address;
	bool v6 = strchr(address, ':') != NULL;

	_cleanup_fd_ int dir = open(config->data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return error_errno(err, errno, "open %s", config->data_dir);
	int size = snprintf(text, sizeof(text), "api_key = %s\nbase_url = %s://%s%s%s:%u\n", key,
			    config->tls_cert[0] ? "https" : "http", v6 ? "[" : "", address, v6 ? "]" : "", port);
	int r = fd_write_file(dir, "credentials", text, (size_t)size, 0600, err);
	sodium_memzero(text, sizeof(text));
	return r;
}

static int fail(const struct error *err)
{
	fprintf(stderr, "akirad: %s\n", err->text);
	return 1;
}

static int reset_key(const struct config *config, struct store *store)
{
	struct auth_actor actor = { .address = "host" };
	struct error err = { 0 };
	char key[AUTH_KEY_MAX];

	if (auth_reset_key(store, NULL, &actor, key, &err) < 0 ||
	    credentials_write(config, key, config->port, &err) < 0)
		return fail(&err);
	printf("%s\n", key);
	fprintf(stderr, "The earlier bootstrap key is revoked. The new one is in %s/credentials too.\n",
		config->data_dir);
	sodium_memzero(key, sizeof(key));
	return 0;
}

/* The store writes as akirad's user into its own folder; the copy goes on to FILE as whoever asked. */
static int backup(const struct config *config, struct store *store, const char *path, int target)
{
	struct error err = { 0 };
	char temporary[CONFIG_TEXT + 32], buffer[65536];

	snprintf(temporary, sizeof(temporary), "%s/backup.tmp.%ld", config->data_dir, (long)getpid());
	int r = store_backup(store, temporary, &err);
	_cleanup_fd_ int from = r == 0 ? open(temporary, O_RDONLY | O_CLOEXEC) : -1;
	(void)unlink(temporary);
	if (r == 0 && from < 0)
		r = error_errno(&err, errno, "read the copy");
	ssize_t n = 0;
	while (r == 0 && (n = read(from, buffer, sizeof(buffer))) > 0) {
		r = fd_write_all(target, buffer, (size_t)n);
		if (r < 0)
			error_errno(&err, -r, "write %s", path);
	}
	if (r == 0 && (n < 0 || fsync(target) < 0))
		r = error_errno(&err, errno, "write %s", path);
	if (r < 0)
		return fail(&err);
	printf("backed up to %s\n", path);
	return 0;
}

static int verify(struct store *store)
{
	uint64_t rows = 0, seq = 0;
	struct error err = { 0 };

	if (store_audit_verify(store, &rows, &seq, &err) < 0) {
		fprintf(stderr, "akirad: the audit log is not whole at record %llu: %s\n", (unsigned long long)seq,
			err.text);
		return 1;
	}
	printf("the audit log is whole: %llu records\n", (unsigned long long)rows);
	return 0;
}

int admin_main(const struct config *config, int argc, char **argv)
{
	struct error err = { 0 };
	struct store *store = NULL;
	const char *command = argc > 0 ? argv[0] : "";
	bool is_backup = strcmp(command, "backup") == 0 && argc == 2;
	int code = 2;

	if (!is_backup && !((strcmp(command, "reset-key") == 0 || strcmp(command, "verify-audit") == 0) && argc == 1)) {
		config_help(stderr);
		return 2;
	}
	/* The target is opened with the caller's rights, all else is done with akirad's. */
	_cleanup_fd_ int target = is_backup ? open(argv[1], O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600)
					    : -1;
	if (is_backup && target < 0) {
		error_errno(&err, errno, "make %s", argv[1]);
		return fail(&err);
	}
	int r = geteuid() == 0 ? privileges_drop(config->uid, config->gid, &err) : 0;
	if (r == 0)
		r = store_open(config->data_dir, &store, &err);
	if (r < 0)
		code = fail(&err);
	else if (is_backup)
		code = backup(config, store, argv[1], target);
	else
		code = strcmp(command, "reset-key") == 0 ? reset_key(config, store) : verify(store);
	store_close(store);
	if (is_backup && code != 0)
		(void)unlink(argv[1]);
	return code;
}
