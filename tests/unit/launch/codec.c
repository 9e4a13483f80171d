/* proto/launch: what was encoded comes back; what is malformed is refused. The fuzzer: tests/fuzz/launch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/launch.h"

static unsigned char data[LAUNCH_MESSAGE_MAX];
static struct launch_request in, out;

static int round_trip(void)
{
	struct error err = { 0 };
	int size = launch_encode_request(&in, data, sizeof data);
	assert_true(size > 0);
	return launch_decode_request(&out, data, (size_t)size, &err);
}

static void fresh(enum launch_type type)
{
	memset(&in, 0, sizeof in);
	in.type = (uint16_t)type;
	in.serial = 0xdeadbeef;
	if (type >= LAUNCH_VM_START)
		strcpy(in.id, "sb_0123456789abcdefghijklmn");
	else
		in.slot = 4095;
}

static void assert_header(enum launch_type type)
{
	assert_int_equal(round_trip(), 0);
	assert_int_equal(out.type, type);
	assert_int_equal(out.serial, 0xdeadbeef);
}

static void test_config(void **state)
{
	fresh(LAUNCH_CONFIG);
	strcpy(in.config.qemu, "/usr/bin/qemu-system-x86_64");
	strcpy(in.config.run_dir, "/run/akira");
	strcpy(in.config.data_dir, "/var/lib/akira");
	strcpy(in.config.uplink, "eth0");
	in.config.user = 990;
	in.config.group = 991;
	in.config.vm_uid_first = 700000;
	in.config.vm_uid_count = 65536;
	in.config.net_base = 0x0ae70000;
	in.config.kvm = true;
	in.config.io_bytes = LAUNCH_IO_BYTES_MAX;
	in.config.io_ops = LAUNCH_IO_OPS_MAX;
	in.slot = 0;
	assert_header(LAUNCH_CONFIG);
	assert_memory_equal(&in.config, &out.config, sizeof in.config);
	in.config.io_bytes++;
	assert_int_equal(round_trip(), -EBADMSG);
	in.config.io_bytes--;
	in.config.io_ops++;
	assert_int_equal(round_trip(), -EBADMSG);
}

static void fill_vm(void)
{
	fresh(LAUNCH_VM_START);
	in.slot = 0;
	assert_int_equal(launch_add_arg(&in.vm, "-M"), 0);
	assert_int_equal(launch_add_arg(&in.vm, ""), 0);
	assert_int_equal(launch_add_arg(&in.vm, "microvm,acpi=on"), 0);
	strcpy(in.vm.files[0].name, "ram");
	strcpy(in.vm.files[1].name, "scratch");
	in.vm.files[1].writable = true;
	in.vm.file_count = 2;
	in.vm.fd_count = 3;
	in.vm.slot = LAUNCH_NO_SLOT;
	in.vm.cpu_quarters = 1024;
	in.vm.memory_bytes = LAUNCH_MEMORY_MAX;
	in.vm.file_bytes_max = INT64_MAX;
}

static void test_vm_start(void **state)
{
	fill_vm();
	assert_header(LAUNCH_VM_START);
	assert_string_equal(out.id, in.id);
	assert_int_equal(out.vm.arg_count, 3);
	for (int i = 0; i < 3; i++)
		assert_string_equal(out.vm.args[i], in.vm.args[i]);
	assert_null(out.vm.args[3]);
	assert_memory_equal(out.vm.files, in.vm.files, sizeof in.vm.files);
	assert_int_equal(out.vm.slot, LAUNCH_NO_SLOT);
	assert_int_equal(out.vm.cpu_quarters, 1024);
	assert_int_equal(out.vm.memory_bytes, LAUNCH_MEMORY_MAX);
	assert_int_equal(out.vm.file_bytes_max, INT64_MAX);
	assert_int_equal(launch_request_fds(&out), 5);
}

static void test_largest_vm_start_fits(void **state)
{
	static char arg[LAUNCH_ARG_SIZE + 2];
	fill_vm();
	in.vm.arg_count = in.vm.text_size = 0;
	memset(arg, 'a', LAUNCH_ARG_SIZE);
	int added = 0;
	while (launch_add_arg(&in.vm, arg) == 0)
		added++;
	assert_int_equal(added, LAUNCH_ARGS_SIZE / (LAUNCH_ARG_SIZE + 1));
	while (launch_add_arg(&in.vm, "x") == 0)
		;
	assert_header(LAUNCH_VM_START);
	arg[LAUNCH_ARG_SIZE] = 'a';
	in.vm.arg_count = in.vm.text_size = 0;
	assert_int_equal(launch_add_arg(&in.vm, arg), -E2BIG);
	for (int i = 0; i < LAUNCH_ARGS; i++)
		assert_int_equal(launch_add_arg(&in.vm, "y"), 0);
	assert_int_equal(launch_add_arg(&in.vm, "y"), -E2BIG);
	assert_header(LAUNCH_VM_START);
	assert_int_equal(out.vm.arg_count, LAUNCH_ARGS);
}

static void test_vm_small_requests(void **state)
{
	fresh(LAUNCH_VM_KILL);
	assert_header(LAUNCH_VM_KILL);
	assert_string_equal(out.id, in.id);
	fresh(LAUNCH_VM_STATS);
	assert_header(LAUNCH_VM_STATS);
	fresh(LAUNCH_VM_LIMITS);
	in.limits.cpu_quarters = 7;
	in.limits.memory_bytes = 1;
	assert_header(LAUNCH_VM_LIMITS);
	assert_int_equal(out.limits.cpu_quarters, 7);
	assert_int_equal(out.limits.memory_bytes, 1);
}

static void fill_policy(void)
{
	fresh(LAUNCH_NET_POLICY);
	in.policy.open = true;
	in.policy.dns = true;
	for (uint32_t i = 0; i < POLICY_CIDRS_MAX; i++) {
		in.policy.allow[i] = (struct policy_cidr){ i << 24, 8 };
		in.policy.deny[i] = (struct policy_cidr){ 0x01020304 + i, 32 };
	}
	in.policy.allow_count = in.policy.deny_count = POLICY_CIDRS_MAX;
	in.policy.bandwidth_kbps = 1;
	in.policy.packets_per_s = 2;
	in.policy.new_flows_per_s = 3;
	in.policy.flows_max = UINT32_MAX;
}

static void test_policy(void **state)
{
	fill_policy();
	assert_header(LAUNCH_NET_POLICY);
	assert_int_equal(out.slot, 4095);
	assert_memory_equal(&out.policy, &in.policy, sizeof in.policy);
	fill_policy();
	in.policy.allow[3] = (struct policy_cidr){ 0x0a000001, 8 };
	assert_int_equal(round_trip(), -EBADMSG);
	in.policy.allow[3] = (struct policy_cidr){ 0, 33 };
	assert_int_equal(round_trip(), -EBADMSG);
	in.policy.allow[3] = (struct policy_cidr){ 0, 0 };
	assert_int_equal(round_trip(), 0);
}

static void test_net_small_requests(void **state)
{
	const enum launch_type types[] = { LAUNCH_NET_MAKE, LAUNCH_NET_COUNTERS, LAUNCH_NET_RESET, LAUNCH_NET_DESTROY };
	for (size_t i = 0; i < 4; i++) {
		fresh(types[i]);
		assert_header(types[i]);
		assert_int_equal(out.slot, 4095);
		in.slot = 4096;
		assert_int_equal(round_trip(), -EBADMSG);
		in.slot = LAUNCH_NO_SLOT;
		assert_int_equal(round_trip(), -EBADMSG);
	}
	fresh(LAUNCH_NET_PIN);
	in.pin.address = 0x08080808;
	in.pin.ttl = 86400;
	assert_header(LAUNCH_NET_PIN);
	assert_int_equal(out.pin.address, 0x08080808);
	in.pin.ttl = 86401;
	assert_int_equal(round_trip(), -EBADMSG);
	in.pin.ttl = 0;
	assert_int_equal(round_trip(), -EBADMSG);
}

/* Any message that is cut short, or has a byte more, is refused or was whole: no field may be taken half. */
static void test_cut_anywhere(void **state)
{
	fill_vm();
	int size = launch_encode_request(&in, data, sizeof data);
	for (int cut = 0; cut < size; cut++) {
		unsigned char *copy = malloc((size_t)cut + 1); /* exactly so large, for ASan */
		memcpy(copy, data, (size_t)cut);
		assert_int_equal(launch_decode_request(&out, copy, (size_t)cut, NULL), -EBADMSG);
		free(copy);
	}
	data[size] = 0;
	assert_int_equal(launch_decode_request(&out, data, (size_t)size + 1, NULL), -EBADMSG);
}

