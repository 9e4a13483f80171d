/*
 * Theory of operation. An upload is a multipart body of `path` and `file` in either order. With the path first, the
 * file goes straight into the sandbox as it comes in. With the file first it waits on disk in an unnamed file, bounded
 * by the organisation's upload limit, until the path is known. Nothing of it is held in memory.
 */
#include "daemon/api/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "daemon/http/multipart.h"

#define PATH_BYTES_MAX 4096
#define SPOOL_MAX ((uint64_t)1 << 30)     /* bytes of one upload that may wait for its path */
#define SPOOL_ALL_MAX ((uint64_t)4 << 30) /* and of all together */

static _Atomic(uint64_t) spooled;

struct upload {
	struct http_request *request;
	struct multipart multipart;
	enum { PART_NONE, PART_PATH, PART_FILE } part;
	struct buf path;
	bool has_path, has_file;
	struct sandbox_file *file; /* once both are known */
	int spool;                 /* or -1 */
	uint64_t size, size_max;
	uint64_t spooled; /* our part of the sum */
};

void upload_free(struct upload *upload)
{
	if (!upload)
		return;
	multipart_close(&upload->multipart);
	sandbox_file_close(upload->file);
	fd_close(&upload->spool);
	atomic_fetch_sub(&spooled, upload->spooled);
	buf_free(&upload->path);
	free(upload);
}

static int open_file(struct upload *upload, struct error *err)
{
	struct call *call = call_of(upload->request);
	return sandbox_file_write_open(call->api->context.sandboxes, &call->actor, upload->request->param,
				       buf_text(&upload->path), 0, &upload->file, err);
}

static int open_spool(struct upload *upload, struct error *err)
{
	const char *dir = call_of(upload->request)->api->spool_dir;

	upload->spool = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (upload->spool < 0)
		return error_errno(err, errno == ENOSPC ? ENOSPC : EIO, "cannot hold the upload in %s", dir);
	return 0;
}

static int begin_file(struct upload *upload, struct error *err)
{
	if (upload->has_file)
		return error_set(err, EINVAL, "file: stands twice");
	upload->has_file = true;
	upload->part = PART_FILE;
	return upload->has_path ? open_file(upload, err) : open_spool(upload, err);
}

static int on_part(void *context, const struct multipart_part *part, struct error *err)
{
	struct upload *upload = context;

	if (strcmp(part->name, "file") == 0)
		return begin_file(upload, err);
	if (str_starts(part->name, "file["))
		return error_set(err, EINVAL,
				 "file: a bare buffer arrives as one part a byte; send a File or Blob, or a part "
				 "`file` with a filename");
	if (strcmp(part->name, "path") != 0)
		return error_set(err, EINVAL, "%.64s: there is no such part; send path and file", part->name);
	if (upload->has_path)
		return error_set(err, EINVAL, "path: stands twice");
	upload->part = PART_PATH;
	return 0;
}

static int spool(struct upload *upload, const char *data, size_t size, struct error *err)
{
	if (upload->size > SPOOL_MAX)
		return error_set(err, EFBIG, "file: over 1 GiB the part path must come before the part file");
	upload->spooled += size;
	if (atomic_fetch_add(&spooled, size) + size > SPOOL_ALL_MAX)
		return error_set(err, EAGAIN, "too many uploads wait for their path; send path before file");
	int r = fd_write_all(upload->spool, data, size);
	return r < 0 ? error_errno(err, -r, "cannot hold the upload") : 0;
}

static int on_data(void *context, const char *data, size_t size, struct error *err)
{
	struct upload *upload = context;

	if (upload->part == PART_PATH) {
		upload->path.max = PATH_BYTES_MAX;
		if (buf_add(&upload->path, data, size) < 0)
			return error_set(err, EINVAL, "path: must be 1 to %d bytes", PATH_BYTES_MAX);
		return 0;
	}
	upload->size += size;
	if (upload->size > upload->size_max)
		return error_set(err, EFBIG, "file: larger than the limit of %llu bytes",
				 (unsigned long long)upload->size_max);
	if (upload->file)
		return sandbox_file_write(upload->file, data, size, err);
	return spool(upload, data, size, err);
}

static int on_part_end(void *context, struct error *err)
{
	struct upload *upload = context;
	bool was_path = upload->part == PART_PATH;

	upload->part = PART_NONE;
	if (!was_path)
		return 0;
	if (upload->path.size == 0 || !str_is_utf8(upload->path.data, upload->path.size))
		return error_set(err, EINVAL, "path: must be 1 to %d bytes of UTF-8", PATH_BYTES_MAX);
	upload->has_path = true;
	return 0;
}

