/*
 * Theory of operation. One thread a link reads the socket and puts frames into the queue of their stream; what a
 * stream may queue is bounded by the window that the host gave. Callers write by themselves, one frame at a time
 * under `sending`. `lock` covers the table, the queues and the credit; it is never held while writing or waiting.
 */
#include "daemon/engine/link.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cond.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "proto/wire.h"

#define SEND_TIMEOUT_MS 30000 /* a guest that reads nothing for so long is dead: control frames are tiny */
#define QUEUE_MAX 4096        /* frames of any kind that wait for one stream */
#define CREDIT_STEP (GUEST_WINDOW / 4)
/* HELLO's header, its whole VERSION and the header of NONCE: the nonce begins after so many bytes of its frame. */
#define NONCE_OFFSET (GUEST_HEADER_SIZE + 6 + 4 + 6)

struct queued {
	struct queued *next;
	struct link_frame frame;
	unsigned char *bytes; /* malloc'ed */
	size_t room;
};

struct link_stream {
	struct link *link;
	struct link_stream *next;
	uint32_t id;
	int wake;                    /* eventfd: a frame came, credit came, the link died */
	struct queued *head, **tail; /* under link->lock, as all below */
	struct queued *last;         /* NULL when the queue is empty */
	size_t queued;
	struct queued *current; /* lent to the caller; not under the lock */
	uint32_t window_in;     /* DATA the guest may still send */
	uint32_t consumed;      /* not yet given back */
	uint32_t window_out;    /* DATA we may still send */
	bool ended;             /* RESULT, EXIT or ERROR came */
};

struct link {
	int fd;
	pthread_t thread;
	bool has_thread;
	atomic_int references;
	pthread_mutex_t sending;
	pthread_mutex_t lock;
	struct link_stream *streams;
	uint32_t next_stream;
	bool dead;
	char why[128];
	/* HELLO under way */
	pthread_cond_t greeted;
	unsigned char nonce[GUEST_NONCE_SIZE];
	bool greeting, has_phase;
	uint8_t phase;
};

static void wake(struct link_stream *stream)
{
	uint64_t one = 1;
	(void)!write(stream->wake, &one, sizeof(one));
}

static void kill_locked(struct link *link, const char *why)
{
	if (link->dead)
		return;
	link->dead = true;
	snprintf(link->why, sizeof(link->why), "%s", why);
	shutdown(link->fd, SHUT_RDWR);
	for (struct link_stream *s = link->streams; s; s = s->next)
		wake(s);
	pthread_cond_broadcast(&link->greeted);
}

void link_kill(struct link *link, const char *why)
{
	pthread_mutex_lock(&link->lock);
	kill_locked(link, why);
	pthread_mutex_unlock(&link->lock);
}

bool link_is_dead(const struct link *link)
{
	struct link *l = (struct link *)(uintptr_t)link;
	pthread_mutex_lock(&l->lock);
	bool dead = l->dead;
	pthread_mutex_unlock(&l->lock);
	return dead;
}

uint32_t link_last_stream(struct link *link)
{
	pthread_mutex_lock(&link->lock);
	uint32_t last = link->next_stream - 1;
	pthread_mutex_unlock(&link->lock);
	return last;
}

/* ---- writing ---- */

static int write_bytes(struct link *link, const unsigned char *bytes, size_t size)
{
	int64_t deadline = time_mono_ms() + SEND_TIMEOUT_MS;
	size_t done = 0;
	int r = 0;

	pthread_mutex_lock(&link->sending);
	while (r == 0 && done < size) {
		ssize_t n = send(link->fd, bytes + done, size - done, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0) {
			done += (size_t)n;
		} else if (errno == EAGAIN) {
			struct pollfd poller = { .fd = link->fd, .events = POLLOUT };
			int ready = poll(&poller, 1, time_left_ms(deadline));
			if (ready == 0)
				r = -ETIMEDOUT;
		} else if (errno != EINTR) {
			r = -errno;
		}
	}
	pthread_mutex_unlock(&link->sending);
	if (r < 0)
		link_kill(link, "the guest does not read its channel");
	return r;
}

