#include "daemon/store/audit_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/json/text.h"
#include "daemon/store/store.h"

#define TAIL_MAX 65536 /* more than the longest line */
#define STEP 500
#define ROUND_MAX 10000

struct audit_copy {
	struct store *store;
	char path[512];
	atomic_uint_fast64_t last; /* seq of the last line written; others may look */
};

/* The seq of the file's last whole line; 0 when there is none. A torn line at the end (a crash) is cut off. */
static int find_last(int fd, uint64_t *last, struct error *err)
{
	_cleanup_free_ char *tail = calloc(1, TAIL_MAX + 1);
	struct stat st;

	*last = 0;
	if (!tail || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return error_set(err, EINVAL, "audit.file is no plain file");
	off_t from = st.st_size > TAIL_MAX ? st.st_size - TAIL_MAX : 0;
	ssize_t n = pread(fd, tail, TAIL_MAX, from);
	if (n <= 0)
		return n < 0 ? error_errno(err, errno, "read audit.file") : 0;
	char *end = memrchr(tail, '\n', (size_t)n);
	off_t whole = end ? from + (end - tail) + 1 : 0;
	if (whole < st.st_size && ftruncate(fd, whole) < 0)
		return error_errno(err, errno, "mend audit.file");
	if (!end)
		return 0;
	char *line = memrchr(tail, '\n', (size_t)(end - tail));
	json_t *entry = json_loadb(line ? line + 1 : tail, (size_t)(end - (line ? line + 1 : tail)), 0, NULL);
	*last = (uint64_t)json_integer_value(json_object_get(entry, "seq"));
	json_decref(entry);
	return 0;
}

static int open_file(struct audit_copy *copy, struct error *err)
{
	int fd = open(copy->path, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0640);
	return fd < 0 ? error_errno(err, errno, "audit.file: open %.300s", copy->path) : fd;
}

int audit_copy_open(struct store *store, const char *path, struct audit_copy **out, struct error *err)
{
	struct audit_copy *copy = calloc(1, sizeof(*copy));
	if (!copy || str_copy(copy->path, sizeof(copy->path), path) < 0) {
		free(copy);
		return error_set(err, ENOMEM, "no memory for audit.file");
	}
	copy->store = store;
	_cleanup_fd_ int fd = open_file(copy, err);
	uint64_t last = 0;
	int r = fd < 0 ? fd : find_last(fd, &last, err);
	if (r < 0) {
		free(copy);
		return r;
	}
	copy->last = last;
	*out = copy;
	return 0;
}

static int write_row(int fd, const struct store_audit *row)
{
	char when[TIME_TEXT_MAX];
	json_t *entry = json_pack("{s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:s, s:s}", "seq",
				  (json_int_t)row->seq, "time", time_iso(when, row->when_ms), "request_id",
				  row->request, "organisation_id", row->org, "key_id", row->key, "address",
				  row->address, "action", row->action, "target", row->target, "outcome", row->outcome,
				  "status", (int)row->status, "duration_us", (json_int_t)row->duration_us, "detail",
				  row->detail, "hash", row->hash);
	_cleanup_free_ char *text = json_text(entry, JSON_COMPACT | JSON_ENSURE_ASCII);
	json_decref(entry);
	if (!text)
		return -ENOMEM;
	_cleanup_buf_ struct buf line = { .max = TAIL_MAX };
	if (buf_addf(&line, "%s\n", text) < 0)
		return -ENOMEM;
	return fd_write_all(fd, line.data, line.size); /* one write a line */
}

/* Oldest first: the list comes newest first, so the seqs between are asked for in steps from the old end. */
static int copy_step(struct audit_copy *copy, int fd, uint64_t newest, struct error *err)
{
	uint64_t to = copy->last + STEP < newest ? copy->last + STEP : newest;
	struct store_audit_filter filter = { .before_seq = to + 1, .limit = (uint32_t)(to - copy->last) };
	struct store_audit *rows = NULL;
	size_t count = 0;

	int r = store_audit_list(copy->store, &filter, &rows, &count, err);
	for (size_t i = count; i > 0 && r == 0; i--) {
		if (rows[i - 1].seq <= copy->last)
			continue;
		r = write_row(fd, &rows[i - 1]);
		if (r < 0)
			error_errno(err, -r, "audit.file: write");
		else
			copy->last = rows[i - 1].seq;
	}
	free(rows);
	if (r == 0 && copy->last < to)
		copy->last = to; /* pruned meanwhile */
	return r;
}

uint64_t audit_copy_position(const struct audit_copy *copy)
{
	return copy->last;
}

int audit_copy_follow(struct audit_copy *copy, struct error *err)
{
	uint64_t to;
	int r = store_audit_last(copy->store, &to, err);

	if (r < 0 || to <= copy->last)
		return r;
	if (to - copy->last > ROUND_MAX)
		to = copy->last + ROUND_MAX;
	/* Opened anew each time, so that a rotation needs no signal. */
	_cleanup_fd_ int fd = open_file(copy, err);
	r = fd < 0 ? fd : 0;
	while (r == 0 && copy->last < to)
		r = copy_step(copy, fd, to, err);
	return r;
}

void audit_copy_close(struct audit_copy *copy)
{
	free(copy);
}
