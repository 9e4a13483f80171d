#include "agent/session.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "proto/wire.h"

#ifndef AKIRA_VERSION
#define AKIRA_VERSION "0"
#endif

#define SMALL_FRAME_MAX (GUEST_HEADER_SIZE + 640) /* ERROR with its message is the longest of them */
#define CREDIT_STEP (GUEST_WINDOW / 4)            /* give back in steps: a frame each few bytes helps nobody */

/* A frame taken while there is room makes one answer; each stream may end of itself, after a credit. */
static_assert(SESSION_OUT_SIZE - SESSION_OUT_DATA - GUEST_FRAME_MAX >= 2 * (GUEST_STREAMS_MAX + 1) * SMALL_FRAME_MAX,
	      "answers must always find room");

/*
 * What each HELLO begins with after its length: type, channel, reserved, stream 0, then the field VERSION = 1. A host
 * that starts in the middle of what another one was sending is found by this.
 */
static const unsigned char hello_mark[] = { GUEST_HELLO, 0, 0, 0, 0, 0, 0, 0, GUEST_TAG_VERSION,
					    0,           4, 0, 0, 0, 1, 0, 0, 0 };

void session_init(struct session *s, const struct session_ops *ops, void *ctx)
{
	memset(s, 0, offsetof(struct session, request));
	s->ops = ops;
	s->ctx = ctx;
}

/* Output. */

static unsigned char *out_room(struct session *s, size_t size)
{
	if (SESSION_OUT_SIZE - s->out_end < size && s->out_start > 0) {
		memmove(s->out, s->out + s->out_start, s->out_end - s->out_start);
		s->out_end -= s->out_start;
		s->out_frame_end -= s->out_start;
		s->out_start = 0;
	}
	return SESSION_OUT_SIZE - s->out_end < size ? NULL : s->out + s->out_end;
}

static size_t out_used(const struct session *s)
{
	return s->out_end - s->out_start;
}

static void put_frame(struct session *s, enum guest_type type, uint8_t channel, uint32_t stream, const void *data,
		      size_t size)
{
	unsigned char *to = out_room(s, GUEST_HEADER_SIZE + size);

	/* Cannot be: input is held back long before. A lost answer would hang the host, so let the host start anew. */
	if (!to) {
		s->greeted = false;
		return;
	}
	guest_put_header(
		to, &(struct guest_header){
			    .length = (uint32_t)size, .type = (uint8_t)type, .channel = channel, .stream = stream });
	if (size > 0)
		memcpy(to + GUEST_HEADER_SIZE, data, size);
	s->out_end += GUEST_HEADER_SIZE + size;
}

const void *session_out(struct session *s, size_t *size)
{
	*size = out_used(s);
	return *size ? s->out + s->out_start : NULL;
}

void session_sent(struct session *s, size_t size)
{
	s->out_start += size;
	while (s->out_frame_end < s->out_start) {
		const unsigned char *header = s->out + s->out_frame_end;
		s->out_frame_end += GUEST_HEADER_SIZE + wire_get32(header);
	}
	if (s->out_start == s->out_end)
		s->out_start = s->out_end = s->out_frame_end = 0;
}

bool session_full(const struct session *s)
{
	return out_used(s) + GUEST_FRAME_MAX > SESSION_OUT_DATA;
}

static bool input_held(const struct session *s)
{
	return out_used(s) >= SESSION_OUT_DATA;
}

/* Streams. */

static struct stream *stream_find(struct session *s, uint32_t id)
{
	for (size_t i = 0; i < GUEST_STREAMS_MAX; i++)
		if (s->streams[i].kind != STREAM_FREE && s->streams[i].id == id)
			return &s->streams[i];
	return NULL;
}

static struct stream *stream_new(struct session *s, uint32_t id, enum stream_kind kind)
{
	for (size_t i = 0; i < GUEST_STREAMS_MAX; i++) {
		struct stream *stream = &s->streams[i];
		if (stream->kind == STREAM_FREE) {
			*stream = (struct stream){
				.id = id, .kind = (uint8_t)kind, .in_window = GUEST_WINDOW, .out_credit = GUEST_WINDOW
			};
			return stream;
		}
	}
	return NULL;
}

static void stream_free(struct stream *stream)
{
	stream->kind = STREAM_FREE;
	stream->job = NULL;
}

void session_opened(struct session *s, struct stream *stream, const struct tlv_writer *w)
{
	stream->opened = true;
	put_frame(s, GUEST_OPENED, 0, stream->id, w ? w->data : NULL, w ? w->size : 0);
}

void session_finish(struct session *s, struct stream *stream, enum guest_type type, const struct tlv_writer *w)
{
	put_frame(s, type, 0, stream->id, w ? w->data : NULL, w ? w->size : 0);
	stream_free(stream);
}

