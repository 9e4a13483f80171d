/*
 * libFuzzer: what a hostile guest may write into its agent channel. The first byte says whether HELLO is still awaited
 * and how many streams are open, the second how the bytes are cut into reads. No thread and no peer: the frames are
 * taken as the reader's thread would, then every stream is read to its end.
 */
#include "daemon/engine/link.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STREAMS 4

static struct link *link_of(bool greeted)
{
	static const unsigned char nonce[GUEST_NONCE_SIZE] = "0123456789abcdef";
	struct link *link = calloc(1, sizeof(*link));
	int pair[2];

	if (!link)
		return NULL; /* tests/fault takes memory away */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	close(pair[1]); /* what would be sent fails at once */
	link->fd = pair[0];
	link->next_stream = 1;
	atomic_init(&link->references, 1);
	pthread_mutex_init(&link->sending, NULL);
	pthread_mutex_init(&link->lock, NULL);
	pthread_cond_init(&link->greeted, NULL);
	memcpy(link->nonce, nonce, sizeof(nonce));
	link->greeting = !greeted;
	link->has_phase = greeted;
	return link;
}

/* As reader() does, with reads of at most `step` bytes. */
static void feed(struct link *link, const uint8_t *data, size_t size, size_t step)
{
	static unsigned char room[2 * GUEST_FRAME_MAX];
	size_t have = 0;

	while (size > 0) {
		size_t n = size < step ? size : step;
		if (n > sizeof(room) - have)
			n = sizeof(room) - have;
		if (n == 0)
			abort(); /* a frame that never becomes whole would stop the channel */
		memcpy(room + have, data, n);
		data += n;
		size -= n;
		have += n;
		ssize_t used = take_frames(link, room, have);
		if (used < 0) {
			if (!link->dead || !link->why[0])
				abort();
			return;
		}
		if ((size_t)used > have)
			abort();
		have -= (size_t)used;
		memmove(room, room + used, have);
	}
}

static void drain(struct link_stream *s)
{
	struct link_frame frame;
	struct error err = { 0 };
	size_t bytes = 0;
	volatile unsigned char last = 0;

	while (link_next(s, 0, -1, &frame, &err) > 0) {
		if (frame.size > GUEST_PAYLOAD_MAX || frame.channel > 1)
			abort();
		bytes += frame.type == GUEST_DATA ? frame.size : 0;
		for (size_t i = 0; i < frame.size; i++)
			last = frame.data[i]; /* all of it can be read */
		if (frame.type == GUEST_ERROR && guest_error(&frame, &err) >= 0)
			abort();
	}
	(void)last;
	if (bytes > 2 * GUEST_WINDOW)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct link_stream *streams[STREAMS];

	if (size < 2)
		return 0;
	struct link *link = link_of(data[0] & 1);
	size_t count = data[0] / 2 % (STREAMS + 1);
	for (size_t i = 0; link && i < count; i++)
		if (stream_new(link, &streams[i], NULL) < 0)
			count = i;
	if (!link)
		return 0;
	feed(link, data + 2, size - 2, data[1] ? data[1] : 65536);
	for (size_t i = 0; i < count; i++) {
		drain(streams[i]);
		link_close(streams[i]);
	}
	link_put(link);
	return 0;
}
