/*
 * What an earlier akirad left. Its VMs are gone: the launcher ended them. So a sandbox is paused if a whole saved
 * state of it is there, and else has been lost with the process. Files that belong to nothing go.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/sandbox/paused.h"

static int write_row(struct sandboxes *s, const struct store_sandbox *row, const char *action, const char *reason,
		     struct error *err)
{
	struct record record = record_of(NULL, action, row->org, row->id);
	int r = store_begin(s->store, err);

	if (r < 0)
		return r;
	snprintf(record.detail, sizeof(record.detail), "reason=%s", reason);
	return record_end(s->store, &record, store_sandbox_update(s->store, row, err), err);
}

static int keep_paused(struct sandboxes *s, struct store_sandbox *row, const struct paused *paused, struct error *err)
{
	bool known = row->status == SANDBOX_PAUSED;

	row->status = SANDBOX_PAUSED;
	row->expires_ms = 0;
	int r = known ? 0 : write_row(s, row, "sandbox.pause", "recovered", err);
	struct box *box = r == 0 ? box_new(s, row) : NULL;
	if (r == 0 && !box)
		r = error_set(err, ENOMEM, "no memory for a sandbox");
	if (r < 0)
		return r;
	box->left_ms = paused->left_ms;
	box->last_stream = paused->last_stream;
	box_publish(box);
	box_put(box);
	return 0;
}

/* Its end was asked for, and recorded, but not reached. */
static bool is_ending(const struct store_sandbox *row)
{
	return row->status == SANDBOX_STOPPING && row->reason[0];
}

static int lose(struct sandboxes *s, struct store_sandbox *row, struct error *err)
{
	if (!is_ending(row)) {
		snprintf(row->reason, sizeof(row->reason), "node_lost");
		snprintf(row->message, sizeof(row->message), "the service on its host ended unexpectedly");
	}
	row->status = SANDBOX_TERMINATED;
	row->terminated_ms = time_wall_ms();
	paused_remove(s, row->id);
	return write_row(s, row, "sandbox.terminated", row->reason, err);
}

/* There is no saved state, or what is there never was one. */
static bool is_no_state(int r)
{
	return r == -ENOENT || r == -EPROTO || r == -ENOTDIR || r == -ELOOP || r == -EFBIG;
}

static int recover_sandboxes(struct sandboxes *s, uint64_t *kept, uint64_t *lost, struct error *err)
{
	struct store_sandbox_filter live = { .live = true };
	uint32_t page = 1;
	uint64_t total = 0;
	int r = 0;

	/* Lost ones leave the list, so the page only moves past those that stay. */
	for (uint64_t passed = 0; r == 0;) {
		struct store_sandbox *rows = NULL;
		size_t count = 0;
		r = store_sandbox_list(s->store, &live, page, 100, &rows, &count, &total, err);
		uint64_t stayed = 0;
		for (size_t i = 0; i < count && r == 0; i++) {
			struct paused paused;
			struct error why = { 0 };
			struct box *already = box_find(s, NULL, rows[i].id);
			if (already) {
				box_put(already);
				stayed++;
				continue;
			}
			int p = is_ending(&rows[i]) ? -ENOENT : paused_read(s, rows[i].id, &paused, &why);
			if (p == 0) {
				r = keep_paused(s, &rows[i], &paused, err);
				(*kept)++;
				stayed++;
			} else if (is_no_state(p)) {
				r = lose(s, &rows[i], err);
				(*lost)++;
			} else {
				/* The disk or the limits: what cannot be read now may be read later, and is not thrown away. */
				r = error_set(err, -p, "the saved state of %s: %s", rows[i].id, why.text);
			}
		}
		store_sandboxes_free(rows, count);
		if (count == 0)
			break;
		if (stayed == count)
			page++;
		passed += count;
		if (passed > 1000000)
			return error_set(err, EIO, "the list of live sandboxes does not end");
	}
	return r;
}

/* Every name in the folder for which keep says no. */
static uint64_t sweep(struct sandboxes *s, enum folder folder, bool (*keep)(struct sandboxes *s, const char *name))
{
	DIR *stream = fdopendir(openat(s->disk.folders[folder], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *e;
	uint64_t removed = 0;

	while (stream && (e = readdir(stream))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || keep(s, e->d_name))
			continue;
		disk_remove(&s->disk, folder, e->d_name);
		removed++;
	}
	if (stream)
		closedir(stream);
	return removed;
}

static bool is_box(struct sandboxes *s, const char *name)
{
	struct box *box = box_find(s, NULL, name);
	box_put(box);
	return box != NULL;
}

static bool is_snapshot(struct sandboxes *s, const char *name)
{
	struct store_snapshot row;

	if (str_starts(name, "tmp-") || store_snapshot_get(s->store, NULL, name, &row, NULL) < 0)
		return false;
	bool good = row.status == SNAPSHOT_READY;
	store_snapshot_free(&row);
	return good;
}

static bool is_blank(struct sandboxes *s, const char *name)
{
	(void)s;
	return !str_ends(name, ".tmp");
}

/* Rows that were being made, and those whose file is gone. */
static void recover_snapshots(struct sandboxes *s)
{
	for (uint32_t page = 1;;) {
		struct store_snapshot *rows = NULL;
		size_t count = 0, removed = 0;
		uint64_t total = 0;
		if (store_snapshot_list(s->store, NULL, page, 100, &rows, &count, &total, NULL) < 0)
			return;
		for (size_t i = 0; i < count; i++) {
			bool file = faccessat(s->disk.folders[FOLDER_SNAPSHOTS], rows[i].id, F_OK,
					      AT_SYMLINK_NOFOLLOW) == 0;
			if (rows[i].status == SNAPSHOT_READY && file)
				continue;
			if (rows[i].status == SNAPSHOT_READY)
				log_error("snapshot_lost", "snapshot", rows[i].id);
			disk_remove(&s->disk, FOLDER_SNAPSHOTS, rows[i].id);
			const char *reason = rows[i].status == SNAPSHOT_READY              ? "file_lost"
					     : rows[i].status == SNAPSHOT_PENDING_DELETION ? "deleted"
											   : "unfinished";
			removed += snapshot_forget(s, NULL, &rows[i], reason, NULL) == 0;
		}
		store_snapshots_free(rows, count);
		if (count == 0)
			return;
		if (removed == 0)
			page++;
	}
}

int recover(struct sandboxes *s, struct error *err)
{
	uint64_t kept = 0, lost = 0, removed = 0;
	int r = recover_sandboxes(s, &kept, &lost, err);

	if (r < 0)
		return r;
	recover_snapshots(s);
	removed += sweep(s, FOLDER_SCRATCH, is_box);
	removed += sweep(s, FOLDER_PAUSED, is_box);
	removed += sweep(s, FOLDER_SNAPSHOTS, is_snapshot);
	removed += sweep(s, FOLDER_BLANK, is_blank);
	if (kept || lost || removed)
		log_info("recovered", "paused", LOG_INT(kept), "lost", LOG_INT(lost), "files_removed",
			 LOG_INT(removed));
	return 0;
}
