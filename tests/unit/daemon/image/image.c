/* Images and the guest's kernel in a cache folder: found by every name, and never used when damaged. */
#include "daemon/image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"

struct cache {
	char path[64];
	int dir;
	struct images *images;
	struct error err;
};

static int setup(void **state)
{
	struct cache *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	snprintf(c->path, sizeof(c->path), "/tmp/akira-image-XXXXXX");
	assert_non_null(mkdtemp(c->path));
	c->dir = open(c->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(c->dir >= 0);
	assert_int_equal(mkdirat(c->dir, "images", 0700), 0);
	assert_int_equal(mkdirat(c->dir, "guest", 0700), 0);
	assert_int_equal(images_open(c->path, &c->images, &c->err), 0);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct cache *c = *state;

	images_close(c->images);
	fd_close(&c->dir);
	int r = fd_remove_tree(AT_FDCWD, c->path, NULL);
	free(c);
	return r;
}

static void put(struct cache *c, const char *name, const char *text)
{
	if (fd_write_file(c->dir, name, text, strlen(text), 0600, &c->err) < 0)
		fail_msg("%s", c->err.text);
}

static void digest_of(const char *text, char hex[65])
{
	unsigned char hash[crypto_hash_sha256_BYTES];

	crypto_hash_sha256(hash, (const unsigned char *)text, strlen(text));
	str_hex(hex, hash, sizeof(hash));
}

static void put_manifest(struct cache *c, const char *folder, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "images/%s", folder);
	mkdirat(c->dir, path, 0700);
	snprintf(path, sizeof(path), "images/%s/manifest.json", folder);
	put(c, path, text);
}

static void put_data(struct cache *c, const char *folder, const char *data)
{
	char path[128];

	snprintf(path, sizeof(path), "images/%s/image.erofs", folder);
	put(c, path, data);
}

/* A good image; more: further members of its manifest, beginning with a comma. */
static void put_image(struct cache *c, const char *folder, const char *name, const char *data, const char *more)
{
	char hex[65], text[2048];

	digest_of(data, hex);
	snprintf(text, sizeof(text), "{\"name\":\"%s\",\"digest\":\"sha256:%s\"%s}", name, hex, more);
	put_manifest(c, folder, text);
	put_data(c, folder, data);
}

