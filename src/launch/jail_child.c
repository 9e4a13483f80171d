#include "launch/jail_child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/keyctl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"
#include "launch/landlock.h"

#define PARK 100 /* descriptors are moved here before they take their final numbers */

static int reset_process(struct error *err)
{
	struct sigaction normal = { .sa_handler = SIG_DFL }, ignore = { .sa_handler = SIG_IGN };
	sigset_t none;
	for (int signal = 1; signal < NSIG; signal++)
		sigaction(signal, &normal, NULL);
	/* A write beyond RLIMIT_FSIZE is then EFBIG, an error of the guest's disk, and not the end of the VM. */
	sigaction(SIGXFSZ, &ignore, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(077);
	if (setsid() < 0)
		return error_errno(err, errno, "setsid");
	if (sethostname("vm", 2) < 0)
		return error_errno(err, errno, "sethostname");
	/* A keyring of its own: the host's session keyring would be reachable else. */
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		return error_errno(err, errno, "keyctl");
	return 0;
}

static int put_file(const struct launch_file *file, int mount_fd, struct error *err)
{
	char path[LAUNCH_FILE_NAME_SIZE + 4];
	snprintf(path, sizeof path, "/vm/%s", file->name);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0400);
	if (fd < 0)
		return error_errno(err, errno, "make %s", path);
	close(fd);
	if (move_mount(mount_fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return error_errno(err, errno, "mount %s", path);
	return 0;
}

static int mount_files(const struct jail *jail, struct error *err)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	if (mount("akira-vm", "/vm", "tmpfs", flags, "size=64k,nr_inodes=16,mode=0555") < 0)
		return error_errno(err, errno, "mount /vm");
	for (size_t i = 0; i < jail->file_count; i++) {
		int r = put_file(&jail->files[i], jail->mounts[i], err);
		if (r < 0)
			return r;
	}
	if (mount(NULL, "/vm", NULL, MS_REMOUNT | MS_RDONLY | flags, NULL) < 0)
		return error_errno(err, errno, "make /vm read-only");
	return 0;
}

/* The namespace of the tree has one mount, so there is nothing of the host to let go of. */
static int enter_tree(const struct jail_host *host, struct error *err)
{
	if (jail_without("root") || jail_without("forget-root"))
		return unshare(CLONE_NEWNS | CLONE_NEWCGROUP) < 0 ? error_errno(err, errno, "unshare") : 0;
	if (setns(host->tree.mount_ns, CLONE_NEWNS) < 0)
		return error_errno(err, errno, "enter the jail's tree");
	if (unshare(CLONE_NEWNS | CLONE_NEWCGROUP) < 0)
		return error_errno(err, errno, "unshare");
	return chdir("/") < 0 ? error_errno(err, errno, "chdir") : 0;
}

/* Everything to its number: 0 /dev/null, 1 and 2 the output, 3… the VM's; *report and *proc above, nothing else. */
static int place_fds(const struct jail *jail, int *report, int *proc, struct error *err)
{
	int from[3 + JAIL_FDS + 2], count = 0;
	from[count++] = open("/dev/null", O_RDWR | O_CLOEXEC);
	from[count++] = jail->output;
	from[count++] = jail->output;
	for (size_t i = 0; i < jail->fd_count; i++)
		from[count++] = jail->fds[i];
	int passed = count;
	from[count++] = *report;
	from[count++] = *proc;
	for (int i = 0; i < count; i++)
		if (from[i] < 0 || (from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, PARK)) < 0)
			return error_errno(err, errno, "descriptor %d", i);
	for (int i = 0; i < passed; i++)
		if (dup2(from[i], i) < 0)
			return error_errno(err, errno, "descriptor %d", i);
	for (int i = passed; i < count; i++)
		if (dup3(from[i], i, O_CLOEXEC) < 0)
			return error_errno(err, errno, "descriptor %d", i);
	*report = passed;
	*proc = passed + 1;
	if (close_range((unsigned)count, ~0u, 0) < 0)
		return error_errno(err, errno, "close_range");
	return 0;
}

static int limit_resources(const struct jail *jail, struct error *err)
{
	if (jail_without("forget-limits"))
		return 0;
	const struct {
		int what;
		rlim_t value;
	} limits[] = {
		{ RLIMIT_CORE, 0 },
		{ RLIMIT_NOFILE, JAIL_NOFILE },
		{ RLIMIT_NPROC, JAIL_PIDS },
		{ RLIMIT_MSGQUEUE, 0 },
		{ RLIMIT_MEMLOCK, 64 << 10 },
		{ RLIMIT_SIGPENDING, 256 },
		{ RLIMIT_RTPRIO, 0 },
		{ RLIMIT_NICE, 0 },
		{ RLIMIT_FSIZE, jail->file_bytes_max },
	};
	for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
		struct rlimit limit = { limits[i].value, limits[i].value };
		if (setrlimit((__rlimit_resource_t)limits[i].what, &limit) < 0)
			return error_errno(err, errno, "resource limit %d", limits[i].what);
	}
	return 0;
}