static bool on_begin(struct http_request *request, struct http_response *response)
{
	struct call *call = call_of(request);
	struct error err = { 0 };
	struct upload *upload = calloc(1, sizeof(*upload));
	if (!upload) {
		http_reply_error(response, 500, NULL, "out of memory");
		return false;
	}
	call->upload = upload;
	upload->request = request;
	upload->spool = -1;
	upload->size_max = call->org.upload_bytes_max < 0 ? UINT64_MAX : (uint64_t)call->org.upload_bytes_max;
	struct multipart_events events = { on_part, on_data, on_part_end, upload };
	int r = multipart_open(&upload->multipart, http_header(request, "content-type"), &events, &err);
	/* What a file must be larger than, whatever the headers of its parts take. */
	uint64_t extra = (uint64_t)1 << 20;
	if (r == 0 && request->content_length != UINT64_MAX && upload->size_max < UINT64_MAX - extra &&
	    request->content_length > upload->size_max + extra)
		r = error_set(&err, EFBIG, "file: larger than the limit of %llu bytes",
			      (unsigned long long)upload->size_max);
	if (r == -ENOTSUP)
		http_reply_error(response, 415, NULL, "%s", err.text);
	else if (r < 0)
		reply_failure(request, response, r, &err);
	return r == 0;
}

static bool on_body(struct http_request *request, const char *data, size_t size, struct http_response *response)
{
	struct upload *upload = call_of(request)->upload;
	struct error err = { 0 };

	int r = multipart_feed(&upload->multipart, data, size, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		sandbox_file_close(upload->file);
		upload->file = NULL;
	}
	return r == 0;
}

const struct http_upload files_upload = { on_begin, on_body };

static int pour(struct upload *upload, struct error *err)
{
	char data[65536];
	ssize_t n;

	int r = open_file(upload, err);
	if (r == 0 && lseek(upload->spool, 0, SEEK_SET) < 0)
		r = error_errno(err, errno, "cannot read the held upload");
	while (r == 0 && (n = fd_read_all(upload->spool, data, sizeof(data))) != 0)
		r = n < 0 ? error_errno(err, (int)-n, "cannot read the held upload")
			  : sandbox_file_write(upload->file, data, (size_t)n, err);
	return r;
}

void files_on_upload(struct http_request *request, struct http_response *response)
{
	struct upload *upload = call_of(request)->upload;
	struct error err = { 0 };
	uint64_t size = 0;

	int r = multipart_finish(&upload->multipart, &err);
	if (r == 0 && !upload->has_path)
		r = error_set(&err, EINVAL, "path: is required");
	if (r == 0 && !upload->has_file)
		r = error_set(&err, EINVAL, "file: is required");
	if (r == 0 && !upload->file)
		r = pour(upload, &err);
	if (r == 0)
		r = sandbox_file_finish(upload->file, &size, &err);
	sandbox_file_close(upload->file);
	upload->file = NULL;
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	call_detail(request, "%llu bytes", (unsigned long long)size);
	http_reply_json(response, 200,
			json_pack("{s:s,s:s,s:I}", "message", "the file was uploaded", "path", buf_text(&upload->path),
				  "size", (json_int_t)size));
}

/* ---- download ---- */

struct download {
	struct sandbox_file *file;
	char request[HTTP_ID_MAX];
};

static ssize_t download_read(void *context, char *data, size_t size)
{
	struct download *download = context;
	struct error err = { 0 };

	int64_t n = sandbox_file_read(download->file, data, size, &err);
	if (n < 0)
		log_warn("download_cut_short", "request", download->request, "error", err.text);
	return (ssize_t)n;
}

static void download_done(void *context)
{
	struct download *download = context;
	sandbox_file_close(download->file);
	free(download);
}

void files_on_download(struct http_request *request, struct http_response *response)
{
	static const char *const known[] = { "path", NULL };
	struct call *call = call_of(request);
	const char *path = http_query(request, "path");
	struct download *download = calloc(1, sizeof(*download));
	struct error err = { 0 };
	uint64_t size = UINT64_MAX;

	int r = download ? check_query(request, known, &err) : error_set(&err, ENOMEM, "out of memory");
	if (r == 0 && (!path || !path[0] || strlen(path) > PATH_BYTES_MAX))
		r = error_set(&err, EINVAL, "path: is required, 1 to %d bytes", PATH_BYTES_MAX);
	if (r == 0)
		r = sandbox_file_read_open(call->api->context.sandboxes, &call->actor, request->param, path,
					   &download->file, &size, &err);
	if (r < 0) {
		free(download);
		reply_failure(request, response, r, &err);
		return;
	}
	str_copy(download->request, sizeof(download->request), request->id);
	http_add_header(request, "Content-Disposition", "attachment");
	http_reply_stream(response, 200, "application/octet-stream", size, download_read, download_done, download);
}
