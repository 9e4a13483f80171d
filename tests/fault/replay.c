/*
 * Runs a fuzzer's harness over each kept file again and again, the n-th time with its n-th allocation failing, until
 * none fails any more: no crash, the harness's own checks hold, and as much is given back as was taken.
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FILE_MAX 65536

static int64_t run(const uint8_t *data, size_t size, int64_t at)
{
	int64_t live = atomic_load(&alloc_control->live);

	atomic_store(&alloc_control->failed, 0);
	atomic_store(&alloc_control->count, 0);
	atomic_store(&alloc_control->fail_at, at);
	LLVMFuzzerTestOneInput(data, size);
	atomic_store(&alloc_control->fail_at, 0);
	return atomic_load(&alloc_control->live) - live;
}

/* How many allocations were made to fail; -1: something leaked. */
static int64_t every_one(const char *name, const uint8_t *data, size_t size)
{
	run(data, size, 0); /* what is made once and kept */
	for (int64_t at = 1;; at++) {
		int64_t kept = run(data, size, at);
		int64_t failed = atomic_load(&alloc_control->failed);
		if (kept > 0) { /* less under AddressSanitizer, which allocates past us what is freed through us */
			printf("%s: %lld allocations kept after number %lld failed\n", name, (long long)kept,
			       (long long)at);
			return -1;
		}
		if (failed == 0)
			return at - 1;
	}
}

/* Arguments: the folder, and "none" when this code is to allocate nothing at all. */
int main(int argc, char **argv)
{
	bool none = argc == 3 && strcmp(argv[2], "none") == 0;
	static uint8_t data[FILE_MAX];
	int64_t sum = 0, leaks = 0;
	int files = 0;
	DIR *dir = argc >= 2 ? opendir(argv[1]) : NULL;

	for (struct dirent *e; dir && (e = readdir(dir));) {
		char path[4096];
		snprintf(path, sizeof(path), "%s/%s", argv[1], e->d_name);
		FILE *f = e->d_type == DT_REG ? fopen(path, "rb") : NULL;
		if (!f)
			continue;
		size_t size = fread(data, 1, sizeof(data), f);
		fclose(f);
		int64_t failed = every_one(e->d_name, data, size);
		files++;
		sum += failed > 0 ? failed : 0;
		leaks += failed < 0;
	}
	if (dir)
		closedir(dir);
	printf("%d files, %lld allocations failed one by one\n", files, (long long)sum);
	return files == 0 || (sum == 0) != none || leaks > 0;
}