static void finds(struct cache *c, const char *name, const char *full_name)
{
	struct image image;

	if (images_find(c->images, name, NULL, &image, &c->err) < 0)
		fail_msg("%s: %s", name ? name : "NULL", c->err.text);
	assert_string_equal(image.name, full_name);
	assert_true(image.fd >= 0);
	assert_int_equal(fcntl(image.fd, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(fcntl(image.fd, F_GETFD), FD_CLOEXEC);
	image_free(&image);
}

static void refuses(struct cache *c, const char *name, const char *words)
{
	struct image image;

	assert_int_equal(images_find(c->images, name, NULL, &image, &c->err), -EPROTO);
	assert_int_equal(c->err.code, EPROTO);
	if (!strstr(c->err.text, words))
		fail_msg("%s: %s", name, c->err.text);
	assert_int_equal(image.fd, -1);
	assert_null(image.env);
}

/* ---- names ---- */

static void names_and_aliases(void **state)
{
	struct cache *c = *state;

	put_image(c, "py", "akira/python:3", "one", ",\"aliases\":[\"python\",7,\"py3\"]");
	put_image(c, "js", "akira/node:20", "two", ",\"aliases\":\"node\"");
	finds(c, "akira/python:3", "akira/python:3");
	finds(c, "python", "akira/python:3");
	finds(c, "py3", "akira/python:3");
	finds(c, "py", "akira/python:3");
	finds(c, "js", "akira/node:20");
	refuses(c, "node", "there are: js, py"); /* aliases that are no list */
	refuses(c, "Python", "no image \"Python\"");
	refuses(c, "../images/py", "no image");
	refuses(c, "py/", "no image");
}

static void the_default(void **state)
{
	struct cache *c = *state;

	refuses(c, NULL, "none was built yet");
	put_image(c, "zeta", "z", "one", "");
	finds(c, NULL, "z");
	put_image(c, "alpha", "a", "two", "");
	finds(c, "", "a"); /* the first by name, always the same */
	put_image(c, "default", "akira/default:1", "three", "");
	finds(c, NULL, "akira/default:1");
	finds(c, "", "akira/default:1");
	put_data(c, "default", "damaged");
	refuses(c, NULL, "damaged"); /* and not another one instead */
}

/* Earlier builds are found by their digest alone. */
static void earlier_builds(void **state)
{
	struct cache *c = *state;
	struct image image;
	char digest[72] = "sha256:", folder[32];

	digest_of("one", digest + 7);
	snprintf(folder, sizeof(folder), "a@%.16s", digest + 7);
	put_image(c, folder, "a", "one", "");
	refuses(c, "a", "none was built yet");
	put_image(c, "a", "a", "two", "");
	finds(c, NULL, "a");
	refuses(c, "b", "there are: a");
	refuses(c, folder, "no image");
	assert_int_equal(images_find(c->images, "a", digest, &image, &c->err), 0);
	assert_string_equal(image.digest, digest);
	image_free(&image);
	digest_of("three", digest + 7);
	assert_int_equal(images_find(c->images, "a", digest, &image, &c->err), -EPROTO);
	assert_non_null(strstr(c->err.text, "built anew"));
}

/* Who never prunes still finds what is built now, and each of the earlier ones. */
static void many_earlier_builds(void **state)
{
	struct cache *c = *state;
	struct image image;
	char digest[72] = "sha256:", folder[32], data[16];

	for (int i = 0; i < 300; i++) {
		snprintf(data, sizeof(data), "build %d", i);
		digest_of(data, digest + 7);
		snprintf(folder, sizeof(folder), "a@%.16s", digest + 7);
		put_image(c, folder, "a", data, "");
	}
	put_image(c, "z", "z", "now", "");
	finds(c, "z", "z");
	for (int i = 0; i < 300; i++) {
		snprintf(data, sizeof(data), "build %d", i);
		digest_of(data, digest + 7);
		assert_int_equal(images_find(c->images, "a", digest, &image, &c->err), 0);
		assert_string_equal(image.digest, digest);
		image_free(&image);
	}
}

static void what_is_in_it(void **state)
{
	struct cache *c = *state;
	struct image image;

	put_image(c, "a", "a", "one", ",\"working_dir\":\"/srv\",\"env\":{\"PATH\":\"/bin\",\"N\":7,\"EMPTY\":\"\"}");
	assert_int_equal(images_find(c->images, "a", NULL, &image, &c->err), 0);
	assert_string_equal(image.workdir, "/srv");
	assert_string_equal(image.env[0], "PATH=/bin");
	assert_string_equal(image.env[1], "EMPTY=");
	assert_null(image.env[2]);
	assert_int_equal(strlen(image.digest), 71);
	image_free(&image);
	put_image(c, "a", "a", "one", "");
	assert_int_equal(images_find(c->images, "a", NULL, &image, &c->err), 0);
	assert_string_equal(image.workdir, "/workspace");
	assert_null(image.env[0]);
	image_free(&image);
}

/* ---- damage ---- */

static void damaged_from_the_start(void **state)
{
	struct cache *c = *state;

	put_image(c, "a", "a", "right", "");
	put_data(c, "a", "wrong");
	refuses(c, "a", "damaged");
	put_data(c, "a", "right");
	finds(c, "a", "a");
	put_data(c, "a", "");
	refuses(c, "a", "damaged");
}

static void replaced_later(void **state)
{
	struct cache *c = *state;

	put_image(c, "a", "a", "first", "");
	finds(c, "a", "a");
	put_data(c, "a", "other"); /* of the same size, another inode */
	refuses(c, "a", "damaged");
	put_image(c, "a", "a", "other", "");
	finds(c, "a", "a");
}

/* The same inode, the same size: only its change time tells. */
static void changed_in_place(void **state)
{
	struct cache *c = *state;
	struct stat before, after;
	int64_t deadline = time_mono_ms() + 5000;

	put_image(c, "a", "a", "first", "");
	finds(c, "a", "a");
	_cleanup_fd_ int fd = openat(c->dir, "images/a/image.erofs", O_RDWR | O_CLOEXEC);
	assert_int_equal(fstat(fd, &before), 0);
	do {
		assert_int_equal(pwrite(fd, "F", 1, 0), 1);
		assert_int_equal(fstat(fd, &after), 0);
	} while (after.st_ctim.tv_nsec == before.st_ctim.tv_nsec && time_left_ms(deadline) > 0);
	struct timespec times[2] = { before.st_atim, before.st_mtim };
	assert_int_equal(futimens(fd, times), 0); /* as a forger would */
	refuses(c, "a", "damaged");
	assert_int_equal(pwrite(fd, "f", 1, 0), 1);
	finds(c, "a", "a");
}

static void malformed_manifests(void **state)
{
	struct cache *c = *state;
	char hex[65], text[4096], name[200];

	digest_of("data", hex);
	static const char *const unreadable[] = {
		"", "[]", "{", "{\"name\":\"a\",\"name\":\"b\"}", "{\"name\":\"a\\u0000\"}", "null"
	};
	for (size_t i = 0; i < sizeof(unreadable) / sizeof(unreadable[0]); i++) {
		put_manifest(c, "a", unreadable[i]);
		put_data(c, "a", "data");
		refuses(c, "a", "no image");
	}
	put_manifest(c, "a", "{}");
	refuses(c, "a", "malformed");
	snprintf(text, sizeof(text), "{\"name\":7,\"digest\":\"sha256:%s\"}", hex);
	put_manifest(c, "a", text);
	refuses(c, "a", "malformed");
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	snprintf(text, sizeof(text), "{\"name\":\"%s\",\"digest\":\"sha256:%s\"}", name, hex);
	put_manifest(c, "a", text);
	refuses(c, "a", "malformed");
	snprintf(text, sizeof(text), "{\"name\":\"a\",\"digest\":\"sha256:%s%s\"}", hex, hex);
	put_manifest(c, "a", text);
	refuses(c, "a", "malformed");
	put_manifest(c, "a", "{\"name\":\"a\",\"digest\":\"\"}");
	refuses(c, "a", "damaged");
	put_manifest(c, "a", "{\"name\":\"a\"}");
	refuses(c, "a", "damaged");
	snprintf(text, sizeof(text), "{\"name\":\"a\",\"digest\":\"sha256:%.63s\"}", hex);
	put_manifest(c, "a", text);
	refuses(c, "a", "damaged");
	snprintf(text, sizeof(text), "{\"name\":\"a\",\"digest\":\"%s\",\"env\":[],\"aliases\":{}}", hex);
	put_manifest(c, "a", text);
	finds(c, "a", "a");
}

static void manifest_that_is_too_large(void **state)
{
	struct cache *c = *state;
	char *text = malloc(70001);

	assert_non_null(text);
	memset(text, ' ', 70000);
	text[70000] = '\0';
	text[0] = '{';
	text[69999] = '}';
	put_manifest(c, "a", text);
	put_data(c, "a", "data");
	refuses(c, "a", "no image");
	free(text);
}

static void links_and_other_things(void **state)
{
	struct cache *c = *state;

	put_image(c, "real", "real", "data", "");
	assert_int_equal(symlinkat("real", c->dir, "images/link"), 0);
	finds(c, "real", "real");
	refuses(c, "link", "no image");
	put_image(c, "a", "a", "data", "");
	assert_int_equal(unlinkat(c->dir, "images/a/image.erofs", 0), 0);
	refuses(c, "a", "missing");
	assert_int_equal(symlinkat("../real/image.erofs", c->dir, "images/a/image.erofs"), 0);
	refuses(c, "a", "no plain file");
	assert_int_equal(unlinkat(c->dir, "images/a/image.erofs", 0), 0);
	assert_int_equal(mkfifoat(c->dir, "images/a/image.erofs", 0600), 0);
	refuses(c, "a", "no plain file"); /* and does not wait for a writer */
	assert_int_equal(unlinkat(c->dir, "images/a/image.erofs", 0), 0);
	assert_int_equal(mkdirat(c->dir, "images/a/image.erofs", 0700), 0);
	refuses(c, "a", "no plain file");
	/* Two names of one file are fine: it is the content that counts. */
	assert_int_equal(unlinkat(c->dir, "images/a/image.erofs", AT_REMOVEDIR), 0);
	assert_int_equal(linkat(c->dir, "images/real/image.erofs", c->dir, "images/a/image.erofs", 0), 0);
	finds(c, "a", "a");
	put(c, "images/stray", "a file among the folders");
	finds(c, "real", "real");
}

static void many_images(void **state)
{
	struct cache *c = *state;
	char name[32], data[32];

	/* More than are kept as verified: the list wraps, and still nothing is taken for another. */
	for (int i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "i%02d", i);
		snprintf(data, sizeof(data), "data %02d", i);
		put_image(c, name, name, data, "");
	}
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 60; i++) {
			snprintf(name, sizeof(name), "i%02d", i);
			snprintf(data, sizeof(data), "data %02d", i);
			put_data(c, name, data); /* a new inode each time */
			finds(c, name, name);
		}
	}
	put_data(c, "i30", "data 31");
	refuses(c, "i30", "damaged");
}

