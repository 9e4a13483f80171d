#include "agent/command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "agent/path.h"
#include "agent/spawn.h"
#include "base/fd.h"
#include "base/time.h"
#include "proto/tlv.h"

#define LINGERING_MAX 512 /* commands that ended while something holds their output */
#define PTY_SETTLE_MS 30  /* a terminal hands its last bytes on from a kernel thread */
#define DISCARD_ROUNDS 4
#define PAUSE_MS 2 /* between two reads of little */
#define PAUSE_BELOW 16384

/*
 * Theory of operation. While a stream listens, output is read as credit allows. When the main process has ended, what
 * is in the pipes at that moment is still sent (`rest`), then EXIT. From then on, or when nobody listens any more,
 * output is read and thrown away until its last writer is gone, and only then is the structure.
 *
 * A writer of small pieces would be interrupted at each of them, as the agent has priority. So after a read of little
 * the pipe is left alone for a moment, and not even watched, while it fills. The first piece is never held up.
 */
struct output {
	struct watch watch;
	bool readable, hung_up, enlarged;
	int64_t paused_until; /* CLOCK_MONOTONIC, ms; 0: not paused */
	int64_t rest;         /* bytes to send before EXIT; -1: not known yet; for a terminal: 1 until it is dry */
};

struct command {
	struct job job;
	struct output out[2];
	struct watch in, process;
	bool in_writable, in_closing;
	bool terminal; /* out[0] is its master side, both ways */
	bool exited, reaped;
	bool detached;     /* the host wants no output */
	bool closing;      /* the host wants it dead: output for which there is no credit is dropped */
	int64_t settle_at; /* terminal: when it counts as dry */
	struct queue queue;
	struct cgroup *cgroup;
	pid_t pid;
	uint32_t code, signal;
};

static struct command *command_of(struct stream *stream)
{
	return (struct command *)stream->job; /* job is its first member */
}

/* Readiness: note it, agent_pump does the rest. */

static void out_ready(struct output *out, uint32_t events)
{
	out->readable = true;
	if (events & (EPOLLHUP | EPOLLERR))
		out->hung_up = true;
}

static void stdout_ready(struct watch *w, uint32_t events)
{
	struct command *c = (struct command *)((char *)w - offsetof(struct command, out[0].watch));
	out_ready(&c->out[0], events);
	if (c->terminal && (events & EPOLLOUT))
		c->in_writable = true;
}

static void stderr_ready(struct watch *w, uint32_t events)
{
	struct command *c = (struct command *)((char *)w - offsetof(struct command, out[1].watch));
	out_ready(&c->out[1], events);
}

static void stdin_ready(struct watch *w, uint32_t events)
{
	struct command *c = (struct command *)((char *)w - offsetof(struct command, in));
	c->in_writable = true;
}

static void process_ready(struct watch *w, uint32_t events)
{
	struct command *c = (struct command *)((char *)w - offsetof(struct command, process));
	c->exited = true;
}

/* Standard input. */

static void close_input(struct command *c)
{
	if (c->terminal)
		c->in_closing = false;
	else
		loop_drop(&c->in);
	queue_free(&c->queue);
}

static bool input_open(const struct command *c)
{
	return c->terminal ? c->out[0].watch.fd >= 0 : c->in.fd >= 0;
}

