/*
 * Theory of operation. Each stage is two libseccomp filters that are both installed; the kernel takes the severest
 * answer. The outer one knows numbers alone and kills the process for any number that is not in the table (also for
 * another architecture's and x32 numbers). The inner one looks at arguments and answers EPERM, or the error that the
 * table names, where the number is fine and the arguments are not: QEMU asks for many things in passing and lives
 * well without them.
 *
 * FILTER_START is installed by the jail's child before its exec and must let the loader and QEMU's start-up work.
 * FILTER_RUN is installed by the shim on all threads when QEMU's main loop begins: filters stack, so it only takes
 * away. With TCG the code cache is mapped writable and executable before that moment and stays so; from then on no
 * other memory can become executable.
 */
#include "launch/filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

enum { START = 1 << FILTER_START, RUN = 1 << FILTER_RUN, BOTH = START | RUN };
enum { ANY = -1 };

/* Allowed if (argument & mask) == value; several lines of one call are alternatives. error: not allowed, this errno. */
struct rule {
	int call;
	int stages;
	int argument; /* ANY: whatever the arguments */
	uint64_t mask, value;
	int error;
};

#define ALWAYS(call, stages)                         \
	{                                            \
		SCMP_SYS(call), stages, ANY, 0, 0, 0 \
	}
#define REFUSED(call, error)                           \
	{                                              \
		SCMP_SYS(call), BOTH, ANY, 0, 0, error \
	}
#define IS(call, stages, argument, value)                              \
	{                                                              \
		SCMP_SYS(call), stages, argument, UINT64_MAX, value, 0 \
	}
#define IS32(call, stages, argument, value)                            \
	{                                                              \
		SCMP_SYS(call), stages, argument, UINT32_MAX, value, 0 \
	}
#define MASKED(call, stages, argument, mask, value)              \
	{                                                        \
		SCMP_SYS(call), stages, argument, mask, value, 0 \
	}

