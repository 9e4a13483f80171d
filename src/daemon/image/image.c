#include "daemon/image/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/str.h"

#define MANIFEST_MAX 65536
#define IMAGES_MAX 256
#define VERIFIED_MAX 128

/* A file that was read through once, and would be again if any of this changed. */
struct verified {
	dev_t device;
	ino_t inode;
	off_t size;
	struct timespec changed;
	char digest[IMAGE_DIGEST_MAX];
};

struct images {
	int cache; /* folder */
	pthread_mutex_t lock;
	struct verified verified[VERIFIED_MAX];
	size_t verified_count;
};

int images_open(const char *cache_dir, struct images **out, struct error *err)
{
	struct images *images = calloc(1, sizeof(*images));
	if (!images)
		return error_set(err, ENOMEM, "no memory for images");
	images->cache = open(cache_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (images->cache < 0) {
		int code = errno;
		free(images);
		return error_errno(err, code, "open the cache folder %s", cache_dir);
	}
	pthread_mutex_init(&images->lock, NULL);
	*out = images;
	return 0;
}

void images_close(struct images *images)
{
	if (!images)
		return;
	fd_close(&images->cache);
	pthread_mutex_destroy(&images->lock);
	free(images);
}

/* ---- verification ---- */

static int hash_file(int fd, char digest[IMAGE_DIGEST_MAX])
{
	static const size_t step = 1 << 20;
	_cleanup_free_ unsigned char *data = malloc(step);
	crypto_hash_sha256_state state;
	unsigned char hash[crypto_hash_sha256_BYTES];
	off_t at = 0;

	if (!data)
		return -ENOMEM;
	crypto_hash_sha256_init(&state);
	for (;;) {
		ssize_t n = pread(fd, data, step, at);
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		crypto_hash_sha256_update(&state, data, (unsigned long long)n);
		at += n;
	}
	crypto_hash_sha256_final(&state, hash);
	memcpy(digest, "sha256:", 7);
	str_hex(digest + 7, hash, sizeof(hash));
	return 0;
}

static struct verified *find_verified(struct images *images, const struct stat *st)
{
	for (size_t i = 0; i < images->verified_count; i++) {
		struct verified *v = &images->verified[i];
		if (v->device == st->st_dev && v->inode == st->st_ino)
			return v;
	}
	return NULL;
}

static bool unchanged(const struct verified *v, const struct stat *st)
{
	return v->size == st->st_size && v->changed.tv_sec == st->st_ctim.tv_sec &&
	       v->changed.tv_nsec == st->st_ctim.tv_nsec;
}

static int digest_of(struct images *images, int fd, char digest[IMAGE_DIGEST_MAX])
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;

	/* Under the lock, so that a hundred first users read a large image once. */
	pthread_mutex_lock(&images->lock);
	struct verified *v = find_verified(images, &st);
	int r = 0;
	if (!v || !unchanged(v, &st)) {
		struct verified fresh = {
			.device = st.st_dev,
			.inode = st.st_ino,
			.size = st.st_size,
			.changed = st.st_ctim,
		};
		r = hash_file(fd, fresh.digest);
		if (r == 0) {
			if (!v)
				v = &images->verified[images->verified_count < VERIFIED_MAX ? images->verified_count++
											    : 0];
			*v = fresh;
		}
	}
	if (r == 0)
		memcpy(digest, v->digest, IMAGE_DIGEST_MAX);
	pthread_mutex_unlock(&images->lock);
	return r;
}

/* Opens dir/name and holds it against the digest. */
static int open_verified(struct images *images, int dir, const char *name, const char *expected, int *out,
			 struct error *err)
{
	char digest[IMAGE_DIGEST_MAX];
	_cleanup_fd_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == ENXIO))
		return error_set(err, EPROTO, "%s is missing or no plain file", name);
	if (fd < 0)
		return error_errno(err, errno, "open %s", name);
	int r = digest_of(images, fd, digest);
	if (r == -EINVAL)
		return error_set(err, EPROTO, "%s is no plain file", name);
	if (r < 0)
		return error_errno(err, -r, "read %s", name);
	const char *hex = str_starts(expected, "sha256:") ? expected + 7 : expected;
	if (strcmp(digest + 7, hex) != 0)
		return error_set(err, EPROTO, "%s is damaged: its digest is %.20s…, the manifest says %.20s…", name,
				 digest, expected);
	*out = fd_steal(&fd);
	return 0;
}