/* Write what is possible; returns how much of it is dealt with (all of it when nobody reads any more). */
static size_t write_input(struct command *c, const void *data, size_t size)
{
	int fd = c->terminal ? c->out[0].watch.fd : c->in.fd;
	size_t done = 0;

	while (done < size && c->in_writable) {
		ssize_t n = write(fd, (const char *)data + done, size - done);
		if (n > 0) {
			done += (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			c->in_writable = false;
		} else if (n == 0 || errno != EINTR) {
			close_input(c);
			return size;
		}
	}
	return done;
}

/* The end of input of a terminal is a control character, as a person would type it. */
static void finish_input(struct command *c)
{
	if (!c->terminal) {
		close_input(c);
		return;
	}
	if (write_input(c, "\004", 1) == 1)
		c->in_closing = false;
}

static bool pump_input(struct agent *a, struct command *c)
{
	bool did = false;
	size_t waiting = queue_size(&c->queue);

	if (!input_open(c) || !c->in_writable || (waiting == 0 && !c->in_closing))
		return false;
	if (waiting > 0) {
		size_t done = write_input(c, c->queue.data + c->queue.start, waiting);
		if (queue_size(&c->queue) > 0)
			queue_drop(&c->queue, done);
		if (c->job.stream && done > 0)
			session_consumed(&a->session, c->job.stream, done);
		did = done > 0;
	}
	if (c->in_closing && queue_size(&c->queue) == 0 && input_open(c))
		finish_input(c);
	return did;
}

void command_data(struct agent *a, struct stream *stream, const void *data, size_t size)
{
	struct command *c = command_of(stream);
	size_t done = size;

	if (input_open(c)) {
		done = queue_size(&c->queue) == 0 ? write_input(c, data, size) : 0;
		if (done < size && queue_add(&c->queue, (const char *)data + done, size - done) < 0) {
			close_input(c);
			done = size;
		}
	}
	if (done > 0)
		session_consumed(&a->session, stream, done);
}

void command_end(struct agent *a, struct stream *stream)
{
	struct command *c = command_of(stream);

	if (!input_open(c))
		return;
	c->in_closing = true;
	if (queue_size(&c->queue) == 0)
		finish_input(c);
}

/* Output. */

static void close_output(struct output *out)
{
	loop_drop(&out->watch);
	out->readable = false;
	out->rest = 0;
}

/* What a read of `asked` bytes says about the next one. 0 bytes: the end. */
static void note_read(struct command *c, struct output *out, ssize_t n, size_t asked)
{
	if (n < 0 && errno == EAGAIN)
		out->readable = false;
	else if (n < 0 && c->terminal && !c->reaped)
		out->readable =
			false; /* EIO: nobody holds it just now. To close it would be a SIGHUP to who is exiting. */
	else if (n <= 0)
		close_output(out);
	else if (!c->terminal && (size_t)n < asked && !out->hung_up)
		out->readable = false; /* a short read emptied the pipe; more of it is a new event */
}

static void pause_output(struct agent *a, struct output *out)
{
	/* Timers may be as coarse as 10 ms; a default pipe would be full, and its writer idle, long before. */
	if (!out->enlarged)
		fcntl(out->watch.fd, F_SETPIPE_SZ, GUEST_WINDOW);
	out->enlarged = true;
	out->paused_until = time_mono_ms() + PAUSE_MS;
	loop_change(&a->loop, &out->watch, 0);
}

static void end_pause(struct agent *a, struct output *out)
{
	if (out->paused_until != 0 && out->watch.fd >= 0)
		loop_change(&a->loop, &out->watch, EPOLLIN);
	out->paused_until = 0;
}

/* True while paused. The end of the command ends the pause. */
static bool is_paused(struct agent *a, struct command *c, struct output *out)
{
	if (out->paused_until == 0)
		return false;
	if (!c->exited && time_mono_ms() < out->paused_until) {
		if (a->wake_at == 0 || out->paused_until < a->wake_at)
			a->wake_at = out->paused_until;
		return true;
	}
	end_pause(a, out);
	return false;
}

static bool send_output(struct agent *a, struct command *c, uint8_t channel)
{
	struct output *out = &c->out[channel];
	size_t room;

	if (is_paused(a, c, out) || !out->readable)
		return false;
	void *to = session_room(&a->session, c->job.stream, &room);
	if (!to)
		return false;
	if (!c->terminal && out->rest > 0 && (int64_t)room > out->rest)
		room = (size_t)out->rest;
	ssize_t n = read(out->watch.fd, to, room);
	note_read(c, out, n, room);
	if (n <= 0)
		return n == 0 || errno != EAGAIN;
	session_data(&a->session, c->job.stream, channel, (size_t)n);
	if (!c->terminal && out->rest > 0)
		out->rest -= n;
	if (!c->terminal && !c->exited && n < PAUSE_BELOW && out->watch.fd >= 0)
		pause_output(a, out);
	return true;
}

static bool discard_output(struct agent *a, struct command *c, struct output *out)
{
	char waste[16384];
	bool did = false;

	end_pause(a, out);
	for (int i = 0; i < DISCARD_ROUNDS && out->readable; i++) {
		ssize_t n = read(out->watch.fd, waste, sizeof(waste));
		note_read(c, out, n, sizeof(waste));
		did = true;
	}
	return did;
}

/* The end of the command. */

static void reap(struct agent *a, struct command *c)
{
	siginfo_t info = { 0 };

	if (waitid(P_PIDFD, (id_t)c->process.fd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
		return;
	c->reaped = true;
	loop_drop(&c->process);
	c->signal = info.si_code == CLD_EXITED ? 0 : (uint32_t)info.si_status;
	c->code = info.si_code == CLD_EXITED ? (uint32_t)info.si_status & 255 : 128 + c->signal;
	close_input(c);
	for (int i = 0; i < 2; i++) {
		struct output *out = &c->out[i];
		int waiting = 0;
		if (out->watch.fd < 0)
			out->rest = 0;
		else if (c->terminal)
			out->rest = 1;
		else
			out->rest = ioctl(out->watch.fd, FIONREAD, &waiting) == 0 ? waiting : 0;
		if (out->watch.fd >= 0 && out->rest > 0)
			out->readable = true;
		if (out->watch.fd >= 0 && out->rest == 0 && out->hung_up)
			close_output(out);
	}
	if (c->terminal) {
		c->settle_at = time_mono_ms() + PTY_SETTLE_MS;
		c->out[0].readable = true;
	}
}

/* A terminal that somebody else still holds is dry when it stayed silent for a moment. */
static void check_settled(struct agent *a, struct command *c)
{
	struct output *out = &c->out[0];

	if (!c->terminal || out->rest == 0 || out->readable)
		return;
	if (time_mono_ms() >= c->settle_at)
		out->rest = 0;
	else if (a->wake_at == 0 || c->settle_at < a->wake_at)
		a->wake_at = c->settle_at;
}

static void send_exit(struct agent *a, struct command *c)
{
	unsigned char fields[32];
	struct tlv_writer w;

	tlv_begin(&w, fields, sizeof(fields));
	tlv_u32(&w, GUEST_TAG_CODE, c->code);
	tlv_u32(&w, GUEST_TAG_SIGNAL, c->signal);
	session_finish(&a->session, c->job.stream, GUEST_EXIT, &w);
	c->job.stream = NULL;
}

static void close_everything(struct command *c)
{
	close_input(c);
	close_output(&c->out[0]);
	close_output(&c->out[1]);
}

/* Descriptors are finite: of too many that linger, the one that does so longest is let go. */
static void bound_lingering(struct agent *a)
{
	struct command *oldest = NULL;
	unsigned int count = 0;

	for (struct job *job = a->jobs; job; job = job->next) {
		if (job->stream || job->gone)
			continue;
		count++;
		struct command *c = (struct command *)job;
		if (c->reaped)
			oldest = c; /* new ones are put in front */
	}
	if (count > LINGERING_MAX && oldest)
		close_everything(oldest);
}

static bool is_unheard(const struct command *c)
{
	return !c->job.stream || c->detached || (c->closing && c->job.stream->out_credit == 0);
}

static bool is_dry(const struct command *c)
{
	return (c->detached || (c->closing && c->job.stream->out_credit == 0)) ||
	       (c->out[0].rest == 0 && c->out[1].rest == 0);
}

static bool pump(struct agent *a, struct job *job)
{
	struct command *c = (struct command *)job;
	bool did = pump_input(a, c);

	if (c->exited && !c->reaped)
		reap(a, c);
	for (uint8_t i = 0; i < 2; i++) {
		if (is_unheard(c))
			did |= discard_output(a, c, &c->out[i]);
		else if (!c->reaped || c->out[i].rest > 0)
			did |= send_output(a, c, i);
	}
	if (c->reaped && c->job.stream) {
		check_settled(a, c);
		if (is_dry(c)) {
			send_exit(a, c);
			/* What hung up and is empty needs no further look. */
			for (int i = 0; i < 2; i++)
				if (c->out[i].watch.fd >= 0)
					c->out[i].readable = true;
			bound_lingering(a);
			did = true;
		}
	}
	if (c->reaped && !c->job.stream && c->cgroup) {
		cgroup_release(c->cgroup);
		c->cgroup = NULL;
	}
	if (c->reaped && !c->job.stream && c->out[0].watch.fd < 0 && c->out[1].watch.fd < 0)
		job_remove(a, job);
	return did;
}

static void forget(struct agent *a, struct job *job)
{
	struct command *c = (struct command *)job;

	job->stream = NULL;
	if (!c->terminal)
		close_input(c);
	/* Wake what no credit kept waiting. */
	for (int i = 0; i < 2; i++)
		if (c->out[i].watch.fd >= 0)
			c->out[i].readable = true;
}

static void destroy(struct job *job)
{
	struct command *c = (struct command *)job;
	queue_free(&c->queue);
	free(c);
}

/* The begin. */

struct ends {
	int child[3], ours[3]; /* -1: none */
};

static void close_ends(struct ends *e)
{
	for (int i = 0; i < 3; i++) {
		fd_close(&e->child[i]);
		fd_close(&e->ours[i]);
	}
}

static int open_pipe(struct ends *e, int i)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	bool input = i == 0;
	e->child[i] = fds[input ? 0 : 1];
	e->ours[i] = fds[input ? 1 : 0];
	return fcntl(e->ours[i], F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static int open_pipes(struct agent *a, struct ends *e, bool input, uint32_t user)
{
	int r = input ? open_pipe(e, 0) : 0;

	for (int i = 1; r == 0 && i < 3; i++)
		r = open_pipe(e, i);
	/* Opened again by name (/dev/stdout), a pipe asks who owns it. */
	for (int i = 0; r == 0 && user != 0 && i < 3; i++)
		if (e->child[i] >= 0 && fchown(e->child[i], user, (gid_t)-1) < 0)
			r = -errno;
	return r;
}

static int open_terminal(struct agent *a, struct ends *e, const struct request *r, uint32_t user)
{
	struct winsize size = { .ws_row = (unsigned short)request_number(r, GUEST_TAG_ROWS, 24),
				.ws_col = (unsigned short)request_number(r, GUEST_TAG_COLS, 80) };
	int unlock = 0;

	e->ours[1] = openat(a->devpts, "ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (e->ours[1] < 0 || ioctl(e->ours[1], TIOCSPTLCK, &unlock) < 0 || ioctl(e->ours[1], TIOCSWINSZ, &size) < 0)
		return -errno;
	e->child[0] = ioctl(e->ours[1], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->child[0] < 0)
		return -errno;
	return user != 0 && fchown(e->child[0], user, (gid_t)-1) < 0 ? -errno : 0;
}

static bool same_name(const char *a, const char *b)
{
	const char *end = strchr(a, '=');
	return end && strncmp(a, b, (size_t)(end - a) + 1) == 0;
}

static void add_variable(const char **env, size_t *count, const char *variable)
{
	for (size_t i = 0; i < *count; i++)
		if (same_name(env[i], variable)) {
			env[i] = variable;
			return;
		}
	env[(*count)++] = variable;
}

/* PERSONALISE's, then the user's own, then the request's. */
static const char **environment(struct agent *a, const struct request *r, const struct path_user *user)
{
	static const char *env[2 * REQUEST_LIST_MAX + 8];
	static char own[3][PATH_USER_MAX + 16];
	size_t count = 0;

	for (char **e = a->env; *e; e++)
		add_variable(env, &count, *e);
	if (user->id != 0) {
		snprintf(own[0], sizeof(own[0]), "HOME=%s", user->home);
		snprintf(own[1], sizeof(own[1]), "USER=%s", user->name);
		snprintf(own[2], sizeof(own[2]), "LOGNAME=%s", user->name);
		for (int i = 0; i < 3; i++)
			add_variable(env, &count, own[i]);
	}
	if (request_number(r, GUEST_TAG_PTY, 0))
		add_variable(env, &count, "TERM=xterm-256color");
	for (size_t i = 0; i < r->envc; i++)
		add_variable(env, &count, r->env[i]);
	env[count] = NULL;
	return env;
}

static const char **arguments(struct agent *a, struct request *r, const char *shell[4])
{
	if (!request_number(r, GUEST_TAG_SHELL, 0))
		return r->argv;
	shell[0] = faccessat(a->root, "bin/bash", X_OK, 0) == 0 ? "/bin/bash" : "/bin/sh";
	shell[1] = "-c";
	shell[2] = r->argv[0];
	shell[3] = NULL;
	return shell;
}

static int watch_all(struct agent *a, struct command *c, struct ends *e, int pidfd)
{
	static void (*const ready[2])(struct watch *, uint32_t) = { stdout_ready, stderr_ready };
	uint32_t events = EPOLLIN | (c->terminal ? EPOLLOUT : 0);
	int r = loop_add(&a->loop, &c->process, pidfd, EPOLLIN, process_ready);

	for (int i = 0; i < 2; i++)
		if (e->ours[i + 1] >= 0 && r == 0)
			r = loop_add(&a->loop, &c->out[i].watch, fd_steal(&e->ours[i + 1]), events, ready[i]);
	if (e->ours[0] >= 0 && r == 0)
		r = loop_add(&a->loop, &c->in, fd_steal(&e->ours[0]), EPOLLOUT, stdin_ready);
	return r;
}

static struct command *new_command(struct agent *a)
{
	struct command *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->in.fd = c->process.fd = c->out[0].watch.fd = c->out[1].watch.fd = -1;
	c->in_writable = true;
	c->out[0].rest = c->out[1].rest = -1;
	c->job.pump = pump;
	c->job.forget = forget;
	c->job.destroy = destroy;
	return c;
}

static int start(struct agent *a, struct command *c, struct request *r, struct ends *e, struct spawn *s,
		 struct error *err)
{
	const char *shell[4];
	struct path_user user;
	uint32_t id = (uint32_t)request_number(r, GUEST_TAG_USER, 0);

	path_user(a->root, id, &user);
	c->terminal = request_number(r, GUEST_TAG_PTY, 0) != 0;
	int result = c->terminal ? open_terminal(a, e, r, id) : open_pipes(a, e, r->number[GUEST_TAG_STDIN] != 0, id);
	if (result < 0)
		return error_errno(err, -result, "open the command's streams");
	c->cgroup = cgroup_take(&a->cgroups);
	if (!c->cgroup)
		return error_set(err, EAGAIN, "no control group for the command");

	*s = (struct spawn){
		.anchor = a->anchor.fd,
		.proc = a->proc,
		.cgroup = c->cgroup->dir,
		.terminal = c->terminal,
		.workdir = a->workdir,
		.cwd = request_text(r, GUEST_TAG_CWD),
		.user = id,
		.group = user.group,
		.argv = arguments(a, r, shell),
		.env = environment(a, r, &user),
	};
	for (int i = 0; i < 3; i++)
		s->fds[i] = c->terminal ? e->child[0] : e->child[i] >= 0 ? e->child[i] : a->null;
	result = spawn(s);
	if (result < 0) {
		cgroup_release(c->cgroup);
		return error_errno(err, -result, "%s", s->failed);
	}
	return 0;
}

int command_open(struct agent *a, struct stream *stream, const struct request *r, struct error *err)
{
	struct ends ends = { { -1, -1, -1 }, { -1, -1, -1 } };
	unsigned char fields[16];
	struct tlv_writer w;
	struct spawn s;
	struct command *c = new_command(a);

	if (!c)
		return error_set(err, ENOMEM, "no memory for a command");
	int result = start(a, c, &a->session.request, &ends, &s, err);
	if (result == 0) {
		c->pid = s.pid;
		result = watch_all(a, c, &ends, s.pidfd);
		if (result < 0) /* it runs, and nobody could hear it */
			agent_die("watch a command: %s", strerror(-result));
	}
	close_ends(&ends);
	if (result < 0) {
		free(c);
		return result;
	}
	job_add(a, &c->job, stream);
	tlv_begin(&w, fields, sizeof(fields));
	tlv_u32(&w, GUEST_TAG_PID, (uint32_t)s.inner_pid);
	session_opened(&a->session, stream, &w);
	return 0;
}

void command_control(struct agent *a, struct stream *stream, const struct request *r)
{
	struct command *c = command_of(stream);

	switch (r->type) {
	case GUEST_SIGNAL:
		if (!c->reaped)
			kill(-c->pid, (int)r->number[GUEST_TAG_SIGNAL]);
		break;
	case GUEST_RESIZE:
		if (c->terminal && c->out[0].watch.fd >= 0)
			ioctl(c->out[0].watch.fd, TIOCSWINSZ,
			      &(struct winsize){ .ws_row = (unsigned short)r->number[GUEST_TAG_ROWS],
						 .ws_col = (unsigned short)r->number[GUEST_TAG_COLS] });
		break;
	case GUEST_CLOSE:
		c->closing = true;
		cgroup_kill(c->cgroup);
		break;
	default: /* DETACH */
		close_input(c);
		stream->ended = true;
		c->detached = true;
		break;
	}
}