static int send_frame(struct link *link, enum guest_type type, uint32_t stream, const void *payload, size_t size)
{
	struct guest_header header = { .length = (uint32_t)size, .type = (uint8_t)type, .stream = stream };
	unsigned char bytes[GUEST_FRAME_MAX];

	guest_put_header(bytes, &header);
	if (size > 0)
		memcpy(bytes + GUEST_HEADER_SIZE, payload, size);
	return write_bytes(link, bytes, GUEST_HEADER_SIZE + size);
}

static int send_zeros(struct link *link)
{
	static const unsigned char zeros[GUEST_FRAME_MAX];
	return write_bytes(link, zeros, sizeof(zeros));
}

/* ---- reading ---- */

/* RESULT, OPENED, EXIT and ERROR come once each at most, EOF twice: a guest that floods with them is lying. */
static const char *accept_frame(struct link_stream *s, const struct guest_header *h)
{
	switch ((enum guest_type)h->type) {
	case GUEST_DATA:
		if (h->length > s->window_in)
			return "the guest sent more than its window";
		s->window_in -= h->length;
		return NULL;
	case GUEST_EOF:
	case GUEST_OPENED: return NULL;
	case GUEST_RESULT:
	case GUEST_EXIT:
	case GUEST_ERROR: s->ended = true; return NULL;
	default: return "the guest sent a frame that only the host may send";
	}
}

static struct link_stream *find_stream(struct link *link, uint32_t id)
{
	struct link_stream *s = link->streams;
	while (s && s->id != id)
		s = s->next;
	return s;
}

static void give_credit(struct link_stream *s, uint32_t bytes)
{
	if (bytes > GUEST_WINDOW_MAX - s->window_out)
		s->window_out = GUEST_WINDOW_MAX;
	else
		s->window_out += bytes;
	wake(s);
}

static void queued_free(struct queued *q)
{
	if (q)
		free(q->bytes);
	free(q);
}

static struct queued *queued_new(const struct guest_header *h, const unsigned char *payload)
{
	struct queued *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	q->room = h->length;
	q->bytes = malloc(q->room ? q->room : 1);
	if (!q->bytes) {
		free(q);
		return NULL;
	}
	memcpy(q->bytes, payload, h->length);
	q->frame = (struct link_frame){
		.type = (enum guest_type)h->type,
		.channel = h->channel,
		.data = q->bytes,
		.size = h->length,
	};
	return q;
}

/*
 * A command that writes byte by byte, with nobody reading just now, must not fill the queue with frames of one byte:
 * what goes on from the last frame is put into it.
 */
static bool append_data(struct queued *last, const struct guest_header *h, const unsigned char *payload)
{
	if (!last || h->type != GUEST_DATA || last->frame.type != GUEST_DATA || last->frame.channel != h->channel ||
	    last->frame.size + h->length > GUEST_PAYLOAD_MAX)
		return false;
	size_t size = last->frame.size + h->length;
	if (size > last->room) {
		unsigned char *bytes = realloc(last->bytes, 2 * size);
		if (!bytes)
			return false;
		last->bytes = bytes;
		last->room = 2 * size;
		last->frame.data = bytes;
	}
	memcpy(last->bytes + last->frame.size, payload, h->length);
	last->frame.size = size;
	return true;
}

static const char *queue_frame(struct link *link, const struct guest_header *h, const unsigned char *payload)
{
	if (h->stream >= link->next_stream)
		return "the guest spoke on a stream that was never opened";
	struct link_stream *s = find_stream(link, h->stream);
	if (!s || s->ended)
		return NULL; /* its end crossed our CLOSE on the way */
	if (h->type == GUEST_CREDIT) {
		give_credit(s, wire_get32(payload));
		return NULL;
	}
	const char *wrong = accept_frame(s, h);
	if (wrong)
		return wrong;
	if (append_data(s->last, h, payload)) {
		wake(s);
		return NULL;
	}
	if (s->queued >= QUEUE_MAX)
		return "the guest sent too many frames";
	struct queued *q = queued_new(h, payload);
	if (!q)
		return "no memory for the guest's output";
	*s->tail = s->last = q;
	s->tail = &q->next;
	s->queued++;
	wake(s);
	return NULL;
}

