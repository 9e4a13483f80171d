/*
 * Commands. Time is kept here, by the host: the reaper kills what is over its time even if nobody reads, and a guest
 * that does not confirm the kill is given up after GRACE_MS.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

#define GRACE_MS 5000
#define COMMAND_MAX 131072

struct sandbox_exec {
	struct box *box;
	struct vm *vm;
	const struct sandbox_actor *actor;
	struct link_stream *stream;
	struct sandbox_exec *next; /* in box->running, under box->lock */
	struct store_exec log;
	struct buf out, err_out; /* the first bytes of each, for the log */
	bool log_output;
	int64_t started_mono, deadline;
	bool killed; /* CLOSE was sent because of the time; under box->lock */
	bool ended;
	struct sandbox_exec_event last;
};

const char *sandbox_exec_id(const struct sandbox_exec *exec)
{
	return exec->log.id;
}

/* ---- start ---- */

static int put_request(struct tlv_writer *w, const struct sandbox_exec_spec *spec, struct error *err)
{
	size_t length = strlen(spec->command);

	if (length < 1 || length > COMMAND_MAX)
		return error_set(err, EINVAL, "command: must have 1 to %d bytes", COMMAND_MAX);
	tlv_bytes(w, GUEST_TAG_ARG, spec->command, length);
	tlv_u8(w, GUEST_TAG_SHELL, 1);
	tlv_u8(w, GUEST_TAG_STDIN, spec->input);
	if (spec->cwd && *spec->cwd)
		tlv_text(w, GUEST_TAG_CWD, spec->cwd);
	if (spec->pty) {
		tlv_u8(w, GUEST_TAG_PTY, 1);
		tlv_u16(w, GUEST_TAG_ROWS, spec->rows ? spec->rows : 24);
		tlv_u16(w, GUEST_TAG_COLS, spec->cols ? spec->cols : 80);
	}
	for (size_t i = 0; i < spec->env_count; i++) {
		_cleanup_free_ char *pair = NULL;
		if (asprintf(&pair, "%s=%s", spec->env[i].key, spec->env[i].value) < 0)
			return error_set(err, ENOMEM, "no memory for a command");
		tlv_text(w, GUEST_TAG_ENV, pair);
	}
	if (w->failed)
		return error_set(err, EINVAL, "command: at most %d bytes together with its environment",
				 GUEST_PAYLOAD_MAX - 64);
	return 0;
}

static int join(struct sandbox_exec *e, int64_t limit, struct error *err)
{
	struct box *box = e->box;
	int r = 0;

	if (limit < 0 || limit > EXECS_PER_BOX)
		limit = EXECS_PER_BOX;
	pthread_mutex_lock(&box->lock);
	if (box->execs >= limit) {
		r = error_set(err, EDQUOT, "commands: at most %d at once in one sandbox", (int)limit);
	} else {
		box->execs++;
		box->unbooked_execs++;
		e->next = box->running;
		box->running = e;
	}
	pthread_mutex_unlock(&box->lock);
	return r;
}

static void leave(struct sandbox_exec *e)
{
	struct box *box = e->box;

	pthread_mutex_lock(&box->lock);
	for (struct sandbox_exec **at = &box->running; *at; at = &(*at)->next) {
		if (*at == e) {
			*at = e->next;
			box->execs--;
			break;
		}
	}
	pthread_mutex_unlock(&box->lock);
}

static void log_begin(struct sandbox_exec *e, const struct sandbox_actor *actor, const struct sandbox_exec_spec *spec)
{
	struct store_exec *log = &e->log;

	e->actor = actor;
	str_random_id(log->id, "exec");
	snprintf(log->request, sizeof(log->request), "%s", actor->request ? actor->request : "");
	snprintf(log->org, sizeof(log->org), "%s", actor->org->id);
	snprintf(log->sandbox, sizeof(log->sandbox), "%s", e->box->id);
	log->command = strdup(actor->org->log_commands ? spec->command : "(redacted)");
	log->cwd = spec->cwd ? strdup(spec->cwd) : NULL;
	log->stream = spec->stream;
	log->started_ms = time_wall_ms();
	e->log_output = actor->org->log_output;
	e->out.max = e->err_out.max = STORE_OUTPUT_MAX;
}

static int open_stream(struct sandbox_exec *e, const struct sandbox_exec_spec *spec, struct error *err)
{
	_cleanup_free_ unsigned char *fields = malloc(GUEST_PAYLOAD_MAX);
	struct tlv_writer w;

	if (!fields)
		return error_set(err, ENOMEM, "no memory for a command");
	tlv_begin(&w, fields, GUEST_PAYLOAD_MAX);
	int r = put_request(&w, spec, err);
	if (r < 0)
		return r;
	r = link_open(vm_link(e->vm), GUEST_OPEN_EXEC, &w, GUEST_MS, &e->stream, NULL, NULL, err);
	switch (-r) {
	case 0: return 0;
	case ENOENT:
	case ENOTDIR:
	case EACCES:
	case ELOOP:
	case ENAMETOOLONG:
		return error_set(err, EPROTO, "working_dir: \"%.200s\" is no directory of the sandbox",
				 spec->cwd ? spec->cwd : "");
	case EAGAIN:
	case ENOMEM: return error_set(err, EDQUOT, "the sandbox has no room for another process");
	case ECONNRESET: return error_set(err, EBUSY, "the sandbox has ended");
	case ETIMEDOUT: return r;
	default:
		/* An errno of the guest's choice must not become a status of ours. */
		return error_set(err, EPROTO, "the sandbox could not run the command");
	}
}

