/*
 * What the audit record costs a create: the transaction that admits a sandbox, with and without its record, in turns on
 * one store in a new folder of DIR. Prints {"no record": […], "with its record": […]}, milliseconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/store/store.h"

static int fail(const char *what, const struct error *err)
{
	fprintf(stderr, "audit-cost: %s: %s\n", what, err->text);
	return 1;
}

static struct store_sandbox new_row(const char *org)
{
	struct store_sandbox row = { .status = SANDBOX_CREATING, .cpu_units = 1, .memory_mib = 512, .storage_gb = 10 };

	str_random_id(row.id, "sbx");
	snprintf(row.org, sizeof(row.org), "%s", org);
	snprintf(row.name, sizeof(row.name), "bench");
	snprintf(row.image, sizeof(row.image), "tiny");
	snprintf(row.image_digest, sizeof(row.image_digest), "sha256:0");
	row.created_ms = time_wall_ms();
	row.timeout_s = 3600;
	return row;
}

static int admit(struct store *store, const char *org, bool record, struct error *err)
{
	struct store_sandbox row = new_row(org);
	struct store_audit audit = { .status = 201 };

	snprintf(audit.org, sizeof(audit.org), "%s", org);
	snprintf(audit.action, sizeof(audit.action), "sandbox.admitted");
	snprintf(audit.target, sizeof(audit.target), "%s", row.id);
	snprintf(audit.outcome, sizeof(audit.outcome), "ok");
	int r = store_begin(store, err);
	if (r < 0)
		return r;
	r = store_sandbox_add(store, &row, err);
	if (r == 0 && record)
		r = store_audit_add(store, &audit, err);
	if (r == 0)
		return store_commit(store, err);
	store_rollback(store);
	return r;
}

static int measure(struct store *store, const char *org, size_t count, double *times[2], struct error *err)
{
	for (size_t i = 0; i < 2 * count; i++) {
		int64_t begin = time_mono_us();
		int r = admit(store, org, i % 2, err);
		if (r < 0)
			return r;
		times[i % 2][i / 2] = (double)(time_mono_us() - begin) / 1000;
	}
	return 0;
}

static void print(const char *name, const double *times, size_t count)
{
	printf("\"%s\": [", name);
	for (size_t i = 0; i < count; i++)
		printf("%s%.3f", i ? ", " : "", times[i]);
	printf("]");
}

static int run(const char *folder, size_t count)
{
	struct store_org org = { .name = "bench", .tier = "beta" };
	struct error err = { 0 };
	struct store *store;

	str_random_id(org.id, "org");
	if (store_open(folder, &store, &err) < 0)
		return fail("open the store", &err);
	double *times[2] = { calloc(count, sizeof(double)), calloc(count, sizeof(double)) };
	int r = times[0] && times[1] ? store_org_add(store, &org, &err) : error_set(&err, ENOMEM, "no memory");
	if (r == 0)
		r = measure(store, org.id, count, times, &err);
	store_close(store);
	if (r == 0) {
		printf("{");
		print("no record", times[0], count);
		printf(", ");
		print("with its record", times[1], count);
		printf("}\n");
	}
	free(times[0]);
	free(times[1]);
	return r < 0 ? fail("measure", &err) : 0;
}

int main(int argc, char **argv)
{
	char folder[4096];
	long count = argc == 3 ? strtol(argv[2], NULL, 10) : 0;

	if (count < 1 || count > 1000000) {
		fprintf(stderr, "usage: audit-cost DIR COUNT\n");
		return 2;
	}
	snprintf(folder, sizeof(folder), "%s/akira-audit-cost-XXXXXX", argv[1]);
	if (!mkdtemp(folder)) {
		perror("audit-cost");
		return 1;
	}
	int status = run(folder, (size_t)count);
	_cleanup_fd_ int parent = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	(void)fd_remove_tree(parent, strrchr(folder, '/') + 1, NULL);
	return status;
}
