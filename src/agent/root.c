#include "agent/root.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

/* linux/mount.h and sys/mount.h do not go together; these are all of the latter that is wanted here. */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#define MNT_DETACH 2

#define HARD (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static int try_mount(const char *type, const char *where, unsigned long flags, const char *options, struct error *err)
{
	mkdir(where, 0755);
	if (mount(type, where, type, flags, options) < 0)
		return error_errno(err, errno, "mount %s on %s", type, where);
	return 0;
}

/* Overlay over /, and out of sight of everything else that was mounted. */
static int enter_overlay(struct error *err)
{
	static const char *const old[] = { "/proc", "/sys", "/dev", "/run", "/scratch", "/base" };

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_errno(err, errno, "make the mounts private");
	int r = try_mount("overlay", "/sandbox", MS_NODEV | MS_NOATIME,
			  "lowerdir=/base,upperdir=/scratch/upper,workdir=/scratch/work,"
			  "redirect_dir=on,index=off,metacopy=off",
			  err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(old) / sizeof(old[0]); i++)
		if (umount2(old[i], MNT_DETACH) < 0)
			return error_errno(err, errno, "unmount %s", old[i]);
	/* The root of an initramfs cannot be pivoted; a mount moved over it cannot be left either. */
	if (chdir("/sandbox") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return error_errno(err, errno, "enter the overlay");
	return 0;
}

static int make_devices(struct error *err)
{
	static const struct {
		const char *path;
		unsigned int minor, major;
	} nodes[] = {
		{ "/dev/null", 3, 1 },   { "/dev/zero", 5, 1 },    { "/dev/full", 7, 1 },
		{ "/dev/random", 8, 1 }, { "/dev/urandom", 9, 1 }, { "/dev/tty", 0, 5 },
	};
	static const char *const links[][2] = {
		{ "pts/ptmx", "/dev/ptmx" },          { "/proc/self/fd", "/dev/fd" },
		{ "/proc/self/fd/0", "/dev/stdin" },  { "/proc/self/fd/1", "/dev/stdout" },
		{ "/proc/self/fd/2", "/dev/stderr" },
	};

	for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++)
		if (mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)) < 0 ||
		    chmod(nodes[i].path, 0666) < 0)
			return error_errno(err, errno, "make %s", nodes[i].path);
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
		if (symlink(links[i][0], links[i][1]) < 0)
			return error_errno(err, errno, "make %s", links[i][1]);
	return 0;
}

static int mount_inside(struct error *err)
{
	int r = 0;

	r = r ? r : try_mount("proc", "/proc", HARD, NULL, err);
	r = r ? r : try_mount("sysfs", "/sys", HARD | MS_RDONLY, NULL, err);
	r = r ? r : try_mount("cgroup2", "/sys/fs/cgroup", HARD | MS_RDONLY, "nsdelegate", err);
	r = r ? r : try_mount("tmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755,size=1m,nr_inodes=1024", err);
	r = r ? r : make_devices(err);
	r = r ? r
	      : try_mount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5",
			  err);
	r = r ? r : try_mount("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777,size=50%", err);
	r = r ? r : try_mount("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755,size=20%", err);
	if (r < 0)
		return r;
	if (mkdir("/tmp", 01777) == 0)
		chmod("/tmp", 01777);
	if (mkdir("/run/lock", 01777) == 0)
		chmod("/run/lock", 01777);
	return 0;
}

/* What lets root of the sandbox into the kernel: writable settings, the kernel's memory, its keys. */
static int mask_proc(int boot_id, struct error *err)
{
	static const char *const read_only[] = { "/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs",
						 "/proc/sysrq-trigger" };
	static const char *const hidden[] = { "/proc/kcore",       "/proc/keys",        "/proc/timer_list",
					      "/proc/kmsg",        "/proc/sched_debug", "/proc/latency_stats",
					      "/proc/kpagecount",  "/proc/kpageflags",  "/proc/kpagecgroup",
					      "/proc/vmallocinfo", "/proc/kallsyms",    "/proc/key-users" };
	static const char *const closed[] = { "/proc/acpi",        "/proc/scsi",          "/sys/firmware",
					      "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/fs/bpf" };

	for (size_t i = 0; i < sizeof(read_only) / sizeof(read_only[0]); i++) {
		const char *path = read_only[i];
		if (mount(path, path, NULL, MS_BIND, NULL) < 0) {
			if (errno == ENOENT)
				continue;
			return error_errno(err, errno, "bind %s", path);
		}
		if (mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | HARD, NULL) < 0)
			return error_errno(err, errno, "make %s read-only", path);
	}
	for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++)
		if (mount("/dev/null", hidden[i], NULL, MS_BIND, NULL) < 0 && errno != ENOENT)
			return error_errno(err, errno, "hide %s", hidden[i]);
	for (size_t i = 0; i < sizeof(closed) / sizeof(closed[0]); i++)
		if (mount("tmpfs", closed[i], "tmpfs", HARD | MS_RDONLY, "size=0,nr_inodes=2,mode=0555") < 0 &&
		    errno != ENOENT)
			return error_errno(err, errno, "hide %s", closed[i]);

	const char *target = "/proc/sys/kernel/random/boot_id";
	if (syscall(SYS_move_mount, boot_id, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
	    mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | HARD, NULL) < 0)
		return error_errno(err, errno, "place the boot id");
	return 0;
}

static int build(struct error *err)
{
	if (unshare(CLONE_NEWCGROUP) < 0)
		return error_errno(err, errno, "make a cgroup namespace");
	_cleanup_fd_ int boot_id = (int)syscall(SYS_open_tree, AT_FDCWD, ROOT_BOOT_ID,
						OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (boot_id < 0)
		return error_errno(err, errno, "open %s", ROOT_BOOT_ID);
	int r = enter_overlay(err);
	if (r == 0)
		r = mount_inside(err);
	if (r == 0)
		r = mask_proc(boot_id, err);
	return r;
}

static int give_up_rights(struct error *err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };
	struct sigaction reap = { .sa_handler = SIG_IGN };

	/* Orphans whose parent ignores SIGCHLD are reaped by the kernel itself. */
	if (sigaction(SIGCHLD, &reap, NULL) < 0 || syscall(SYS_capset, &header, none) < 0 ||
	    prctl(PR_SET_NAME, "init", 0, 0, 0) < 0)
		return error_errno(err, errno, "give up rights");
	return 0;
}

void root_anchor(int report)
{
	struct error err = { 0 };
	int normal = 0;

	syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &normal);
	if (build(&err) == 0)
		give_up_rights(&err);
	int failed = err.code;
	if (write(report, &err, sizeof(err)) != (ssize_t)sizeof(err) || failed)
		_exit(1);
	syscall(SYS_close_range, 0, ~0U, 0);
	for (;;)
		pause();
}
