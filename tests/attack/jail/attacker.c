/*
 * A VM process that an attacker has taken over: placed in the jail instead of QEMU, it tries one attack a run and says
 * on descriptor 3 how that went: "ok …" (it worked) or "no ERRNO …". A run that seccomp kills says nothing and ends by
 * SIGSYS. With "--run" in front it first enters the second stage, as QEMU's main loop does (needs the shim, so the
 * dynamic build of this program).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

extern int g_main_context_query(void *, int, int *, void *, int) __attribute__((weak));

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
	char text[512];
	va_list args;
	va_start(args, format);
	int size = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (write(3, text, (size_t)size) != size)
		_exit(99);
}

static int tell(long r)
{
	if (r < 0)
		say("no %d", errno);
	else
		say("ok %ld", r);
	return r < 0 ? 1 : 0;
}

/* ---- H01 ---- */

static int try_open(char **a)
{
	return tell(open(a[0], (int)strtol(a[1], NULL, 0) | O_CLOEXEC, 0600));
}

/* How many names there are below /, so that the test sees every one that should not be. */
static int list_root(char **a)
{
	static const char *const names[] = { "proc", "sys",  "etc", "root", "home", "tmp",  "var",
					     "run",  "boot", "mnt", "opt",  "srv",  "sbin", "media" };
	int found = 0;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		struct stat st;
		char path[64];
		snprintf(path, sizeof path, "%s/%s", a[0], names[i]);
		found += stat(path, &st) == 0;
	}
	say("ok %d", found);
	return 0;
}

static int try_write(char **a)
{
	int fd = open(a[0], O_RDWR | O_CLOEXEC);
	return tell(fd < 0 ? -1 : write(fd, "x", 1));
}

static int try_make(char **a)
{
	return tell(syscall(SYS_openat, AT_FDCWD, a[0], O_CREAT | O_RDWR, 0600));
}

/* ---- H02, H03, H04: by number, with arguments that would do something ---- */

static int try_call(char **a)
{
	long v[7] = { 0 };
	for (int i = 0; i < 7 && a[i]; i++)
		v[i] = strtol(a[i], NULL, 0);
	return tell(syscall(v[0], v[1], v[2], v[3], v[4], v[5], v[6]));
}

static int try_int80(char **a)
{
	long r = strtol(a[0], NULL, 0);
	__asm__ volatile("int $0x80" : "+a"(r) : "b"(0), "c"(0), "d"(0) : "memory", "r8", "r9", "r10", "r11");
	errno = r < 0 ? (int)-r : 0;
	return tell(r < 0 ? -1 : r);
}

static int try_exec_memory(char **a)
{
	static const unsigned char code[] = { 0xb8, 42, 0, 0, 0, 0xc3 }; /* mov eax, 42; ret */
	int how = a[0][0] == 'p' ? PROT_READ | PROT_WRITE : PROT_READ | PROT_WRITE | PROT_EXEC;
	void *p = mmap(NULL, 4096, how, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return tell(-1);
	memcpy(p, code, sizeof code);
	if (a[0][0] == 'p' && mprotect(p, 4096, PROT_READ | PROT_EXEC) < 0)
		return tell(-1);
	return tell(((int (*)(void))(uintptr_t)p)());
}

static int try_memfd(char **a)
{
	return tell(syscall(SYS_memfd_create, "x", 0));
}

static int try_execve(char **a)
{
	char *const args[] = { a[0], NULL }, *const env[] = { NULL };
	execve(a[0], args, env);
	return tell(-1);
}

static int try_mount(char **a)
{
	return tell(mount("x", "/vm", "tmpfs", 0, NULL));
}

static int try_remount(char **a)
{
	return tell(mount(NULL, a[0], NULL, MS_REMOUNT | MS_BIND, NULL));
}

static int try_pivot(char **a)
{
	if (chroot("/vm") < 0)
		return tell(-1);
	return tell(chdir("../../.."));
}

static int try_setuid(char **a)
{
	if (setgid(0) == 0 || setuid(0) == 0)
		return tell(0);
	return tell(-1);
}

static int try_ptrace(char **a)
{
	return tell(ptrace(PTRACE_SEIZE, atoi(a[0]), 0, 0));
}

static int try_read_memory(char **a)
{
	char byte;
	struct iovec here = { &byte, 1 }, there = { (void *)0x400000, 1 };
	return tell(syscall(SYS_process_vm_readv, atoi(a[0]), &here, 1, &there, 1, 0));
}

static int try_kill(char **a)
{
	return tell(kill(atoi(a[0]), SIGKILL));
}

/* Every number that another process could have: is any of them there? */
static int find_processes(char **a)
{
	int found = 0;
	for (int pid = 2; pid < 40000; pid++)
		found += syscall(SYS_tgkill, 1, pid, 0) == 0; /* our own threads alone */
	say("ok %d", found);
	return 0;
}

/* ---- H05 ---- */

static int try_socket(char **a)
{
	return tell(socket(atoi(a[0]), atoi(a[1]), atoi(a[2])));
}

static int try_connect(char **a)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(80) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	inet_pton(AF_INET, a[0], &to.sin_addr);
	return tell(fd < 0 ? -1 : connect(fd, (struct sockaddr *)&to, sizeof to));
}

static int try_abstract(char **a)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(to.sun_path + 1, sizeof to.sun_path - 1, "%s", a[0]);
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(a[0]));
	return tell(fd < 0 ? -1 : connect(fd, (struct sockaddr *)&to, size));
}

/* ---- H11 to H15 and the resources ---- */

