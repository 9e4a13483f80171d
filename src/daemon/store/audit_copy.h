/*
 * The audit log once more, as JSON lines in a file for other programs to take away. The store stays the truth: the copy
 * follows it within seconds, is continued after a restart where it ended, and may be rotated at any time.
 */
#pragma once

#include <stdint.h>

#include "base/error.h"

struct store;

struct audit_copy;

/* path is opened as akirad's user for appending, 0640. */
int audit_copy_open(struct store *store, const char *path, struct audit_copy **copy, struct error *err);
/* Append what is new, at most 10,000 records. 0 or -errno; what could not be written is tried again. */
int audit_copy_follow(struct audit_copy *copy, struct error *err);
/* seq of the last record that is in the file. From any thread. */
uint64_t audit_copy_position(const struct audit_copy *copy);
void audit_copy_close(struct audit_copy *copy);