static const char *take_hello(struct link *link, const unsigned char *payload, size_t size)
{
	struct tlv_reader reader;
	struct tlv_field field;
	uint32_t version = 0;
	uint8_t phase = 255;
	bool mine = false;
	int more;

	tlv_read(&reader, payload, size);
	while ((more = tlv_next(&reader, &field)) > 0) {
		if (field.tag == GUEST_TAG_VERSION && tlv_get_u32(&field, &version) < 0)
			return "the guest's HELLO is malformed";
		if (field.tag == GUEST_TAG_PHASE && tlv_get_u8(&field, &phase) < 0)
			return "the guest's HELLO is malformed";
		if (field.tag == GUEST_TAG_NONCE)
			mine = field.size == GUEST_NONCE_SIZE &&
			       memcmp(field.value, link->nonce, GUEST_NONCE_SIZE) == 0;
	}
	if (more < 0)
		return "the guest's HELLO is malformed";
	if (!mine)
		return NULL; /* an answer to an earlier host's HELLO */
	if (version != GUEST_VERSION || phase > GUEST_PERSONALISED)
		return "the guest speaks another version of the protocol";
	link->phase = phase;
	link->has_phase = true;
	link->greeting = false;
	pthread_cond_broadcast(&link->greeted);
	return NULL;
}

static const char *take_frame(struct link *link, const struct guest_header *h, const unsigned char *payload)
{
	if (h->type != GUEST_HELLO)
		return queue_frame(link, h, payload);
	return link->greeting ? take_hello(link, payload, h->length) : NULL;
}

/*
 * Until the guest has answered our HELLO its bytes are what it still had to say to an earlier host, and may begin in
 * the middle of a frame (it was paused there). Returns how many of them are to be dropped.
 */
static size_t before_hello(const struct link *link, const unsigned char *data, size_t size)
{
	const unsigned char *nonce = link->greeting ? memmem(data, size, link->nonce, GUEST_NONCE_SIZE) : NULL;
	static const size_t keep = NONCE_OFFSET + GUEST_NONCE_SIZE - 1;

	if (!nonce)
		return size > keep ? size - keep : 0;
	size_t at = (size_t)(nonce - data);
	return at >= NONCE_OFFSET ? at - NONCE_OFFSET : size;
}

/* Consume whole frames from the front; returns the bytes used, or -EBADMSG with the link dead. */
static ssize_t take_frames(struct link *link, const unsigned char *data, size_t size)
{
	size_t used = 0;
	const char *wrong = NULL;

	pthread_mutex_lock(&link->lock);
	while (!wrong) {
		struct guest_header h;
		bool greeted = !link->greeting && link->has_phase;
		if (!greeted)
			used += before_hello(link, data + used, size - used);
		if (size - used < (greeted ? GUEST_HEADER_SIZE : NONCE_OFFSET + GUEST_NONCE_SIZE))
			break;
		if (guest_get_header(data + used, &h) < 0) {
			wrong = "the guest sent a malformed frame";
			break;
		}
		if (size - used - GUEST_HEADER_SIZE < h.length)
			break;
		wrong = take_frame(link, &h, data + used + GUEST_HEADER_SIZE);
		used += GUEST_HEADER_SIZE + h.length;
	}
	if (wrong)
		kill_locked(link, wrong);
	pthread_mutex_unlock(&link->lock);
	return wrong ? -EBADMSG : (ssize_t)used;
}

