/* From root to the user that akirad is. */
#pragma once

#include <sys/types.h>

#include "base/error.h"

/* Ready the limits and folders as root: files, core, umask; DIR made (mode) and given to uid:gid. */
int privileges_limits(struct error *err);
int privileges_folder(const char *path, mode_t mode, uid_t uid, gid_t gid, struct error *err);
/* For good: groups, gid, uid, capabilities, no new privileges; verified. */
int privileges_drop(uid_t uid, gid_t gid, struct error *err);
