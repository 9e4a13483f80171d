#include "agent/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/path.h"
#include "base/fd.h"
#include "base/str.h"
#include "proto/tlv.h"

struct file {
	struct job job;
	int fd;
	/* of a write */
	int dir;
	bool ending;        /* all of it is here (or in queue) */
	uint64_t size;      /* written */
	struct queue queue; /* while the file system is frozen */
	char name[256];
	char temporary[40];
};

static struct file *file_of(struct stream *stream)
{
	return (struct file *)stream->job; /* job is its first member */
}

static void undo(struct file *f)
{
	fd_close(&f->fd);
	if (f->temporary[0])
		unlinkat(f->dir, f->temporary, 0);
	f->temporary[0] = '\0';
	fd_close(&f->dir);
}

static void forget(struct agent *a, struct job *job)
{
	struct file *f = (struct file *)job;

	/* While frozen an unlink would stop the agent: the name stays. THAW comes with the next HELLO. */
	if (a->frozen)
		f->temporary[0] = '\0';
	undo(f);
	job_remove(a, job);
}

static void destroy(struct job *job)
{
	struct file *f = (struct file *)job;
	queue_free(&f->queue);
	free(f);
}

static int fail(struct agent *a, struct file *f, int code, const char *text)
{
	session_fail(&a->session, f->job.stream, code, text);
	forget(a, &f->job);
	return 0;
}

static struct file *new_file(bool (*pump)(struct agent *, struct job *))
{
	struct file *f = calloc(1, sizeof(*f));

	if (f) {
		f->fd = f->dir = -1;
		f->job.pump = pump;
		f->job.forget = forget;
		f->job.destroy = destroy;
	}
	return f;
}

