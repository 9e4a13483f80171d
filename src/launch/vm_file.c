#include "launch/vm_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

static int check_kind(int fd, bool writable, struct stat *st, struct error *err)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fstat(fd, st) < 0)
		return error_errno(err, errno, "file of a VM");
	if (flags & O_PATH || (writable ? (flags & O_ACCMODE) != O_RDWR : (flags & O_ACCMODE) == O_WRONLY))
		return error_set(err, EACCES, "file of a VM: opened in the wrong way for its use");
	/* A second name of a file that is only read is nobody's harm: images may be kept as links of one file. */
	if (!S_ISREG(st->st_mode) || (writable && st->st_nlink != 1))
		return error_set(err, EINVAL, "file of a VM: not a regular file with one link");
	return 0;
}

static bool is_ours(const struct vm_file_rules *rules, const struct stat *st)
{
	return st->st_dev == rules->device && (st->st_uid == rules->user || uids_in_range(rules->uids, st->st_uid));
}

int vm_file_check(const struct vm_file_rules *rules, int fd, bool writable, uid_t uid, struct error *err)
{
	struct stat st;
	int r = check_kind(fd, writable, &st, err);
	if (r < 0)
		return r;
	bool ours = is_ours(rules, &st);
	if (!writable && st.st_mode & S_IROTH)
		return 0;
	if (!ours)
		return error_set(err, EACCES,
				 "file of a VM: owner %u is neither akirad's user nor a VM's, or it lies "
				 "outside of the data folder's file system",
				 st.st_uid);
	if (writable && uids_in_use(rules->uids, st.st_uid) && st.st_uid != uid)
		return error_set(err, EBUSY, "file of a VM: another VM is writing it");
	if (writable ? fchmod(fd, 0660) < 0 || fchown(fd, uid, rules->group) < 0
		     : fchmod(fd, (st.st_mode & 0666) | S_IROTH) < 0)
		return error_errno(err, errno, "file of a VM: change of owner or mode");
	return 0;
}

void vm_file_return(const struct vm_file_rules *rules, int fd, uid_t uid)
{
	struct stat st;
	if (fstat(fd, &st) == 0 && st.st_uid == uid && fchown(fd, rules->user, rules->group) < 0)
		return; /* it keeps a uid of the range, which vm_file_check takes as well */
}

int vm_file_mount(int fd, bool writable, struct error *err)
{
	struct mount_attr attributes = {
		.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
			    (writable ? 0 : MOUNT_ATTR_RDONLY),
		.propagation = MS_PRIVATE,
	};
	_cleanup_fd_ int tree = open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	if (tree < 0)
		return error_errno(err, errno, "file of a VM: no mount of it can be made");
	if (mount_setattr(tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0)
		return error_errno(err, errno, "file of a VM: its mount cannot be restricted");
	return fd_steal(&tree);
}