static void put_error(struct session *s, uint32_t id, int code, const char *text)
{
	unsigned char fields[SMALL_FRAME_MAX - GUEST_HEADER_SIZE];
	struct tlv_writer w;

	if (code < 0)
		code = -code;
	if (code < 1 || code > 4095)
		code = EIO;
	tlv_begin(&w, fields, sizeof(fields));
	tlv_u32(&w, GUEST_TAG_ERRNO, (uint32_t)code);
	tlv_bytes(&w, GUEST_TAG_MESSAGE, text, strnlen(text, ERROR_TEXT_MAX - 1));
	put_frame(s, GUEST_ERROR, 0, id, w.data, w.size);
}

void session_fail(struct session *s, struct stream *stream, int code, const char *text)
{
	put_error(s, stream->id, code, text);
	stream_free(stream);
}

void session_end(struct session *s, struct stream *stream)
{
	put_frame(s, GUEST_EOF, 0, stream->id, NULL, 0);
	if (stream->kind == STREAM_READ)
		stream_free(stream);
}

void *session_room(struct session *s, const struct stream *stream, size_t *room)
{
	if (stream->out_credit == 0 || session_full(s))
		return NULL;
	unsigned char *to = out_room(s, GUEST_FRAME_MAX);
	if (!to)
		return NULL;
	*room = stream->out_credit < GUEST_PAYLOAD_MAX ? stream->out_credit : GUEST_PAYLOAD_MAX;
	return to + GUEST_HEADER_SIZE;
}

void session_data(struct session *s, struct stream *stream, uint8_t channel, size_t size)
{
	guest_put_header(s->out + s->out_end, &(struct guest_header){ .length = (uint32_t)size,
								      .type = GUEST_DATA,
								      .channel = channel,
								      .stream = stream->id });
	s->out_end += GUEST_HEADER_SIZE + size;
	stream->out_credit -= (uint32_t)size;
}

void session_consumed(struct session *s, struct stream *stream, size_t size)
{
	unsigned char bytes[4];

	stream->in_owed += (uint32_t)size;
	if (stream->in_owed < CREDIT_STEP || stream->ended)
		return;
	wire_put32(bytes, stream->in_owed);
	stream->in_window += stream->in_owed;
	stream->in_owed = 0;
	put_frame(s, GUEST_CREDIT, 0, stream->id, bytes, sizeof(bytes));
}

/* Input. */

static void forget_streams(struct session *s, bool lost, bool keep)
{
	s->ops->reset(s->ctx, lost, keep);
	for (size_t i = 0; i < GUEST_STREAMS_MAX; i++)
		stream_free(&s->streams[i]);
	/* Of what is not sent only the frame that is half sent still has a meaning. */
	s->out_end = s->out_frame_end;
}

static void broken(struct session *s)
{
	s->greeted = false;
	forget_streams(s, true, true);
}

void session_hangup(struct session *s)
{
	s->greeted = false;
	forget_streams(s, true, true);
	s->in_start = s->in_end = 0;
	s->out_start = s->out_end = s->out_frame_end = 0;
}

static int take_hello(struct session *s, const unsigned char *payload, size_t size)
{
	unsigned char fields[256];
	struct request *r = &s->request;
	struct tlv_writer w;

	if (request_decode(r, GUEST_HELLO, payload, size) < 0)
		return -EBADMSG;
	forget_streams(s, false, r->number[GUEST_TAG_KEEP] != 0);
	s->greeted = true;

	tlv_begin(&w, fields, sizeof(fields));
	tlv_u32(&w, GUEST_TAG_VERSION, GUEST_VERSION);
	tlv_bytes(&w, GUEST_TAG_NONCE, r->text[GUEST_TAG_NONCE], GUEST_NONCE_SIZE);
	tlv_text(&w, GUEST_TAG_AGENT, "akira-init " AKIRA_VERSION);
	tlv_u8(&w, GUEST_TAG_PHASE, s->ops->phase(s->ctx));
	put_frame(s, GUEST_HELLO, 0, 0, w.data, w.size);
	return 0;
}

static enum stream_kind kind_of(uint8_t type)
{
	switch (type) {
	case GUEST_OPEN_EXEC: return STREAM_EXEC;
	case GUEST_OPEN_READ: return STREAM_READ;
	case GUEST_OPEN_WRITE: return STREAM_WRITE;
	default: return STREAM_REQUEST;
	}
}

static int take_request(struct session *s, const struct guest_header *h, const unsigned char *payload)
{
	struct request *r = &s->request;
	struct error err = { 0 };
	int result;

	if (request_decode(r, h->type, payload, h->length) < 0 || stream_find(s, h->stream))
		return -EBADMSG;
	if (h->type == GUEST_OPEN_TCP || h->type == GUEST_OPEN_WATCH) {
		put_error(s, h->stream, ENOSYS, "not in this version");
		return 0;
	}
	struct stream *stream = stream_new(s, h->stream, kind_of(h->type));
	if (!stream) {
		put_error(s, h->stream, EAGAIN, "too many streams");
		return 0;
	}
	if (stream->kind == STREAM_REQUEST) {
		result = s->ops->request(s->ctx, stream, r, &err);
		if (result == 0)
			session_finish(s, stream, GUEST_RESULT, NULL);
	} else {
		result = s->ops->open(s->ctx, stream, r, &err);
	}
	if (result < 0)
		session_fail(s, stream, result, err.code ? err.text : strerror(-result));
	return 0;
}

