#include "daemon/launcher/launcher.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "proto/launch.h"

static_assert(LAUNCHER_ID_MAX == LAUNCH_ID_SIZE && LAUNCHER_ARGS_MAX == LAUNCH_ARGS, "the contract is the protocol's");
static_assert(LAUNCHER_FDS_MAX == LAUNCH_FDS && LAUNCHER_FILES_MAX == LAUNCH_FILES, "the contract is the protocol's");
static_assert(LAUNCHER_SLOTS_MAX == LAUNCH_SLOTS && LAUNCHER_NO_SLOT == LAUNCH_NO_SLOT,
	      "the contract is the protocol's");

#define ANSWER_MS 30000
#define END_MS 15000

struct launcher {
	pthread_mutex_t lock; /* one request at a time */
	int socket, pidfd;
	pid_t pid;
	uint32_t serial;
	atomic_bool lost;
};

/* ---- requests ---- */

static int lose(struct launcher *l, struct error *err, int code, const char *why)
{
	atomic_store(&l->lost, true);
	return error_set(err, code, "akira-launch is lost: %s", why);
}

static void drop_fds(int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		fd_close(&fds[i]);
}

static int receive(struct launcher *l, uint32_t serial, struct launch_reply *reply, int *fds, size_t *count,
		   struct error *err)
{
	unsigned char data[2048];
	struct pollfd p = { .fd = l->socket, .events = POLLIN };
	int64_t deadline = time_mono_ms() + ANSWER_MS;
	int ready;
	while ((ready = poll(&p, 1, time_left_ms(deadline))) < 0 && errno == EINTR)
		;
	if (ready == 0)
		return lose(l, err, ETIMEDOUT, "no answer within 30 s");
	ssize_t got = fd_recv(l->socket, data, sizeof data, fds, FD_PASS_MAX, count);
	if (got <= 0)
		return lose(l, err, EPIPE, "it has ended");
	if (launch_decode_reply(reply, data, (size_t)got) < 0 || reply->serial != serial) {
		drop_fds(fds, *count);
		return lose(l, err, EBADMSG, "its answer is not one");
	}
	return 0;
}

static int exchange_locked(struct launcher *l, struct launch_request *request, const int *out, size_t out_count,
			   struct launch_reply *reply, int *in, size_t *in_count, struct error *err)
{
	static unsigned char data[LAUNCH_MESSAGE_MAX]; /* under the lock */
	request->serial = ++l->serial;
	if (atomic_load(&l->lost))
		return error_set(err, EPIPE, "akira-launch is lost");
	int size = launch_encode_request(request, data, sizeof data);
	if (size < 0)
		return error_set(err, E2BIG, "the request to akira-launch is too large");
	int r = fd_send(l->socket, data, (size_t)size, out, out_count);
	if (r < 0)
		return lose(l, err, EPIPE, strerror(-r));
	return receive(l, request->serial, reply, in, in_count, err);
}

/* wanted: descriptors that a success must bring; they land in `in`. */
static int exchange(struct launcher *l, struct launch_request *request, const int *out, size_t out_count,
		    struct launch_reply *reply, int *in, size_t wanted, struct error *err)
{
	int fds[FD_PASS_MAX];
	size_t count = 0;
	pthread_mutex_lock(&l->lock);
	int r = exchange_locked(l, request, out, out_count, reply, fds, &count, err);
	pthread_mutex_unlock(&l->lock);
	if (r < 0)
		return r;
	if (reply->code || count != wanted) {
		drop_fds(fds, count);
		return reply->code ? error_set(err, (int)reply->code, "%s", reply->text)
				   : lose(l, err, EBADMSG, "descriptors are missing");
	}
	for (size_t i = 0; i < count; i++)
		in[i] = fds[i];
	return 0;
}

/* For requests that are small and bring nothing but an answer. */
static int ask(struct launcher *l, struct launch_request *request, struct launch_reply *reply, struct error *err)
{
	return exchange(l, request, NULL, 0, reply, NULL, 0, err);
}

/* ---- start and end ---- */

static _Noreturn void become_launcher(const char *program, int socket)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (socket == LAUNCH_FD ? fcntl(socket, F_SETFD, 0) < 0 : dup2(socket, LAUNCH_FD) < 0)
		_exit(126);
	if (close_range(LAUNCH_FD + 1, ~0u, 0) < 0)
		_exit(126);
	execl(program, "akira-launch", (char *)NULL);
	_exit(127);
}

static int set_text(char *to, size_t size, const char *from, const char *what, struct error *err)
{
	size_t length = strlen(from);
	if (length >= size)
		return error_set(err, ENAMETOOLONG, "%s is too long", what);
	memcpy(to, from, length + 1);
	return 0;
}

