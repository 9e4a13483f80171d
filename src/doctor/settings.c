#include "doctor/internal.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timex.h>

#define FILES_LOW 65536

static const struct {
	const char *name, *path;
	int64_t least;
	const char *why;
} sysctls[] = {
	{ "kernel.yama.ptrace_scope", "kernel/yama/ptrace_scope", 1, "processes of one user cannot trace each other" },
	{ "kernel.unprivileged_bpf_disabled", "kernel/unprivileged_bpf_disabled", 1, "no BPF without privilege" },
	{ "kernel.kptr_restrict", "kernel/kptr_restrict", 1, "kernel addresses stay hidden" },
	{ "kernel.dmesg_restrict", "kernel/dmesg_restrict", 1, "the kernel log stays root's" },
	{ "fs.protected_symlinks", "fs/protected_symlinks", 1, "no following of planted links" },
	{ "fs.protected_hardlinks", "fs/protected_hardlinks", 1, "no hard links to others' files" },
	{ "kernel.randomize_va_space", "kernel/randomize_va_space", 2, "full address space randomisation" },
};

static void check_sysctls(struct doctor *d)
{
	for (size_t i = 0; i < sizeof(sysctls) / sizeof(sysctls[0]); i++) {
		char path[128], advice[DOCTOR_TEXT_MAX];
		snprintf(path, sizeof(path), "/proc/sys/%s", sysctls[i].path);
		int64_t value = doctor_number(d, path);
		if (value < 0) {
			doctor_add(d, sysctls[i].name, DOCTOR_INFO, NULL, "not in this kernel");
			continue;
		}
		bool low = value < sysctls[i].least;
		snprintf(advice, sizeof(advice), "sysctl %s=%lld: %s.", sysctls[i].name, (long long)sysctls[i].least,
			 sysctls[i].why);
		doctor_add(d, sysctls[i].name, low ? DOCTOR_WARN : DOCTOR_OK, low ? advice : NULL, "%lld",
			   (long long)value);
	}
}

static void check_core_pattern(struct doctor *d)
{
	char text[256];
	if (doctor_read(d, "/proc/sys/kernel/core_pattern", text, sizeof(text)) < 0)
		return;
	/* A pipe is started whatever RLIMIT_CORE says; only PR_SET_DUMPABLE=0, which the VM process has, stops it. */
	doctor_add(d, "core-dumps", DOCTOR_INFO,
		   text[0] == '|' ? "Dumps go to a program; VM processes are not dumpable." : NULL, "%s", text);
}

static void check_time(struct doctor *d)
{
	struct timex now = { 0 };
	int state = adjtimex(&now);
	bool synced = state >= 0 && state != TIME_ERROR && !(now.status & STA_UNSYNC);
	doctor_add(d, "clock", synced ? DOCTOR_OK : DOCTOR_WARN,
		   synced ? NULL : "Run chrony or systemd-timesyncd: expiry times and the audit log need a true clock.",
		   synced ? "synchronised" : "not synchronised");
}

static void check_limits(struct doctor *d)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	bool low = files.rlim_max < FILES_LOW;
	doctor_add(d, "open-files", low ? DOCTOR_WARN : DOCTOR_OK,
		   low ? "LimitNOFILE=1048576 in akirad.service (a sandbox takes about 20)." : NULL, "%llu at most",
		   (unsigned long long)files.rlim_max);
	int64_t pids = doctor_number(d, "/proc/sys/kernel/pid_max");
	doctor_add(d, "pid-max", pids > 0 && pids < 32768 ? DOCTOR_WARN : DOCTOR_OK,
		   pids > 0 && pids < 32768 ? "sysctl kernel.pid_max=4194304" : NULL, "%lld", (long long)pids);
}

void doctor_check_settings(struct doctor *d)
{
	check_sysctls(d);
	check_core_pattern(d);
	check_time(d);
	check_limits(d);
}
