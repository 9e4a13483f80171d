/* The files that a VM gets: checked by descriptor, given to its uid, turned into mounts that the jail can take. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"
#include "launch/uids.h"

struct vm_file_rules {
	uid_t user; /* akirad's */
	gid_t group;
	dev_t device; /* of data_dir */
	const struct uids *uids;
};

/*
 * A writable file: regular, one link, open for reading and writing, on the device, owned by akirad's user or by a uid
 * for VMs that is not in use; it becomes uid's, group akirad's, mode 0660. A read-only one: regular, open for
 * reading; if the VM could not read it and it is akirad's, it becomes readable for others (its folder is what
 * keeps others out).
 */
int vm_file_check(const struct vm_file_rules *rules, int fd, bool writable, uid_t uid, struct error *err);
/* Give it back to akirad's user if it is still uid's. */
void vm_file_return(const struct vm_file_rules *rules, int fd, uid_t uid);
/* A detached mount of this one file: nosuid, nodev, noexec, and read-only unless writable. Descriptor or -errno. */
int vm_file_mount(int fd, bool writable, struct error *err);