static json_t *read_manifest(int dir, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	if (fd_read_file(dir, "manifest.json", MANIFEST_MAX, &text, &size, err) < 0)
		return NULL;
	json_t *manifest = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(manifest)) {
		json_decref(manifest);
		error_set(err, EPROTO, "manifest.json is malformed");
		return NULL;
	}
	return manifest;
}

static const char *text_of(json_t *manifest, const char *key)
{
	const char *text = json_string_value(json_object_get(manifest, key));
	return text ? text : "";
}

/* ---- images ---- */

static bool named(json_t *manifest, const char *folder, const char *name)
{
	size_t i;
	json_t *alias;

	if (strcmp(text_of(manifest, "name"), name) == 0 || strcmp(folder, name) == 0)
		return true;
	json_array_foreach(json_object_get(manifest, "aliases"), i,
			   alias) if (json_is_string(alias) && strcmp(json_string_value(alias), name) == 0) return true;
	return false;
}

static int take_env(json_t *env, struct image *image)
{
	const char *key;
	json_t *value;
	size_t n = 0;

	image->env = calloc(json_object_size(env) + 1, sizeof(char *));
	if (!image->env)
		return -ENOMEM;
	json_object_foreach(env, key, value)
	{
		if (!json_is_string(value))
			continue;
		if (asprintf(&image->env[n], "%s=%s", key, json_string_value(value)) < 0) {
			image->env[n] = NULL;
			return -ENOMEM;
		}
		n++;
	}
	return 0;
}

static int fill(struct images *images, int dir, json_t *manifest, struct image *image, struct error *err)
{
	const char *workdir = text_of(manifest, "working_dir");

	*image = (struct image){ .fd = -1 };
	if (str_copy(image->name, sizeof(image->name), text_of(manifest, "name")) < 0 || !image->name[0] ||
	    str_copy(image->digest, sizeof(image->digest), text_of(manifest, "digest")) < 0 ||
	    str_copy(image->workdir, sizeof(image->workdir), workdir[0] ? workdir : "/workspace") < 0)
		return error_set(err, EPROTO, "the manifest of an image is malformed");
	int r = take_env(json_object_get(manifest, "env"), image);
	if (r < 0)
		return error_set(err, ENOMEM, "no memory for an image");
	r = open_verified(images, dir, "image.erofs", image->digest, &image->fd, err);
	if (r < 0)
		return error_prefix(err, "image %s", image->name);
	return 0;
}

struct folder {
	char name[256];
};

/* Of the folders of earlier builds, NAME@DIGEST, only the one asked for counts: however many are kept, the rest is found. */
static bool counts(const char *folder, const char *digest)
{
	const char *at = strchr(folder, '@');

	if (folder[0] == '.' || !at)
		return folder[0] != '.';
	return digest && at[1] && str_starts(str_starts(digest, "sha256:") ? digest + 7 : digest, at + 1);
}

