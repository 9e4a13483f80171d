#include "agent/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define STACK_SIZE 32768

/*
 * Theory of operation. The child runs in the agent's memory, on a stack of its own, until exec; the agent is stopped
 * meanwhile. It must not allocate, lock, or change anything but *s.
 *
 * It keeps real-time priority, one below the agent's, up to exec: with a fork bomb running it would otherwise need
 * seconds to get there, and the agent with it. The agent takes the priority away as soon as it runs again, which is
 * at once, as it is the higher one.
 */

static int fail(struct spawn *s, const char *what)
{
	s->error = errno ? errno : EIO;
	s->failed = what;
	return 127;
}

/* A process may be a victim of the kernel's lack of memory; the agent, whose score it got, may not. */
static bool reset_oom_score(const struct spawn *s)
{
	int fd = openat(s->proc, "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, "0", 1) == 1;
	if (fd >= 0)
		close(fd);
	return done;
}

static bool become_user(const struct spawn *s)
{
	if (s->user == 0 && s->group == 0)
		return true;
	return syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setresgid, s->group, s->group, s->group) == 0 &&
	       syscall(SYS_setresuid, s->user, s->user, s->user) == 0;
}

static const char *search_path(const struct spawn *s)
{
	for (const char **e = s->env; *e; e++)
		if (strncmp(*e, "PATH=", 5) == 0)
			return *e + 5;
	return DEFAULT_PATH;
}

static void run(const struct spawn *s, const char *path)
{
	union {
		const char **in;
		char **out;
	} argv = { s->argv }, env = { s->env };
	execve(path, argv.out, env.out);
}

/* Returns only on failure, with errno. */
static void exec_program(const struct spawn *s)
{
	char path[4096];
	const char *name = s->argv[0];
	int denied = 0;

	if (strchr(name, '/') || !*name) {
		run(s, name);
		return;
	}
	for (const char *at = search_path(s); at;) {
		const char *colon = strchr(at, ':');
		int length = colon ? (int)(colon - at) : (int)strlen(at);
		int n = snprintf(path, sizeof(path), "%.*s%s%s", length, at, length ? "/" : "", name);
		if (n < (int)sizeof(path))
			run(s, path);
		if (errno == EACCES)
			denied = 1;
		else if (errno != ENOENT && errno != ENOTDIR)
			return;
		at = colon ? colon + 1 : NULL;
	}
	errno = denied ? EACCES : ENOENT;
}

static int child(void *pointer)
{
	struct spawn *s = pointer;
	int priority = 1;

	errno = 0;
	s->inner_pid = (pid_t)syscall(SYS_getpid);
	if (setns(s->anchor, CLONE_NEWNS | CLONE_NEWCGROUP) < 0)
		return fail(s, "enter the sandbox");
	if (setsid() < 0)
		return fail(s, "start a session");
	if (s->terminal && ioctl(s->fds[0], TIOCSCTTY, 0) < 0)
		return fail(s, "take the terminal");
	for (int i = 0; i < 3; i++)
		if (dup2(s->fds[i], i) < 0)
			return fail(s, "place the standard descriptors");
	if (!reset_oom_score(s))
		return fail(s, "set the score for lack of memory");
	if (!become_user(s))
		return fail(s, "become the user");
	if ((!s->cwd || s->cwd[0] != '/') && chdir(s->workdir) < 0)
		return fail(s, "enter the working directory");
	if (s->cwd && chdir(s->cwd) < 0)
		return fail(s, "enter the working directory");
	syscall(SYS_sched_setparam, 0, &priority);
	exec_program(s);
	return fail(s, "run the program");
}

#ifdef __x86_64__
/* clone3 with a stack: the child cannot return through ours, so it goes straight to the function. */
static long clone_and_call(struct clone_args *args, int (*function)(void *), void *pointer)
{
	long result = SYS_clone3;

	__asm__ volatile("syscall\n\t"
			 "testq %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "movq %[pointer], %%rdi\n\t"
			 "callq *%[function]\n\t"
			 "movl %%eax, %%edi\n\t"
			 "movl %[exit], %%eax\n\t"
			 "syscall\n\t"
			 "hlt\n"
			 "1:"
			 : "+a"(result)
			 : "D"(args),
			   "S"(sizeof(*args)), [function] "r"(function), [pointer] "r"(pointer), [exit] "i"(SYS_exit)
			 : "rcx", "r11", "memory", "cc");
	return result < 0 ? (errno = (int)-result, -1) : result;
}
#else
#error "clone_and_call is written for x86-64"
#endif

int spawn(struct spawn *s)
{
	static unsigned char stack[STACK_SIZE] __attribute__((aligned(64)));
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_INTO_CGROUP,
		.pidfd = (uintptr_t)&s->pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = (uint64_t)s->cgroup,
		.stack = (uintptr_t)stack,
		.stack_size = sizeof(stack),
	};
	int normal = 0;

	s->error = 0;
	s->failed = "start a process";
	s->pidfd = -1;
	long pid = clone_and_call(&args, child, s);
	if (pid < 0)
		return -errno;
	syscall(SYS_sched_setscheduler, pid, SCHED_OTHER, &normal);
	s->pid = (pid_t)pid;
	if (s->error == 0)
		return 0;
	siginfo_t info;
	waitid(P_PIDFD, (id_t)s->pidfd, &info, WEXITED);
	close(s->pidfd);
	s->pidfd = -1;
	return -s->error;
}
