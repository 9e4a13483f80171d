/* Which acceleration is taken, from what was measured. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/engine/engine.h"
#include "doctor/kvm_probe.h"

static const struct {
	enum engine_acceleration wanted;
	int probe;
	double per_second;
	int result;
	enum engine_acceleration chosen;
	const char *why; /* a part of it */
} table[] = {
	{ ENGINE_AUTO, 0, 3e9, 0, ENGINE_KVM, "3000.0 million" },
	{ ENGINE_AUTO, 0, DOCTOR_KVM_USABLE, 0, ENGINE_KVM, "usable from 100" },
	{ ENGINE_AUTO, 0, DOCTOR_KVM_USABLE - 1, 0, ENGINE_TCG, "software emulation instead" },
	{ ENGINE_AUTO, 0, 2e6, 0, ENGINE_TCG, "2.0 million" },
	{ ENGINE_AUTO, 0, 0, 0, ENGINE_TCG, "no hardware boundary" },
	{ ENGINE_AUTO, 0, -1, 0, ENGINE_TCG, "no hardware boundary" },
	{ ENGINE_AUTO, 0, NAN, 0, ENGINE_TCG, "no hardware boundary" },
	{ ENGINE_AUTO, 0, INFINITY, 0, ENGINE_KVM, "million" },
	{ ENGINE_AUTO, -ENOENT, 0, 0, ENGINE_TCG, "there is no /dev/kvm" },
	{ ENGINE_AUTO, -EACCES, 3e9, 0, ENGINE_TCG, "not usable" }, /* the figure of a failed probe means nothing */
	{ ENGINE_KVM, 0, 3e9, 0, ENGINE_KVM, "million" },
	{ ENGINE_KVM, 0, 2e6, -ENOTSUP, ENGINE_AUTO, "2.0 million" },
	{ ENGINE_KVM, -ENOENT, 0, -ENOTSUP, ENGINE_AUTO, "/dev/kvm" },
	{ ENGINE_KVM, -EIO, 3e9, -ENOTSUP, ENGINE_AUTO, "not usable" },
	{ ENGINE_TCG, 0, 3e9, 0, ENGINE_TCG, "as configured" },
	{ ENGINE_TCG, -ENOENT, 0, 0, ENGINE_TCG, "as configured" },
};

static void decides(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		enum engine_acceleration chosen = ENGINE_AUTO;
		struct error err = { 0 };
		char why[256] = "";
		assert_int_equal(
			engine_decide(table[i].wanted, table[i].probe, table[i].per_second, &chosen, why, &err),
			table[i].result);
		assert_int_equal(chosen, table[i].chosen);
		if (!strstr(why, table[i].why))
			fail_msg("case %zu: \"%s\"", i, why);
		assert_int_equal(err.code, -table[i].result);
		if (table[i].result < 0)
			assert_non_null(strstr(err.text, table[i].why));
	}
}

/* Whatever was measured, and however long the sentence gets. */
static void sentence_is_bounded(void **state)
{
	enum engine_acceleration chosen;
	char why[256];

	(void)state;
	memset(why, 'x', sizeof(why));
	assert_int_equal(engine_decide(ENGINE_AUTO, 0, -1e300, &chosen, why, NULL), 0);
	assert_non_null(memchr(why, 0, sizeof(why)));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(decides), cmocka_unit_test(sentence_is_bounded) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
