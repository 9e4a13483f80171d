#include "doctor/internal.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <linux/landlock.h>

#define TRIAL_MS 3000

static void check_release(struct doctor *d)
{
	struct utsname name;
	unsigned major = 0, minor = 0;
	if (uname(&name) < 0 || sscanf(name.release, "%u.%u", &major, &minor) != 2)
		return;
	bool old = major < 5 || (major == 5 && minor < 10);
	doctor_add(d, "kernel", old ? DOCTOR_FAIL : DOCTOR_OK,
		   old ? "Linux 5.10 or later is needed (openat2, close_range, pidfd, clone into a cgroup)." : NULL,
		   "Linux %s", name.release);
}

/* The controllers named in the mountinfo lines of cgroup v1, as one text of words. */
static void v1_controllers(char *mountinfo, char *to, size_t size)
{
	to[0] = '\0';
	char *rest = mountinfo;
	for (char *line; (line = strsep(&rest, "\n"));) {
		char *type = strstr(line, " - cgroup ");
		char *options = type ? strrchr(line, ' ') : NULL;
		if (options)
			doctor_append(to, size, "%s ", options + 1);
	}
}

static void check_cgroup(struct doctor *d)
{
	static const char *const needed[] = { "cpu", "memory", "pids" };
	char text[DOCTOR_FILE_MAX], found[1024], missing[64] = "";
	bool v2 = doctor_read(d, "/sys/fs/cgroup/cgroup.controllers", found, sizeof(found)) == 0;
	if (!v2) {
		doctor_read(d, "/proc/self/mountinfo", text, sizeof(text));
		v1_controllers(text, found, sizeof(found));
	}
	for (size_t i = 0; i < 3; i++)
		if (!doctor_has_word(found, needed[i])) {
			doctor_append(missing, sizeof(missing), " %s", needed[i]);
		}
	if (*missing)
		doctor_add(d, "cgroup", DOCTOR_FAIL,
			   "Mount cgroup v2 at /sys/fs/cgroup with the controllers cpu, memory and pids.",
			   "version %d without%s", v2 ? 2 : 1, missing);
	else
		doctor_add(d, "cgroup", v2 ? DOCTOR_OK : DOCTOR_INFO,
			   v2 ? NULL : "cgroup v2 limits disk traffic and kills groups at once; v1 does neither.",
			   "version %d: cpu, memory, pids", v2 ? 2 : 1);
}

static int try_namespaces(void *context)
{
	return unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0
		       ? errno
		       : 0;
}

static void check_namespaces(struct doctor *d)
{
	static const char *const names[] = { "mnt", "pid", "net", "ipc", "uts", "cgroup" };
	char missing[64] = "", path[64];
	for (size_t i = 0; i < 6; i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
		if (!doctor_exists(d, path))
			doctor_append(missing, sizeof(missing), " %s", names[i]);
	}
	int r = d->config->looks_only || geteuid() != 0 ? 0 : doctor_try(try_namespaces, NULL, TRIAL_MS);
	if (*missing)
		doctor_add(d, "namespaces", DOCTOR_FAIL, "Use a kernel that has them (every distribution's does).",
			   "missing:%s", missing);
	else if (r != 0)
		doctor_add(d, "namespaces", DOCTOR_FAIL,
			   "If this is a container, give it CAP_SYS_ADMIN, or run Akira outside of it.",
			   "cannot be made: %s", strerror(r > 0 ? r : -r));
	else
		doctor_add(d, "namespaces", DOCTOR_OK, NULL, "mnt, pid, net, ipc, uts, cgroup");
}

static void check_seccomp(struct doctor *d)
{
	char text[256];
	doctor_read(d, "/proc/sys/kernel/seccomp/actions_avail", text, sizeof(text));
	if (doctor_has_word(text, "kill_process"))
		doctor_add(d, "seccomp", DOCTOR_OK, NULL, "filters, kill_process");
	else
		doctor_add(d, "seccomp", DOCTOR_FAIL, "Use a kernel with CONFIG_SECCOMP_FILTER.",
			   "no filters that kill a process");
}

static void check_landlock(struct doctor *d)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi > 0)
		doctor_add(d, "landlock", DOCTOR_OK, NULL, "ABI %ld", abi);
	else
		doctor_add(d, "landlock", DOCTOR_WARN,
			   "Boot with lsm=landlock,… to add this layer; the others stand without it.", "%s",
			   errno == EOPNOTSUPP ? "built in, not enabled" : "not in this kernel");
}

void doctor_check_kernel(struct doctor *d)
{
	check_release(d);
	check_cgroup(d);
	check_namespaces(d);
	check_seccomp(d);
	check_landlock(d);
}