static void *reader(void *context)
{
	struct link *link = context;
	static const size_t room = 2 * GUEST_FRAME_MAX;
	unsigned char *data = malloc(room);
	size_t have = 0;

	while (data) {
		ssize_t n = recv(link->fd, data + have, room - have, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		have += (size_t)n;
		ssize_t used = take_frames(link, data, have);
		if (used < 0)
			break;
		have -= (size_t)used;
		memmove(data, data + used, have);
	}
	free(data);
	link_kill(link, "the VM ended");
	return NULL;
}

/* ---- life ---- */

int link_new(int fd, uint32_t first_stream, struct link **out, struct error *err)
{
	struct link *link = calloc(1, sizeof(*link));
	if (!link) {
		close(fd);
		return error_set(err, ENOMEM, "no memory for an agent channel");
	}
	link->fd = fd;
	link->next_stream = first_stream;
	atomic_init(&link->references, 1);
	pthread_mutex_init(&link->sending, NULL);
	pthread_mutex_init(&link->lock, NULL);
	pthread_cond_init(&link->greeted, NULL);
	int r = pthread_create(&link->thread, NULL, reader, link);
	if (r != 0) {
		link_put(link);
		return error_errno(err, r, "no thread for an agent channel");
	}
	link->has_thread = true;
	*out = link;
	return 0;
}

void link_get(struct link *link)
{
	atomic_fetch_add(&link->references, 1);
}

void link_put(struct link *link)
{
	if (!link || atomic_fetch_sub(&link->references, 1) != 1)
		return;
	link_kill(link, "the sandbox ended");
	if (link->has_thread)
		pthread_join(link->thread, NULL);
	close(link->fd);
	pthread_mutex_destroy(&link->sending);
	pthread_mutex_destroy(&link->lock);
	pthread_cond_destroy(&link->greeted);
	free(link);
}

static int dead_error(struct link *link, struct error *err)
{
	return error_set(err, ECONNRESET, "%s", link->why[0] ? link->why : "the sandbox ended");
}

int link_hello(struct link *link, bool keep, int timeout_ms, enum guest_phase *phase, struct error *err)
{
	unsigned char payload[64];
	struct tlv_writer w;

	pthread_mutex_lock(&link->lock);
	if (getrandom(link->nonce, sizeof(link->nonce), 0) != (ssize_t)sizeof(link->nonce))
		abort();
	link->greeting = true;
	pthread_mutex_unlock(&link->lock);

	/* The host before us may have stopped in the middle of a frame: zeros end it, and the guest waits for HELLO. */
	if (keep)
		(void)send_zeros(link);
	tlv_begin(&w, payload, sizeof(payload));
	tlv_u32(&w, GUEST_TAG_VERSION, GUEST_VERSION);
	tlv_bytes(&w, GUEST_TAG_NONCE, link->nonce, sizeof(link->nonce));
	tlv_u8(&w, GUEST_TAG_KEEP, keep);
	(void)send_frame(link, GUEST_HELLO, 0, payload, w.size);

	int64_t deadline = time_mono_ms() + timeout_ms;
	int waited = 0;
	pthread_mutex_lock(&link->lock);
	while (link->greeting && !link->dead && waited == 0)
		waited = cond_wait_until(&link->greeted, &link->lock, deadline);
	bool greeted = !link->greeting, dead = link->dead;
	*phase = (enum guest_phase)link->phase;
	pthread_mutex_unlock(&link->lock);
	if (dead)
		return dead_error(link, err);
	return greeted ? 0 : error_set(err, ETIMEDOUT, "the guest did not answer within %d ms", timeout_ms);
}

/* ---- streams ---- */

static int stream_new(struct link *link, struct link_stream **out, struct error *err)
{
	struct link_stream *s = calloc(1, sizeof(*s));
	if (!s)
		return error_set(err, ENOMEM, "no memory for a stream");
	s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake < 0) {
		int code = errno;
		free(s);
		return error_errno(err, code, "no descriptor for a stream");
	}
	s->link = link;
	s->tail = &s->head;
	s->window_in = s->window_out = GUEST_WINDOW;
	link_get(link);

	pthread_mutex_lock(&link->lock);
	bool spent = link->next_stream == UINT32_MAX;
	if (!spent)
		s->id = link->next_stream++;
	s->next = link->streams;
	link->streams = s;
	pthread_mutex_unlock(&link->lock);
	if (spent) {
		link_close(s);
		return error_set(err, EAGAIN, "the sandbox has run out of stream numbers");
	}
	*out = s;
	return 0;
}

void link_close(struct link_stream *stream)
{
	if (!stream)
		return;
	struct link *link = stream->link;

	pthread_mutex_lock(&link->lock);
	for (struct link_stream **at = &link->streams; *at; at = &(*at)->next) {
		if (*at == stream) {
			*at = stream->next;
			break;
		}
	}
	bool running = !stream->ended && !link->dead && stream->id != 0;
	pthread_mutex_unlock(&link->lock);
	if (running)
		(void)send_frame(link, GUEST_CLOSE, stream->id, NULL, 0);

	for (struct queued *q = stream->head, *next; q; q = next) {
		next = q->next;
		queued_free(q);
	}
	queued_free(stream->current);
	close(stream->wake);
	free(stream);
	link_put(link);
}

