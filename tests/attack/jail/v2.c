/*
 * What of cgroup v2 works without its controllers, for hosts that have them on v1 hierarchies: a VM that is born in its
 * group (CLONE_INTO_CGROUP), cgroup.kill, removal and sweep, on a real cgroup2 mount. On a host with v2 alone the whole
 * suite runs on v2. Arguments: the mount, the program, a run_dir. Prints "ok" or what was not as it should be.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "launch/jail.h"

#define GROUP "akira-v2test"

static struct cgroup_host cgroups = { .version = 2, .name = GROUP };
static struct jail_host host = { .cgroups = &cgroups };

static void check(bool good, const char *what)
{
	if (!good)
		errx(1, "%s (errno %d)", what, errno);
}

static void make_host(const char *mount, const char *program, const char *run_dir)
{
	struct error e = { 0 };
	struct tree_config tree = { .program = program, .run_dir = run_dir };
	char path[256];
	snprintf(path, sizeof path, "%s/" GROUP, mount);
	check(mkdir(path, 0755) == 0 || errno == EEXIST, "make the group");
	for (int i = 0; i < CGROUP_KINDS; i++)
		cgroups.root[i] = -1;
	cgroups.root[0] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	check(cgroups.root[0] >= 0, "open the group");
	cgroup_sweep(&cgroups); /* what a run that failed may have left */
	host.program = program;
	check(filter_build(FILTER_START, &host.filter, &e) == 0 && tree_make(&tree, &host.tree, &e) == 0 &&
		      jail_host_init(&host, &e) == 0,
	      e.text);
}

static struct cgroup make_group(const char *name)
{
	struct cgroup g;
	for (int i = 0; i < CGROUP_KINDS; i++)
		g.dir[i] = -1;
	check(mkdirat(cgroups.root[0], name, 0755) == 0, "make a VM's group");
	g.dir[0] = openat(cgroups.root[0], name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return g;
}

static void start(const struct cgroup *g, const char *name, pid_t *pid, int *pidfd)
{
	const char *const args[] = { "stay", NULL };
	struct error e = { 0 };
	char path[64], expected[64], *text = NULL, byte;
	size_t size;
	int ends[2];
	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
	struct jail jail = { .args = args,
			     .uid = 3999999,
			     .cgroup = g,
			     .fds = &ends[0],
			     .fd_count = 1,
			     .output = STDERR_FILENO,
			     .file_bytes_max = 1 << 20 };
	check(jail_start(&host, &jail, pid, pidfd, &e) == 0, e.text);
	close(ends[0]);
	check(read(ends[1], &byte, 1) == 1, "the VM speaks");
	close(ends[1]);
	snprintf(path, sizeof path, "/proc/%d/cgroup", *pid);
	snprintf(expected, sizeof expected, "0::/" GROUP "/%s\n", name);
	check(fd_read_file(AT_FDCWD, path, 1 << 16, &text, &size, &e) == 0, e.text);
	check(strstr(text, expected) != NULL, "the VM is in its group");
	free(text);
}

static void check_killed(int *pidfd)
{
	siginfo_t info = { 0 };
	check(waitid(P_PIDFD, (id_t)*pidfd, &info, WEXITED) == 0 && info.si_status == SIGKILL, "the VM was killed");
	fd_close(pidfd);
}

int main(int argc, char **argv)
{
	pid_t pid;
	int pidfd;
	check(argc == 4, "three arguments");
	make_host(argv[1], argv[2], argv[3]);
	struct cgroup g = make_group("a");
	start(&g, "a", &pid, &pidfd);
	check(cgroup_remove(&cgroups, "a", &g) == -EBUSY, "a group in use is not removed");
	cgroup_kill(&cgroups, &g);
	check_killed(&pidfd);
	check(cgroup_remove(&cgroups, "a", &g) == 0, "the empty group is removed");

	g = make_group("b");
	start(&g, "b", &pid, &pidfd);
	fd_close(&g.dir[0]);
	signal(SIGCHLD, SIG_IGN); /* the dead are reaped at once, as they are when their launcher is gone */
	check(cgroup_sweep(&cgroups) == 1, "the sweep finds one");
	check(kill(pid, 0) < 0 && errno == ESRCH, "and its process is gone");
	cgroup_host_end(&cgroups);
	puts("ok");
	return 0;
}
