/* The checks against a made-up host, and against the real one for what must hold anywhere. */
#include "doctor/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"

static char root[64];
static struct doctor_fact *facts;
static size_t fact_count;

static void put(const char *path, const char *text)
{
	char full[512];
	snprintf(full, sizeof(full), "%s%s", root, path);
	for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		mkdir(full, 0755);
		*p = '/';
	}
	_cleanup_file_ FILE *file = fopen(full, "we");
	assert_non_null(file);
	fputs(text, file);
}

static int set_up(void **state)
{
	strcpy(root, "/tmp/akira-doctor-XXXXXX");
	return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
	free(facts);
	facts = NULL;
	return fd_remove_tree(AT_FDCWD, root, NULL);
}

static void look(void)
{
	struct error err = { 0 };
	struct doctor_config config = DOCTOR_CONFIG_DEFAULT;
	config.root = root;
	config.looks_only = true;
	free(facts);
	assert_int_equal(doctor_run(&config, &facts, &fact_count, &err), 0);
}

static const struct doctor_fact *fact(const char *name)
{
	for (size_t i = 0; i < fact_count; i++)
		if (strcmp(facts[i].name, name) == 0)
			return &facts[i];
	fail_msg("no fact '%s'", name);
	return NULL;
}

#define EXPECT(name, what, words)                                  \
	do {                                                       \
		assert_int_equal(fact(name)->status, what);        \
		assert_non_null(strstr(fact(name)->found, words)); \
	} while (0)

static void an_empty_host_fails_and_says_why(void **state)
{
	look();
	EXPECT("cgroup", DOCTOR_FAIL, "without cpu memory pids");
	EXPECT("namespaces", DOCTOR_FAIL, "missing: mnt pid net ipc uts cgroup");
	EXPECT("seccomp", DOCTOR_FAIL, "no filters");
	EXPECT("tun", DOCTOR_FAIL, "no /dev/net/tun");
	EXPECT("kvm", DOCTOR_WARN, "no /dev/kvm");
	EXPECT("guest", DOCTOR_FAIL, "no kernel");
	EXPECT("images", DOCTOR_FAIL, "0 in");
	EXPECT("user", DOCTOR_FAIL, "no user akira");
	assert_int_equal(doctor_worst(facts, fact_count), DOCTOR_FAIL);
	for (size_t i = 0; i < fact_count; i++)
		if (facts[i].status == DOCTOR_FAIL)
			assert_true(strlen(facts[i].advice) > 10);
}

