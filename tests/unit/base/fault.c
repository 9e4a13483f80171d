/* The marked places, compiled in for this program whatever the build's option says. */
#define AKIRA_FAULTS 1
#include "base/fault.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

/* Parsed once a process, so each case is a child. Returns its exit status, or -signal. */
static int child(const char *setting, int (*run)(void))
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		if (setting)
			setenv("AKIRA_FAULT", setting, 1);
		else
			unsetenv("AKIRA_FAULT");
		_exit(run());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* At which of five passings of "here" it fails, as bits; bit 5: "there" does. */
static int passings(void)
{
	int bits = 0;

	for (int i = 0; i < 5; i++)
		bits |= (fault_point("here") == -EIO) << i;
	return bits | (fault_point("there") == -EIO) << 5;
}

static int passings_of(void)
{
	int bits = 0;

	bits |= (fault_point_of("add", "box.pause") == -EIO) << 0;
	bits |= (fault_point_of("add", "box.resume") == -EIO) << 1;
	bits |= (fault_point_of("add", "box.pause") == -EIO) << 2;
	return bits | (fault_point("add") == -EIO) << 3;
}

static void acts_for_the_one_it_is_told(void **state)
{
	(void)state;
	assert_int_equal(child("add/box.pause=fail:2", passings_of), 4);
	assert_int_equal(child("add/box.resume=fail", passings_of), 2);
	assert_int_equal(child("add=fail", passings_of), 8);
	assert_int_equal(child("add/box.resume=kill", passings_of), -SIGKILL);
}

static void acts_where_it_is_told(void **state)
{
	(void)state;
	assert_int_equal(child(NULL, passings), 0);
	assert_int_equal(child("", passings), 0);
	assert_int_equal(child("here=fail", passings), 1);
	assert_int_equal(child("here=fail:3", passings), 4);
	assert_int_equal(child("here=fail:6", passings), 0);
	assert_int_equal(child("elsewhere=fail,there=fail", passings), 32);
	assert_int_equal(child("here=fail:2,here=fail:4,there=fail", passings), 2 | 8 | 32);
	assert_int_equal(child("here=kill:2", passings), -SIGKILL);
	assert_int_equal(child("here", passings), 0);
	assert_int_equal(child("=fail,,:", passings), 0);
	assert_int_equal(child("her=fail,heree=fail", passings), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(acts_where_it_is_told),
					    cmocka_unit_test(acts_for_the_one_it_is_told) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