static int take_data(struct session *s, struct stream *stream, const struct guest_header *h, const unsigned char *data)
{
	bool takes = stream->kind == STREAM_EXEC || stream->kind == STREAM_WRITE;

	if (!takes || h->channel != 0 || stream->ended || h->length > stream->in_window)
		return -EBADMSG;
	stream->in_window -= h->length;
	if (h->length > 0)
		s->ops->data(s->ctx, stream, data, h->length);
	return 0;
}

static int take_end(struct session *s, struct stream *stream, const struct guest_header *h)
{
	bool takes = stream->kind == STREAM_EXEC || stream->kind == STREAM_WRITE;

	if (!takes || h->channel != 0 || stream->ended)
		return -EBADMSG;
	stream->ended = true;
	s->ops->end(s->ctx, stream);
	return 0;
}

static int take_credit(struct session *s, struct stream *stream, const unsigned char *payload)
{
	uint32_t bytes = wire_get32(payload);
	bool none = stream->out_credit == 0;

	if (stream->kind != STREAM_EXEC && stream->kind != STREAM_READ)
		return -EBADMSG;
	if (bytes > GUEST_WINDOW_MAX - stream->out_credit)
		return -EBADMSG;
	stream->out_credit += bytes;
	if (none && bytes > 0)
		s->ops->credit(s->ctx, stream);
	return 0;
}

static int take_control(struct session *s, struct stream *stream, const struct guest_header *h,
			const unsigned char *payload)
{
	if (request_decode(&s->request, h->type, payload, h->length) < 0)
		return -EBADMSG;
	if (stream && stream->kind != STREAM_REQUEST)
		s->ops->control(s->ctx, stream, &s->request);
	return 0;
}

static int take_frame(struct session *s, const struct guest_header *h, const unsigned char *payload)
{
	if (h->type == GUEST_HELLO)
		return take_hello(s, payload, h->length);
	if (h->type >= GUEST_RESULT)
		return -EBADMSG;
	if (h->type < GUEST_SIGNAL)
		return take_request(s, h, payload);

	/* A stream that just ended here may still get frames that were on their way: they are nobody's fault. */
	struct stream *stream = stream_find(s, h->stream);
	if (h->type < GUEST_DATA)
		return take_control(s, stream, h, payload);
	if (!stream)
		return 0;
	switch (h->type) {
	case GUEST_DATA: return take_data(s, stream, h, payload);
	case GUEST_EOF: return take_end(s, stream, h);
	default: return take_credit(s, stream, payload);
	}
}

/* Drop input up to what could be the begin of a HELLO; true if a whole mark stands there. */
static bool find_hello(struct session *s)
{
	size_t mark = 4 + sizeof(hello_mark);

	for (; s->in_start < s->in_end; s->in_start++) {
		const unsigned char *p = s->in + s->in_start;
		size_t here = s->in_end - s->in_start;
		if (here <= 4)
			return false;
		if (p[4] != hello_mark[0])
			continue;
		if (memcmp(p + 4, hello_mark, (here < mark ? here : mark) - 4) == 0 &&
		    wire_get32(p) <= GUEST_PAYLOAD_MAX)
			return here >= mark;
	}
	return false;
}

/* Handle one frame: 1 done, 0 not whole yet. */
static int next_frame(struct session *s)
{
	struct guest_header h;

	if (!s->greeted && !find_hello(s))
		return 0;
	size_t have = s->in_end - s->in_start;
	if (have < GUEST_HEADER_SIZE)
		return 0;
	const unsigned char *frame = s->in + s->in_start;
	if (guest_get_header(frame, &h) < 0) {
		broken(s);
		s->in_start++;
		return 1;
	}
	if (have - GUEST_HEADER_SIZE < h.length)
		return 0;
	s->in_start += GUEST_HEADER_SIZE + h.length;
	if (take_frame(s, &h, frame + GUEST_HEADER_SIZE) < 0)
		broken(s);
	return 1;
}

void *session_in(struct session *s, size_t *room)
{
	/* What was held back has its turn before anything new. */
	session_received(s, 0);
	if (input_held(s)) {
		*room = 0;
		return NULL;
	}
	if (SESSION_IN_SIZE - s->in_end < GUEST_FRAME_MAX && s->in_start > 0) {
		memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
		s->in_end -= s->in_start;
		s->in_start = 0;
	}
	*room = SESSION_IN_SIZE - s->in_end;
	return s->in + s->in_end;
}

void session_received(struct session *s, size_t size)
{
	s->in_end += size;
	while (!input_held(s) && next_frame(s))
		;
	if (s->in_start == s->in_end)
		s->in_start = s->in_end = 0;
}
