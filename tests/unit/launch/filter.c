/*
 * H02: each system call number 0..1023 (and x32's) under each stage's filters, in a process of its own, against a list
 * kept here by hand: what is on no list kills. Arguments are all -1, so a call that is let through fails by itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch/filter.h"

#define NUMBERS 1024

/* Let through, at least with some arguments, in both stages. */
static const short both[] = {
	SYS_read,
	SYS_write,
	SYS_readv,
	SYS_writev,
	SYS_pread64,
	SYS_pwrite64,
	SYS_preadv,
	SYS_pwritev,
	SYS_lseek,
	SYS_close,
	SYS_fstat,
	SYS_fstatfs,
	SYS_fsync,
	SYS_fdatasync,
	SYS_sync_file_range,
	SYS_fadvise64,
	SYS_ftruncate,
	SYS_fallocate,
	SYS_copy_file_range,
	SYS_dup,
	SYS_dup2,
	SYS_dup3,
	SYS_pipe2,
	SYS_eventfd2,
	SYS_poll,
	SYS_ppoll,
	SYS_pselect6,
	SYS_epoll_create1,
	SYS_epoll_ctl,
	SYS_epoll_wait,
	SYS_epoll_pwait,
	SYS_signalfd4,
	SYS_timerfd_create,
	SYS_timerfd_settime,
	SYS_timerfd_gettime,
	SYS_fcntl,
	SYS_ioctl,
	SYS_recvmsg,
	SYS_sendmsg,
	SYS_recvfrom,
	SYS_sendto,
	SYS_shutdown,
	SYS_getsockname,
	SYS_getpeername,
	SYS_getsockopt,
	SYS_setsockopt,
	SYS_openat,
	SYS_open,
	SYS_newfstatat,
	SYS_stat,
	SYS_lstat,
	SYS_statfs,
	SYS_access,
	SYS_faccessat,
	SYS_readlink,
	SYS_readlinkat,
	SYS_getcwd,
	SYS_mmap,
	SYS_mprotect,
	SYS_munmap,
	SYS_mremap,
	SYS_brk,
	SYS_msync,
	SYS_mincore,
	SYS_madvise,
	SYS_clone,
	SYS_futex,
	SYS_set_robust_list,
	SYS_rseq,
	SYS_set_tid_address,
	SYS_sched_yield,
	SYS_sched_getaffinity,
	SYS_membarrier,
	SYS_getpid,
	SYS_gettid,
	SYS_exit,
	SYS_exit_group,
	SYS_restart_syscall,
	SYS_clock_gettime,
	SYS_clock_getres,
	SYS_clock_nanosleep,
	SYS_nanosleep,
	SYS_gettimeofday,
	SYS_time,
	SYS_getcpu,
	SYS_rt_sigaction,
	SYS_rt_sigprocmask,
	SYS_rt_sigreturn,
	SYS_rt_sigpending,
	SYS_rt_sigtimedwait,
	SYS_sigaltstack,
	SYS_tgkill,
	SYS_kill,
	SYS_getrandom,
	SYS_uname,
	SYS_sysinfo,
	SYS_getrusage,
	SYS_getuid,
	SYS_geteuid,
	SYS_getgid,
	SYS_getegid,
	SYS_getppid,
	SYS_prlimit64,
	SYS_getrlimit,
	SYS_prctl,
};
static const short start_alone[] = { SYS_getdents64, SYS_fchdir, SYS_umask, SYS_seccomp, SYS_arch_prctl, SYS_execve };
static const short no_such_call[] = { SYS_statx,          SYS_faccessat2, SYS_memfd_create, SYS_get_mempolicy,
				      SYS_set_mempolicy,  SYS_mbind,      SYS_userfaultfd,  SYS_clone3,
				      SYS_io_uring_setup, SYS_io_setup };
static const short refused[] = { SYS_mlock, SYS_mlockall, SYS_setpriority, SYS_sched_setscheduler,
				 SYS_sched_setaffinity };

enum verdict { KILLED, THROUGH, NOSYS, PERM };

#define HAS(list, nr) has(list, sizeof(list) / sizeof((list)[0]), nr)
static bool has(const short *list, size_t count, long nr)
{
	for (size_t i = 0; i < count; i++)
		if (list[i] == nr)
			return true;
	return false;
}

static enum verdict expected(enum filter_stage stage, long nr)
{
	if (HAS(both, nr) || (stage == FILTER_START && HAS(start_alone, nr)))
		return THROUGH;
	return HAS(no_such_call, nr) ? NOSYS : HAS(refused, nr) ? PERM : KILLED;
}

/* cmocka and the sanitizers catch signals; in the child a signal is the verdict. */
static void be_plain(void)
{
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	alarm(5);
}

static _Noreturn void child(const struct filter *filter, long nr)
{
	be_plain();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || filter_install(filter) < 0)
		_exit(90);
	long r = syscall(nr, -1L, -1L, -1L, -1L, -1L, -1L);
	syscall(SYS_exit_group, r == -1 && errno == ENOSYS ? 2 : r == -1 && errno == EPERM ? 3 : 1);
	__builtin_unreachable();
}

static int run(const struct filter *filter, long nr)
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		child(filter, nr);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/*
 * The kernel itself lets uretprobe (335) and uprobe (336) pass seccomp; they do something only at probes that root laid
 * into the program, else SIGILL or an error. futex(-1) answers ENOSYS by itself.
 */
static bool is_exempt(long nr, int status)
{
	return (nr == 335 && WIFSIGNALED(status)) || (nr == 336 && (WIFSIGNALED(status) || WEXITSTATUS(status) == 1)) ||
	       (nr == SYS_futex && WIFEXITED(status) && WEXITSTATUS(status) == 2);
}

