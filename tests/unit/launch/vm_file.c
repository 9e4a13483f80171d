/* The rules for files of a VM that need no root: what is refused. What is granted: tests/attack/jail. */
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
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "launch/vm_file.h"

static char path[] = "/tmp/akira-file-XXXXXX";
static struct uids uids;

static struct vm_file_rules rules_for(int fd, uid_t user)
{
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	return (struct vm_file_rules){ user, getgid(), st.st_dev, &uids };
}

static int set_up(void **state)
{
	strcpy(path + strlen(path) - 6, "XXXXXX");
	int fd = mkstemp(path);
	fd_close(&fd);
	return uids_init(&uids, 700000, 10, NULL);
}

static int tear_down(void **state)
{
	uids_end(&uids);
	return unlink(path);
}

static void test_wrong_ways_to_open(void **state)
{
	_cleanup_fd_ int ro = open(path, O_RDONLY | O_CLOEXEC), wo = open(path, O_WRONLY | O_CLOEXEC);
	_cleanup_fd_ int named = open(path, O_PATH | O_CLOEXEC);
	struct vm_file_rules rules = rules_for(ro, getuid());
	assert_int_equal(vm_file_check(&rules, ro, true, 700000, NULL), -EACCES);
	assert_int_equal(vm_file_check(&rules, wo, true, 700000, NULL), -EACCES);
	assert_int_equal(vm_file_check(&rules, wo, false, 700000, NULL), -EACCES);
	assert_int_equal(vm_file_check(&rules, named, false, 700000, NULL), -EACCES);
	assert_int_equal(vm_file_check(&rules, -1, false, 700000, NULL), -EBADF);
}

static void test_kinds(void **state)
{
	int ends[2], sockets[2];
	_cleanup_fd_ int device = open("/dev/null", O_RDWR | O_CLOEXEC), folder = open("/tmp", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	struct vm_file_rules rules = rules_for(device, getuid());
	assert_int_equal(vm_file_check(&rules, device, true, 700000, NULL), -EINVAL);
	assert_int_equal(vm_file_check(&rules, folder, false, 700000, NULL), -EINVAL);
	assert_int_equal(vm_file_check(&rules, ends[0], false, 700000, NULL), -EINVAL);
	assert_int_equal(vm_file_check(&rules, sockets[0], true, 700000, NULL), -EINVAL);
	for (int i = 0; i < 2; i++) {
		fd_close(&ends[i]);
		fd_close(&sockets[i]);
	}
}

static void test_links(void **state)
{
	char second[64];
	_cleanup_fd_ int fd = open(path, O_RDWR | O_CLOEXEC);
	struct vm_file_rules rules = rules_for(fd, getuid());
	snprintf(second, sizeof second, "%s.2", path);
	assert_int_equal(link(path, second), 0);
	assert_int_equal(vm_file_check(&rules, fd, true, 700000, NULL), -EINVAL);
	assert_int_equal(unlink(second), 0);
}

static void test_owner_and_device(void **state)
{
	_cleanup_fd_ int fd = open(path, O_RDWR | O_CLOEXEC), memory = memfd_create("x", MFD_CLOEXEC);
	struct vm_file_rules rules = rules_for(fd, getuid() + 1);
	struct stat before, after;
	fstat(fd, &before);
	assert_int_equal(vm_file_check(&rules, fd, true, 700000, NULL), -EACCES);
	assert_int_equal(vm_file_check(&rules, fd, false, 700000, NULL), -EACCES);
	rules.user = getuid();
	rules.device++;
	assert_int_equal(vm_file_check(&rules, fd, true, 700000, NULL), -EACCES);
	assert_int_not_equal(vm_file_check(&rules, memory, true, 700000, NULL), 0);
	fstat(fd, &after);
	assert_memory_equal(&before, &after, sizeof before);
}

static void test_read_only_becomes_readable_for_the_vm(void **state)
{
	struct stat st;
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct vm_file_rules rules = rules_for(fd, getuid());
	assert_int_equal(fchmod(fd, 0600), 0);
	assert_int_equal(vm_file_check(&rules, fd, false, 700000, NULL), 0);
	fstat(fd, &st);
	assert_int_equal(st.st_mode & 07777, 0604);
	assert_int_equal(st.st_uid, getuid());
	rules.user = getuid() + 1;
	assert_int_equal(vm_file_check(&rules, fd, false, 700000, NULL), 0); /* anybody may read it by now */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_wrong_ways_to_open, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_kinds, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_links, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_owner_and_device, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_read_only_becomes_readable_for_the_vm, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
