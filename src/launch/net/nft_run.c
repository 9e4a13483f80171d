/* nft as a child. It gets a clean environment, no descriptor but the three, and the namespace of the slot. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "launch/net/nft.h"

#define NFT_TIMEOUT_MS 10000
#define NFT_SAID_MAX 4096

static const char *const nft_paths[] = { "/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft" };

_Noreturn static void child_run(int ns, int in, int out)
{
	static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", name[] = "nft", option[] = "-f", input[] = "-";
	static char *const environment[] = { path, NULL };
	static char *const arguments[] = { name, option, input, NULL };
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (ns >= 0 && setns(ns, CLONE_NEWNET) < 0)
		_exit(126);
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(126);
	for (size_t i = 0; i < sizeof(nft_paths) / sizeof(nft_paths[0]); i++)
		execve(nft_paths[i], arguments, environment);
	_exit(127);
}

/* What the child says until it ends or the time is over; then the child is reaped. Returns its wait status. */
static int child_wait(pid_t pid, int out, char said[NFT_SAID_MAX])
{
	int64_t deadline = time_mono_ms() + NFT_TIMEOUT_MS;
	size_t size = 0;
	for (;;) {
		struct pollfd poller = { .fd = out, .events = POLLIN };
		int ready = poll(&poller, 1, time_left_ms(deadline));
		if (ready < 0 && errno == EINTR)
			continue;
		if (ready <= 0) {
			kill(pid, SIGKILL);
			break;
		}
		char more[512];
		ssize_t got = read(out, more, sizeof(more));
		if (got <= 0)
			break;
		size_t room = NFT_SAID_MAX - 1 - size, take = (size_t)got < room ? (size_t)got : room;
		memcpy(said + size, more, take);
		size += take;
	}
	said[size] = '\0';
	int status = -1;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* The first line is enough: nft goes on with a drawing of the place. */
static int child_failed(int status, char *said, struct error *err)
{
	said[strcspn(said, "\n")] = '\0';
	if (status == -1)
		return error_set(err, ECHILD, "cannot learn how nft ended: SIGCHLD is ignored");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return error_set(err, ENOENT, "there is no /usr/sbin/nft: install the package nftables");
	if (WIFSIGNALED(status))
		return error_set(err, EIO, "nft was killed by signal %d", WTERMSIG(status));
	return error_set(err, EIO, "nft refused the rules: %s", said);
}

int nft_run(int ns, const struct buf *text, struct error *err)
{
	if (text->failed)
		return error_set(err, ENOMEM, "no memory for the rules");
	_cleanup_fd_ int in = memfd_create("rules", MFD_CLOEXEC);
	int ends[2];
	if (in < 0 || fd_write_all(in, text->data, text->size) < 0 || lseek(in, 0, SEEK_SET) < 0 ||
	    pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, errno, "cannot prepare to run nft");
	_cleanup_fd_ int out = ends[0];
	pid_t pid = fork();
	if (pid == 0)
		child_run(ns, in, ends[1]);
	int code = errno;
	close(ends[1]);
	if (pid < 0)
		return error_errno(err, code, "cannot start nft");
	char said[NFT_SAID_MAX];
	int status = child_wait(pid, out, said);
	if (status != 0)
		return child_failed(status, said, err);
	return 0;
}
