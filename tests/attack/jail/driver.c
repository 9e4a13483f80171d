/*
 * Puts akirad's client library (daemon/launcher/launcher.h) at a test's disposal: one command a line on standard input, fields
 * separated by tabs, one line of answer each: "ok …" or "error CODE TEXT".
 *
 *   spawn PROGRAM QEMU RUN_DIR DATA_DIR USER UID_FIRST UID_COUNT KVM
 *         IO_BYTES IO_OPS                                              ok SWEPT PID_OF_LAUNCHER
 *   start ID SLOT QUARTERS MEMORY FSIZE FDS FILES ARG…                   ok PID
 *         SLOT: a number or -; FDS: how many ends of socketpairs to pass; FILES: r:NAME:PATH or w:NAME:PATH, by commas
 *   wait ID MS        ok CODE SIGNAL OOM | eof | timeout
 *   read ID INDEX MS  ok HEX: what arrived on our end of passed descriptor INDEX
 *   send ID INDEX HEX [PATH]   with a descriptor of PATH (made if it is not there) beside it
 *   kill ID | limits ID QUARTERS MEMORY | stats ID
 *   net VERB SLOT     make, destroy
 *   hold COUNT        open so many descriptors of a secret file, without CLOEXEC
 *   drop UID GID      give up root, as akirad does
 *   gone | free | pid
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "daemon/launcher/launcher.h"

#define FIELDS 160
#define VMS 128

struct running {
	char id[80];
	int status, ends[LAUNCHER_FDS_MAX];
};

static struct launcher *launcher;
static struct running vms[VMS];

static struct running *find(const char *id)
{
	for (int i = 0; i < VMS; i++)
		if (!strcmp(vms[i].id, id))
			return &vms[i];
	return NULL;
}

static void say(int r, const struct error *err, const char *ok)
{
	if (r == 0)
		printf("ok%s%s\n", *ok ? " " : "", ok);
	else
		printf("error %d %s\n", -r, err->text);
	fflush(stdout);
}

static void do_spawn(char **f)
{
	struct launcher_config config = {
		.program = f[1],
		.qemu = f[2],
		.run_dir = f[3],
		.data_dir = f[4],
		.user = (uid_t)atoi(f[5]),
		.group = (gid_t)atoi(f[5]),
		.vm_uid_first = (uid_t)atoi(f[6]),
		.vm_uid_count = (uint32_t)atoi(f[7]),
		.kvm = atoi(f[8]),
		.io_bytes = strtoull(f[9], NULL, 10),
		.io_ops = (uint32_t)strtoul(f[10], NULL, 10),
		.uplink = "",
		.net_base = 10u << 24 | 231u << 16,
	};
	struct error err = { 0 };
	uint32_t swept = 0;
	char ok[24];
	int r = launcher_spawn(&config, &launcher, &swept, &err);
	snprintf(ok, sizeof ok, "%u", swept);
	say(r, &err, ok);
}

static int parse_files(struct launcher_vm *vm, char *list)
{
	char *save = NULL;
	for (char *item = strtok_r(list, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		char *name = strchr(item, ':'), *path = name ? strchr(name + 1, ':') : NULL;
		if (!path || vm->file_count == LAUNCHER_FILES_MAX)
			return -EINVAL;
		*name++ = *path++ = 0;
		struct launcher_file *file = &vm->files[vm->file_count++];
		file->name = name;
		file->writable = item[0] == 'w';
		file->fd = open(path, (file->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
		if (file->fd < 0)
			return -errno;
	}
	return 0;
}

static void do_start(char **f)
{
	struct error err = { 0 };
	struct launcher_vm vm = {
		.id = f[1],
		.slot = f[2][0] == '-' ? LAUNCHER_NO_SLOT : (uint32_t)atoi(f[2]),
		.cpu_quarters = (uint32_t)atoi(f[3]),
		.memory_bytes = strtoull(f[4], NULL, 10),
		.file_bytes_max = strtoull(f[5], NULL, 10),
		.fd_count = (size_t)atoi(f[6]),
		.args = (const char *const *)(f + 8),
	};
	struct running *run = find("");
	pid_t pid = 0;
	char ok[24];
	int r = run && strcmp(f[7], "-") ? parse_files(&vm, f[7]) : run ? 0 : -ENOSPC;
	for (size_t i = 0; r == 0 && i < vm.fd_count && i < LAUNCHER_FDS_MAX; i++) {
		int ends[2];
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
			abort();
		vm.fds[i] = ends[0];
		run->ends[i] = ends[1];
	}
	if (r == 0)
		r = launcher_vm_start(launcher, &vm, &run->status, &pid, &err);
	for (size_t i = 0; i < vm.fd_count && i < LAUNCHER_FDS_MAX; i++)
		fd_close(&vm.fds[i]);
	for (size_t i = 0; i < vm.file_count; i++)
		fd_close(&vm.files[i].fd);
	if (r == 0)
		snprintf(run->id, sizeof run->id, "%s", f[1]);
	snprintf(ok, sizeof ok, "%d", pid);
	say(r, &err, ok);
}

static void do_wait(char **f)
{
	struct running *run = find(f[1]);
	struct pollfd p = { .fd = run ? run->status : -1, .events = POLLIN };
	struct launcher_exit e;
	if (poll(&p, 1, atoi(f[2])) != 1) {
		puts("timeout");
	} else if (read(run->status, &e, sizeof e) == sizeof e) {
		printf("ok %d %d %u\n", e.code, e.signal, e.oom);
		close(run->status);
		for (int i = 0; i < LAUNCHER_FDS_MAX; i++)
			if (run->ends[i] > 0)
				close(run->ends[i]);
		memset(run, 0, sizeof *run);
	} else {
		puts("eof");
	}
	fflush(stdout);
}

static void do_read(char **f)
{
	struct running *run = find(f[1]);
	struct pollfd p = { .fd = run ? run->ends[atoi(f[2])] : -1, .events = POLLIN };
	char data[4096], hex[2 * sizeof data + 1];
	if (poll(&p, 1, atoi(f[3])) != 1) {
		puts("timeout");
	} else {
		ssize_t got = read(p.fd, data, sizeof data);
		str_hex(hex, data, got < 0 ? 0 : (size_t)got);
		printf("ok %s\n", hex);
	}
	fflush(stdout);
}

static void do_send(char **f)
{
	struct running *run = find(f[1]);
	unsigned char data[4096];
	size_t size = strlen(f[3]) / 2;
	_cleanup_fd_ int file = f[4] ? open(f[4], O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	int r = run && size <= sizeof data && str_unhex(data, size, f[3]) == 0
			? fd_send(run->ends[atoi(f[2])], data, size, &file, file >= 0)
			: -EINVAL;
	say(r, &(struct error){ 0 }, "");
}

static void do_stats(char **f)
{
	struct error err = { 0 };
	struct launcher_stats s = { 0 };
	char ok[120];
	int r = launcher_vm_stats(launcher, f[1], &s, &err);
	snprintf(ok, sizeof ok, "%lu %lu %lu %u", s.cpu_us, s.memory_bytes, s.oom_kills, s.pids);
	say(r, &err, ok);
}

static void do_net(char **f)
{
	struct error err = { 0 };
	struct launcher_net net = { .dns_udp = -1, .dns_tcp = -1 };
	int r = !strcmp(f[1], "make") ? launcher_net_make(launcher, (uint32_t)atoi(f[2]), &net, &err)
				      : launcher_net_destroy(launcher, (uint32_t)atoi(f[2]), &err);
	fd_close(&net.dns_udp);
	fd_close(&net.dns_tcp);
	say(r, &err, "");
}

static void do_hold(char **f)
{
	for (int i = atoi(f[1]); i > 0; i--)
		if (open("/etc/shadow", O_RDONLY) < 0)
			abort();
	say(0, NULL, "");
}

static void do_drop(char **f)
{
	int r = setgroups(0, NULL) || setresgid((gid_t)atoi(f[2]), (gid_t)atoi(f[2]), (gid_t)atoi(f[2])) ||
		setresuid((uid_t)atoi(f[1]), (uid_t)atoi(f[1]), (uid_t)atoi(f[1]));
	say(r ? -errno : 0, &(struct error){ 0 }, "");
}

static void command(char **f, int count)
{
	struct error err = { 0 };
	if (!strcmp(f[0], "spawn") && count == 11)
		do_spawn(f);
	else if (!strcmp(f[0], "start") && count >= 8)
		do_start(f);
	else if (!strcmp(f[0], "wait") && count == 3)
		do_wait(f);
	else if (!strcmp(f[0], "read") && count == 4)
		do_read(f);
	else if (!strcmp(f[0], "send") && count >= 4)
		do_send(f);
	else if (!strcmp(f[0], "kill") && count == 2)
		say(launcher_vm_kill(launcher, f[1], &err), &err, "");
	else if (!strcmp(f[0], "limits") && count == 4)
		say(launcher_vm_limits(launcher, f[1], (uint32_t)atoi(f[2]), strtoull(f[3], NULL, 10), &err), &err, "");
	else if (!strcmp(f[0], "stats") && count == 2)
		do_stats(f);
	else if (!strcmp(f[0], "net") && count == 3)
		do_net(f);
	else if (!strcmp(f[0], "hold") && count == 2)
		do_hold(f);
	else if (!strcmp(f[0], "drop") && count == 3)
		do_drop(f);
	else if (!strcmp(f[0], "gone"))
		say(0, NULL, launcher_gone(launcher) ? "yes" : "no");
	else if (!strcmp(f[0], "free"))
		launcher_free(launcher), launcher = NULL, say(0, NULL, "");
	else
		say(-EINVAL, &(struct error){ .text = "no such command" }, "");
}

int main(void)
{
	static char line[64 << 10];
	while (fgets(line, sizeof line, stdin)) {
		char *fields[FIELDS + 1] = { 0 }, *at = line;
		int count = 0;
		line[strcspn(line, "\n")] = 0;
		while (count < FIELDS && (fields[count] = strsep(&at, "\t")))
			count++;
		fields[count] = NULL;
		command(fields, count);
	}
	launcher_free(launcher);
	return 0;
}
