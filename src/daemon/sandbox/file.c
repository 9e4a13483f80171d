#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "daemon/sandbox/internal.h"

#define STALL_MS 60000 /* a guest that moves no byte for so long is not going to */

struct sandbox_file {
	struct box *box;
	struct vm *vm;
	struct link_stream *stream;
	struct link_frame frame; /* the rest of what was read */
	char path[201];          /* for messages */
	uint64_t expected, moved;
	bool ended;
};

static int check_path(const char *path, struct error *err)
{
	size_t length = strlen(path);

	if (length < 1 || length >= GUEST_PATH_MAX)
		return error_set(err, EINVAL, "path: must have 1 to %d bytes", GUEST_PATH_MAX - 1);
	return 0;
}

/* What the guest says of a path, in the contract's words. */
static int path_error(int r, const char *path, struct error *err)
{
	switch (-r) {
	case ENOENT: return error_set(err, ENOENT, "path: there is no file \"%.200s\" in the sandbox", path);
	case EISDIR: return error_set(err, EPROTO, "path: \"%.200s\" is a directory", path);
	case ENOTDIR: return error_set(err, EPROTO, "path: a part of \"%.200s\" is no directory", path);
	case ELOOP:
	case ENAMETOOLONG:
	case EINVAL:
	case ENOTSUP:
	case ENODEV:
	case ENXIO: return error_set(err, EPROTO, "path: \"%.200s\" is no regular file", path);
	case EACCES:
	case EPERM:
	case EROFS:
	case ETXTBSY: return error_set(err, EPROTO, "path: \"%.200s\" may not be written or read", path);
	case ENOSPC:
	case EDQUOT: return error_set(err, EPROTO, "the sandbox's disk is full");
	case EFBIG: return error_set(err, EPROTO, "the file is too large for the sandbox's disk");
	case EAGAIN:
	case ENOMEM: return error_set(err, EDQUOT, "the sandbox has too many files under way");
	case ECONNRESET: return error_set(err, EBUSY, "the sandbox has ended");
	case EBUSY: return error_set(err, EBUSY, "the sandbox's disk is frozen for a snapshot");
	case ETIMEDOUT: return error_set(err, ETIMEDOUT, "the sandbox did not answer in time");
	default:
		/* An errno of the guest's choice must not become a status of ours, and no failure a success. */
		return error_set(err, EPROTO, "the sandbox could not do it");
	}
}

static uint32_t errno_of(const struct link_frame *frame)
{
	struct tlv_reader reader;
	struct tlv_field field;
	uint32_t code = EIO;

	tlv_read(&reader, frame->data, frame->size);
	while (tlv_next(&reader, &field) > 0)
		if (field.tag == GUEST_TAG_ERRNO)
			(void)tlv_get_u32(&field, &code);
	return code < 4096 ? code : EIO;
}

static int file_open(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *path,
		     enum guest_type type, uint32_t mode, struct sandbox_file **out, uint64_t *size, struct error *err)
{
	unsigned char fields[GUEST_PATH_MAX + 64], reply[GUEST_PAYLOAD_MAX];
	size_t reply_size = 0;
	struct tlv_writer w;
	struct tlv_reader reader;
	struct tlv_field field;

	int r = check_path(path, err);
	if (r < 0)
		return r;
	struct sandbox_file *file = calloc(1, sizeof(*file));
	if (!file)
		return error_set(err, ENOMEM, "no memory for a file");
	r = box_use(s, actor, id, &file->box, &file->vm, err);
	if (r < 0) {
		free(file);
		return r;
	}
	snprintf(file->path, sizeof(file->path), "%s", path);
	tlv_begin(&w, fields, sizeof(fields));
	tlv_text(&w, GUEST_TAG_PATH, path);
	if (mode)
		tlv_u32(&w, GUEST_TAG_MODE, mode & 07777);
	r = link_open(vm_link(file->vm), type, &w, GUEST_MS, &file->stream, reply, &reply_size, err);
	if (r < 0) {
		box_done(file->box, file->vm);
		free(file);
		return path_error(r, path, err);
	}
	file->expected = UINT64_MAX;
	tlv_read(&reader, reply, reply_size);
	while (tlv_next(&reader, &field) > 0)
		if (field.tag == GUEST_TAG_SIZE)
			(void)tlv_get_u64(&field, &file->expected);
	if (size)
		*size = file->expected;
	*out = file;
	return 0;
}

