/* libFuzzer: the manifest of an image. */
#include "daemon/image/image.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct images cache = { .cache = -1 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image image;
	struct error err = { 0 };

	if (size > MANIFEST_MAX)
		return 0;
	if (cache.cache < 0) {
		pthread_mutex_init(&cache.lock, NULL);
		cache.cache = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	json_t *manifest = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(manifest)) {
		(void)named(manifest, "folder", "name");
		/* There is no image.erofs: whatever it says, it must be refused, and all of it freed. */
		if (fill(&cache, cache.cache, manifest, &image, &err) >= 0 || err.code == 0)
			abort();
		if (strlen(image.name) >= sizeof(image.name) || strlen(image.workdir) >= sizeof(image.workdir))
			abort();
		image_free(&image);
	}
	json_decref(manifest);
	return 0;
}
