/* cgroup v1 and v2 against plain folders: which files are written, and what. The real thing: tests/attack/jail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "launch/cgroup.h"

static char top[] = "/tmp/akira-cgroup-XXXXXX";
static const struct cgroup_limits limits = { .memory_bytes = 512 << 20, .cpu_quarters = 6, .pids = 99 };

static void path_of(char to[256], const char *name)
{
	snprintf(to, 256, "%s/%s", top, name);
}

static void put(const char *name, const char *text)
{
	char path[256];
	path_of(path, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void make_dir(const char *name)
{
	char path[256];
	path_of(path, name);
	assert_int_equal(mkdir(path, 0755), 0);
}

static void assert_holds(const char *name, const char *text)
{
	char path[256], got[256] = "";
	path_of(path, name);
	FILE *f = fopen(path, "r");
	if (!f)
		fail_msg("%s is missing", name);
	size_t size = fread(got, 1, sizeof got - 1, f);
	got[size] = 0;
	fclose(f);
	assert_string_equal(got, text);
}

static bool exists(const char *name)
{
	char path[256];
	path_of(path, name);
	return access(path, F_OK) == 0;
}

static int set_up(void **state)
{
	strcpy(top + strlen(top) - 6, "XXXXXX");
	return mkdtemp(top) ? 0 : -1;
}

static int tear_down(void **state)
{
	return fd_remove_tree(AT_FDCWD, top, NULL);
}

static void open_v2(struct cgroup_host *host, const char *controllers, int expected)
{
	char mounts[600];
	make_dir("v2");
	put("v2/cgroup.controllers", controllers);
	snprintf(mounts, sizeof mounts,
		 "22 1 0:5 / /proc rw - proc proc rw\n"
		 "30 1 0:26 / %s/v2 rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
		 top);
	*host = (struct cgroup_host){ .create = O_CREAT };
	assert_int_equal(cgroup_host_open(host, mounts, "akira-t", NULL), expected);
}

static void test_v2_limits(void **state)
{
	struct cgroup_host host;
	struct cgroup g;
	open_v2(&host, "cpuset cpu memory hugetlb pids rdma\n", 0);
	assert_int_equal(host.version, 2);
	assert_holds("v2/cgroup.subtree_control", "+memory +cpu +pids");
	assert_holds("v2/akira-t/cgroup.subtree_control", "+memory +cpu +pids");
	assert_int_equal(cgroup_make(&host, "vm.1", &limits, &g, NULL), 0);
	assert_holds("v2/akira-t/vm.1/memory.max", "536870912");
	assert_holds("v2/akira-t/vm.1/memory.swap.max", "0");
	assert_holds("v2/akira-t/vm.1/memory.oom.group", "1");
	assert_holds("v2/akira-t/vm.1/cpu.max", "600000 400000");
	assert_holds("v2/akira-t/vm.1/pids.max", "99");
	assert_true(cgroup_clone_fd(&host, &g) >= 0);
	assert_int_equal(cgroup_enter(&host, &g), 0);
	cgroup_kill(&host, &g);
	assert_holds("v2/akira-t/vm.1/cgroup.kill", "1");
	fd_close(&g.dir[0]);
	fd_close(&host.root[0]);
}

static void test_v2_usage(void **state)
{
	struct cgroup_host host;
	struct cgroup g;
	struct cgroup_use use;
	open_v2(&host, "memory cpu pids", 0);
	assert_int_equal(cgroup_make(&host, "a", &limits, &g, NULL), 0);
	put("v2/akira-t/a/cpu.stat", "usage_usec 1234567\nuser_usec 1\nsystem_usec 2\n");
	put("v2/akira-t/a/memory.current", "4096\n");
	put("v2/akira-t/a/memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n");
	put("v2/akira-t/a/pids.current", "5\n");
	assert_int_equal(cgroup_usage(&host, &g, &use, NULL), 0);
	assert_int_equal(use.cpu_us, 1234567);
	assert_int_equal(use.memory_bytes, 4096);
	assert_int_equal(use.oom_kills, 2);
	assert_int_equal(use.pids, 5);
	fd_close(&g.dir[0]);
	fd_close(&host.root[0]);
}

static void test_v2_without_memory_is_not_enough(void **state)
{
	struct cgroup_host host;
	open_v2(&host, "cpuset cpu io pids", -ENOTSUP);
}

static void open_v1(struct cgroup_host *host, bool pids, int expected, struct error *err)
{
	char mounts[1200];
	make_dir("memory");
	make_dir("cpu");
	make_dir("pids");
	make_dir("devices");
	snprintf(mounts, sizeof mounts,
		 "30 1 0:26 / %s/memory rw - cgroup cgroup rw,memory\n"
		 "31 1 0:27 / %s/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
		 "33 1 0:29 / %s/devices rw - cgroup cgroup rw,devices\n"
		 "34 1 0:30 / %s/x rw - cgroup cgroup rw,name=systemd\n%s%s%s",
		 top, top, top, top, pids ? "35 1 0:30 / " : "", pids ? top : "",
		 pids ? "/pids rw - cgroup cgroup rw,pids\n" : "");
	*host = (struct cgroup_host){ .create = O_CREAT };
	assert_int_equal(cgroup_host_open(host, mounts, "akira-t", err), expected);
}

static void close_v1(struct cgroup_host *host, struct cgroup *g)
{
	for (int i = 0; i < CGROUP_KINDS; i++) {
		fd_close(&host->root[i]);
		fd_close(&g->dir[i]);
	}
}

static void test_v1_limits(void **state)
{
	struct cgroup_host host;
	struct cgroup g;
	open_v1(&host, true, 0, NULL);
	assert_int_equal(host.version, 1);
	assert_int_equal(cgroup_make(&host, "vm.1", &limits, &g, NULL), 0);
	assert_holds("memory/akira-t/vm.1/memory.limit_in_bytes", "536870912");
	assert_holds("memory/akira-t/vm.1/memory.memsw.limit_in_bytes", "536870912");
	assert_holds("memory/akira-t/vm.1/memory.swappiness", "0");
	assert_holds("cpu/akira-t/vm.1/cpu.cfs_period_us", "400000");
	assert_holds("cpu/akira-t/vm.1/cpu.cfs_quota_us", "600000");
	assert_holds("pids/akira-t/vm.1/pids.max", "99");
	assert_holds("devices/akira-t/vm.1/devices.deny", "a");
	assert_holds("devices/akira-t/vm.1/devices.allow",
		     "c 1:9 rw"); /* a plain file keeps the tail of what was longer before */
	assert_int_equal(cgroup_clone_fd(&host, &g), -1);
	assert_int_equal(cgroup_enter(&host, &g), 0);
	assert_holds("memory/akira-t/vm.1/tasks", "0");
	assert_holds("cpu/akira-t/vm.1/tasks", "0");
	assert_holds("pids/akira-t/vm.1/tasks", "0");
	close_v1(&host, &g);
}

