#include "agent/boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"

#define DEVICES_WAIT_MS 20000
#define EROFS_MAGIC "\xe2\xe1\xf5\xe0"

/* What root may keep. Everything that reaches beyond the sandbox, or the agent, is not here. */
static const int kept_capabilities[] = {
	CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER,           CAP_FSETID,          CAP_KILL,           CAP_SETGID,
	CAP_SETUID, CAP_SETPCAP,      CAP_NET_BIND_SERVICE, CAP_NET_RAW,         CAP_SYS_CHROOT,     CAP_SETFCAP,
	CAP_LEASE,  CAP_IPC_OWNER,    CAP_IPC_LOCK,         CAP_LINUX_IMMUTABLE, CAP_SYS_TTY_CONFIG, CAP_NET_BROADCAST,
};

static void mount_or_die(const char *type, const char *where, unsigned long flags, const char *options)
{
	mkdir(where, 0755);
	if (mount(type, where, type, flags, options) < 0 && errno != EBUSY)
		agent_die("mount %s on %s: %m", type, where);
}

static void mount_kernel_file_systems(void)
{
	unsigned long hard = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	mount_or_die("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	mount_or_die("proc", "/proc", hard, NULL);
	mount_or_die("sysfs", "/sys", hard, NULL);
	mount_or_die("cgroup2", "/sys/fs/cgroup", hard, "nsdelegate");
	mount_or_die("tmpfs", "/run", hard, "mode=0700,size=1m");
}

/* 0, 1 and 2 must be taken, or a pipe would get one of these numbers. */
static void open_standard_descriptors(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);
	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 2)
		fd = dup(fd);
	if (fd > 2)
		close(fd);
}

static void load_module(const char *name)
{
	char path[300];

	snprintf(path, sizeof(path), "/modules/%s", name);
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
		agent_die("module %s: %m", name);
	unlink(path); /* the initramfs is memory of every sandbox */
}

static void load_modules(void)
{
	_cleanup_free_ char *order = NULL;
	char *save = NULL;

	if (access("/modules/order", F_OK) < 0)
		return;
	if (fd_read_file(AT_FDCWD, "/modules/order", 65536, &order, NULL, NULL) < 0)
		agent_die("cannot read /modules/order");
	for (char *name = strtok_r(order, "\n", &save); name; name = strtok_r(NULL, "\n", &save))
		load_module(name);
	unlink("/modules/order");
	rmdir("/modules");
}

/* First line of a file, or "". */
static void read_line(const char *path, char *line, size_t size)
{
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, size - 1);

	line[n > 0 ? n : 0] = '\0';
	line[strcspn(line, "\n")] = '\0';
}

static bool has_erofs(const char *device)
{
	char path[300], magic[4];

	snprintf(path, sizeof(path), "/dev/%s", device);
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && pread(fd, magic, 4, 1024) == 4 && memcmp(magic, EROFS_MAGIC, 4) == 0;
}

/*
 * Which disk is which: by the serial that the host gave it, as the order of the names depends on how the machine
 * enumerates its slots. Without serials the content tells the base.
 */
static bool find_disks(struct agent *a)
{
	DIR *dir = opendir("/sys/block");
	char path[300], serial[64];

	if (!dir)
		return false;
	for (struct dirent *e; (e = readdir(dir));) {
		if (!str_starts(e->d_name, "vd") || strlen(e->d_name) >= sizeof(a->base_device))
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/serial", e->d_name);
		read_line(path, serial, sizeof(serial));
		bool base = strcmp(serial, "base") == 0 || (!serial[0] && has_erofs(e->d_name));
		if (base || strcmp(serial, "scratch") == 0 || !serial[0])
			strcpy(base ? a->base_device : a->scratch_device, e->d_name);
	}
	closedir(dir);
	return a->base_device[0] && a->scratch_device[0];
}