static int configure(struct launcher *l, const struct launcher_config *config, uint32_t *swept, struct error *err)
{
	_cleanup_free_ struct launch_request *request = calloc(1, sizeof *request);
	struct launch_reply reply;
	if (!request)
		return error_set(err, ENOMEM, "no memory");
	struct launch_config *c = &request->config;
	request->type = LAUNCH_CONFIG;
	int r = set_text(c->qemu, sizeof c->qemu, config->qemu, "the path of the VM program", err);
	r = r < 0 ? r : set_text(c->run_dir, sizeof c->run_dir, config->run_dir, "run_dir", err);
	r = r < 0 ? r : set_text(c->data_dir, sizeof c->data_dir, config->data_dir, "data_dir", err);
	r = r < 0 ? r : set_text(c->uplink, sizeof c->uplink, config->uplink ? config->uplink : "", "uplink", err);
	c->user = config->user;
	c->group = config->group;
	c->vm_uid_first = config->vm_uid_first;
	c->vm_uid_count = config->vm_uid_count;
	c->net_base = config->net_base;
	c->kvm = config->kvm;
	c->io_bytes = config->io_bytes;
	c->io_ops = config->io_ops;
	r = r < 0 ? r : ask(l, request, &reply, err);
	if (r == 0 && swept)
		*swept = reply.swept;
	return r;
}

int launcher_spawn(const struct launcher_config *config, struct launcher **launcher, uint32_t *swept, struct error *err)
{
	int ends[2];
	struct launcher *l = calloc(1, sizeof *l);
	*launcher = NULL;
	if (!l)
		return error_set(err, ENOMEM, "no memory");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) {
		free(l);
		return error_errno(err, errno, "socketpair");
	}
	pthread_mutex_init(&l->lock, NULL);
	l->socket = ends[0];
	l->pidfd = -1;
	l->pid = fork();
	if (l->pid == 0)
		become_launcher(config->program, ends[1]);
	int r = l->pid < 0 ? error_errno(err, errno, "fork") : 0;
	close(ends[1]);
	if (r == 0 && (l->pidfd = (int)syscall(SYS_pidfd_open, l->pid, 0)) < 0)
		r = error_errno(err, errno, "pidfd_open");
	r = r < 0 ? r : configure(l, config, swept, err);
	if (r == -EPIPE)
		error_set(err, EPIPE, "%s did not start (see its log)", config->program);
	if (r < 0)
		launcher_free(l);
	else
		*launcher = l;
	return r;
}