static void cgroups_of_both_versions(void **state)
{
	put("/proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
				    "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
	look();
	EXPECT("cgroup", DOCTOR_FAIL, "version 1 without pids");
	put("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
	look();
	EXPECT("cgroup", DOCTOR_OK, "version 2");
	/* "cpuset" is not "cpu". */
	put("/sys/fs/cgroup/cgroup.controllers", "cpuset io memory pids\n");
	look();
	EXPECT("cgroup", DOCTOR_FAIL, "without cpu");
}

static void weak_settings_are_warned_of(void **state)
{
	put("/proc/swaps", "Filename Type Size\n/dev/vda2 partition 100\n");
	put("/sys/kernel/mm/ksm/run", "1\n");
	put("/sys/devices/system/cpu/smt/active", "1\n");
	put("/sys/module/kvm_intel/parameters/nested", "Y\n");
	put("/sys/devices/system/cpu/vulnerabilities/mds", "Vulnerable: no microcode\n");
	put("/sys/devices/system/cpu/vulnerabilities/l1tf", "Not affected\n");
	put("/proc/sys/kernel/kptr_restrict", "0\n");
	look();
	EXPECT("swap", DOCTOR_WARN, "on");
	EXPECT("ksm", DOCTOR_WARN, "on");
	EXPECT("smt", DOCTOR_WARN, "on");
	EXPECT("nested", DOCTOR_WARN, "could");
	EXPECT("cpu-vulnerabilities", DOCTOR_WARN, "vulnerable: mds");
	assert_null(strstr(fact("cpu-vulnerabilities")->found, "l1tf"));
	EXPECT("kernel.kptr_restrict", DOCTOR_WARN, "0");
}

static void good_settings_are_ok(void **state)
{
	put("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx ept\n");
	put("/proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n");
	put("/proc/swaps", "Filename Type Size\n");
	put("/sys/kernel/mm/ksm/run", "0\n");
	put("/sys/devices/system/cpu/smt/active", "0\n");
	put("/sys/devices/system/cpu/vulnerabilities/mds", "Mitigation: Clear CPU buffers\n");
	put("/proc/sys/kernel/seccomp/actions_avail", "kill_process kill_thread errno\n");
	put("/proc/net/route",
	    "Iface\tDestination\tGateway\neth0\t0000A8C0\t00000000\t0001\neth7\t00000000\t0100000A\t0003\n");
	put("/etc/passwd", "root:x:0:0::/:/bin/sh\nakira:x:100:100::/:/bin/false\n");
	put("/var/cache/akira/guest/kernel", "k");
	put("/var/cache/akira/guest/initramfs.cpio", "i");
	put("/var/cache/akira/images/tiny/image.erofs", "e");
	look();
	EXPECT("cpu", DOCTOR_OK, "VT-x, nested paging");
	EXPECT("memory", DOCTOR_OK, "8192 MiB available of 16384 MiB");
	EXPECT("swap", DOCTOR_OK, "off");
	EXPECT("ksm", DOCTOR_OK, "off");
	EXPECT("cpu-vulnerabilities", DOCTOR_OK, "none of 1");
	EXPECT("seccomp", DOCTOR_OK, "kill_process");
	EXPECT("default-route", DOCTOR_OK, "eth7");
	EXPECT("user", DOCTOR_OK, "exists");
	EXPECT("guest", DOCTOR_OK, "kernel and initramfs");
	EXPECT("images", DOCTOR_OK, "1 in");
}

static void hostile_files_are_cut_and_printable(void **state)
{
	char text[200000];
	memset(text, 'A', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	put("/proc/cpuinfo", text);
	put("/proc/self/mountinfo", text);
	put("/proc/meminfo", text);
	put("/etc/passwd", text);
	put("/proc/sys/kernel/pid_max", text);
	put("/proc/sys/kernel/core_pattern", "|/x\x1b[2J\n");
	look();
	for (size_t i = 0; i < fact_count; i++)
		for (const char *p = facts[i].found; *p; p++)
			assert_true((unsigned char)*p >= ' ' && *p != 0x7f);
}

static void the_summary_holds_what_needs_doing(void **state)
{
	struct error err = { 0 };
	struct doctor_config config = DOCTOR_CONFIG_DEFAULT;
	config.root = root;
	config.looks_only = true;
	free(facts);
	assert_int_equal(doctor_summary(&config, &facts, &fact_count, &err), 0);
	assert_true(fact_count > 3);
	for (size_t i = 0; i < fact_count; i++) {
		assert_true(facts[i].status >= DOCTOR_WARN);
		assert_string_not_equal(facts[i].name, "user"); /* about akirad itself */
	}
	config.root = "/nonexistent";
	free(facts);
	facts = NULL;
	assert_int_equal(doctor_summary(&config, &facts, &fact_count, &err), -ENOENT);
}

static void the_real_host_is_looked_at_in_time(void **state)
{
	struct error err = { 0 };
	struct doctor_config config = DOCTOR_CONFIG_DEFAULT;
	config.port = 1; /* nobody's */
	assert_int_equal(doctor_run(&config, &facts, &fact_count, &err), 0);
	assert_true(fact_count > 25);
	assert_int_equal(fact("akirad")->status, DOCTOR_INFO);
	for (size_t i = 0; i < fact_count; i++) {
		assert_true(facts[i].found[0] != '\0');
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(facts[i].name, facts[j].name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_empty_host_fails_and_says_why, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cgroups_of_both_versions, set_up, tear_down),
		cmocka_unit_test_setup_teardown(weak_settings_are_warned_of, set_up, tear_down),
		cmocka_unit_test_setup_teardown(good_settings_are_ok, set_up, tear_down),
		cmocka_unit_test_setup_teardown(hostile_files_are_cut_and_printable, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_summary_holds_what_needs_doing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_real_host_is_looked_at_in_time, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