static struct queued *take_queued(struct link_stream *s)
{
	struct queued *q = s->head;
	if (!q)
		return NULL;
	s->head = q->next;
	if (!s->head) {
		s->tail = &s->head;
		s->last = NULL;
	}
	s->queued--;
	return q;
}

/* Give the guest back what the caller is done with, in steps, so that credit is not a frame for each frame. */
static void return_credit(struct link_stream *s)
{
	uint32_t give = 0;

	if (!s->current)
		return;
	if (s->current->frame.type == GUEST_DATA) {
		pthread_mutex_lock(&s->link->lock);
		s->consumed += (uint32_t)s->current->frame.size;
		if (s->consumed >= CREDIT_STEP && !s->ended) {
			give = s->consumed;
			s->consumed = 0;
			s->window_in += give;
		}
		pthread_mutex_unlock(&s->link->lock);
	}
	queued_free(s->current);
	s->current = NULL;
	if (give > 0) {
		unsigned char payload[4];
		wire_put32(payload, give);
		(void)send_frame(s->link, GUEST_CREDIT, s->id, payload, sizeof(payload));
	}
}

/* Wait for the stream's eventfd or the loss of the client. 1 woken, 0 time over, -EPIPE. */
static int wait_woken(struct link_stream *s, int64_t deadline, int watch)
{
	struct pollfd pollers[2] = {
		{ .fd = s->wake, .events = POLLIN },
		{ .fd = watch, .events = POLLRDHUP },
	};
	int ready = poll(pollers, watch >= 0 ? 2 : 1, time_left_ms(deadline));
	if (ready < 0)
		return errno == EINTR ? 1 : -errno;
	if (watch >= 0 && (pollers[1].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)))
		return -EPIPE;
	if (pollers[0].revents) {
		uint64_t count;
		(void)!read(s->wake, &count, sizeof(count));
	}
	return ready > 0;
}

int link_next(struct link_stream *s, int wait_ms, int watch, struct link_frame *frame, struct error *err)
{
	int64_t deadline = wait_ms < 0 ? -1 : time_mono_ms() + wait_ms;

	return_credit(s);
	for (;;) {
		pthread_mutex_lock(&s->link->lock);
		struct queued *q = take_queued(s);
		bool dead = s->link->dead;
		pthread_mutex_unlock(&s->link->lock);
		if (q) {
			s->current = q;
			*frame = q->frame;
			return 1;
		}
		if (dead)
			return dead_error(s->link, err);
		int r = wait_woken(s, deadline, watch);
		if (r == -EPIPE)
			return error_set(err, EPIPE, "the client closed its connection");
		if (r <= 0)
			return r;
	}
}

static int take_credit(struct link_stream *s, size_t want, int64_t deadline, struct error *err)
{
	for (;;) {
		pthread_mutex_lock(&s->link->lock);
		uint32_t window = s->window_out;
		size_t take = want < window ? want : window;
		s->window_out -= (uint32_t)take;
		bool dead = s->link->dead, ended = s->ended;
		pthread_mutex_unlock(&s->link->lock);
		if (dead)
			return dead_error(s->link, err);
		if (ended)
			return error_set(err, ECONNRESET, "the sandbox ended the stream");
		if (take > 0)
			return (int)take;
		int r = wait_woken(s, deadline, -1);
		if (r == 0)
			return error_set(err, ETIMEDOUT, "the sandbox does not read");
		if (r < 0)
			return r;
	}
}

int link_send(struct link_stream *s, const void *data, size_t size, int timeout_ms, struct error *err)
{
	const unsigned char *bytes = data;
	int64_t deadline = timeout_ms < 0 ? -1 : time_mono_ms() + timeout_ms;

	while (size > 0) {
		int n = take_credit(s, size < GUEST_PAYLOAD_MAX ? size : GUEST_PAYLOAD_MAX, deadline, err);
		if (n < 0)
			return n;
		if (send_frame(s->link, GUEST_DATA, s->id, bytes, (size_t)n) < 0)
			return dead_error(s->link, err);
		bytes += n;
		size -= (size_t)n;
	}
	return 0;
}

