/* Run the harness over kept files, and over each of them with bytes changed, without libFuzzer: for the ordinary tests. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SIZE_MAX_ 65536
#define CHANGES 2000

static uint32_t random_number(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

static void run(const uint8_t *data, size_t size)
{
	uint32_t state = 0x9e3779b9u ^ (uint32_t)size;
	LLVMFuzzerTestOneInput(data, size);
	for (int i = 0; i < CHANGES; i++) {
		size_t cut = random_number(&state) % 4 ? size : random_number(&state) % (size + 1);
		uint8_t *copy = malloc(cut + 1); /* its own, so that ASan sees one byte too far */
		if (!copy)
			abort();
		for (size_t k = 0; k < cut; k++)
			copy[k] = data[k];
		for (uint32_t k = random_number(&state) % 4; cut && k > 0; k--)
			copy[random_number(&state) % cut] = (uint8_t)random_number(&state);
		LLVMFuzzerTestOneInput(copy, cut);
		free(copy);
	}
}

int main(int argc, char **argv)
{
	static uint8_t data[SIZE_MAX_];
	int count = 0;
	DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		char path[4096];
		snprintf(path, sizeof path, "%s/%s", argv[1], e->d_name);
		FILE *f = e->d_type == DT_REG ? fopen(path, "rb") : NULL;
		if (!f)
			continue;
		run(data, fread(data, 1, sizeof data, f));
		fclose(f);
		count++;
	}
	if (dir)
		closedir(dir);
	printf("%d files\n", count);
	return count ? 0 : 1;
}