static int list_fds(char **a)
{
	char list[256] = "";
	for (int fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			snprintf(list + strlen(list), sizeof list - strlen(list), " %d", fd);
	say("ok%s", list);
	return 0;
}

static int show_dumpable(char **a)
{
	return tell(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
}

static int crash(char **a)
{
	raise(SIGSEGV);
	__asm__ volatile("movl $1, 8" ::
				 : "memory"); /* PID 1 of a namespace does not die of a raised signal, but of this */
	return 0;
}

static int grow_file(char **a)
{
	int fd = open(a[0], O_RDWR | O_CLOEXEC);
	if (fd < 0 || pwrite(fd, "x", 1, strtol(a[1], NULL, 0)) != 1)
		return tell(-1);
	return tell(0);
}

static int use_fds(char **a)
{
	int count = 0;
	while (count < 100000 && dup(0) >= 0)
		count++;
	say("ok %d %d", count, errno);
	return 0;
}

static void *rest(void *unused)
{
	for (;;)
		poll(NULL, 0, -1);
	return unused;
}

static int use_threads(char **a)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int count = 0, r = 0;
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 64 << 10);
	while (count < 5000 && (r = pthread_create(&thread, &attributes, rest, NULL)) == 0)
		count++;
	say("ok %d %d", count, r);
	return 0;
}

static int use_memory(char **a)
{
	for (size_t left = strtoul(a[0], NULL, 0); left > 0; left -= 1 << 20) {
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return tell(-1);
		for (size_t i = 0; i < 1 << 20; i += 4096)
			p[i] = 1;
	}
	return tell(0);
}

static int use_cpu(char **a)
{
	struct timespec now, start;
	clock_gettime(CLOCK_MONOTONIC, &start);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < atoi(a[0]));
	return tell(0);
}

static int chatter(char **a)
{
	static char line[1024];
	memset(line, 'A', sizeof line - 1);
	memcpy(line, "\033[2J{\"event\":\"forged\"}\r", 23);
	line[sizeof line - 1] = '\n';
	for (long left = strtol(a[0], NULL, 0); left > 0; left -= (long)sizeof line)
		if (write(1, line, sizeof line) < 0)
			return tell(-1);
	return tell(0);
}

static int stay(char **a)
{
	pthread_t thread;
	for (int i = a[0] ? atoi(a[0]) : 0; i > 0; i--)
		if (pthread_create(&thread, NULL, rest, NULL))
			return tell(-1);
	say("ok");
	rest(NULL);
	return 0;
}

/* FALLOC_FL_ZERO_RANGE through the C library: the shim makes a hole of it. */
static int zero_range(char **a)
{
	struct stat st;
	int fd = open(a[0], O_RDWR | O_CLOEXEC);
	if (fd < 0 || fallocate(fd, 0x10, 0, strtol(a[1], NULL, 0)) < 0 || fstat(fd, &st) < 0)
		return tell(-1);
	say("ok %ld %ld", (long)st.st_size, (long)st.st_blocks);
	return 0;
}

/* Past the page cache, in requests of 64 KiB: a[1] MiB written ("w") or read, again and again if a[3]. */
static int use_disk(char **a)
{
	static unsigned char block[64 << 10] __attribute__((aligned(4096)));
	bool writes = a[2][0] == 'w';
	int fd = open(a[0], O_RDWR | O_DIRECT | O_CLOEXEC);
	long blocks = strtol(a[1], NULL, 0) << 4;
	for (long i = 0; fd >= 0 && i < blocks; i = a[3] && i + 1 == blocks ? 0 : i + 1) {
		off_t at = (off_t)i * (off_t)sizeof block;
		if ((writes ? pwrite(fd, block, sizeof block, at) : pread(fd, block, sizeof block, at)) != sizeof block)
			return tell(-1);
	}
	return tell(fd < 0 ? -1 : 0);
}

static int nothing(char **a)
{
	return 0;
}

static const struct {
	const char *name;
	int (*attack)(char **arguments);
	int arguments;
} attacks[] = {
	{ "open", try_open, 2 },
	{ "root", list_root, 1 },
	{ "write", try_write, 1 },
	{ "make", try_make, 1 },
	{ "call", try_call, 1 },
	{ "int80", try_int80, 1 },
	{ "execmem", try_exec_memory, 1 },
	{ "memfd", try_memfd, 0 },
	{ "execve", try_execve, 1 },
	{ "mount", try_mount, 0 },
	{ "remount", try_remount, 1 },
	{ "chroot", try_pivot, 0 },
	{ "setuid", try_setuid, 0 },
	{ "ptrace", try_ptrace, 1 },
	{ "readmem", try_read_memory, 1 },
	{ "kill", try_kill, 1 },
	{ "processes", find_processes, 0 },
	{ "socket", try_socket, 3 },
	{ "connect", try_connect, 1 },
	{ "abstract", try_abstract, 1 },
	{ "fds", list_fds, 0 },
	{ "dumpable", show_dumpable, 0 },
	{ "crash", crash, 0 },
	{ "grow", grow_file, 2 },
	{ "usefds", use_fds, 0 },
	{ "threads", use_threads, 0 },
	{ "memory", use_memory, 1 },
	{ "cpu", use_cpu, 1 },
	{ "chatter", chatter, 1 },
	{ "stay", stay, 0 },
	{ "zero", zero_range, 2 },
	{ "disk", use_disk, 3 },
	{ "nothing", nothing, 0 },
};

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--run")) {
		if (!g_main_context_query)
			return 98;
		g_main_context_query(NULL, 0, NULL, NULL, 0);
		argv++;
		argc--;
	}
	for (size_t i = 0; argc > 1 && i < sizeof attacks / sizeof attacks[0]; i++)
		if (!strcmp(argv[1], attacks[i].name) && argc - 2 >= attacks[i].arguments)
			return attacks[i].attack(argv + 2);
	return 97;
}