static bool find_port(char device[32])
{
	DIR *dir = opendir("/sys/class/virtio-ports");
	char path[300], name[64];

	if (!dir)
		return false;
	device[0] = '\0';
	for (struct dirent *e; !device[0] && (e = readdir(dir));) {
		if (e->d_name[0] == '.' || strlen(e->d_name) > 20)
			continue;
		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
		read_line(path, name, sizeof(name));
		if (strcmp(name, GUEST_PORT_NAME) == 0)
			snprintf(device, 32, "/dev/%.20s", e->d_name);
	}
	closedir(dir);
	return device[0] && access(device, F_OK) == 0;
}

static int open_uevents(void)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		agent_die("listen for devices: %m");
	return fd;
}

static void wait_for_devices(struct agent *a, int uevents, char port[32])
{
	int64_t deadline = time_mono_ms() + DEVICES_WAIT_MS;
	bool disks = false, found = false;
	char drain[4096];

	for (;;) {
		disks = disks || find_disks(a);
		found = found || find_port(port);
		if (disks && found)
			return;
		struct pollfd wait = { .fd = uevents, .events = POLLIN };
		if (poll(&wait, 1, time_left_ms(deadline)) == 0)
			agent_die("no %s after %d ms", disks ? "port " GUEST_PORT_NAME : "disks base and scratch",
				  DEVICES_WAIT_MS);
		while (recv(uevents, drain, sizeof(drain), 0) > 0 || errno == ENOBUFS)
			if (errno == ENOBUFS)
				errno = 0;
	}
}

static void mount_base(struct agent *a)
{
	char device[32];

	snprintf(device, sizeof(device), "/dev/%s", a->base_device);
	mkdir("/base", 0755);
	if (mount(device, "/base", "erofs", MS_RDONLY | MS_NODEV | MS_NOATIME, NULL) < 0)
		agent_die("mount the base %s: %m", device);
}

/* Nothing here may fail quietly: it is what keeps the sandbox from the agent. */
static void restrict_self(void)
{
	uint64_t keep = 0;

	for (size_t i = 0; i < sizeof(kept_capabilities) / sizeof(kept_capabilities[0]); i++)
		keep |= UINT64_C(1) << kept_capabilities[i];
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			agent_die("drop capability %d: %m", cap);
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		agent_die("PR_SET_DUMPABLE: %m");

	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "-1000", 5) != 5)
		agent_die("oom_score_adj: %m");
	close(fd);
}

/* What the commands inherit, and the agent's own share of the processor. */
static void set_scheduling_and_limits(void)
{
	struct rlimit files = { .rlim_cur = 8192, .rlim_max = 1048576 };
	struct rlimit none = { .rlim_cur = 0, .rlim_max = RLIM_INFINITY }, any = { RLIM_INFINITY, RLIM_INFINITY };
	struct rlimit locked = { .rlim_cur = 8 << 20, .rlim_max = 8 << 20 };
	int priority = 2;

	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_CORE, &none);
	setrlimit(RLIMIT_NPROC, &any);
	setrlimit(RLIMIT_MEMLOCK, &locked);
	umask(022);
	/* Ahead of a thousand busy processes of the sandbox. */
	if (syscall(SYS_sched_setscheduler, 0, 2 /* SCHED_RR */, &priority) < 0)
		agent_say("real-time scheduling: %m");
}

static void ignore_nothing(int signal)
{
}

static void open_port(struct agent *a, const char *device)
{
	a->port.fd = open(device, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (a->port.fd < 0)
		agent_die("open %s: %m", device);
}

void boot(struct agent *a)
{
	char port[32];
	/* A handler, not SIG_IGN: exec takes handlers away, but hands SIG_IGN on. */
	struct sigaction broken_pipe = { .sa_handler = ignore_nothing, .sa_flags = SA_RESTART };

	mount_kernel_file_systems();
	open_standard_descriptors();
	sigaction(SIGPIPE, &broken_pipe, NULL);
	int uevents = open_uevents();
	load_modules();
	wait_for_devices(a, uevents, port);
	close(uevents);
	mount_base(a);
	open_port(a, port);
	a->null = open("/dev/null", O_RDWR | O_CLOEXEC);
	a->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	a->outer_pids = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (a->null < 0 || a->proc < 0 || a->outer_pids < 0)
		agent_die("open /dev/null and /proc: %m");
	restrict_self();
	set_scheduling_and_limits();
}