void launcher_free(struct launcher *l)
{
	if (!l)
		return;
	fd_close(&l->socket);
	struct pollfd p = { .fd = l->pidfd, .events = POLLIN };
	if (l->pid > 0 && poll(&p, 1, END_MS) == 0)
		kill(l->pid, SIGKILL);
	if (l->pid > 0)
		waitpid(l->pid, NULL, WNOHANG);
	fd_close(&l->pidfd);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

bool launcher_gone(const struct launcher *l)
{
	struct pollfd p = { .fd = l->pidfd, .events = POLLIN };
	return atomic_load(&l->lost) || poll(&p, 1, 0) > 0;
}

int launcher_watch_fd(const struct launcher *l)
{
	return l->pidfd;
}

/* ---- network ---- */

static int net_request(struct launcher *l, enum launch_type type, uint32_t slot, struct launch_reply *reply,
		       struct error *err)
{
	_cleanup_free_ struct launch_request *request = calloc(1, sizeof *request);
	if (!request)
		return error_set(err, ENOMEM, "no memory");
	request->type = (uint16_t)type;
	request->slot = slot;
	return ask(l, request, reply, err);
}

int launcher_net_make(struct launcher *l, uint32_t slot, struct launcher_net *net, struct error *err)
{
	_cleanup_free_ struct launch_request *request = calloc(1, sizeof *request);
	struct launch_reply reply;
	int fds[2];
	if (!request)
		return error_set(err, ENOMEM, "no memory");
	request->type = LAUNCH_NET_MAKE;
	request->slot = slot;
	int r = exchange(l, request, NULL, 0, &reply, fds, 2, err);
	if (r < 0)
		return r;
	*net = (struct launcher_net){
		.guest_address = reply.net.guest_address,
		.gateway = reply.net.gateway,
		.prefix = reply.net.prefix,
		.mtu = reply.net.mtu,
		.host_address = reply.net.host_address,
		.dns_udp = fds[0],
		.dns_tcp = fds[1],
	};
	memcpy(net->mac, reply.net.mac, sizeof net->mac);
	return 0;
}

int launcher_net_policy(struct launcher *l, uint32_t slot, const struct policy *policy, struct error *err)
{
	_cleanup_free_ struct launch_request *request = calloc(1, sizeof *request);
	struct launch_reply reply;
	if (!request)
		return error_set(err, ENOMEM, "no memory");
	if (policy->allow_count > POLICY_CIDRS_MAX || policy->deny_count > POLICY_CIDRS_MAX)
		return error_set(err, E2BIG, "more than %d ranges", POLICY_CIDRS_MAX);
	request->type = LAUNCH_NET_POLICY;
	request->slot = slot;
	request->policy = *policy;
	return ask(l, request, &reply, err);
}

int launcher_net_pin(struct launcher *l, uint32_t slot, uint32_t address, uint32_t ttl, struct error *err)
{
	_cleanup_free_ struct launch_request *request = calloc(1, sizeof *request);
	struct launch_reply reply;
	if (!request)
		return error_set(err, ENOMEM, "no memory");
	request->type = LAUNCH_NET_PIN;
	request->slot = slot;
	request->pin.address = address;
	request->pin.ttl = ttl;
	return ask(l, request, &reply, err);
}

int launcher_net_counters(struct launcher *l, uint32_t slot, struct policy_counters *counters, struct error *err)
{
	struct launch_reply reply;
	int r = net_request(l, LAUNCH_NET_COUNTERS, slot, &reply, err);
	if (r == 0)
		*counters = reply.counters;
	return r;
}

int launcher_net_reset(struct launcher *l, uint32_t slot, struct error *err)
{
	struct launch_reply reply;
	return net_request(l, LAUNCH_NET_RESET, slot, &reply, err);
}

int launcher_net_destroy(struct launcher *l, uint32_t slot, struct error *err)
{
	struct launch_reply reply;
	return net_request(l, LAUNCH_NET_DESTROY, slot, &reply, err);
}

/* ---- VMs ---- */

static struct launch_request *vm_request(enum launch_type type, const char *id, struct error *err)
{
	struct launch_request *request = launch_id_ok(id) ? calloc(1, sizeof *request) : NULL;
	if (!request) {
		error_set(err, launch_id_ok(id) ? ENOMEM : EINVAL, "\"%.80s\" is no id for a VM", id);
		return NULL;
	}
	request->type = (uint16_t)type;
	memcpy(request->id, id, strlen(id) + 1);
	return request;
}

static int fill_vm(struct launch_vm *to, const struct launcher_vm *vm, int *fds, struct error *err)
{
	size_t count = 0;
	if (vm->file_count > LAUNCH_FILES || vm->fd_count > LAUNCH_FDS)
		return error_set(err, E2BIG, "too many files or descriptors for a VM");
	for (size_t i = 0; vm->args[i]; i++)
		if (launch_add_arg(to, vm->args[i]) < 0)
			return error_set(err, E2BIG, "the arguments of the VM are too many or too long");
	for (size_t i = 0; i < vm->file_count; i++) {
		int r = set_text(to->files[i].name, sizeof to->files[i].name, vm->files[i].name, "the name of a file",
				 err);
		if (r < 0)
			return r;
		to->files[i].writable = vm->files[i].writable;
		fds[count++] = vm->files[i].fd;
	}
	for (size_t i = 0; i < vm->fd_count; i++)
		fds[count++] = vm->fds[i];
	to->file_count = (uint32_t)vm->file_count;
	to->fd_count = (uint32_t)vm->fd_count;
	to->slot = vm->slot;
	to->cpu_quarters = vm->cpu_quarters;
	to->memory_bytes = vm->memory_bytes;
	to->file_bytes_max = vm->file_bytes_max;
	return 0;
}

int launcher_vm_start(struct launcher *l, const struct launcher_vm *vm, int *status, pid_t *pid, struct error *err)
{
	int fds[LAUNCH_FILES + LAUNCH_FDS];
	struct launch_reply reply;
	_cleanup_free_ struct launch_request *request = vm_request(LAUNCH_VM_START, vm->id, err);
	if (!request)
		return launch_id_ok(vm->id) ? -ENOMEM : -EINVAL;
	int r = fill_vm(&request->vm, vm, fds, err);
	r = r < 0 ? r : exchange(l, request, fds, vm->file_count + vm->fd_count, &reply, status, 1, err);
	if (r == 0 && pid)
		*pid = (pid_t)reply.pid;
	return r;
}

int launcher_vm_kill(struct launcher *l, const char *id, struct error *err)
{
	struct launch_reply reply;
	_cleanup_free_ struct launch_request *request = vm_request(LAUNCH_VM_KILL, id, err);
	return request ? ask(l, request, &reply, err) : launch_id_ok(id) ? -ENOMEM : -EINVAL;
}

int launcher_vm_limits(struct launcher *l, const char *id, uint32_t cpu_quarters, uint64_t memory_bytes,
		       struct error *err)
{
	struct launch_reply reply;
	_cleanup_free_ struct launch_request *request = vm_request(LAUNCH_VM_LIMITS, id, err);
	if (!request)
		return launch_id_ok(id) ? -ENOMEM : -EINVAL;
	request->limits.cpu_quarters = cpu_quarters;
	request->limits.memory_bytes = memory_bytes;
	return ask(l, request, &reply, err);
}

int launcher_vm_stats(struct launcher *l, const char *id, struct launcher_stats *stats, struct error *err)
{
	struct launch_reply reply;
	_cleanup_free_ struct launch_request *request = vm_request(LAUNCH_VM_STATS, id, err);
	if (!request)
		return launch_id_ok(id) ? -ENOMEM : -EINVAL;
	int r = ask(l, request, &reply, err);
	if (r == 0)
		*stats = (struct launcher_stats){ .cpu_us = reply.stats.cpu_us,
						  .memory_bytes = reply.stats.memory_bytes,
						  .oom_kills = reply.stats.oom_kills,
						  .pids = reply.stats.pids };
	return r;
}
