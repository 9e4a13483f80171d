/*
 * akira-launch: the one program of Akira that stays root. It has one peer, akirad, on the socket LAUNCH_FD, and trusts
 * nothing that comes from it. It ends, with every VM, when the peer is gone or at SIGTERM. See api/launch-protocol.md.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "launch/serve.h"
#include "proto/launch.h"

enum { OTHER_SOCKET, OTHER_SIGNAL };
#define TICK_MS 1000
#define CLEAN_MS 20 /* between attempts to remove what the kernel still holds */

static _Noreturn void die(const char *what, int code)
{
	log_error("launcher_cannot_start", "what", what, "why", strerror(code));
	exit(1);
}

/* What a child or a library could be led astray by. Kept: our own settings, which root gave. */
static void clean_environment(void)
{
	static const char *const kept[] = { "AKIRA_SHIM", "AKIRA_FAULT", "AKIRA_JAIL_WITHOUT", "ASAN_OPTIONS",
					    "UBSAN_OPTIONS" };
	char *values[sizeof kept / sizeof kept[0]];
	for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
		const char *value = getenv(kept[i]);
		values[i] = value ? strdup(value) : NULL;
	}
	clearenv();
	setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
	for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
		if (values[i])
			setenv(kept[i], values[i], 1);
		free(values[i]);
	}
}

/* Some twelve for each VM; the jail's child sets its own. */
static void raise_descriptors(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		log_warn("descriptor_limit_not_raised", "why", strerror(errno));
}

static void check_peer(int socket)
{
	int type = 0;
	socklen_t size = sizeof type;
	if (geteuid() != 0)
		die("akira-launch must be started as root, by akirad", EPERM);
	if (getsockopt(socket, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET)
		die("descriptor 3 is not akirad's socket", ENOTSOCK);
	fd_set_nonblock(socket, 1);
}

static int watch_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN); /* a terminal's Ctrl-C is for akirad, which ends us after it has drained */
	signal(SIGHUP, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void watch(int epoll, int fd, uint64_t what)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = what };
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll", errno);
}

static void loop(struct serve *s)
{
	int64_t tick = time_mono_ms() + TICK_MS;
	uint32_t waiting = 0;
	for (;;) {
		struct epoll_event events[32];
		int left = time_left_ms(tick);
		int count = epoll_wait(s->vms.epoll, events, 32, waiting && left > CLEAN_MS ? CLEAN_MS : left);
		for (int i = 0; i < count; i++) {
			enum vm_event kind = (enum vm_event)(events[i].data.u64 >> 32);
			uint32_t index = (uint32_t)events[i].data.u64;
			if (kind != VM_EVENT_OTHER)
				vm_event(&s->vms, kind, index);
			else if (index == OTHER_SIGNAL || !serve_message(s))
				return;
		}
		waiting = vms_tick(&s->vms);
		if (time_left_ms(tick) == 0) {
			serve_tick(s);
			tick = time_mono_ms() + TICK_MS;
		}
	}
}

int main(void)
{
	static struct serve s = { .socket = LAUNCH_FD, .lock = -1 };
	log_init("akira-launch", "auto", LOG_INFO_);
	clean_environment();
	umask(077);
	setsid();
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	check_peer(s.socket);
	raise_descriptors();
	s.vms.epoll = epoll_create1(EPOLL_CLOEXEC);
	int signals = watch_signals();
	if (s.vms.epoll < 0 || signals < 0)
		die("epoll or signalfd", errno);
	watch(s.vms.epoll, s.socket, OTHER_SOCKET);
	watch(s.vms.epoll, signals, OTHER_SIGNAL);
	loop(&s);
	serve_end(&s);
	log_info("launcher_ended");
	return 0;
}