static void test_ids(void **state)
{
	const char *const good[] = { "a", "A_9", "sb_x",
				     "012345678901234567890123456789012345678901234567890123456789012" };
	const char *const bad[] = { "",         "a/b",
				    "..",       "a-b",
				    "a b",      "a\n",
				    "\xc3\xa9", "0123456789012345678901234567890123456789012345678901234567890123" };
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		assert_true(launch_id_ok(good[i]));
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_false(launch_id_ok(bad[i]));
}

static void reply_trip(const struct launch_reply *reply, struct launch_reply *back)
{
	int size = launch_encode_reply(reply, data, sizeof data);
	assert_true(size > 0);
	assert_int_equal(launch_decode_reply(back, data, (size_t)size), 0);
	assert_int_equal(back->type, reply->type);
	assert_int_equal(back->serial, reply->serial);
	assert_int_equal(back->code, reply->code);
}

static void test_replies(void **state)
{
	struct launch_reply back, reply = { .type = LAUNCH_NET_MAKE, .serial = 5 };
	reply.net = (struct launch_net){ 1, 2, 3, 24, { 2, 0, 0, 0, 0, 9 }, 1500 };
	reply_trip(&reply, &back);
	assert_memory_equal(&back.net, &reply.net, sizeof back.net);
	reply = (struct launch_reply){ .type = LAUNCH_NET_COUNTERS };
	reply.counters = (struct policy_counters){ 1, 2, 3, 4, 5, 6, 7, UINT64_MAX, true };
	reply_trip(&reply, &back);
	assert_memory_equal(&back.counters, &reply.counters, sizeof back.counters);
	reply = (struct launch_reply){ .type = LAUNCH_VM_STATS };
	reply.stats = (struct launch_stats){ 1, 2, 3, 4 };
	reply_trip(&reply, &back);
	assert_memory_equal(&back.stats, &reply.stats, sizeof back.stats);
	reply = (struct launch_reply){ .type = LAUNCH_VM_START };
	reply.pid = 4711;
	reply_trip(&reply, &back);
	assert_int_equal(back.pid, 4711);
	reply = (struct launch_reply){ .type = LAUNCH_CONFIG };
	reply.swept = 12;
	reply_trip(&reply, &back);
	assert_int_equal(back.swept, 12);
	reply = (struct launch_reply){ .type = LAUNCH_VM_START, .code = EBUSY, .text = "another VM" };
	reply_trip(&reply, &back);
	assert_string_equal(back.text, "another VM");
}

