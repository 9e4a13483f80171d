/*
 * Snapshots: the scratch disk as it is at one moment, and the sandbox's configuration.
 *
 * Both ways of copying take that moment without stopping the VM: FICLONE is atomic against writes, and QEMU's backup
 * job begins inside a drained section and keeps what is overwritten later. So a quick snapshot freezes nothing; it is
 * what a power cut would leave. The default syncs first, while the guest goes on, then freezes the file system only
 * for the moment itself.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/sandbox/internal.h"

#define SYNC_MS 120000
#define FREEZE_MS 10000
#define COPY_MS 540000

/* ---- the row ---- */

static int row_fill(struct box *box, const struct sandbox_actor *actor, const char *name, bool quick,
		    struct store_snapshot *row, struct error *err)
{
	struct store_sandbox from;

	*row = (struct store_snapshot){ .status = SNAPSHOT_CREATING, .quick = quick, .created_ms = time_wall_ms() };
	if (name && *name && !str_is_name(name))
		return error_set(err, EINVAL,
				 "name: 1 to 63 characters of [A-Za-z0-9._-], the first a letter or digit");
	pthread_mutex_lock(&box->lock);
	int r = row_copy(&from, &box->row);
	pthread_mutex_unlock(&box->lock);
	if (r < 0)
		return error_set(err, ENOMEM, "no memory for a snapshot");
	str_random_id(row->id, "snap");
	if (name && *name)
		snprintf(row->name, sizeof(row->name), "%s", name);
	else
		snprintf(row->name, sizeof(row->name), "%.40s-%" PRId64, from.name, row->created_ms / 1000);
	snprintf(row->org, sizeof(row->org), "%s", actor->org->id);
	snprintf(row->source, sizeof(row->source), "%s", from.id);
	snprintf(row->source_name, sizeof(row->source_name), "%s", from.name);
	snprintf(row->image, sizeof(row->image), "%s", from.image);
	snprintf(row->image_digest, sizeof(row->image_digest), "%s", from.image_digest);
	row->cpu_units = from.cpu_units;
	row->memory_mib = from.memory_mib;
	row->storage_gb = from.storage_gb;
	row->network = from.network;
	row->metadata = from.metadata;
	row->env = from.env;
	return 0;
}

static int row_admit(struct sandboxes *s, const struct sandbox_actor *actor, const struct store_snapshot *row,
		     struct error *err)
{
	struct record record = record_of(actor, "snapshot.admitted", row->org, row->id);
	struct store_totals have;
	bool live = true;

	snprintf(record.detail, sizeof(record.detail), "of %s", row->source);
	int r = store_begin(s->store, err);
	if (r < 0)
		return r;
	if (actor->key)
		r = store_key_live(s->store, actor->key, time_wall_ms(), &live, err);
	if (r == 0 && !live)
		r = error_set(err, EKEYREVOKED, "the API key was revoked");
	if (r == 0)
		r = store_totals(s->store, actor->org->id, &have, err);
	if (r == 0 && actor->org->snapshots_max >= 0 && have.snapshots >= (uint64_t)actor->org->snapshots_max)
		r = error_set(err, EDQUOT, "snapshots: the organisation's limit is %" PRId64,
			      actor->org->snapshots_max);
	if (r == 0)
		r = store_snapshot_add(s->store, row, err);
	return record_end(s->store, &record, r, err);
}

/* It is whole. */
static int row_finish(struct sandboxes *s, const struct sandbox_actor *actor, struct store_snapshot *row,
		      struct error *err)
{
	struct record record = record_of(actor, "sandbox.snapshot", row->org, row->source);

	snprintf(record.detail, sizeof(record.detail), "snapshot %s", row->id);
	int r = store_begin(s->store, err);
	if (r < 0)
		return r;
	row->status = SNAPSHOT_READY;
	return record_end(s->store, &record, store_snapshot_update(s->store, row, err), err);
}

