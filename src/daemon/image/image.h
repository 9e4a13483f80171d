/*
 * Images and the guest's kernel on disk, read-only. CACHE/images/NAME/{image.erofs,manifest.json} and
 * CACHE/guest/{kernel,initramfs.cpio,manifest.json}; both are made by tools that write the manifest last. Earlier builds
 * of an image stay beside it as NAME@DIGEST, for what was made from them. Every file is verified against the digest of
 * its manifest before its first use and again whenever it was replaced.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define IMAGE_NAME_MAX 128
#define IMAGE_DIGEST_MAX 80

struct image {
	char name[IMAGE_NAME_MAX];     /* the full one */
	char digest[IMAGE_DIGEST_MAX]; /* sha256:… */
	char workdir[256];
	char **env; /* "K=V", malloc'ed; NULL-terminated */
	int fd;     /* the EROFS file, read-only */
};

struct guest_kernel {
	int kernel, initramfs; /* read-only */
	bool acpi;
	char cmdline[512];
	char release[80];
	char digest[IMAGE_DIGEST_MAX]; /* of the kernel's and the initramfs's digests together */
};

struct images;

int images_open(const char *cache_dir, struct images **images, struct error *err);
void images_close(struct images *images);
/*
 * By name or alias; "" or NULL is the default (`default` when it was built, else the only or first one). *image is
 * filled and the caller's. digest: that build of it and no other; NULL: the present one. -EPROTO: unknown (err lists
 * those that exist), a build that is no more, or damaged (err says so).
 */
int images_find(struct images *images, const char *name, const char *digest, struct image *image, struct error *err);
void image_free(struct image *image);
int images_guest(struct images *images, struct guest_kernel *guest, struct error *err);
void guest_kernel_close(struct guest_kernel *guest);
