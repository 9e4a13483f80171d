/* Paths of the sandbox, resolved inside its root whatever links are in the way. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PATH_USER_MAX 256

struct path_user {
	uint32_t id, group;
	char name[PATH_USER_MAX], home[PATH_USER_MAX];
};

/* open(2) inside the root; a symbolic link cannot lead out of it. Relative paths begin at root. Descriptor or -errno. */
int path_open(int root, const char *path, int flags, mode_t mode);
/* Open the folder (O_PATH), made with its parents where missing (mode 0755). Descriptor or -errno. */
int path_make_folder(int root, const char *path);
/* to = path, or workdir/path if it is relative. -ENAMETOOLONG. */
int path_absolute(char *to, size_t size, const char *workdir, const char *path);
/* Cut path into its folder ("/" if none) and its last part. -EISDIR when it has none. */
int path_split(char *path, const char **folder, const char **name);
/* Replace folder/name by these bytes, through a temporary name. 0 or -errno. */
int path_write(int root, const char *folder, const char *name, const char *data, size_t size, mode_t mode);
/* What /etc/passwd of the sandbox says about the user; a group of the same number and home / if it says nothing. */
void path_user(int root, uint32_t id, struct path_user *user);