int sandbox_file_read_open(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *path,
			   struct sandbox_file **file, uint64_t *size, struct error *err)
{
	return file_open(s, actor, id, path, GUEST_OPEN_READ, 0, file, size, err);
}

/* Wait for the next piece. 1: there is one in file->frame, 0: the end. */
static int next_piece(struct sandbox_file *file, struct error *err)
{
	for (;;) {
		int r = link_next(file->stream, STALL_MS, -1, &file->frame, err);
		if (r == 0)
			return error_set(err, ETIMEDOUT, "the sandbox sent nothing for %d s", STALL_MS / 1000);
		if (r < 0)
			return r == -ECONNRESET ? error_set(err, EBUSY, "the sandbox has ended") : r;
		if (file->frame.type == GUEST_DATA && file->frame.size > 0)
			return 1;
		if (file->frame.type == GUEST_EOF || file->frame.type == GUEST_RESULT)
			return 0;
		if (file->frame.type != GUEST_DATA)
			return error_set(err, EIO, "the sandbox could not read the file to its end");
	}
}

int64_t sandbox_file_read(struct sandbox_file *file, void *data, size_t size, struct error *err)
{
	if (file->ended)
		return 0;
	if (file->frame.size == 0) {
		int r = next_piece(file, err);
		if (r < 0)
			return r;
		if (r == 0) {
			file->ended = true;
			file->frame.size = 0;
			if (file->expected != UINT64_MAX && file->moved < file->expected)
				return error_set(err, EIO, "the file became shorter while it was read");
			return 0;
		}
	}
	/* The guest said how much there is; what it sends beyond that is a lie or a file that grew, and is left out. */
	uint64_t left = file->expected - file->moved;
	size_t take = file->frame.size < size ? file->frame.size : size;
	if (take > left)
		take = (size_t)left;
	if (take == 0) {
		file->ended = true;
		return 0;
	}
	memcpy(data, file->frame.data, take);
	file->frame.data += take;
	file->frame.size -= take;
	file->moved += take;
	return (int64_t)take;
}

int sandbox_file_write_open(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *path,
			    uint32_t mode, struct sandbox_file **file, struct error *err)
{
	return file_open(s, actor, id, path, GUEST_OPEN_WRITE, mode, file, NULL, err);
}

static int write_failure(struct sandbox_file *file, struct error *err)
{
	struct link_frame frame;

	for (int frames = 0; frames < 64 && link_next(file->stream, 1000, -1, &frame, NULL) > 0; frames++)
		if (frame.type == GUEST_ERROR)
			return path_error(-(int)errno_of(&frame), file->path, err);
	return error_set(err, EBUSY, "the sandbox ended while the file was written");
}

int sandbox_file_write(struct sandbox_file *file, const void *data, size_t size, struct error *err)
{
	int r = link_send(file->stream, data, size, STALL_MS, err);
	file->moved += size;
	return r == -ECONNRESET ? write_failure(file, err) : r;
}

int sandbox_file_finish(struct sandbox_file *file, uint64_t *size, struct error *err)
{
	struct link_frame frame;
	int r = link_send_eof(file->stream, err);

	if (r == 0)
		r = link_next(file->stream, STALL_MS, -1, &frame, err);
	if (r == 0)
		return error_set(err, ETIMEDOUT, "the sandbox did not finish the file");
	if (r < 0)
		return r == -ECONNRESET ? error_set(err, EBUSY, "the sandbox ended while the file was written") : r;
	if (frame.type == GUEST_RESULT) {
		*size = file->moved;
		return 0;
	}
	return path_error(-(int)errno_of(&frame), file->path, err);
}

void sandbox_file_close(struct sandbox_file *file)
{
	if (!file)
		return;
	link_close(file->stream);
	box_done(file->box, file->vm);
	free(file);
}