int snapshot_forget(struct sandboxes *s, const struct sandbox_actor *actor, const struct store_snapshot *row,
		    const char *reason, struct error *err)
{
	struct record record = record_of(actor, "snapshot.removed", row->org, row->id);

	snprintf(record.detail, sizeof(record.detail), "reason=%s", reason);
	int r = store_begin(s->store, err);
	return r < 0 ? r : record_end(s->store, &record, store_snapshot_remove(s->store, row->id, err), err);
}

/* ---- the copy ---- */

struct copy {
	struct disk *disk;
	struct vm *vm;
	int from, to;
	bool job; /* a backup job is under way */
};

/* The moment itself. */
static int copy_begin(struct copy *c, struct error *err)
{
	if (FAULT("snapshot-frozen") < 0)
		return error_set(err, EIO, "injected: snapshot-frozen");
	if (c->disk->reflink && ioctl(c->to, FICLONE, c->from) == 0)
		return 0;
	struct stat st;
	if (fstat(c->from, &st) < 0 || ftruncate(c->to, st.st_size) < 0)
		return error_errno(err, errno, "size a snapshot");
	int r = vm_backup_begin(c->vm, c->to, err);
	c->job = r == 0;
	return r;
}

/* Frozen as short as it goes, and thawed whatever happens. A guest that does not thaw is beyond help. */
static int copy_frozen(struct box *box, struct copy *c, struct error *err)
{
	struct error ignored = { 0 };

	int r = guest_request(c->vm, GUEST_SYNC, NULL, SYNC_MS, err);
	if (r == 0)
		r = guest_request(c->vm, GUEST_FREEZE, NULL, FREEZE_MS, err);
	int64_t frozen = time_mono_ms();
	if (r == 0)
		r = copy_begin(c, err);
	int thawed = guest_request(c->vm, GUEST_THAW, NULL, FREEZE_MS, &ignored);
	log_info("snapshot_frozen", "sandbox", box->id, "ms", LOG_INT(time_mono_ms() - frozen));
	if (thawed < 0) {
		box_end(box, "host_error", "the guest's file system could not be thawed");
		if (r == 0)
			r = error_set(err, EBUSY, "the sandbox ended: its file system could not be thawed");
	}
	return r;
}

static int copy_disk(struct box *box, struct copy *c, bool quick, struct error *err)
{
	int r = quick ? copy_begin(c, err) : copy_frozen(box, c, err);
	if (c->job) {
		int waited = vm_backup_wait(c->vm, COPY_MS, r == 0 ? err : NULL);
		r = r == 0 ? waited : r;
	}
	if (r == 0 && FAULT("snapshot-copied") < 0)
		r = error_set(err, EIO, "injected: snapshot-copied");
	if (r == 0 && fsync(c->to) < 0)
		r = error_errno(err, errno, "sync a snapshot");
	return r;
}

static int take_disk(struct box *box, struct copy *c, struct error *err)
{
	int r = 0;

	*c = (struct copy){ .disk = &box->s->disk, .from = -1, .to = -1 };
	pthread_mutex_lock(&box->lock);
	if (box->row.status == SANDBOX_RUNNING && box->machine && !box->reason[0]) {
		c->vm = vm_get(box->machine->vm);
		c->from = fcntl(box->machine->scratch, F_DUPFD_CLOEXEC, 3);
	}
	pthread_mutex_unlock(&box->lock);
	if (!c->vm || c->from < 0)
		r = error_set(err, EBUSY, "the sandbox is not running");
	return r;
}

static void copy_free(struct copy *c)
{
	fd_close(&c->from);
	fd_close(&c->to);
	vm_put(c->vm);
}

