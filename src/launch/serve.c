#include "launch/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "proto/launch.h"

#ifdef AKIRA_HAVE_NET
#include "launch/net/net.h"
#endif

#define FDS_MAX (LAUNCH_FILES + LAUNCH_FDS)

/* What goes out with the answer. fds are closed after it was sent. */
struct answer {
	struct launch_reply reply;
	int fds[2];
	size_t fd_count;
};

/* ---- configuration ---- */

/*
 * Six base-36 digits of FNV-1a over the folder's true path: names of cgroups, links and tables carry them, so that
 * several installations on one host do not meet.
 */
static void make_tag(char tag[8], const char *path)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	for (const char *p = path; *p; p++)
		hash = (hash ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
	hash ^= hash >> 32;
	for (int i = 0; i < 6; i++, hash /= 36)
		tag[i] = "0123456789abcdefghijklmnopqrstuvwxyz"[hash % 36];
	tag[6] = 0;
}

static int take_run_dir(struct serve *s, struct launch_config *config, struct error *err)
{
	struct stat st;
	if (mkdir(config->run_dir, 0755) < 0 && errno != EEXIST)
		return error_errno(err, errno, "make %s", config->run_dir);
	_cleanup_free_ char *path = realpath(config->run_dir, NULL);
	if (!path || strlen(path) >= sizeof config->run_dir)
		return error_errno(err, path ? ENAMETOOLONG : errno, "%s", config->run_dir);
	strcpy(config->run_dir, path);
	_cleanup_fd_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0 || fstat(dir, &st) < 0)
		return error_errno(err, errno, "%s", path);
	if (st.st_uid != 0 || st.st_mode & 022)
		return error_set(err, EPERM, "%s must be root's and writable for nobody else", path);
	s->lock = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (s->lock < 0)
		return error_errno(err, errno, "%s/lock", path);
	if (flock(s->lock, LOCK_EX | LOCK_NB) < 0)
		return error_set(err, EBUSY, "another akira-launch is using %s", path);
	make_tag(s->tag, path);
	return 0;
}

static int configure_net(struct serve *s, const struct launch_config *config, uint32_t *swept, struct error *err)
{
#ifdef AKIRA_HAVE_NET
	struct net_config net = { config->uplink, config->net_base, s->tag, config->run_dir };
	int r = net_init(&net, err);
	if (r < 0)
		return r;
	s->net = true;
	*swept += net_sweep();
#endif
	return 0;
}

static int configure(struct serve *s, struct launch_request *request, struct answer *a, struct error *err)
{
	if (s->configured)
		return error_set(err, EALREADY, "the configuration was given before");
	int r = take_run_dir(s, &request->config, err);
	r = r < 0 ? r : vms_init(&s->vms, &request->config, s->tag, &a->reply.swept, err);
	r = r < 0 ? r : configure_net(s, &request->config, &a->reply.swept, err);
	s->configured = r == 0;
	if (r == 0)
		log_info("launcher_ready", "tag", s->tag, "cgroup", s->vms.cgroups.version == 2 ? "v2" : "v1",
			 "landlock", LOG_INT(s->vms.host.landlock), "swept", LOG_INT(a->reply.swept));
	return r;
}

/* ---- network ---- */

#ifdef AKIRA_HAVE_NET
static int net_make(const struct launch_request *request, struct answer *a, struct error *err)
{
	struct net_slot slot;
	int r = net_slot_make(request->slot, &slot, err);
	if (r < 0)
		return r;
	a->reply.net = (struct launch_net){ .guest_address = slot.guest_address,
					    .gateway = slot.gateway,
					    .host_address = slot.host_address,
					    .prefix = slot.prefix,
					    .mtu = slot.mtu };
	memcpy(a->reply.net.mac, slot.mac, sizeof slot.mac);
	a->fds[0] = slot.dns_udp;
	a->fds[1] = slot.dns_tcp;
	a->fd_count = 2;
	return 0;
}

static int do_net(const struct launch_request *request, struct answer *a, struct error *err)
{
	switch (request->type) {
	case LAUNCH_NET_MAKE: return net_make(request, a, err);
	case LAUNCH_NET_POLICY: return net_slot_policy(request->slot, &request->policy, err);
	case LAUNCH_NET_PIN: return net_slot_pin(request->slot, request->pin.address, request->pin.ttl, err);
	case LAUNCH_NET_COUNTERS: return net_slot_counters(request->slot, &a->reply.counters, err);
	case LAUNCH_NET_RESET: return net_slot_reset(request->slot, err);
	default: return net_slot_destroy(request->slot, err);
	}
}