static const struct rule rules[] = {
	/* Descriptors that are open. */
	ALWAYS(read, BOTH),
	ALWAYS(write, BOTH),
	ALWAYS(readv, BOTH),
	ALWAYS(writev, BOTH),
	ALWAYS(pread64, BOTH),
	ALWAYS(pwrite64, BOTH),
	ALWAYS(preadv, BOTH),
	ALWAYS(pwritev, BOTH),
	ALWAYS(lseek, BOTH),
	ALWAYS(close, BOTH),
	ALWAYS(fstat, BOTH),
	ALWAYS(fstatfs, BOTH),
	ALWAYS(fsync, BOTH),
	ALWAYS(fdatasync, BOTH),
	ALWAYS(sync_file_range, BOTH),
	ALWAYS(fadvise64, BOTH),
	ALWAYS(ftruncate, BOTH),
	ALWAYS(fallocate, BOTH),
	ALWAYS(copy_file_range, BOTH),
	ALWAYS(dup, BOTH),
	ALWAYS(dup2, BOTH),
	ALWAYS(dup3, BOTH),
	ALWAYS(pipe2, BOTH),
	ALWAYS(eventfd2, BOTH),
	ALWAYS(poll, BOTH),
	ALWAYS(ppoll, BOTH),
	ALWAYS(pselect6, BOTH),
	ALWAYS(epoll_create1, BOTH),
	ALWAYS(epoll_ctl, BOTH),
	ALWAYS(epoll_wait, BOTH),
	ALWAYS(epoll_pwait, BOTH),
	ALWAYS(signalfd4, BOTH),
	ALWAYS(timerfd_create, BOTH),
	ALWAYS(timerfd_settime, BOTH),
	ALWAYS(timerfd_gettime, BOTH),
	IS32(fcntl, BOTH, 1, F_GETFD),
	IS32(fcntl, BOTH, 1, F_SETFD),
	IS32(fcntl, BOTH, 1, F_GETFL),
	IS32(fcntl, BOTH, 1, F_SETFL),
	IS32(fcntl, BOTH, 1, F_DUPFD),
	IS32(fcntl, BOTH, 1, F_DUPFD_CLOEXEC),
	IS32(fcntl, BOTH, 1, F_OFD_GETLK),
	IS32(fcntl, BOTH, 1, F_OFD_SETLK),
	IS32(fcntl, BOTH, 1, F_GETLK),
	IS32(fcntl, BOTH, 1, F_SETLK),
	IS32(ioctl, BOTH, 1, TUNGETIFF),
	IS32(ioctl, BOTH, 1, TUNGETFEATURES),
	IS32(ioctl, BOTH, 1, TUNSETOFFLOAD),
	IS32(ioctl, BOTH, 1, TUNGETVNETHDRSZ),
	IS32(ioctl, BOTH, 1, TUNSETVNETHDRSZ),
	IS32(ioctl, BOTH, 1, TUNSETVNETLE),
	IS32(ioctl, BOTH, 1, TUNSETVNETBE),
	IS32(ioctl, BOTH, 1, FIONBIO),
	IS32(ioctl, BOTH, 1, FIONREAD),
	MASKED(ioctl, BOTH, 1, 0xffffff00u & ~0xffff0000u, 0xae00), /* KVM's: only of use with /dev/kvm */

	/* Sockets that were handed in. */
	ALWAYS(recvmsg, BOTH),
	ALWAYS(sendmsg, BOTH),
	ALWAYS(recvfrom, BOTH),
	ALWAYS(sendto, BOTH),
	ALWAYS(shutdown, BOTH),
	ALWAYS(getsockname, BOTH),
	ALWAYS(getpeername, BOTH),
	ALWAYS(getsockopt, BOTH),
	IS32(setsockopt, BOTH, 1, SOL_SOCKET),

	/* Names: the root is a read-only tree and /vm; nothing can be made. */
	MASKED(openat, BOTH, 2, O_CREAT | (O_TMPFILE & ~O_DIRECTORY), 0),
	MASKED(open, BOTH, 1, O_CREAT | (O_TMPFILE & ~O_DIRECTORY), 0),
	ALWAYS(newfstatat, BOTH),
	ALWAYS(stat, BOTH),
	ALWAYS(lstat, BOTH),
	ALWAYS(statfs, BOTH),
	ALWAYS(access, BOTH),
	ALWAYS(faccessat, BOTH),
	ALWAYS(readlink, BOTH),
	ALWAYS(readlinkat, BOTH),
	ALWAYS(getcwd, BOTH),
	ALWAYS(getdents64, START),
	ALWAYS(fchdir, START),
	ALWAYS(umask, START),
	REFUSED(statx, ENOSYS),
	REFUSED(faccessat2, ENOSYS),

	/* Memory. */
	ALWAYS(mmap, START),
	ALWAYS(mprotect, START),
	MASKED(mmap, RUN, 2, PROT_EXEC, 0),
	MASKED(mprotect, RUN, 2, PROT_EXEC, 0),
	ALWAYS(munmap, BOTH),
	ALWAYS(mremap, BOTH),
	ALWAYS(brk, BOTH),
	ALWAYS(msync, BOTH),
	ALWAYS(mincore, BOTH),
	/* Not MADV_MERGEABLE: pages that are shared by content tell one tenant of another. */
	IS32(madvise, BOTH, 2, MADV_NORMAL),
	IS32(madvise, BOTH, 2, MADV_RANDOM),
	IS32(madvise, BOTH, 2, MADV_SEQUENTIAL),
	IS32(madvise, BOTH, 2, MADV_WILLNEED),
	IS32(madvise, BOTH, 2, MADV_DONTNEED),
	IS32(madvise, BOTH, 2, MADV_FREE),
	IS32(madvise, BOTH, 2, MADV_REMOVE),
	IS32(madvise, BOTH, 2, MADV_DONTFORK),
	IS32(madvise, BOTH, 2, MADV_HUGEPAGE),
	IS32(madvise, BOTH, 2, MADV_NOHUGEPAGE),
	IS32(madvise, BOTH, 2, MADV_DONTDUMP),
	REFUSED(memfd_create, ENOSYS),
	REFUSED(get_mempolicy, ENOSYS),
	REFUSED(set_mempolicy, ENOSYS),
	REFUSED(mbind, ENOSYS),
	REFUSED(mlock, EPERM),
	REFUSED(mlockall, EPERM),
	REFUSED(userfaultfd, ENOSYS),

	/* Threads, time, signals to itself. */
	MASKED(clone, BOTH, 0, CLONE_VM | CLONE_THREAD | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET,
	       CLONE_VM | CLONE_THREAD),
	REFUSED(clone3, ENOSYS), /* its flags are out of a filter's sight; glibc then takes clone */
	ALWAYS(futex, BOTH),
	ALWAYS(set_robust_list, BOTH),
	ALWAYS(rseq, BOTH),
	ALWAYS(set_tid_address, BOTH),
	ALWAYS(sched_yield, BOTH),
	ALWAYS(sched_getaffinity, BOTH),
	ALWAYS(membarrier, BOTH),
	ALWAYS(getpid, BOTH),
	ALWAYS(gettid, BOTH),
	ALWAYS(exit, BOTH),
	ALWAYS(exit_group, BOTH),
	ALWAYS(restart_syscall, BOTH),
	ALWAYS(clock_gettime, BOTH),
	ALWAYS(clock_getres, BOTH),
	ALWAYS(clock_nanosleep, BOTH),
	ALWAYS(nanosleep, BOTH),
	ALWAYS(gettimeofday, BOTH),
	ALWAYS(time, BOTH),
	ALWAYS(getcpu, BOTH),
	ALWAYS(rt_sigaction, BOTH),
	ALWAYS(rt_sigprocmask, BOTH),
	ALWAYS(rt_sigreturn, BOTH),
	ALWAYS(rt_sigpending, BOTH),
	ALWAYS(rt_sigtimedwait, BOTH),
	ALWAYS(sigaltstack, BOTH),
	IS32(tgkill, BOTH, 0, 1), /* PID 1 of its namespace: itself */
	IS32(kill, BOTH, 0, 1),

	/* What it is and how it is set. */
	ALWAYS(getrandom, BOTH),
	ALWAYS(uname, BOTH),
	ALWAYS(sysinfo, BOTH),
	ALWAYS(getrusage, BOTH),
	ALWAYS(getuid, BOTH),
	ALWAYS(geteuid, BOTH),
	ALWAYS(getgid, BOTH),
	ALWAYS(getegid, BOTH),
	ALWAYS(getppid, BOTH),
	IS(prlimit64, BOTH, 2, 0),
	ALWAYS(getrlimit, BOTH),
	IS32(prctl, BOTH, 0, PR_SET_NAME),
	IS32(prctl, BOTH, 0, PR_SET_TIMERSLACK),
	IS32(prctl, BOTH, 0, PR_GET_DUMPABLE),
	IS32(prctl, START, 0, PR_SET_NO_NEW_PRIVS),
	IS32(prctl, START, 0, PR_MCE_KILL),
	IS32(prctl, START, 0, PR_CAPBSET_READ),
	IS32(prctl, START, 0, PR_GET_SECCOMP),
	MASKED(prctl, START, 0, UINT32_MAX, PR_SET_DUMPABLE), /* to 0: the shim; to 1 it has no use in here */
	ALWAYS(seccomp, START),
	ALWAYS(arch_prctl, START),
	ALWAYS(execve, START),
	REFUSED(io_uring_setup, ENOSYS),
	REFUSED(io_setup, ENOSYS),
	REFUSED(setpriority, EPERM),
	REFUSED(sched_setscheduler, EPERM),
	REFUSED(sched_setaffinity, EPERM),
};
#define RULES (sizeof rules / sizeof rules[0])