int sandbox_exec_start(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
		       const struct sandbox_exec_spec *spec, struct sandbox_exec **exec, struct error *err)
{
	struct sandbox_exec *e = calloc(1, sizeof(*e));
	if (!e)
		return error_set(err, ENOMEM, "no memory for a command");
	int r = box_use(s, actor, id, &e->box, &e->vm, err);
	if (r < 0) {
		free(e);
		return r;
	}
	log_begin(e, actor, spec);
	r = join(e, actor->org->execs_max, err);
	if (r == 0) {
		r = open_stream(e, spec, err);
		if (r < 0)
			leave(e);
	}
	if (r < 0) {
		box_done(e->box, e->vm);
		free(e->log.command);
		free(e->log.cwd);
		free(e);
		return r;
	}
	e->started_mono = time_mono_ms();
	pthread_mutex_lock(&e->box->lock);
	e->deadline = spec->timeout_ms > 0 ? e->started_mono + spec->timeout_ms : -1;
	pthread_mutex_unlock(&e->box->lock);
	atomic_fetch_add(&s->execs, 1);
	*exec = e;
	return 0;
}

/* ---- the time ---- */

/* Under box->lock. */
static bool overdue(struct sandbox_exec *e, int64_t now)
{
	return e->deadline > 0 && now >= e->deadline && !e->killed && e->stream;
}

void execs_check_deadlines(struct box *box, int64_t now_ms)
{
	pthread_mutex_lock(&box->lock);
	for (struct sandbox_exec *e = box->running; e; e = e->next) {
		/* Without waiting: one guest that does not read must not hold up everybody's deadlines. */
		if (overdue(e, now_ms) && link_close_soon(e->stream) == 0)
			e->killed = true;
		else if (overdue(e, now_ms - GRACE_MS))
			link_kill(vm_link(e->vm), "the guest's agent does not read its channel");
	}
	pthread_mutex_unlock(&box->lock);
}

static void check_deadline(struct sandbox_exec *e)
{
	pthread_mutex_lock(&e->box->lock);
	if (overdue(e, time_mono_ms()) && link_close_soon(e->stream) == 0)
		e->killed = true;
	pthread_mutex_unlock(&e->box->lock);
}

static bool was_killed(struct sandbox_exec *e)
{
	pthread_mutex_lock(&e->box->lock);
	bool killed = e->killed;
	pthread_mutex_unlock(&e->box->lock);
	return killed;
}

/* ---- events ---- */

static void keep(struct buf *buf, bool *truncated, const unsigned char *data, size_t size)
{
	size_t left = STORE_OUTPUT_MAX - buf->size;
	size_t take = size < left ? size : left;

	if (take < size)
		*truncated = true;
	(void)buf_add(buf, data, take);
}

static void end_with(struct sandbox_exec *e, enum sandbox_exec_end end, int32_t code, const char *message,
		     struct sandbox_exec_event *event)
{
	*event = (struct sandbox_exec_event){
		.kind = EXEC_ENDED,
		.end = end,
		.exit_code = code,
		.started_ms = e->log.started_ms,
		.duration_ms = time_mono_ms() - e->started_mono,
	};
	snprintf(event->message, sizeof(event->message), "%s", message);
	e->ended = true;
	e->last = *event;
}

static void take_exit(struct sandbox_exec *e, const struct link_frame *frame, struct sandbox_exec_event *event)
{
	struct tlv_reader reader;
	struct tlv_field field;
	uint32_t code = 255, number = 0;

	tlv_read(&reader, frame->data, frame->size);
	while (tlv_next(&reader, &field) > 0) {
		if (field.tag == GUEST_TAG_CODE)
			(void)tlv_get_u32(&field, &code);
		else if (field.tag == GUEST_TAG_SIGNAL)
			(void)tlv_get_u32(&field, &number);
	}
	if (was_killed(e))
		end_with(e, EXEC_TIMED_OUT, 124, "", event);
	else
		end_with(e, EXEC_EXITED, number > 0 && number <= 64 ? 128 + (int32_t)number : (int32_t)(code & 255), "",
			 event);
}

/* True: the event is for the caller. */
static bool take_frame(struct sandbox_exec *e, const struct link_frame *frame, struct sandbox_exec_event *event)
{
	switch (frame->type) {
	case GUEST_DATA:
		if (e->log_output)
			keep(frame->channel ? &e->err_out : &e->out,
			     frame->channel ? &e->log.err_truncated : &e->log.out_truncated, frame->data, frame->size);
		*event = (struct sandbox_exec_event){
			.kind = frame->channel ? EXEC_STDERR : EXEC_STDOUT,
			.data = (const char *)frame->data,
			.size = frame->size,
		};
		return frame->size > 0;
	case GUEST_EXIT: take_exit(e, frame, event); return true;
	case GUEST_ERROR:
	case GUEST_RESULT: /* no answer to a command, but it ended the stream */
		end_with(e, EXEC_FAILED, -1, "the command could not be run", event);
		return true;
	default: return false;
	}
}