static void test_replies_of_an_enemy(void **state)
{
	struct launch_reply back;
	const struct {
		unsigned char bytes[24];
		size_t size;
	} bad[] = {
		{ { 1, 0, 8, 0x80, 0, 0, 0, 0 }, 8 },                                     /* no code */
		{ { 1, 0, 8, 0, 0, 0, 0, 0, 100, 0, 4, 0, 0, 0, 0, 0, 0, 0 }, 18 },       /* a request's type */
		{ { 1, 0, 0xff, 0x80, 0, 0, 0, 0, 100, 0, 4, 0, 0, 0, 0, 0, 0, 0 }, 18 }, /* no type */
		{ { 2, 0, 8, 0x80, 0, 0, 0, 0, 100, 0, 4, 0, 0, 0, 0, 0, 0, 0 }, 18 },    /* another version */
		{ { 1, 0, 8, 0x80, 0, 0, 0, 0, 100, 0, 4, 0, 0, 0, 0, 0, 1, 0 }, 18 },    /* no errno */
		{ { 1, 0, 8, 0x80, 0, 0, 0, 0, 102, 0, 4, 0, 0, 0, 0, 0, 0, 0 }, 18 },    /* a result before the code */
		{ { 1, 0 }, 2 },
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_int_equal(launch_decode_reply(&back, bad[i].bytes, bad[i].size), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_vm_start),
		cmocka_unit_test(test_largest_vm_start_fits),
		cmocka_unit_test(test_vm_small_requests),
		cmocka_unit_test(test_policy),
		cmocka_unit_test(test_net_small_requests),
		cmocka_unit_test(test_cut_anywhere),
		cmocka_unit_test(test_ids),
		cmocka_unit_test(test_replies),
		cmocka_unit_test(test_replies_of_an_enemy),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