static void test_v1_usage(void **state)
{
	struct cgroup_host host;
	struct cgroup g;
	struct cgroup_use use;
	open_v1(&host, true, 0, NULL);
	assert_int_equal(cgroup_make(&host, "a", &limits, &g, NULL), 0);
	put("cpu/akira-t/a/cpuacct.usage", "5000000\n");
	put("memory/akira-t/a/memory.usage_in_bytes", "8192\n");
	put("memory/akira-t/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n");
	put("pids/akira-t/a/pids.current", "7\n");
	assert_int_equal(cgroup_usage(&host, &g, &use, NULL), 0);
	assert_int_equal(use.cpu_us, 5000);
	assert_int_equal(use.memory_bytes, 8192);
	assert_int_equal(use.oom_kills, 1);
	assert_int_equal(use.pids, 7);
	close_v1(&host, &g);
}

static void test_v1_names_what_is_missing(void **state)
{
	struct cgroup_host host;
	struct error err;
	open_v1(&host, false, -ENOTSUP, &err);
	assert_non_null(strstr(err.text, "\"pids\""));
}

/* ---- io ---- */

static void make_block(struct cgroup_host *host)
{
	static char block[256];
	char link[256];
	make_dir("disk");
	make_dir("disk/disk1");
	make_dir("block");
	put("disk/dev", "8:16\n");
	put("disk/disk1/dev", "8:17\n");
	put("disk/disk1/partition", "1\n");
	path_of(link, "block/8:16");
	assert_int_equal(symlink("../disk", link), 0);
	path_of(link, "block/8:17");
	assert_int_equal(symlink("../disk/disk1", link), 0);
	path_of(block, "block");
	host->block = block;
	host->io_bytes = 1000000;
}

static void test_v2_io(void **state)
{
	struct cgroup_host host;
	struct cgroup g;
	open_v2(&host, "cpuset cpu io memory pids\n", 0);
	assert_holds("v2/cgroup.subtree_control", "+memory +cpu +pids +io");
	assert_holds("v2/akira-t/cgroup.subtree_control", "+memory +cpu +pids +io");
	make_block(&host);
	assert_int_equal(cgroup_make(&host, "a", &limits, &g, NULL), 0);
	assert_int_equal(cgroup_limit_io(&host, &g, makedev(8, 16), NULL), 0);
	assert_holds("v2/akira-t/a/io.max", "8:16 rbps=1000000 wbps=1000000");
	host.io_ops = 77;
	assert_int_equal(cgroup_limit_io(&host, &g, makedev(8, 17), NULL), 0);
	assert_holds("v2/akira-t/a/io.max", "8:16 rbps=1000000 wbps=1000000 riops=77 wiops=77");
	fd_close(&g.dir[0]);
	fd_close(&host.root[0]);
}