static int make_file(struct box *box, struct store_snapshot *row, struct error *err)
{
	struct sandboxes *s = box->s;
	char temporary[STORE_ID_MAX + 8];
	struct copy c;

	snprintf(temporary, sizeof(temporary), "tmp-%.39s", row->id);
	int r = take_disk(box, &c, err);
	/* At worst every block that is there changes owner: hold the reserve against that. */
	if (r == 0)
		r = disk_room(&s->disk, s->disk.reflink ? 0 : disk_used(c.from), err);
	if (r == 0)
		r = disk_create(&s->disk, FOLDER_SNAPSHOTS, temporary, &c.to, err);
	if (r == 0) {
		box_boost(box, true);
		r = copy_disk(box, &c, row->quick, err);
		box_boost(box, false);
	}
	if (r == 0)
		row->size = disk_used(c.to);
	copy_free(&c);
	int dir = s->disk.folders[FOLDER_SNAPSHOTS];
	if (r == 0 && renameat(dir, temporary, dir, row->id) < 0)
		r = error_errno(err, errno, "name a snapshot");
	if (r == 0 && disk_sync_folder(&s->disk, FOLDER_SNAPSHOTS) < 0)
		r = error_set(err, EIO, "sync the snapshots");
	if (r < 0)
		disk_remove(&s->disk, FOLDER_SNAPSHOTS, temporary);
	return box_error(box, r, err);
}

/* With the box held. Whole afterwards, or nothing is left. */
static int snapshot_held(struct box *box, const struct sandbox_actor *actor, const char *name, bool quick,
			 struct store_snapshot *row, struct error *err)
{
	struct sandboxes *s = box->s;

	struct record resumed = box_record(box, actor, "sandbox.resume");
	int r = box_resume_held(box, &resumed, err);
	if (r < 0)
		return r;
	r = row_fill(box, actor, name, quick, row, err);
	if (r < 0)
		return r;
	r = row_admit(s, actor, row, err);
	if (r == 0) {
		r = make_file(box, row, err);
		if (r == 0 && FAULT("snapshot-store") < 0)
			r = error_set(err, EIO, "injected: snapshot-store");
		if (r == 0)
			r = row_finish(s, actor, row, err);
		if (r < 0) {
			disk_remove(&s->disk, FOLDER_SNAPSHOTS, row->id);
			(void)snapshot_forget(s, actor, row, "failed", NULL);
		}
	}
	if (r < 0)
		store_snapshot_free(row);
	else
		log_info("snapshot_made", "snapshot", row->id, "sandbox", box->id, "bytes", LOG_INT(row->size));
	return r;
}

int sandbox_snapshot(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *name,
		     bool quick, struct store_snapshot *snapshot, struct error *err)
{
	struct box *box;
	int r = box_hold(s, actor, id, &box, err);
	if (r < 0)
		return r;
	r = snapshot_held(box, actor, name, quick, snapshot, err);
	box_release(box);
	return r;
}

/* ---- restore and clone ---- */

static int open_snapshot(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
			 struct store_snapshot *row, int *fd, struct error *err)
{
	struct stat st;