int link_send_eof(struct link_stream *s, struct error *err)
{
	return send_frame(s->link, GUEST_EOF, s->id, NULL, 0) < 0 ? dead_error(s->link, err) : 0;
}

int link_signal(struct link_stream *s, enum guest_type type, const struct tlv_writer *fields, struct error *err)
{
	int r = send_frame(s->link, type, s->id, fields ? fields->data : NULL, fields ? fields->size : 0);
	return r < 0 ? dead_error(s->link, err) : 0;
}

int link_close_soon(struct link_stream *s)
{
	struct guest_header header = { .type = GUEST_CLOSE, .stream = s->id };
	unsigned char bytes[GUEST_HEADER_SIZE];

	guest_put_header(bytes, &header);
	if (pthread_mutex_trylock(&s->link->sending) != 0)
		return -EAGAIN;
	ssize_t n = send(s->link->fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
	pthread_mutex_unlock(&s->link->sending);
	if (n > 0 && n < (ssize_t)sizeof(bytes))
		link_kill(s->link, "the guest's channel took half a frame");
	return n < 0 ? -EAGAIN : 0;
}

/* The guest's ERROR as ours. Its errno is a claim: only those that mean something to a caller are passed on. */
static int guest_error(const struct link_frame *frame, struct error *err)
{
	struct tlv_reader r;
	struct tlv_field field;
	uint32_t code = EIO;
	char message[256] = "the guest refused";

	tlv_read(&r, frame->data, frame->size);
	while (tlv_next(&r, &field) > 0) {
		if (field.tag == GUEST_TAG_ERRNO && (tlv_get_u32(&field, &code) < 0 || code == 0 || code > 133))
			code = EIO;
		if (field.tag == GUEST_TAG_MESSAGE && tlv_get_text(&field, message, sizeof(message)) < 0)
			strcpy(message, "the guest refused");
	}
	_cleanup_free_ char *clean = str_to_utf8(message, strlen(message), NULL);
	return error_set(err, (int)code, "%s", clean ? clean : "the guest refused");
}

static int await(struct link_stream *s, enum guest_type type, int timeout_ms, void *reply, size_t *reply_size,
		 struct error *err)
{
	struct link_frame frame;
	int r = link_next(s, timeout_ms, -1, &frame, err);

	if (r < 0)
		return r;
	if (r == 0)
		return error_set(err, ETIMEDOUT, "the guest did not answer within %d ms", timeout_ms);
	if (frame.type == GUEST_ERROR)
		return guest_error(&frame, err);
	if (frame.type != type) {
		link_kill(s->link, "the guest gave another answer than was asked for");
		return dead_error(s->link, err);
	}
	if (reply) {
		memcpy(reply, frame.data, frame.size);
		*reply_size = frame.size;
	}
	return 0;
}

static int ask(struct link *link, enum guest_type type, const struct tlv_writer *fields, struct link_stream **stream,
	       struct error *err)
{
	if (fields && fields->failed)
		return error_set(err, E2BIG, "the request is too long for one message");
	int r = stream_new(link, stream, err);
	if (r < 0)
		return r;
	r = link_signal(*stream, type, fields, err);
	if (r < 0) {
		link_close(*stream);
		*stream = NULL;
	}
	return r;
}

int link_request(struct link *link, enum guest_type type, const struct tlv_writer *fields, int timeout_ms, void *reply,
		 size_t *reply_size, struct error *err)
{
	struct link_stream *s = NULL;
	int r = ask(link, type, fields, &s, err);
	if (r == 0)
		r = await(s, GUEST_RESULT, timeout_ms, reply, reply_size, err);
	link_close(s);
	return r;
}

int link_open(struct link *link, enum guest_type type, const struct tlv_writer *fields, int timeout_ms,
	      struct link_stream **stream, void *reply, size_t *reply_size, struct error *err)
{
	struct link_stream *s = NULL;
	int r = ask(link, type, fields, &s, err);
	if (r == 0)
		r = await(s, GUEST_OPENED, timeout_ms, reply, reply_size, err);
	if (r < 0) {
		link_close(s);
		return r;
	}
	*stream = s;
	return 0;
}
