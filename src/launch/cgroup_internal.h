/* Shared by cgroup.c, cgroup_host.c and cgroup_io.c. */
#pragma once

#include <stddef.h>

#include "launch/cgroup.h"

#define CGROUP_FILE_MAX 4096

extern const char *const cgroup_controllers[CGROUP_KINDS]; /* by kind, as v1 calls them */

/* One write of a text to a file of a group. 0, or -errno of the open or the write. */
int cgroup_write(const struct cgroup_host *host, int dir, const char *file, const char *text, struct error *err);
/* At most room - 1 bytes, NUL-terminated. 0 or -errno. */
int cgroup_read(int dir, const char *file, char *text, size_t room);
