#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "launch/jail_child.h"

const char *const jail_namespaces[JAIL_NAMESPACES] = { "ns/mnt", "ns/pid", "ns/net", "ns/ipc", "ns/uts", "ns/cgroup" };

static int verify_ids(const struct jail *jail, struct error *err)
{
	uid_t r, e, s;
	gid_t gr, ge, gs;
	if (jail_without("uid"))
		return 0;
	if (getresuid(&r, &e, &s) < 0 || r != jail->uid || e != jail->uid || s != jail->uid)
		return error_set(err, EPERM, "the uid is %u/%u/%u and not %u", r, e, s, jail->uid);
	if (getresgid(&gr, &ge, &gs) < 0 || gr != jail->uid || ge != jail->uid || gs != jail->uid)
		return error_set(err, EPERM, "the gid is %u/%u/%u and not %u", gr, ge, gs, jail->uid);
	if (getgroups(0, NULL) != 0)
		return error_set(err, EPERM, "there are supplementary groups left");
	if (setuid(0) == 0 || setgid(0) == 0 || getuid() == 0)
		return error_set(err, EPERM, "it can become root again");
	return 0;
}

static int verify_capabilities(struct error *err)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { 0 };
	if (jail_without("caps") || jail_without("uid"))
		return 0;
	if (syscall(SYS_capget, &head, data) < 0)
		return error_errno(err, errno, "capget");
	for (int i = 0; i < 2; i++)
		if (data[i].effective | data[i].permitted | data[i].inheritable)
			return error_set(err, EPERM, "there are capabilities left");
	for (int cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) > 0)
			return error_set(err, EPERM, "capability %d is left in the bounding set", cap);
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
		return error_set(err, EPERM, "no_new_privs is not set");
	return 0;
}

static int verify_namespaces(const struct jail_host *host, int proc, struct error *err)
{
	for (size_t i = 0; i < JAIL_NAMESPACES; i++) {
		struct stat st;
		if (jail_without("netns") && i == 2)
			continue;
		if (fstatat(proc, jail_namespaces[i], &st, 0) < 0)
			return error_errno(err, errno, "look at %s", jail_namespaces[i]);
		if (st.st_ino == host->ns[i])
			return error_set(err, EPERM, "%s is the host's", jail_namespaces[i]);
	}
	return 0;
}

static int verify_root(const struct jail_host *host, struct error *err)
{
	static const char *const absent[] = { "/proc",
					      "/sys",
					      "/etc",
					      "/root",
					      "/home",
					      "/tmp",
					      "/var",
					      "/run",
					      "/.."
					      "/proc" };
	struct statvfs vfs;
	struct statfs fs;
	struct stat st;
	if (jail_without("root"))
		return 0;
	if (statfs("/", &fs) < 0 || fs.f_type != TMPFS_MAGIC || statvfs("/", &vfs) < 0 || !(vfs.f_flag & ST_RDONLY))
		return error_set(err, EPERM, "the root is not the jail's read-only tree");
	for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++)
		if (stat(absent[i], &st) == 0 || errno != ENOENT)
			return error_set(err, EPERM, "%s is there", absent[i]);
	if (access(host->tree.program, X_OK) < 0)
		return error_errno(err, errno, "%s in the jail", host->tree.program);
	return 0;
}

static int verify_limits(struct error *err)
{
	struct rlimit core, files;
	int death = 0;
	if (getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_max || getrlimit(RLIMIT_NOFILE, &files) < 0 ||
	    files.rlim_max > JAIL_NOFILE)
		return error_set(err, EPERM, "the resource limits are not set");
	if (prctl(PR_GET_PDEATHSIG, &death, 0, 0, 0) < 0 || death != SIGKILL)
		return error_set(err, EPERM, "it would outlive the launcher");
	return 0;
}

int jail_verify(const struct jail_host *host, const struct jail *jail, int proc, struct error *err)
{
	int r = verify_ids(jail, err);
	r = r < 0 ? r : verify_capabilities(err);
	r = r < 0 ? r : verify_namespaces(host, proc, err);
	r = r < 0 ? r : verify_root(host, err);
	return r < 0 ? r : verify_limits(err);
}