	*fd = -1;
	int r = store_snapshot_get(s->store, actor->org->id, id, row, err);
	if (r < 0)
		return r == -ENOENT ? error_set(err, ENOENT, "there is no snapshot %.40s", id) : r;
	if (row->status != SNAPSHOT_READY) {
		store_snapshot_free(row);
		return error_set(err, EBUSY, "the snapshot is not ready");
	}
	*fd = fd_open_beneath(s->disk.folders[FOLDER_SNAPSHOTS], row->id, O_RDONLY | O_NONBLOCK, 0);
	if (*fd < 0 || fstat(*fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1 ||
	    (uint64_t)st.st_size != (uint64_t)row->storage_gb << 30) {
		fd_close(fd);
		store_snapshot_free(row);
		return error_set(err, EPROTO, "the snapshot's file is missing or damaged");
	}
	return 0;
}

/*
 * What the request leaves open is the snapshot's. env_vars and network of the snapshot are part of it. Its files lie over
 * those of one build of the image: another one is taken only when the request names it.
 */
static void inherit(struct sandbox_spec *spec, const struct store_snapshot *row)
{
	if (!spec->image || !*spec->image) {
		spec->image = row->image;
		spec->image_digest = row->image_digest;
	}
	if (!spec->cpu_units)
		spec->cpu_units = row->cpu_units;
	if (!spec->memory_mib)
		spec->memory_mib = row->memory_mib;
	if (!spec->storage_gb)
		spec->storage_gb = row->storage_gb;
	if (!spec->env_json)
		spec->env_json = row->env;
	if (!spec->network_json)
		spec->network_json = row->network;
	if (!spec->metadata_json)
		spec->metadata_json = row->metadata;
}

int sandbox_restore(struct sandboxes *s, const struct sandbox_actor *actor, const char *snapshot_id,
		    const struct sandbox_spec *spec, struct sandbox_info *info, struct error *err)
{
	struct sandbox_spec full = *spec;
	struct store_snapshot row;
	_cleanup_fd_ int fd = -1;

	int r = open_snapshot(s, actor, snapshot_id, &row, &fd, err);
	if (r < 0)
		return r;
	inherit(&full, &row);
	if (full.storage_gb < row.storage_gb)
		r = error_set(err, EINVAL, "resources.storage: at least the snapshot's %u GB", row.storage_gb);
	else
		r = spec_start(s, actor, &full, fd, row.storage_gb, row.id, info, err);
	store_snapshot_free(&row);
	return r;
}

int sandbox_clone(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
		  const struct sandbox_spec *spec, const char *snapshot_name, struct sandbox_info *info,
		  struct store_snapshot *snapshot, struct error *err)
{
	struct sandbox_spec full = *spec;
	char name[STORE_NAME_MAX];
	struct box *box;

	int r = box_hold(s, actor, id, &box, err);
	if (r < 0)
		return r;
	snprintf(name, sizeof(name), "%.36s-clone-%" PRId64, box->row.name, time_wall_ms() / 1000);
	r = snapshot_held(box, actor, snapshot_name, false, snapshot, err);
	box_release(box);
	if (r < 0)
		return r;
	if (!full.name || !*full.name)
		full.name = name;
	r = sandbox_restore(s, actor, snapshot->id, &full, info, err);
	if (r < 0)
		store_snapshot_free(snapshot);
	return r;
}

/* ---- deletion ---- */

static int mark_deleted(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
			struct store_snapshot *snapshot, struct error *err)
{
	int r = store_snapshot_get(s->store, actor->org->id, id, snapshot, err);

	if (r < 0)
		return r == -ENOENT ? error_set(err, ENOENT, "there is no snapshot %.40s", id) : r;
	if (snapshot->status == SNAPSHOT_CREATING)
		return error_set(err, EBUSY, "the snapshot is being made");
	snapshot->status = SNAPSHOT_PENDING_DELETION;
	return store_snapshot_update(s->store, snapshot, err);
}

int sandbox_snapshot_delete(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
			    struct store_snapshot *snapshot, struct error *err)
{
	struct record record = record_of(actor, NULL, actor->org->id, id);

	*snapshot = (struct store_snapshot){ 0 };
	int r = store_begin(s->store, err);
	if (r < 0)
		return r;
	r = record_end(s->store, &record, mark_deleted(s, actor, id, snapshot, err), err);
	if (r < 0)
		store_snapshot_free(snapshot);
	else
		keeper_ask(s);
	return r;
}

/* What is marked goes. A restore that reads the file still has it open. */
void snapshots_sweep(struct sandboxes *s)
{
	for (uint32_t page = 1;; page++) {
		struct store_snapshot *rows = NULL;
		size_t count = 0;
		uint64_t total = 0;
		if (store_snapshot_list(s->store, NULL, page, 100, &rows, &count, &total, NULL) < 0)
			return;
		for (size_t i = 0; i < count; i++) {
			if (rows[i].status != SNAPSHOT_PENDING_DELETION)
				continue;
			(void)FAULT("snapshot-delete");
			disk_remove(&s->disk, FOLDER_SNAPSHOTS, rows[i].id);
			(void)snapshot_forget(s, NULL, &rows[i], "deleted", NULL);
		}
		store_snapshots_free(rows, count);
		if ((uint64_t)page * 100 >= total)
			return;
	}
}