static bool agrees(enum verdict want, int status)
{
	bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS;
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	if (code == 90)
		fail_msg("the filter could not be installed");
	if (want == KILLED)
		return killed;
	if (want == THROUGH) /* also with "these arguments are not allowed"; exit ends with 255, rt_sigreturn crashes */
		return !killed && code != 2;
	return code == (want == NOSYS ? 2 : 3);
}

static void check_stage(enum filter_stage stage)
{
	struct filter filter;
	int wrong = 0;
	assert_int_equal(filter_build(stage, &filter, NULL), 0);
	for (long nr = 0; nr < NUMBERS; nr++) {
		int status = run(&filter, nr);
		if (agrees(expected(stage, nr), status) || is_exempt(nr, status))
			continue;
		print_error("stage %d, system call %ld: expected %d, status %#x\n", stage, nr, expected(stage, nr),
			    status);
		wrong++;
	}
	for (long nr = 0; nr < 600; nr += 37)
		wrong += !agrees(KILLED, run(&filter, nr | 0x40000000));
	filter_free(&filter);
	assert_int_equal(wrong, 0);
}

static void test_every_number_at_start(void **state)
{
	check_stage(FILTER_START);
}

static void test_every_number_at_run(void **state)
{
	check_stage(FILTER_RUN);
}

/* Calls whose arguments decide: which errno each stage gives (0: it was let through, whatever came of it). */
static const struct {
	long nr, a[4];
	int start, run;
} arguments[] = {
	{ SYS_openat, { AT_FDCWD, (long)"/tmp", O_RDONLY }, 0, 0 },
	{ SYS_openat, { AT_FDCWD, (long)"/tmp/akira-x", O_CREAT | O_RDWR, 0600 }, EPERM, EPERM },
	{ SYS_openat, { AT_FDCWD, (long)"/tmp", O_TMPFILE | O_RDWR, 0600 }, EPERM, EPERM },
	{ SYS_open, { (long)"/tmp/akira-x", O_CREAT | O_RDWR, 0600 }, EPERM, EPERM },
	{ SYS_mprotect, { 0, 0, PROT_READ | PROT_WRITE }, 0, 0 },
	{ SYS_mprotect, { 0, 0, PROT_READ | PROT_EXEC }, 0, EPERM },
	{ SYS_mmap, { 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS }, 0, EPERM },
	{ SYS_mmap, { 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS }, 0, 0 },
	{ SYS_madvise, { 0, 0, MADV_DONTNEED }, 0, 0 },
	{ SYS_madvise, { 0, 0, MADV_MERGEABLE }, EPERM, EPERM },
	{ SYS_ioctl, { -1, TUNSETOFFLOAD }, 0, 0 },
	{ SYS_ioctl, { -1, TUNSETIFF }, EPERM, EPERM },
	{ SYS_ioctl, { -1, TIOCSTI }, EPERM, EPERM },
	{ SYS_ioctl, { -1, 0xae80 /* KVM_RUN */ }, 0, 0 },
	{ SYS_fcntl, { 0, F_GETFL }, 0, 0 },
	{ SYS_fcntl, { 0, F_SETOWN, 1 }, EPERM, EPERM },
	{ SYS_fcntl, { 0, F_SETPIPE_SZ, 1 << 20 }, EPERM, EPERM },
	{ SYS_prctl, { PR_SET_NAME, (long)"x" }, 0, 0 },
	{ SYS_prctl, { PR_SET_NO_NEW_PRIVS, 1 }, 0, EPERM },
	{ SYS_prctl, { PR_SET_DUMPABLE, 1 }, 0, EPERM },
	{ SYS_prctl, { PR_SET_MM, 0 }, EPERM, EPERM },
	{ SYS_kill, { 2, 0 }, EPERM, EPERM },
	{ SYS_tgkill, { 2, 2, 0 }, EPERM, EPERM },
	{ SYS_clone, { SIGCHLD }, EPERM, EPERM },
	{ SYS_clone, { CLONE_NEWUSER | SIGCHLD }, EPERM, EPERM },
	{ SYS_setsockopt, { -1, SOL_SOCKET, SO_ZEROCOPY }, 0, 0 },
	{ SYS_setsockopt, { -1, IPPROTO_IP, 1 }, EPERM, EPERM },
	{ SYS_prlimit64, { 0, RLIMIT_NOFILE, 0, 0 }, 0, 0 },
	{ SYS_prlimit64, { 0, RLIMIT_NOFILE, (long)"12345678123456781234", 0 }, EPERM, EPERM },
};

static int error_of(const struct filter *filter, size_t i)
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		const long *a = arguments[i].a;
		be_plain();
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || filter_install(filter) < 0)
			_exit(200);
		long r = syscall(arguments[i].nr, a[0], a[1], a[2], a[3], -1L, 0L);
		syscall(SYS_exit_group, r == -1 && errno == EPERM ? EPERM : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_arguments(void **state)
{
	struct filter filters[FILTER_STAGES];
	for (int stage = 0; stage < FILTER_STAGES; stage++)
		assert_int_equal(filter_build((enum filter_stage)stage, &filters[stage], NULL), 0);
	for (size_t i = 0; i < sizeof arguments / sizeof arguments[0]; i++) {
		int start = error_of(&filters[FILTER_START], i), in_run = error_of(&filters[FILTER_RUN], i);
		if (start != arguments[i].start || in_run != arguments[i].run)
			fail_msg("line %zu, system call %ld: %d and %d", i, arguments[i].nr, start, in_run);
	}
	for (int stage = 0; stage < FILTER_STAGES; stage++)
		filter_free(&filters[stage]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_number_at_start),
		cmocka_unit_test(test_every_number_at_run),
		cmocka_unit_test(test_arguments),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