static void fail_dead(struct sandbox_exec *e, const char *why, struct sandbox_exec_event *event)
{
	char message[STORE_TEXT_MAX];

	pthread_mutex_lock(&e->box->lock);
	if (e->box->reason[0])
		snprintf(message, sizeof(message), "the sandbox ended (%s)", e->box->reason);
	else if (e->box->row.status == SANDBOX_PAUSED)
		snprintf(message, sizeof(message),
			 "the sandbox was paused; the command carries on after its resume, unobserved");
	else
		snprintf(message, sizeof(message), "%.255s", why);
	pthread_mutex_unlock(&e->box->lock);
	end_with(e, EXEC_FAILED, -1, message, event);
}

/* How long to wait now so that neither the caller's bound nor the command's time is missed. */
static int wait_time(struct sandbox_exec *e, int64_t until)
{
	int left = time_left_ms(until);

	if (e->deadline > 0) {
		int to_deadline = time_left_ms(e->deadline);
		if (to_deadline == 0)
			to_deadline = 100; /* it was killed, or will be as soon as the guest reads */
		if (left < 0 || to_deadline < left)
			left = to_deadline;
	}
	return left;
}

int sandbox_exec_next(struct sandbox_exec *e, int wait_ms, int watch, struct sandbox_exec_event *event,
		      struct error *err)
{
	int64_t until = wait_ms < 0 ? -1 : time_mono_ms() + wait_ms;
	struct error why = { 0 };

	if (e->ended) {
		*event = e->last;
		return 0;
	}
	for (;;) {
		struct link_frame frame;
		check_deadline(e);
		if (e->deadline > 0 && time_mono_ms() > e->deadline + GRACE_MS) {
			end_with(e, EXEC_TIMED_OUT, 124, "", event);
			return 0;
		}
		int wait = wait_time(e, until);
		int r = link_next(e->stream, wait, watch, &frame, &why);
		if (r == -EPIPE) {
			if (err)
				*err = why;
			return r;
		}
		if (r < 0) {
			fail_dead(e, why.text, event);
			return 0;
		}
		if (r > 0 && take_frame(e, &frame, event))
			return 0;
		if (r == 0 && until >= 0 && time_left_ms(until) == 0) {
			*event = (struct sandbox_exec_event){ .kind = EXEC_NOTHING };
			return 0;
		}
	}
}

int sandbox_exec_write(struct sandbox_exec *e, const void *data, size_t size, struct error *err)
{
	return size == 0 ? link_send_eof(e->stream, err) : link_send(e->stream, data, size, -1, err);
}

int sandbox_exec_resize(struct sandbox_exec *e, uint16_t rows, uint16_t cols, struct error *err)
{
	unsigned char fields[32];
	struct tlv_writer w;

	tlv_begin(&w, fields, sizeof(fields));
	tlv_u16(&w, GUEST_TAG_ROWS, rows);
	tlv_u16(&w, GUEST_TAG_COLS, cols);
	return link_signal(e->stream, GUEST_RESIZE, &w, err);
}

/* ---- the end ---- */

static int log_write(struct sandbox_exec *e, int32_t status, struct error *err)
{
	struct record record = box_record(e->box, e->actor, NULL);
	struct store *store = e->box->s->store;
	int r = store_begin(store, err);

	if (r < 0)
		return r;
	record.status = status;
	snprintf(record.detail, sizeof(record.detail), "%s", e->log.id);
	return record_end(store, &record, store_exec_add(store, &e->log, err), err);
}

static void log_end(struct sandbox_exec *e, int32_t status)
{
	struct store_exec *log = &e->log;
	struct error err = { 0 };

	log->exit_code = e->ended ? e->last.exit_code : -1;
	snprintf(log->status, sizeof(log->status), "%s",
		 !e->ended || e->last.end == EXEC_FAILED ? "error"
		 : e->last.end == EXEC_TIMED_OUT         ? "timeout"
							 : "completed");
	log->duration_ms = time_mono_ms() - e->started_mono;
	if (e->log_output) {
		log->out = str_to_utf8(buf_text(&e->out), e->out.size, NULL);
		log->err_out = str_to_utf8(buf_text(&e->err_out), e->err_out.size, NULL);
	}
	if (log_write(e, status, &err) < 0)
		log_warn("execution_not_logged", "sandbox", log->sandbox, "execution", log->id, "error", err.text);
}

void sandbox_exec_close(struct sandbox_exec *e, int32_t status)
{
	if (!e)
		return;
	leave(e);
	link_close(e->stream); /* sends CLOSE if it runs: the guest kills all of it */
	log_end(e, status);
	box_done(e->box, e->vm);
	free(e->log.command);
	free(e->log.cwd);
	free(e->log.out);
	free(e->log.err_out);
	buf_free(&e->out);
	buf_free(&e->err_out);
	free(e);
}