/* Folder names in order, so that "the first" is the same one every time. */
static size_t list_folders(struct images *images, const char *digest, struct folder *folders)
{
	size_t count = 0;
	int fd = openat(images->cache, "images", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry;

	if (!stream) {
		fd_close(&fd);
		return 0;
	}
	while (count < IMAGES_MAX && (entry = readdir(stream)))
		if (counts(entry->d_name, digest))
			snprintf(folders[count++].name, sizeof(folders->name), "%s", entry->d_name);
	closedir(stream);
	for (size_t i = 1; i < count; i++)
		for (size_t k = i; k > 0 && strcmp(folders[k - 1].name, folders[k].name) > 0; k--) {
			struct folder swap = folders[k];
			folders[k] = folders[k - 1];
			folders[k - 1] = swap;
		}
	return count;
}

static int open_folder(struct images *images, const char *name, json_t **manifest)
{
	char path[300];
	snprintf(path, sizeof(path), "images/%s", name);
	int dir = openat(images->cache, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return -1;
	*manifest = read_manifest(dir, NULL);
	if (!*manifest)
		fd_close(&dir);
	return dir;
}

struct search {
	struct folder folders[IMAGES_MAX];
	size_t count;
	const char *name;   /* NULL: the first there is */
	const char *digest; /* NULL: no earlier builds */
	struct buf known;   /* names of the present ones */
	bool found;
};

static bool wanted(const struct search *search, json_t *manifest, const char *folder)
{
	if (search->name && !named(manifest, folder, search->name))
		return false;
	return !search->digest || strcmp(text_of(manifest, "digest"), search->digest) == 0;
}

static int search_folders(struct images *images, struct search *search, struct image *image, struct error *err)
{
	buf_clear(&search->known);
	for (size_t i = 0; i < search->count; i++) {
		const char *folder = search->folders[i].name;
		json_t *manifest = NULL;
		_cleanup_fd_ int dir = open_folder(images, folder, &manifest);
		if (dir < 0)
			continue;
		if (!strchr(folder, '@'))
			buf_addf(&search->known, "%s%s", search->known.size ? ", " : "", folder);
		int r = 0;
		search->found = wanted(search, manifest, folder);
		if (search->found)
			r = fill(images, dir, manifest, image, err);
		json_decref(manifest);
		if (search->found)
			return r;
	}
	return 0;
}

static int not_found(const struct search *search, const char *name, struct error *err)
{
	if (search->digest)
		return error_set(err, EPROTO,
				 "image: %.100s was built anew since; the build that this needs (%.20s…) is no more",
				 name, search->digest);
	if (!search->known.size)
		return error_set(err, EPROTO, "image: there is no image \"%.100s\"; none was built yet", name);
	return error_set(err, EPROTO, "image: there is no image \"%.100s\"; there are: %.300s", name,
			 buf_text(&search->known));
}

int images_find(struct images *images, const char *name, const char *digest, struct image *image, struct error *err)
{
	bool any = !name || !*name;
	struct search *search = calloc(1, sizeof(*search));

	*image = (struct image){ .fd = -1 };
	if (!search)
		return error_set(err, ENOMEM, "no memory for images");
	search->count = list_folders(images, digest, search->folders);
	search->name = any ? "default" : name;
	search->digest = digest;
	int r = search_folders(images, search, image, err);
	if (!search->found && any) {
		search->name = NULL;
		r = search_folders(images, search, image, err);
	}
	if (!search->found)
		r = not_found(search, any ? "default" : name, err);
	if (r < 0)
		image_free(image);
	buf_free(&search->known);
	free(search);
	return r;
}

void image_free(struct image *image)
{
	for (char **e = image->env; e && *e; e++)
		free(*e);
	free(image->env);
	image->env = NULL;
	fd_close(&image->fd);
}

/* ---- the guest's kernel ---- */

int images_guest(struct images *images, struct guest_kernel *guest, struct error *err)
{
	*guest = (struct guest_kernel){ .kernel = -1, .initramfs = -1 };
	_cleanup_fd_ int dir = openat(images->cache, "guest", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return error_set(err, EPROTO, "the guest's kernel is missing: run tools/guest/assemble");
	struct error why = { 0 };
	json_t *manifest = read_manifest(dir, &why);
	if (!manifest)
		return error_set(err, EPROTO, "the guest's kernel: %.400s", why.text);

	char both[160];
	const char *kernel = text_of(manifest, "kernel_sha256"), *initramfs = text_of(manifest, "initramfs_sha256");
	guest->acpi = json_is_true(json_object_get(manifest, "acpi"));
	int r = str_copy(guest->cmdline, sizeof(guest->cmdline), text_of(manifest, "cmdline"));
	if (r == 0)
		r = str_copy(guest->release, sizeof(guest->release), text_of(manifest, "kernel_release"));
	if (r < 0)
		r = error_set(err, EPROTO, "the guest's manifest is malformed");
	if (r == 0)
		r = open_verified(images, dir, "kernel", kernel, &guest->kernel, err);
	if (r == 0)
		r = open_verified(images, dir, "initramfs.cpio", initramfs, &guest->initramfs, err);
	if (r == 0) {
		unsigned char hash[crypto_hash_sha256_BYTES];
		snprintf(both, sizeof(both), "%.70s %.70s", kernel, initramfs);
		crypto_hash_sha256(hash, (const unsigned char *)both, strlen(both));
		memcpy(guest->digest, "sha256:", 7);
		str_hex(guest->digest + 7, hash, sizeof(hash));
	}
	json_decref(manifest);
	if (r < 0)
		guest_kernel_close(guest);
	return r;
}

void guest_kernel_close(struct guest_kernel *guest)
{
	fd_close(&guest->kernel);
	fd_close(&guest->initramfs);
}
