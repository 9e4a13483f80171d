#include "daemon/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

int privileges_limits(struct error *err)
{
	struct rlimit files, none = { 0, 0 };

	umask(077);
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return error_errno(err, errno, "read the limit of open files");
	if (files.rlim_max < 65536)
		files.rlim_max = 65536;
	files.rlim_cur = files.rlim_max < 1048576 ? files.rlim_max : 1048576;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0) {
		/* Not allowed to raise it: as many as there are. */
		(void)getrlimit(RLIMIT_NOFILE, &files);
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	/* A core would hold keys, and guests' data. */
	if (setrlimit(RLIMIT_CORE, &none) < 0)
		return error_errno(err, errno, "forbid core files");
	return 0;
}

int privileges_folder(const char *path, mode_t mode, uid_t uid, gid_t gid, struct error *err)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return error_errno(err, errno, "make the folder %s", path);
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "open the folder %s", path);
	if (fchown(fd, uid, gid) < 0 || fchmod(fd, mode) < 0)
		return error_errno(err, errno, "set up the folder %s", path);
	return 0;
}

int privileges_drop(uid_t uid, gid_t gid, struct error *err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };
	uid_t real, effective, saved;

	/* The bounding set needs CAP_SETPCAP, so it goes before the uid. */
	for (int capability = 0; capability <= 63; capability++)
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 && errno != EINVAL)
			return error_errno(err, errno, "drop capability %d", capability);
	if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		return error_errno(err, errno, "become user %u", (unsigned)uid);
	(void)syscall(SYS_capset, &header, none); /* what setresuid left, which is nothing */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(err, errno, "forbid new privileges");
	if (getresuid(&real, &effective, &saved) < 0 || real != uid || effective != uid || saved != uid ||
	    setuid(0) == 0)
		return error_set(err, EPERM, "the privileges of root are still there");
#ifdef __SANITIZE_ADDRESS__
	/* The leak checker looks at its own process by ptrace. */
	(void)prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
#else
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
	return 0;
}