static int add_inner(scmp_filter_ctx ctx, const struct rule *r)
{
	if (r->error == EPERM)
		return 0; /* the default */
	if (r->error)
		return seccomp_rule_add(ctx, SCMP_ACT_ERRNO((uint32_t)r->error & 0xffffu), r->call, 0);
	if (r->argument == ANY)
		return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, r->call, 0);
	return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, r->call, 1,
				SCMP_CMP((unsigned)r->argument, SCMP_CMP_MASKED_EQ, r->mask, r->value));
}

static int add_rules(scmp_filter_ctx ctx, enum filter_stage stage, bool inner)
{
	for (size_t i = 0; i < RULES; i++) {
		const struct rule *r = &rules[i];
		if (!(r->stages & 1 << stage))
			continue;
		int added = inner ? add_inner(ctx, r) : seccomp_rule_add(ctx, SCMP_ACT_ALLOW, r->call, 0);
		if (added < 0 && added != -EEXIST)
			return added;
	}
	/* The inner one of FILTER_RUN goes in first; it must let the outer one, which then forbids this, be installed. */
	int added = inner ? seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(seccomp), 0) : 0;
	return added == -EEXIST ? 0 : added;
}

/* As a file of its own in memory: libseccomp 2.5 writes to descriptors only. */
static int export_code(scmp_filter_ctx ctx, void **code, size_t *size)
{
	_cleanup_fd_ int fd = memfd_create("filter", MFD_CLOEXEC);
	int r = fd < 0 ? -errno : seccomp_export_bpf(ctx, fd);
	off_t end = r < 0 ? -1 : lseek(fd, 0, SEEK_END);
	if (r < 0 || end <= 0)
		return r < 0 ? r : -EIO;
	*code = malloc((size_t)end);
	*size = (size_t)end;
	return *code && pread(fd, *code, *size, 0) == (ssize_t)*size ? 0 : -ENOMEM;
}

