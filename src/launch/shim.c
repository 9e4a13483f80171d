/*
 * Preloaded into the VM process (LD_PRELOAD, set by the jail). It does four things and keeps quiet:
 *
 * 1. At load it makes the process undumpable (no core, no ptrace, no /proc/PID/mem by the same uid).
 * 2. When QEMU's main loop begins it installs the second seccomp filter on all threads (TSYNC); if it cannot, it ends
 *    the process. The moment: main_loop_wait() is the one place that calls g_main_context_query() from outside glib
 *    on the main thread; by then the command line has been worked off: files and modules are open, the code cache is
 *    mapped, QEMU's own -sandbox is on, no instruction of the guest has run.
 * 3. fallocate(FALLOC_FL_ZERO_RANGE) becomes FALLOC_FL_PUNCH_HOLE: QEMU zeroes with the former, which allocates the
 *    blocks; with the latter a sparse disk stays sparse. Both read as zeros.
 * 4. /vm/ram that is mounted read-only can be opened for reading and writing and is then open for reading: QEMU 7.2
 *    opens a memory-backend-file like that even with share=off, whose private mapping needs no more. So many VMs can
 *    map one template without any of them being able to change it.
 */
#undef _FORTIFY_SOURCE   /* with it the header declares __open64_2 itself, and open is no plain function */
#undef _FILE_OFFSET_BITS /* with it the header makes one symbol of fallocate and fallocate64; both are wanted */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILTER "/lib/akira-shim.bpf"
#define FILTER_MAX (64 << 10)
#define EXPORT __attribute__((visibility("default")))

/* Of GLib: as in <glib.h>, without needing it to build. */
typedef struct GMainContext_ GMainContext;
typedef struct GPollFD_ GPollFD;
EXPORT int g_main_context_query(GMainContext *context, int priority, int *timeout, GPollFD *fds, int count);

static _Alignas(8) char filter[FILTER_MAX];
static size_t filter_size;
static atomic_bool installed;

static void die(const char *why)
{
	if (write(STDERR_FILENO, why, strlen(why)) < 0)
		_exit(127);
	_exit(126);
}

static void read_filter(void)
{
	int fd = open(FILTER, O_RDONLY | O_CLOEXEC);
	ssize_t got;
	if (fd < 0)
		die("akira-shim: no filter in the jail\n");
	while ((got = read(fd, filter + filter_size, sizeof filter - filter_size)) > 0)
		filter_size += (size_t)got;
	if (got < 0 || filter_size < 16 || filter_size == sizeof filter)
		die("akira-shim: the filter cannot be read\n");
	close(fd);
}

__attribute__((constructor)) static void shim_start(void)
{
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		die("akira-shim: the process stays dumpable\n");
	read_filter();
}

/* The programs follow one another, each led by a u32 with its size (see filter_build in filter.c). */
static void install(void)
{
	struct sock_fprog programs[4];
	size_t count = 0;
	for (size_t at = 0; at + 8 <= filter_size && count < 4; count++) {
		uint32_t size;
		memcpy(&size, filter + at, sizeof size);
		if (size > filter_size - at - 8 || size % sizeof(struct sock_filter))
			die("akira-shim: the filter is malformed\n");
		programs[count] = (struct sock_fprog){ (unsigned short)(size / sizeof(struct sock_filter)),
						       (struct sock_filter *)(void *)(filter + at + 8) };
		at += 8 + size;
	}
	for (size_t i = 0; i < count; i++)
		if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &programs[i]) != 0)
			die("akira-shim: the filter cannot be installed\n");
}

int g_main_context_query(GMainContext *context, int priority, int *timeout, GPollFD *fds, int count)
{
	static int (*real)(GMainContext *, int, int *, GPollFD *, int);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "g_main_context_query");
	if (getpid() == (pid_t)syscall(SYS_gettid) && !atomic_exchange(&installed, 1))
		install();
	return real ? real(context, priority, timeout, fds, count) : 0;
}

/* Without KEEP_SIZE a zeroed range beyond the end makes the file longer; a hole never does. */
static int punch(int fd, int mode, off_t offset, off_t size)
{
	struct stat st;
	if (offset < 0 || size <= 0 || offset > INT64_MAX - size) {
		errno = EINVAL;
		return -1;
	}
	if (!(mode & FALLOC_FL_KEEP_SIZE) && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size < offset + size &&
	    ftruncate(fd, offset + size) < 0)
		return -1;
	return (int)syscall(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t size)
{
	if (mode & FALLOC_FL_ZERO_RANGE)
		return punch(fd, mode, offset, size);
	return (int)syscall(SYS_fallocate, fd, mode, offset, size);
}

EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t size)
{
	return fallocate(fd, mode, offset, size);
}

static int open_ram(const char *path, int flags, mode_t mode)
{
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
	if (fd < 0 && (errno == EROFS || errno == EACCES) && (flags & O_ACCMODE) == O_RDWR && !strcmp(path, "/vm/ram"))
		fd = (int)syscall(SYS_openat, AT_FDCWD, path, (flags & ~(O_ACCMODE | O_CREAT)) | O_RDONLY, 0);
	return fd;
}

static mode_t mode_of(int flags, va_list args)
{
	return flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

EXPORT int open(const char *path, int flags, ...)
{
	va_list args;
	va_start(args, flags);
	mode_t mode = mode_of(flags, args);
	va_end(args);
	return open_ram(path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...)
{
	va_list args;
	va_start(args, flags);
	mode_t mode = mode_of(flags, args);
	va_end(args);
	return open_ram(path, flags | O_LARGEFILE, mode);
}

/* What glibc's _FORTIFY_SOURCE makes of an open64 whose flags are not known when it is compiled, as QEMU's of RAM. */
EXPORT int __open64_2(const char *path, int flags);
int __open64_2(const char *path, int flags)
{
	return open_ram(path, flags, 0);
}
