#include "agent/warm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

#define BASE "/base"
#define NOBODY 65534
#define PROGRAM_WAIT_MS 30000

/* Whole, because any of their pages may be touched; what is not in the image is passed over. */
static const char *const files[] = {
	"/bin/bash",
	"/bin/sh",
	"/bin/busybox",
	"/lib64/ld-linux-x86-64.so.2",
	"/lib/x86_64-linux-gnu/libc.so.6",
	"/lib/x86_64-linux-gnu/libtinfo.so.6",
	"/lib/x86_64-linux-gnu/libm.so.6",
	"/lib/x86_64-linux-gnu/libz.so.1",
	"/lib/x86_64-linux-gnu/libselinux.so.1",
	"/lib/x86_64-linux-gnu/libpcre2-8.so.0",
	"/lib/ld-musl-x86_64.so.1",
	"/bin/ls",
	"/bin/cat",
	"/bin/echo",
	"/bin/true",
	"/bin/sleep",
	"/bin/mkdir",
	"/bin/rm",
	"/bin/cp",
	"/bin/grep",
	"/bin/sed",
	"/usr/bin/env",
	"/usr/bin/head",
	"/usr/bin/tail",
	"/usr/bin/wc",
	"/usr/bin/sort",
	"/usr/bin/id",
	"/etc/passwd",
	"/etc/group",
	"/etc/nsswitch.conf",
	"/etc/ld.so.cache",
	"/etc/profile",
	"/etc/bash.bashrc",
	"/usr/bin/python3",
};

/* Run once, so that just the files that their start touches are in. */
static const char *const programs[][4] = {
	{ "/bin/sh", "-c", "true", NULL },
	{ "/bin/bash", "-c", "ls / | cat >&2", NULL },
	{ "/usr/bin/python3", "-c", "import os,sys,json,re,subprocess,socket,threading,random,pathlib,tempfile", NULL },
	{ "/usr/bin/node", "-e", "0", NULL },
};

static void read_whole(int base, const char *path)
{
	char waste[65536];
	_cleanup_fd_ int fd = openat(base, path + 1, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	while (fd >= 0 && read(fd, waste, sizeof(waste)) > 0)
		;
}

/* The image's own programs are as hostile as any: no rights, no other process, no network, nothing to write. */
static void run_as_nobody(const char *const *program)
{
	char path[] = "PATH=/usr/bin:/bin", locale[] = "LC_ALL=C.UTF-8", *environment[] = { path, locale, NULL };
	struct rlimit processes = { 64, 64 };

	setsid();
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		if (dup2(null, i) < 0)
			_exit(1);
	syscall(SYS_close_range, 3, ~0U, 0);
	if (chroot(BASE) < 0 || chdir("/") < 0 || setrlimit(RLIMIT_NPROC, &processes) < 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_setgroups, 0, NULL) < 0 ||
	    syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) < 0 || syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) < 0)
		_exit(1);
	execve(program[0], (char **)(uintptr_t)program, environment);
	_exit(1);
}

static void run(const char *const *program)
{
	int pidfd = -1;
	struct clone_args args = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_PIDFD,
		.pidfd = (uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
	};
	siginfo_t info;

	long pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0)
		run_as_nobody(program);
	if (pid < 0)
		return;
	poll(&(struct pollfd){ .fd = pidfd, .events = POLLIN }, 1, PROGRAM_WAIT_MS);
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED);
	close(pidfd);
}

int warm_base(void)
{
	_cleanup_fd_ int base = open(BASE, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (base < 0)
		return errno;
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		read_whole(base, files[i]);
	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
		if (faccessat(base, programs[i][0] + 1, X_OK, AT_SYMLINK_NOFOLLOW) == 0)
			run(programs[i]);
	return 0;
}
