/* A process without any jail must fail every layer that counts; one with some layers must pass those. */
#include "doctor/doctor.h"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct doctor_fact *facts;
static size_t fact_count;

static void layers(void)
{
	struct rlimit none = { 0, 0 };
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { 1, &allow };
	if (unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		_exit(1);
	for (int cap = 0; cap < 64; cap++)
		prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (setgroups(0, NULL) < 0 || setresgid(54321, 54321, 54321) < 0 || setresuid(54321, 54321, 54321) < 0)
		_exit(1);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

/* A child that has told that it is ready; kill it. */
static pid_t start(void (*prepare)(void))
{
	int ends[2];
	char byte;
	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	if (pid == 0) {
		close(ends[0]);
		if (prepare)
			prepare();
		if (write(ends[1], "x", 1) != 1)
			_exit(1);
		close(ends[1]);
		for (;;)
			pause();
	}
	close(ends[1]);
	struct pollfd wait = { .fd = ends[0], .events = POLLIN };
	assert_int_equal(poll(&wait, 1, 10000), 1);
	assert_int_equal(read(ends[0], &byte, 1), 1);
	close(ends[0]);
	return pid;
}

static void look(pid_t pid)
{
	char what[24];
	struct error err = { 0 };
	snprintf(what, sizeof(what), "%d", pid);
	int r = doctor_jail(what, &facts, &fact_count, &err);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (r < 0)
		fail_msg("%s", err.text);
}

static const char *found(const char *name)
{
	for (size_t i = 0; i < fact_count; i++)
		if (strcmp(facts[i].name, name) == 0)
			return facts[i].found;
	return "";
}

static enum doctor_status status(const char *name)
{
	for (size_t i = 0; i < fact_count; i++)
		if (strcmp(facts[i].name, name) == 0)
			return facts[i].status;
	fail_msg("no fact '%s'", name);
	return DOCTOR_FAIL;
}

static int tear_down(void **state)
{
	free(facts);
	facts = NULL;
	return 0;
}

static void a_plain_process_fails(void **state)
{
	static const char *const names[] = { "uid",          "gid",        "capabilities", "seccomp",
					     "no-new-privs", "namespaces", "root",         "mounts" };
	if (geteuid() != 0)
		skip();
	look(start(NULL));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_int_equal(status(names[i]), DOCTOR_FAIL);
	assert_int_equal(doctor_worst(facts, fact_count), DOCTOR_FAIL);
}

static void layers_are_seen_one_by_one(void **state)
{
	static const char *const good[] = { "uid",     "gid",          "groups",     "capabilities",
					    "seccomp", "no-new-privs", "interfaces", "core-dumps" };
	static const char *const bad[] = { "namespaces", "root", "mounts" };
	if (geteuid() != 0)
		skip();
	look(start(layers));
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(status(good[i]), DOCTOR_OK);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(status(bad[i]), DOCTOR_FAIL);
	assert_string_equal(found("namespaces"), "the host's: mnt pid cgroup");
}

static void nothing_and_nonsense_are_told(void **state)
{
	struct error err = { 0 };
	if (geteuid() != 0)
		skip();
	assert_int_equal(doctor_jail("sbx_nobody_has_this", &facts, &fact_count, &err), -ENOENT);
	assert_int_equal(doctor_jail("x", &facts, &fact_count, &err), -EINVAL);
	assert_int_equal(doctor_jail("2147483647", &facts, &fact_count, &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_plain_process_fails, tear_down),
		cmocka_unit_test_teardown(layers_are_seen_one_by_one, tear_down),
		cmocka_unit_test_teardown(nothing_and_nonsense_are_told, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