/* Open what must be a regular file; a FIFO or a device must not stop or surprise the agent. */
static int open_regular(struct agent *a, const char *path, int flags, struct stat *st, struct error *err)
{
	char whole[2 * GUEST_PATH_MAX];

	if (path_absolute(whole, sizeof(whole), a->workdir, path) < 0)
		return error_set(err, ENAMETOOLONG, "path is too long");
	_cleanup_fd_ int found = path_open(a->root, whole, O_PATH, 0);
	if (found < 0)
		return error_errno(err, -found, "open %.200s", path);
	if (fstat(found, st) < 0)
		return error_errno(err, errno, "stat %.200s", path);
	if (S_ISDIR(st->st_mode))
		return error_set(err, EISDIR, "%.200s is a folder", path);
	if (!S_ISREG(st->st_mode))
		return error_set(err, EINVAL, "%.200s is not a regular file", path);
	if (flags & O_PATH)
		return fd_steal(&found);
	char link[64];
	snprintf(link, sizeof(link), "self/fd/%d", found);
	int fd = openat(a->proc, link, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? error_errno(err, errno, "open %.200s", path) : fd;
}

int files_stat(struct agent *a, struct stream *stream, const struct request *r, struct error *err)
{
	unsigned char fields[64];
	struct tlv_writer w;
	struct stat st;
	int fd = open_regular(a, r->text[GUEST_TAG_PATH], O_PATH, &st, err);

	if (fd < 0)
		return fd;
	close(fd);
	tlv_begin(&w, fields, sizeof(fields));
	tlv_u64(&w, GUEST_TAG_SIZE, (uint64_t)st.st_size);
	tlv_u32(&w, GUEST_TAG_MODE, st.st_mode & 07777);
	tlv_u64(&w, GUEST_TAG_MTIME_MS, (uint64_t)((int64_t)st.st_mtim.tv_sec * 1000 + st.st_mtim.tv_nsec / 1000000));
	session_finish(&a->session, stream, GUEST_RESULT, &w);
	return SESSION_LATER;
}

/* Reading. */

static bool pump_read(struct agent *a, struct job *job)
{
	struct file *f = (struct file *)job;
	size_t room;
	void *to = session_room(&a->session, job->stream, &room);

	if (!to)
		return false;
	ssize_t n = read(f->fd, to, room);
	if (n > 0) {
		session_data(&a->session, job->stream, 0, (size_t)n);
		return true;
	}
	if (n < 0) {
		if (errno == EINTR)
			return true;
		fail(a, f, errno, "read");
		return true;
	}
	session_end(&a->session, job->stream);
	forget(a, job);
	return true;
}

int files_open_read(struct agent *a, struct stream *stream, const struct request *r, struct error *err)
{
	unsigned char fields[32];
	struct tlv_writer w;
	struct stat st;
	_cleanup_fd_ int fd = open_regular(a, r->text[GUEST_TAG_PATH], O_RDONLY, &st, err);

	if (fd < 0)
		return fd;
	struct file *f = new_file(pump_read);
	if (!f)
		return error_set(err, ENOMEM, "no memory for a file");
	f->fd = fd_steal(&fd);
	job_add(a, &f->job, stream);
	tlv_begin(&w, fields, sizeof(fields));
	tlv_u64(&w, GUEST_TAG_SIZE, (uint64_t)st.st_size);
	tlv_u32(&w, GUEST_TAG_MODE, st.st_mode & 07777);
	session_opened(&a->session, stream, &w);
	return 0;
}

/* Writing. */

/* Take over what the file that is replaced was, where the request does not say. */
static int settle_mode(struct file *f, const struct request *r, struct error *err)
{
	mode_t mode = (mode_t)request_number(r, GUEST_TAG_MODE, 0644);
	struct stat old;

	if (fstatat(f->dir, f->name, &old, AT_SYMLINK_NOFOLLOW) == 0) {
		if (S_ISDIR(old.st_mode))
			return error_set(err, EISDIR, "%.200s is a folder", f->name);
		if (!S_ISREG(old.st_mode) && !S_ISLNK(old.st_mode))
			return error_set(err, EINVAL, "%.200s is not a regular file", f->name);
		if (S_ISREG(old.st_mode)) {
			if (fchown(f->fd, old.st_uid, old.st_gid) < 0)
				return error_errno(err, errno, "owner of %.200s", f->name);
			if (!request_has(r, GUEST_TAG_MODE))
				mode = old.st_mode & 07777;
		}
	}
	return fchmod(f->fd, mode) < 0 ? error_errno(err, errno, "mode of %.200s", f->name) : 0;
}

static int open_temporary(struct agent *a, struct file *f, uint32_t id, const struct request *r, struct error *err)
{
	const char *path = r->text[GUEST_TAG_PATH], *folder, *name;
	char whole[2 * GUEST_PATH_MAX];

	if (path_absolute(whole, sizeof(whole), a->workdir, path) < 0)
		return error_set(err, ENAMETOOLONG, "path is too long");
	if (path_split(whole, &folder, &name) < 0)
		return error_set(err, EISDIR, "%.200s is a folder", path);
	if (str_copy(f->name, sizeof(f->name), name) < 0)
		return error_set(err, ENAMETOOLONG, "name is too long");
	f->dir = path_make_folder(a->root, folder);
	if (f->dir < 0)
		return error_errno(err, -f->dir, "folder of %.200s", path);
	snprintf(f->temporary, sizeof(f->temporary), ".akira-write-%u", id);
	f->fd = openat(f->dir, f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (f->fd < 0) {
		f->temporary[0] = '\0'; /* not ours */
		return error_errno(err, errno, "create in the folder of %.200s", path);
	}
	return settle_mode(f, r, err);
}

static void finish_write(struct agent *a, struct file *f)
{
	unsigned char fields[16];
	struct tlv_writer w;

	fd_close(&f->fd);
	if (renameat(f->dir, f->temporary, f->dir, f->name) < 0) {
		fail(a, f, errno, "replace the file");
		return;
	}
	f->temporary[0] = '\0';
	tlv_begin(&w, fields, sizeof(fields));
	tlv_u64(&w, GUEST_TAG_SIZE, f->size);
	session_finish(&a->session, f->job.stream, GUEST_RESULT, &w);
	forget(a, &f->job);
}

static bool store(struct agent *a, struct file *f, const void *data, size_t size)
{
	int r = fd_write_all(f->fd, data, size);

	if (r < 0) {
		fail(a, f, r, strerror(-r));
		return false;
	}
	f->size += size;
	session_consumed(&a->session, f->job.stream, size);
	return true;
}

/* Only what a freeze held up comes here. */
static bool pump_write(struct agent *a, struct job *job)
{
	struct file *f = (struct file *)job;
	size_t waiting = queue_size(&f->queue);

	if (a->frozen || (waiting == 0 && !f->ending))
		return false;
	if (waiting > 0) {
		if (!store(a, f, f->queue.data + f->queue.start, waiting))
			return true;
		queue_drop(&f->queue, waiting);
	}
	if (f->ending)
		finish_write(a, f);
	return true;
}

void files_data(struct agent *a, struct stream *stream, const void *data, size_t size)
{
	struct file *f = file_of(stream);

	if (!a->frozen && queue_size(&f->queue) == 0)
		store(a, f, data, size);
	else if (queue_add(&f->queue, data, size) < 0)
		fail(a, f, ENOMEM, "no memory");
}

void files_end(struct agent *a, struct stream *stream)
{
	struct file *f = file_of(stream);

	if (!a->frozen && queue_size(&f->queue) == 0)
		finish_write(a, f);
	else
		f->ending = true;
}

void files_close(struct agent *a, struct stream *stream)
{
	fail(a, file_of(stream), ECANCELED, "closed by the host");
}

int files_open_write(struct agent *a, struct stream *stream, const struct request *r, struct error *err)
{
	if (a->frozen)
		return error_set(err, EBUSY, "the file system is frozen");
	struct file *f = new_file(pump_write);
	if (!f)
		return error_set(err, ENOMEM, "no memory for a file");
	int result = open_temporary(a, f, stream->id, r, err);
	if (result < 0) {
		undo(f);
		free(f);
		return result;
	}
	job_add(a, &f->job, stream);
	session_opened(&a->session, stream, NULL);
	return 0;
}