static int find_tap(uint32_t slot, int *tap, struct error *err)
{
	*tap = net_slot_tap(slot);
	return *tap < 0 ? error_set(err, ENOENT, "network slot %u does not exist", slot) : 0;
}
#else
static int do_net(const struct launch_request *request, struct answer *a, struct error *err)
{
	return error_set(err, ENOSYS, "this akira-launch was built without networks");
}

static int find_tap(uint32_t slot, int *tap, struct error *err)
{
	*tap = -1;
	return error_set(err, ENOSYS, "this akira-launch was built without networks");
}
#endif

/* ---- requests ---- */

static int do_start(struct serve *s, const struct launch_request *request, const int *fds, struct answer *a,
		    struct error *err)
{
	int tap = -1, status;
	int r = request->vm.slot == LAUNCH_NO_SLOT ? 0 : find_tap(request->vm.slot, &tap, err);
	r = r < 0 ? r : vm_start(&s->vms, request->id, &request->vm, fds, tap, &status, &a->reply.pid, err);
	if (r == 0) {
		a->fds[0] = status;
		a->fd_count = 1;
	}
	return r;
}

static int dispatch(struct serve *s, struct launch_request *request, const int *fds, struct answer *a,
		    struct error *err)
{
	if (request->type == LAUNCH_CONFIG)
		return configure(s, request, a, err);
	if (!s->configured)
		return error_set(err, ENOTCONN, "the configuration comes first");
	switch (request->type) {
	case LAUNCH_VM_START: return do_start(s, request, fds, a, err);
	case LAUNCH_VM_KILL: return vm_kill(&s->vms, request->id);
	case LAUNCH_VM_LIMITS:
		return vm_limits(&s->vms, request->id, request->limits.cpu_quarters, request->limits.memory_bytes, err);
	case LAUNCH_VM_STATS: return vm_stats(&s->vms, request->id, &a->reply.stats, err);
	default: return do_net(request, a, err);
	}
}

static int handle(struct serve *s, const void *data, size_t size, const int *fds, size_t count, struct answer *a)
{
	static struct launch_request request; /* too large for a stack that wants to stay small */
	struct error err = { 0 };
	int r = launch_decode_request(&request, data, size, &err);
	a->reply.type = request.type;
	a->reply.serial = request.serial;
	if (r == 0 && count != launch_request_fds(&request))
		r = error_set(&err, EBADMSG, "%zu descriptors came, not %zu", count, launch_request_fds(&request));
	r = r < 0 ? r : dispatch(s, &request, fds, a, &err);
	if (r == 0)
		return 0;
	a->reply.code = (uint32_t)(err.code ? err.code : -r);
	memcpy(a->reply.text, err.text, sizeof a->reply.text);
	return r;
}

static int send_answer(struct serve *s, struct answer *a)
{
	unsigned char data[2048];
	int size = launch_encode_reply(&a->reply, data, sizeof data);
	int r = size < 0 ? size : fd_send(s->socket, data, (size_t)size, a->fds, a->reply.code ? 0 : a->fd_count);
	for (size_t i = 0; i < a->fd_count; i++)
		fd_close(&a->fds[i]);
	return r;
}

bool serve_message(struct serve *s)
{
	static struct log_limit limit;
	static unsigned char data[LAUNCH_MESSAGE_MAX];
	struct answer a = { 0 };
	int fds[FDS_MAX];
	size_t count = 0;
	ssize_t got = fd_recv(s->socket, data, sizeof data, fds, FDS_MAX, &count);
	if (got == 0 || (got < 0 && got != -EMSGSIZE))
		return got == -EAGAIN || got == -EINTR;
	int r = got < 0 ? (int)got : handle(s, data, (size_t)got, fds, count, &a);
	if (got < 0)
		a.reply.code = EMSGSIZE;
	for (size_t i = 0; i < count; i++)
		fd_close(&fds[i]);
	/* -ENOENT is no sign of trouble: a VM may end while akirad asks for it. */
	if (r < 0 && r != -ENOENT && log_allowed(&limit, 20, 10))
		log_warn("request_refused", "type", LOG_INT(a.reply.type), "code", LOG_INT(a.reply.code), "why",
			 a.reply.text);
	return send_answer(s, &a) == 0;
}

void serve_tick(struct serve *s)
{
#ifdef AKIRA_HAVE_NET
	int repaired = s->net ? net_tick() : 0;
	if (repaired > 0)
		log_error("network_rules_repaired", "count", LOG_INT(repaired));
#endif
}

void serve_end(struct serve *s)
{
	vms_end(&s->vms);
#ifdef AKIRA_HAVE_NET
	if (s->net)
		net_end();
#endif
	fd_close(&s->lock);
}
