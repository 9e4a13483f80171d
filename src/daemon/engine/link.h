/*
 * akirad's end of the guest protocol (api/guest-protocol.md) on one VM's agent channel: a thread that reads frames
 * and hands them to streams, and calls that block with a bound. The guest is hostile: one broken rule and the link is
 * dead, which ends every stream. Thread-safe, except that one stream is used by one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "proto/guest.h"
#include "proto/tlv.h"

struct link;
struct link_stream;

/* Takes over fd. first_stream: the first number to give out (a resumed VM has seen smaller ones). */
int link_new(int fd, uint32_t first_stream, struct link **link, struct error *err);
void link_get(struct link *link);
void link_put(struct link *link); /* the last one joins the thread; NULL is fine */
/* End it now: every stream gets LINK_DEAD. why is what they say. Only the first call's words count. */
void link_kill(struct link *link, const char *why);
bool link_is_dead(const struct link *link);
uint32_t link_last_stream(struct link *link);

/* The exchange of HELLOs. keep: processes of earlier streams run on. */
int link_hello(struct link *link, bool keep, int timeout_ms, enum guest_phase *phase, struct error *err);
/*
 * A request that is answered by RESULT. reply (may be NULL) receives the payload of at most GUEST_PAYLOAD_MAX bytes,
 * its size in *reply_size. The guest's ERROR gives -errno with its message (cut, escaped by whoever shows it).
 */
int link_request(struct link *link, enum guest_type type, const struct tlv_writer *fields, int timeout_ms, void *reply,
		 size_t *reply_size, struct error *err);

/* A request that is answered by OPENED. As above; the stream is then open. */
int link_open(struct link *link, enum guest_type type, const struct tlv_writer *fields, int timeout_ms,
	      struct link_stream **stream, void *reply, size_t *reply_size, struct error *err);

struct link_frame {
	enum guest_type type; /* DATA, EOF, RESULT, EXIT, ERROR */
	uint8_t channel;
	const unsigned char *data; /* valid until the next call on the stream */
	size_t size;
};
/*
 * The next frame. 1: one; 0: none within wait_ms (-1 = no bound); -EPIPE: watch (a client's socket, or -1) has lost
 * its peer; -ECONNRESET: the link is dead, err says why. Credit goes back by itself.
 */
int link_next(struct link_stream *stream, int wait_ms, int watch, struct link_frame *frame, struct error *err);
/* DATA, waiting for the guest's credit; a dead link, or a stream that has ended, is -ECONNRESET, no credit in
 * timeout_ms (-1 = no bound) -ETIMEDOUT. */
int link_send(struct link_stream *stream, const void *data, size_t size, int timeout_ms, struct error *err);
int link_send_eof(struct link_stream *stream, struct error *err);
int link_signal(struct link_stream *stream, enum guest_type type, const struct tlv_writer *fields, struct error *err);
/* CLOSE without forgetting the stream (EXIT follows) and without waiting: -EAGAIN if the channel is full just now. */
int link_close_soon(struct link_stream *stream);
/* Sends CLOSE unless the stream ended, and forgets it. NULL is fine. */
void link_close(struct link_stream *stream);
