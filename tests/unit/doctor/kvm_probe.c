/* The probe must give a figure or a reason, within its bound, and leave nothing behind. */
#include "doctor/kvm_probe.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/time.h"

static void gives_a_figure_or_a_reason_in_time(void **state)
{
	double speed = -1;
	struct error err = { 0 };
	int64_t start = time_mono_ms();
	int r = doctor_kvm_probe(&speed, &err);
	assert_true(time_mono_ms() - start < DOCTOR_KVM_BOUND_MS + 1000);
	if (r == 0) {
		assert_true(speed > 1000 && speed < 1e12);
		assert_int_equal(err.code, 0);
		assert_int_equal(access(DOCTOR_KVM_DEVICE, F_OK), 0);
	} else {
		assert_int_equal(err.code, -r);
		assert_true(strlen(err.text) > 0);
		assert_true(speed < 0);
	}
	if (access(DOCTOR_KVM_DEVICE, F_OK) != 0)
		assert_int_equal(r, -ENOENT);
}

static void leaves_no_child_and_no_descriptor(void **state)
{
	int before = dup(0);
	close(before);
	double speed;
	(void)doctor_kvm_probe(&speed, NULL);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	int after = dup(0);
	close(after);
	assert_int_equal(after, before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gives_a_figure_or_a_reason_in_time),
		cmocka_unit_test(leaves_no_child_and_no_descriptor),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
