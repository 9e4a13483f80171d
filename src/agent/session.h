/*
 * The guest's end of the protocol (api/guest-protocol.md) as a state machine without system calls: bytes of the port
 * in, calls of `struct session_ops` and bytes for the port out. It keeps the table of streams and the accounting of
 * credit; what a stream does is behind `stream->job`, which belongs to the ops.
 *
 * One thread. Memory is bounded by the structure itself: nothing is allocated. While the output is nearly full no
 * further input is taken, so that answers always find room.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/request.h"
#include "base/error.h"
#include "proto/guest.h"
#include "proto/tlv.h"

#define SESSION_IN_SIZE (2 * GUEST_FRAME_MAX)
#define SESSION_OUT_DATA (256 * 1024) /* DATA is taken up to here ... */
#define SESSION_OUT_SIZE (768 * 1024) /* ... and the rest is for answers */

enum stream_kind { STREAM_FREE, STREAM_REQUEST, STREAM_EXEC, STREAM_READ, STREAM_WRITE };

struct stream {
	uint32_t id;
	uint8_t kind;        /* enum stream_kind */
	bool opened;         /* OPENED was sent */
	bool ended;          /* the host sent EOF */
	uint32_t in_window;  /* bytes of DATA that the host may still send */
	uint32_t in_owed;    /* bytes consumed and not yet given back */
	uint32_t out_credit; /* bytes of DATA that we may still send */
	void *job;           /* the ops' own */
};

#define SESSION_LATER 1

struct session_ops {
	/* A HELLO (lost = false; keep as it says) or a broken rule (lost = true, the host is out of step): every stream
	 * will be forgotten after this returns; let go of the jobs. */
	void (*reset)(void *ctx, bool lost, bool keep);
	uint8_t (*phase)(void *ctx); /* enum guest_phase */
	/*
	 * A request. 0: done, RESULT without fields is sent. SESSION_LATER: the ops answer with session_finish, now or
	 * later. -errno: ERROR with err's text is sent.
	 */
	int (*request)(void *ctx, struct stream *stream, const struct request *request, struct error *err);
	/* An OPEN_EXEC, _READ, _WRITE. 0: the ops called or will call session_opened. -errno: ERROR is sent. */
	int (*open)(void *ctx, struct stream *stream, const struct request *request, struct error *err);
	/* DATA; the ops give every byte back with session_consumed, now or later. Not called after end. */
	void (*data)(void *ctx, struct stream *stream, const void *data, size_t size);
	void (*end)(void *ctx, struct stream *stream);    /* EOF from the host */
	void (*credit)(void *ctx, struct stream *stream); /* out_credit is no longer 0 */
	/* SIGNAL, RESIZE, CLOSE, DETACH. */
	void (*control)(void *ctx, struct stream *stream, const struct request *request);
};

struct session {
	const struct session_ops *ops;
	void *ctx;
	bool greeted; /* a HELLO was taken and no rule broken since */
	size_t in_start, in_end;
	size_t out_start, out_end;
	size_t out_frame_end; /* end of the frame of which out_start is inside, or out_start */
	struct stream streams[GUEST_STREAMS_MAX];
	struct request request;
	unsigned char in[SESSION_IN_SIZE];
	unsigned char out[SESSION_OUT_SIZE];
};

void session_init(struct session *s, const struct session_ops *ops, void *ctx);

/* Where the next bytes of the port go, and how many; 0 while input is held back because the output is full. */
void *session_in(struct session *s, size_t *room);
/* That many bytes were put there: handle the frames that are whole. */
void session_received(struct session *s, size_t size);
/* The peer is gone: forget half a frame of either direction, wait for HELLO. Commands run on. */
void session_hangup(struct session *s);

/* What is to be written to the port; NULL when nothing. After a write, say how much went. */
const void *session_out(struct session *s, size_t *size);
void session_sent(struct session *s, size_t size);

/* OPENED, with these fields (w may be NULL). */
void session_opened(struct session *s, struct stream *stream, const struct tlv_writer *w);
/* RESULT or EXIT with these fields (w may be NULL); ends the stream, which must not be touched any more. */
void session_finish(struct session *s, struct stream *stream, enum guest_type type, const struct tlv_writer *w);
/* ERROR; ends the stream. code: a positive or negative errno. */
void session_fail(struct session *s, struct stream *stream, int code, const char *text);
/* EOF of the file; ends a read's stream. */
void session_end(struct session *s, struct stream *stream);

/*
 * Send DATA without a copy: room says where the payload goes and how much credit and space allow (NULL: none now);
 * data sends the size bytes, 1..*room, that were put there. Nothing else may be sent in between.
 */
void *session_room(struct session *s, const struct stream *stream, size_t *room);
void session_data(struct session *s, struct stream *stream, uint8_t channel, size_t size);
/* True if the output takes no DATA now. */
bool session_full(const struct session *s);

/* Give back size bytes of the host's window. */
void session_consumed(struct session *s, struct stream *stream, size_t size);
