#include "doctor/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"

/* Wait for the child through its pidfd; it is gone when this returns. */
static int reap(pid_t pid, int64_t deadline)
{
	_cleanup_fd_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd wait = { .fd = pidfd, .events = POLLIN };
	int ready = 0, status = 0;
	while (pidfd >= 0 && (ready = poll(&wait, 1, time_left_ms(deadline))) < 0 && errno == EINTR)
		;
	if (ready <= 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (ready <= 0)
		return -ETIMEDOUT;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -ECHILD;
}

int doctor_try(int (*run)(void *context), void *context, int bound_ms)
{
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		_exit(run(context) & 0xff);
	return reap(pid, time_mono_ms() + bound_ms);
}

static void __attribute__((noreturn)) become(const char *const *argv, int namespaces, int in, int out)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (namespaces && unshare(namespaces) < 0)
		_exit(126);
	if (dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(out, 2) >= 0)
		execv(argv[0], (char *const *)(uintptr_t)argv);
	_exit(127);
}

/* Until the end of the output, its bound or the deadline. What does not fit is read and dropped. */
static void collect(int from, char *output, size_t size, int64_t deadline)
{
	size_t used = 0;
	char dropped[4096] = { 0 };
	for (;;) {
		struct pollfd wait = { .fd = from, .events = POLLIN };
		int ready = poll(&wait, 1, time_left_ms(deadline));
		if (ready < 0 && errno == EINTR)
			continue;
		if (ready <= 0)
			break;
		bool room = used + 1 < size;
		ssize_t got = read(from, room ? output + used : dropped, room ? size - 1 - used : sizeof(dropped));
		if (got <= 0)
			break;
		used += room ? (size_t)got : 0;
	}
	output[used] = '\0';
}

int doctor_spawn(const char *const *argv, const char *input, int namespaces, char *output, size_t size, int bound_ms)
{
	int64_t deadline = time_mono_ms() + bound_ms;
	int out[2];
	output[0] = '\0';
	/* Input by way of a file in memory: no pipe that could fill up while nobody reads. */
	_cleanup_fd_ int in = input ? memfd_create("input", MFD_CLOEXEC) : open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (in < 0)
		return -errno;
	if (input && (fd_write_all(in, input, strlen(input)) < 0 || lseek(in, 0, SEEK_SET) < 0))
		return -EIO;
	if (pipe2(out, O_CLOEXEC) < 0)
		return -errno;
	_cleanup_fd_ int from = out[0];
	_cleanup_fd_ int to = out[1];
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		become(argv, namespaces, in, to);
	fd_close(&to);
	collect(from, output, size, deadline);
	return reap(pid, deadline);
}

const char *doctor_program(const char *const *paths)
{
	for (; *paths; paths++)
		if (access(*paths, X_OK) == 0)
			return *paths;
	return NULL;
}
