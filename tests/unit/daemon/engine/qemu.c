/* QEMU's command line: what must be in it, and what must never be. */
#include "daemon/engine/qemu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct qemu_args args;

static const struct engine kvm = { .acceleration = ENGINE_KVM, .tcg_cache_mib = 64, .tsc_khz = 2100000 };
static const struct engine tcg = { .acceleration = ENGINE_TCG, .tcg_cache_mib = 64, .tsc_khz = 2100000 };

static struct vm_spec spec_of(void)
{
	return (struct vm_spec){
		.id = "sbx_1",
		.cpu_units = 1,
		.memory_mib = 512,
		.ram = -1,
		.state = -1,
		.acpi = true,
		.mac = { 0x02, 0xaa, 0, 1, 2, 0xff },
	};
}

static bool has(const char *arg)
{
	for (size_t i = 0; i < args.count; i++)
		if (strcmp(args.args[i], arg) == 0)
			return true;
	return false;
}

/* The value after an option; it must be there exactly once. */
static const char *value(const char *option)
{
	const char *found = NULL;

	for (size_t i = 0; i + 1 < args.count; i++) {
		if (strcmp(args.args[i], option) == 0) {
			assert_null(found);
			found = args.args[i + 1];
		}
	}
	assert_non_null(found);
	return found;
}

static bool any_contains(const char *part)
{
	for (size_t i = 0; i < args.count; i++)
		if (strstr(args.args[i], part))
			return true;
	return false;
}

static void build(const struct engine *engine, const struct vm_spec *spec)
{
	qemu_arguments(engine, spec, &args);
	assert_false(args.failed);
	assert_in_range(args.count, 30, QEMU_ARGS_MAX);
	assert_null(args.args[args.count]);
}

static void with_kvm(void **state)
{
	struct vm_spec spec = spec_of();

	(void)state;
	build(&kvm, &spec);
	assert_string_equal(value("-accel"), "kvm");
	assert_non_null(strstr(value("-cpu"), "host,"));
	assert_non_null(strstr(value("-cpu"), "arch-capabilities=off"));
	assert_non_null(strstr(value("-cpu"), "vmx=off,svm=off"));
	assert_non_null(strstr(value("-cpu"), "pmu=off"));
	assert_null(strstr(value("-append"), "mitigations=off")); /* there the boundary is the hardware's: keep them */
	assert_null(strstr(value("-append"), "norandmaps"));
	assert_null(strstr(value("-append"), "tsc_early_khz"));
}

static void with_tcg(void **state)
{
	struct vm_spec spec = spec_of();
	struct engine unknown = tcg;

	(void)state;
	build(&tcg, &spec);
	assert_string_equal(value("-accel"), "tcg,thread=multi,tb-size=64");
	assert_non_null(strstr(value("-append"), "tsc_early_khz=2100000"));
	unknown.tsc_khz = 0;
	build(&unknown, &spec);
	assert_null(strstr(value("-append"), "tsc_early_khz"));
}

static void always(void **state)
{
	struct vm_spec spec = spec_of();

	(void)state;
	for (int i = 0; i < 2; i++) {
		build(i ? &kvm : &tcg, &spec);
		assert_true(has("-nodefaults"));
		assert_true(has("-no-user-config"));
		assert_true(has("-no-reboot"));
		assert_string_equal(value("-display"), "none");
		assert_string_equal(value("-sandbox"),
				    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
		assert_non_null(strstr(value("-M"), "microvm"));
		assert_non_null(strstr(value("-M"), "dump-guest-core=off"));
		assert_true(has("driver=raw,node-name=base,file=base-file,read-only=on"));
		assert_true(has("driver=raw,node-name=scratch,file=scratch-file,discard=unmap"));
		assert_false(any_contains("qcow"));
		assert_true(has("virtio-net-device,id=nic,netdev=net,mac=02:aa:00:01:02:ff"));
		assert_string_equal(value("-netdev"), "tap,id=net,fd=6,vhost=off");
		assert_true(has("socket,id=qmp,fd=3"));
		assert_true(has("socket,id=agent,fd=4"));
		assert_true(has("socket,id=console,fd=5"));
	}
}

static void vcpus(void **state)
{
	static const struct {
		uint32_t units;
		const char *vcpus;
	} cases[] = {
		{ 1, "1" }, { 4, "1" }, { 5, "2" }, { 8, "2" }, { 64, "16" },
	};
	struct vm_spec spec = spec_of();

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		spec.cpu_units = cases[i].units;
		build(&tcg, &spec);
		assert_string_equal(value("-smp"), cases[i].vcpus);
	}
}

static void memory(void **state)
{
	struct vm_spec spec = spec_of();

	(void)state;
	build(&kvm, &spec);
	assert_string_equal(value("-m"), "512M");
	assert_true(has("memory-backend-ram,id=ram,size=512M,dump=off"));
	spec.ram = 9;
	spec.ram_shared = true;
	build(&kvm, &spec);
	assert_true(has("memory-backend-file,id=ram,size=512M,mem-path=/vm/ram,share=on,prealloc=off,dump=off"));
	spec.ram_shared = false;
	build(&kvm, &spec);
	assert_true(any_contains("share=off"));
	assert_false(any_contains("share=on")); /* a sandbox that wrote to the template would write to all others */
}

static void state_to_load(void **state)
{
	struct vm_spec spec = spec_of();

	(void)state;
	build(&tcg, &spec);
	assert_false(has("-incoming"));
	spec.state = 8;
	build(&tcg, &spec);
	assert_string_equal(value("-incoming"), "defer");
}

static void kernels(void **state)
{
	struct vm_spec spec = spec_of();

	(void)state;
	spec.cmdline = "one=1 two=2";
	build(&kvm, &spec);
	assert_non_null(strstr(value("-append"), " one=1 two=2"));
	assert_non_null(strstr(value("-M"), "acpi=on"));
	assert_non_null(strstr(value("-M"), "auto-kernel-cmdline=off"));
	spec.acpi = false;
	build(&kvm, &spec);
	assert_non_null(strstr(value("-M"), "acpi=off"));
	assert_non_null(strstr(value("-M"), "auto-kernel-cmdline=on"));
}

static void what_does_not_fit_fails(void **state)
{
	static char cmdline[QEMU_TEXT_MAX + 1];
	struct vm_spec spec = spec_of();

	(void)state;
	memset(cmdline, 'x', sizeof(cmdline) - 1);
	spec.cmdline = cmdline;
	qemu_arguments(&kvm, &spec, &args);
	assert_true(args.failed);
	assert_in_range(args.count, 0, QEMU_ARGS_MAX);
	assert_null(args.args[args.count]);
	spec.cmdline = NULL;
	build(&kvm, &spec); /* and that is not for good */
}

static void overhead(void **state)
{
	(void)state;
	assert_int_equal(engine_overhead_mib(&tcg) - engine_overhead_mib(&kvm), tcg.tcg_cache_mib);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(with_kvm), cmocka_unit_test(with_tcg),
		cmocka_unit_test(always),   cmocka_unit_test(vcpus),
		cmocka_unit_test(memory),   cmocka_unit_test(state_to_load),
		cmocka_unit_test(kernels),  cmocka_unit_test(what_does_not_fit_fails),
		cmocka_unit_test(overhead),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