static void no_cache_folder(void **state)
{
	struct cache *c = *state;
	struct images *images = NULL;

	assert_int_equal(images_open("/nonexistent/akira", &images, &c->err), -ENOENT);
	assert_null(images);
	images_close(NULL);
	assert_int_equal(unlinkat(c->dir, "images", AT_REMOVEDIR), 0);
	refuses(c, "a", "none was built yet");
}

/* ---- the guest's kernel ---- */

static void put_guest(struct cache *c, const char *kernel, const char *initramfs, const char *more)
{
	char text[2048], kernel_hex[65], initramfs_hex[65];

	digest_of(kernel, kernel_hex);
	digest_of(initramfs, initramfs_hex);
	snprintf(text, sizeof(text), "{\"kernel_sha256\":\"%s\",\"initramfs_sha256\":\"%s\"%s}", kernel_hex,
		 initramfs_hex, more);
	put(c, "guest/kernel", kernel);
	put(c, "guest/initramfs.cpio", initramfs);
	put(c, "guest/manifest.json", text);
}

static void guest_kernel(void **state)
{
	struct cache *c = *state;
	struct guest_kernel guest;
	char first[IMAGE_DIGEST_MAX];

	assert_int_equal(images_guest(c->images, &guest, &c->err), -EPROTO); /* never made */
	put_guest(c, "kernel", "initramfs", ",\"acpi\":true,\"cmdline\":\"a=1\",\"kernel_release\":\"6.1\"");
	assert_int_equal(images_guest(c->images, &guest, &c->err), 0);
	assert_true(guest.acpi);
	assert_string_equal(guest.cmdline, "a=1");
	assert_string_equal(guest.release, "6.1");
	assert_int_equal(strlen(guest.digest), 71);
	strcpy(first, guest.digest);
	guest_kernel_close(&guest);
	put_guest(c, "kernel", "initramfs2", "");
	assert_int_equal(images_guest(c->images, &guest, &c->err), 0);
	assert_false(guest.acpi);
	assert_string_not_equal(guest.digest, first); /* a template of before does not fit */
	guest_kernel_close(&guest);
	put(c, "guest/initramfs.cpio", "forged");
	assert_int_equal(images_guest(c->images, &guest, &c->err), -EPROTO);
	assert_int_equal(guest.kernel, -1);
	assert_int_equal(guest.initramfs, -1);
	char text[700];
	snprintf(text, sizeof(text), ",\"cmdline\":\"%0600d\"", 0);
	put_guest(c, "kernel", "initramfs", text);
	assert_int_equal(images_guest(c->images, &guest, &c->err), -EPROTO); /* cut would be another one */
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(names_and_aliases),      CASE(the_default),
		CASE(earlier_builds),         CASE(many_earlier_builds),
		CASE(what_is_in_it),          CASE(damaged_from_the_start),
		CASE(replaced_later),         CASE(changed_in_place),
		CASE(malformed_manifests),    CASE(manifest_that_is_too_large),
		CASE(links_and_other_things), CASE(many_images),
		CASE(no_cache_folder),        CASE(guest_kernel),
	};
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
