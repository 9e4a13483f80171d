/*
 * The uids of the VM processes: one each, never one in use, and of the free ones that which has rested longest, so
 * that whatever still carries a uid (a file not yet handed back) meets its next holder as late as can be.
 */
#pragma once

#include <stdint.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

#define UIDS_MAX 65536

struct uids {
	uid_t first;
	uint32_t count;
	uint32_t *queue; /* ring of the free ones' offsets, oldest first */
	uint32_t head, free;
	bool *used;
};

int uids_init(struct uids *u, uid_t first, uint32_t count, struct error *err);
void uids_end(struct uids *u);
/* -EUSERS when all are in use. */
int uids_take(struct uids *u, uid_t *uid, struct error *err);
/* uid must have been taken. */
void uids_give(struct uids *u, uid_t uid);
bool uids_in_range(const struct uids *u, uid_t uid);
bool uids_in_use(const struct uids *u, uid_t uid);