static int drop_capabilities(struct error *err)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { 0 };
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return error_errno(err, errno, "ambient capabilities");
	if (syscall(SYS_capset, &head, none) < 0)
		return error_errno(err, errno, "capset");
	return 0;
}

static int drop_privileges(const struct jail *jail, struct error *err)
{
	/* The forget-… knobs are unknown to jail_verify, which must find out. */
	bool uid = !jail_without("uid") && !jail_without("forget-uid");
	bool caps = !jail_without("caps") && !jail_without("forget-caps");
	for (int cap = 0; caps && uid && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return error_errno(err, errno, "drop capability %d", cap);
	if (!caps)
		prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
	if (uid && (setgroups(0, NULL) < 0 || setresgid(jail->uid, jail->uid, jail->uid) < 0 ||
		    setresuid(jail->uid, jail->uid, jail->uid) < 0))
		return error_errno(err, errno, "become uid %u", jail->uid);
	int r = caps && uid ? drop_capabilities(err) : 0;
	if (r == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		r = error_errno(err, errno, "no_new_privs");
	return r;
}

/* A change of the uid clears the signal, so it comes after; a launcher that died before it shows as a hang-up. */
static int die_with_launcher(int report, struct error *err)
{
	struct pollfd p = { .fd = report };
	if (!jail_without("forget-death") && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return error_errno(err, errno, "PDEATHSIG");
	if (poll(&p, 1, 0) != 0)
		_exit(1);
	return 0;
}

static const char *program_of(const struct jail_host *host)
{
	return jail_without("root") ? host->program : host->tree.program;
}

static int restrict_calls(const struct jail_host *host, struct error *err)
{
	int r = 0;
	if (host->landlock && !jail_without("landlock"))
		r = landlock_restrict(host->landlock, program_of(host));
	if (r < 0)
		return error_errno(err, -r, "Landlock (ABI %d)", host->landlock);
	r = jail_without("seccomp") ? 0 : filter_install(&host->filter);
	return r < 0 ? error_errno(err, -r, "seccomp") : 0;
}

/* As fault() in vm.c: a step of the child that fails. */
static int fault(const char *name, struct error *err)
{
	int r = FAULT(name);
	return r < 0 ? error_set(err, -r, "fault %s", name) : 0;
}

static int prepare(const struct jail_host *host, const struct jail *jail, int *report, struct error *err)
{
	int proc = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = proc < 0 ? error_errno(err, errno, "open /proc/self") : reset_process(err);
	int entered = r < 0 ? 0 : cgroup_enter(host->cgroups, jail->cgroup);
	if (entered < 0)
		r = error_errno(err, -entered, "enter the cgroup");
	r = r < 0 ? r : enter_tree(host, err);
	r = r < 0 || jail_without("root") || jail_without("forget-root") ? r : mount_files(jail, err);
	r = r < 0 ? r : fault("jail_mounts", err);
	r = r < 0 ? r : place_fds(jail, report, &proc, err);
	r = r < 0 ? r : limit_resources(jail, err);
	r = r < 0 ? r : drop_privileges(jail, err);
	r = r < 0 ? r : die_with_launcher(*report, err);
	r = r < 0 ? r : fault("jail_privileges", err);
	r = r < 0 ? r : jail_verify(host, jail, proc, err);
	if (r == 0)
		close(proc);
	return r < 0 ? r : restrict_calls(host, err);
}

void jail_child(const struct jail_host *host, const struct jail *jail, int report)
{
	static char preload[] = "LD_PRELOAD=" TREE_SHIM;
	char *const env[] = { host->tree.shim ? preload : NULL, NULL };
	const char *argv[LAUNCH_ARGS + 2];
	struct error err = { 0 };
	size_t count = 0;
	argv[count++] = program_of(host);
	for (size_t i = 0; i < LAUNCH_ARGS && jail->args[i]; i++)
		argv[count++] = jail->args[i];
	argv[count] = NULL;
	if (prepare(host, jail, &report, &err) == 0) {
		execve(program_of(host), (char *const *)(uintptr_t)argv, env);
		error_errno(&err, errno, "exec %s", program_of(host));
	}
	send(report, &err, sizeof err, MSG_NOSIGNAL);
	_exit(1);
}