static int build_one(enum filter_stage stage, bool inner, void **code, size_t *size)
{
	scmp_filter_ctx ctx = seccomp_init(inner ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_KILL_PROCESS);
	if (!ctx)
		return -ENOMEM;
	int r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	r = r < 0 ? r : add_rules(ctx, stage, inner);
	r = r < 0 ? r : export_code(ctx, code, size);
	seccomp_release(ctx);
	return r;
}

/*
 * Both programs one after the other, each led by a u32 with its size in bytes (and 4 bytes of nothing). The inner one
 * comes first: once the outer one of FILTER_RUN is in, nothing more can be installed.
 */
int filter_build(enum filter_stage stage, struct filter *filter, struct error *err)
{
	*filter = (struct filter){ 0 };
	for (int inner = 1; inner >= 0; inner--) {
		_cleanup_free_ void *code = NULL;
		size_t size = 0;
		int r = build_one(stage, inner, &code, &size);
		char *grown = r < 0 ? NULL : realloc(filter->code, filter->size + 8 + size);
		if (!grown) {
			filter_free(filter);
			return error_errno(err, r < 0 ? -r : ENOMEM, "build the seccomp filter");
		}
		memcpy(grown + filter->size, (uint32_t[2]){ (uint32_t)size, 0 }, 8);
		memcpy(grown + filter->size + 8, code, size);
		filter->code = grown;
		filter->size += 8 + size;
	}
	return 0;
}

void filter_free(struct filter *filter)
{
	free(filter->code);
	*filter = (struct filter){ 0 };
}

int filter_install(const struct filter *filter)
{
	char *at = filter->code;
	for (size_t left = filter->size; left > 8;) {
		uint32_t size;
		memcpy(&size, at, sizeof size);
		struct sock_fprog program = { (unsigned short)(size / sizeof(struct sock_filter)),
					      (struct sock_filter *)(void *)(at + 8) };
		if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
			return -errno;
		at += 8 + size;
		left -= 8 + size;
	}
	return 0;
}