static void test_io_where_there_is_none(void **state)
{
	struct cgroup_host host;
	struct cgroup g;
	open_v2(&host, "cpu memory pids io\n", 0);
	make_block(&host);
	assert_int_equal(cgroup_make(&host, "a", &limits, &g, NULL), 0);
	assert_int_equal(cgroup_limit_io(&host, &g, makedev(0, 44), NULL), 0); /* overlay, tmpfs */
	assert_int_equal(cgroup_limit_io(&host, &g, makedev(9, 1), NULL), 0);
	assert_false(exists("v2/akira-t/a/io.max"));
	host.create = 0; /* as in a real hierarchy: a file that the kernel does not have cannot be made */
	assert_int_equal(cgroup_limit_io(&host, &g, makedev(8, 16), NULL), 0);
	make_dir("v2/akira-t/a/io.max"); /* there, and cannot be written */
	assert_true(cgroup_limit_io(&host, &g, makedev(8, 16), NULL) < 0);
	host.io = false;
	assert_int_equal(cgroup_limit_io(&host, &g, makedev(8, 16), NULL), 0);
	fd_close(&g.dir[0]);
	fd_close(&host.root[0]);
}

static void test_v1_io(void **state)
{
	struct cgroup_host host;
	struct cgroup g;
	char mounts[1200];
	make_dir("blkio");
	make_dir("all");
	snprintf(mounts, sizeof mounts,
		 "30 1 0:26 / %s/all rw - cgroup cgroup rw,memory,cpu,pids\n"
		 "31 1 0:27 / %s/blkio rw - cgroup cgroup rw,blkio\n",
		 top, top);
	host = (struct cgroup_host){ .create = O_CREAT };
	assert_int_equal(cgroup_host_open(&host, mounts, "akira-t", NULL), 0);
	make_block(&host);
	host.io_ops = 77;
	assert_int_equal(cgroup_make(&host, "a", &limits, &g, NULL), 0);
	assert_int_equal(cgroup_limit_io(&host, &g, makedev(8, 17), NULL), 0);
	assert_holds("blkio/akira-t/a/blkio.throttle.read_bps_device", "8:16 1000000");
	assert_holds("blkio/akira-t/a/blkio.throttle.write_bps_device", "8:16 1000000");
	assert_holds("blkio/akira-t/a/blkio.throttle.read_iops_device", "8:16 77");
	assert_holds("blkio/akira-t/a/blkio.throttle.write_iops_device", "8:16 77");
	assert_int_equal(cgroup_enter(&host, &g), 0);
	assert_holds("blkio/akira-t/a/tasks", "0");
	close_v1(&host, &g);
}

/* ---- systemd's delegation ---- */

static void test_v2_delegated(void **state)
{
	struct cgroup_host host = { .create = O_CREAT, .self = "1:name=systemd:/x\n0::/a.service\n" };
	char mounts[400], path[256];
	make_dir("v2");
	make_dir("v2/a.service");
	put("v2/cgroup.controllers", "memory cpu pids\n");
	put("v2/a.service/cgroup.controllers", "memory cpu pids\n");
	path_of(path, "v2/a.service");
	if (setxattr(path, "trusted.delegate", "1", 1, 0) < 0)
		skip();
	snprintf(mounts, sizeof mounts, "30 1 0:26 / %s/v2 rw - cgroup2 cgroup2 rw\n", top);
	assert_int_equal(cgroup_host_open(&host, mounts, "akira-t", NULL), 0);
	assert_true(exists("v2/a.service/akira-t"));
	assert_false(exists("v2/akira-t"));
	assert_holds("v2/a.service/cgroup.subtree_control", "+memory +cpu +pids");
	fd_close(&host.root[0]);
	host.self = "0::/a.service/supervisor\n"; /* where an earlier launcher has put us */
	assert_int_equal(cgroup_host_open(&host, mounts, "akira-u", NULL), 0);
	assert_true(exists("v2/a.service/akira-u"));
	fd_close(&host.root[0]);
}

static void test_a_name_that_lies_in_wait_is_not_followed(void **state)
{
	struct cgroup_host host;
	struct cgroup g;
	char link[256], target[256];
	open_v2(&host, "memory cpu pids", 0);
	make_dir("target");
	path_of(link, "v2/akira-t/evil");
	path_of(target, "target");
	assert_int_equal(symlink(target, link), 0);
	assert_true(cgroup_make(&host, "evil", &limits, &g, NULL) < 0);
	assert_false(exists("target/memory.max"));
	fd_close(&host.root[0]);
}

static void test_empty_groups_are_removed(void **state)
{
	struct cgroup_host host;
	struct cgroup g = { .dir = { -1, -1, -1, -1, -1, -1, -1 } };
	open_v2(&host, "memory cpu pids", 0);
	make_dir("v2/akira-t/a");
	assert_int_equal(cgroup_remove(&host, "a", &g), 0);
	assert_false(exists("v2/akira-t/a"));
	assert_int_equal(cgroup_remove(&host, "a", &g), 0);
	fd_close(&host.root[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_v2_limits, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v2_usage, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v2_without_memory_is_not_enough, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v1_limits, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v1_usage, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v1_names_what_is_missing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v2_io, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_io_where_there_is_none, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v1_io, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_v2_delegated, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_name_that_lies_in_wait_is_not_followed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_empty_groups_are_removed, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
