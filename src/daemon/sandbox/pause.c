/*
 * Pause: RAM and device state go to PAUSED/<id>/state beside a manifest that is written last, the VM process ends, the
 * scratch disk stays. The folder is the truth: while it is whole the sandbox is paused, whatever the store's row says
 * (a crash may lie between the two). It is taken away before a resumed VM runs its first instruction, because from
 * then on the disk moves on without it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/str.h"
#include "base/time.h"
#include "daemon/json/text.h"
#include "daemon/sandbox/internal.h"
#include "daemon/sandbox/paused.h"

#define SAVE_MS 120000

/* ---- the folder ---- */

static int hash_state(struct sandboxes *s, const char *id, int fd, char hex[65])
{
	static const char purpose[] = "akira paused";
	static const size_t step = 1 << 20;
	_cleanup_free_ unsigned char *data = malloc(step);
	crypto_generichash_state state;
	unsigned char hash[32];
	off_t at = 0;
	ssize_t n;

	if (!data)
		return -ENOMEM;
	crypto_generichash_init(&state, store_secret(s->store), 32, sizeof(hash));
	crypto_generichash_update(&state, (const unsigned char *)purpose, sizeof(purpose));
	crypto_generichash_update(&state, (const unsigned char *)id, strlen(id) + 1);
	while ((n = pread(fd, data, step, at)) > 0) {
		crypto_generichash_update(&state, data, (unsigned long long)n);
		at += n;
	}
	crypto_generichash_final(&state, hash, sizeof(hash));
	str_hex(hex, hash, sizeof(hash));
	return n < 0 ? -errno : 0;
}

void paused_remove(struct sandboxes *s, const char *id)
{
	char gone[STORE_ID_MAX + 8];
	int dir = s->disk.folders[FOLDER_PAUSED];

	/* Renamed first: a folder that is half removed must not look whole. */
	snprintf(gone, sizeof(gone), "gone-%s", id);
	if (renameat(dir, id, dir, gone) == 0)
		(void)fsync(dir);
	disk_remove(&s->disk, FOLDER_PAUSED, gone);
}

static void name_engine(const struct sandboxes *s, char name[80])
{
	snprintf(name, 80, "%s-%s", s->config.engine_version,
		 s->config.engine.acceleration == ENGINE_KVM ? "kvm" : "tcg");
}

static int write_manifest(struct sandboxes *s, const struct box *box, int dir, int state, struct error *err)
{
	char hex[65], engine[80];
	int r = hash_state(s, box->id, state, hex);
	if (r < 0)
		return error_errno(err, -r, "read the saved state");
	name_engine(s, engine);
	json_t *manifest = json_pack("{s:s, s:s, s:I, s:I}", "checksum", hex, "engine", engine, "left_ms",
				     (json_int_t)box->left_ms, "last_stream", (json_int_t)box->last_stream);
	_cleanup_free_ char *text = json_text(manifest, JSON_COMPACT);
	json_decref(manifest);
	if (!text)
		return error_set(err, ENOMEM, "no memory for a manifest");
	return fd_write_file(dir, "manifest.json", text, strlen(text), 0600, err);
}

int paused_read(struct sandboxes *s, const char *id, struct paused *paused, struct error *err)
{
	_cleanup_fd_ int dir = openat(s->disk.folders[FOLDER_PAUSED], id,
				      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return errno == ENOENT ? error_set(err, EPROTO, "the saved state is missing")
				       : error_errno(err, EIO, "open the saved state");
	_cleanup_free_ char *text = NULL;
	size_t size;
	int r = fd_read_file(dir, "manifest.json", 4096, &text, &size, err);
	if (r == -ENOENT || r == -EFBIG)
		return error_set(err, EPROTO, "the saved state's manifest is missing or malformed");
	if (r < 0)
		return host_error(r, err);
	json_t *manifest = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
	const char *expected = json_string_value(json_object_get(manifest, "checksum"));
	json_int_t left = json_integer_value(json_object_get(manifest, "left_ms"));
	json_int_t last = json_integer_value(json_object_get(manifest, "last_stream"));
	paused->left_ms = left > 0 ? left : 0;
	paused->last_stream = last > 0 && last < UINT32_MAX ? (uint32_t)last : UINT32_MAX - 1;
	const char *engine = json_string_value(json_object_get(manifest, "engine"));
	if (str_copy(paused->checksum, sizeof(paused->checksum), expected ? expected : "") < 0 ||
	    strlen(paused->checksum) != 64 ||
	    str_copy(paused->engine, sizeof(paused->engine), engine ? engine : "") < 0)
		r = error_set(err, EPROTO, "the saved state's manifest is malformed");
	json_decref(manifest);
	return r;
}

/* -EPROTO: missing or damaged, for good. Other errors may pass. */
static int paused_verify(struct sandboxes *s, const char *id, struct error *err)
{
	struct paused paused;
	char path[STORE_ID_MAX + 8], hex[65], engine[80];
	int r = paused_read(s, id, &paused, err);
	if (r < 0)
		return r;
	name_engine(s, engine);
	/* Kept, not thrown away: the version may come back. */
	if (strcmp(engine, paused.engine) != 0) {
		log_warn("paused_by_another_engine", "sandbox", id, "engine", engine, "paused_by", paused.engine);
		return error_set(err, EBUSY,
				 "the sandbox was paused by another version of the engine, which alone can "
				 "resume it");
	}
	snprintf(path, sizeof(path), "%s/state", id);
	_cleanup_fd_ int fd = fd_open_beneath(s->disk.folders[FOLDER_PAUSED], path, O_RDONLY | O_NONBLOCK, 0);
	struct stat st;
	if (fd < 0 && (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM))
		return error_set(err, EIO, "no descriptor for the saved state");
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return error_set(err, EPROTO, "the saved state is missing");
	r = hash_state(s, id, fd, hex);
	if (r < 0)
		return error_errno(err, EIO, "read the saved state (%d)", -r);
	if (sodium_memcmp(hex, paused.checksum, 64) != 0)
		return error_set(err, EPROTO, "the saved state is damaged");
	return 0;
}

/* ---- pause ---- */

/* The guest's own flushes end in the page cache (engine/qemu.c). Its memory is of no use without the disk beside it. */
static int sync_disk(struct box *box, struct error *err)
{
	pthread_mutex_lock(&box->lock);
	_cleanup_fd_ int scratch = box->machine ? fcntl(box->machine->scratch, F_DUPFD_CLOEXEC, 3) : -1;
	pthread_mutex_unlock(&box->lock);
	if (scratch < 0)
		return error_set(err, EBUSY, "the sandbox is ending");
	if (fsync(scratch) < 0 || disk_sync_folder(&box->s->disk, FOLDER_SCRATCH) < 0)
		return error_errno(err, errno, "sync the sandbox's disk");
	return 0;
}

/* The stopped VM's state into a folder of its own, whole or not at all. */
static int save(struct box *box, struct vm *vm, struct error *err)
{
	struct sandboxes *s = box->s;
	char temporary[STORE_ID_MAX + 8];
	int parent = s->disk.folders[FOLDER_PAUSED];

	snprintf(temporary, sizeof(temporary), "tmp-%s", box->id);
	disk_remove(&s->disk, FOLDER_PAUSED, temporary);
	if (mkdirat(parent, temporary, 0700) < 0)
		return error_errno(err, errno, "make a folder for the saved state");
	_cleanup_fd_ int dir = openat(parent, temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_fd_ int state = dir < 0 ? -1 : openat(dir, "state", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = state < 0 ? error_errno(err, errno, "make a file for the saved state") : 0;
	if (r == 0)
		r = vm_save(vm, state, SAVE_MS, err);
	if (r == 0 && FAULT("pause-saved") < 0)
		r = error_set(err, EIO, "injected: pause-saved");
	if (r == 0 && fsync(state) < 0)
		r = error_errno(err, errno, "sync the saved state");
	if (r == 0)
		r = sync_disk(box, err);
	if (r == 0)
		r = write_manifest(s, box, dir, state, err);
	if (r == 0 && renameat(parent, temporary, parent, box->id) < 0)
		r = error_errno(err, errno, "name the saved state");
	if (r == 0 && fsync(parent) < 0)
		r = error_errno(err, errno, "sync the saved state's folder");
	if (r < 0) {
		disk_remove(&s->disk, FOLDER_PAUSED, temporary);
		paused_remove(s, box->id);
	}
	return r;
}

static struct vm *take_running(struct box *box, struct error *err)
{
	struct vm *vm = NULL;

	pthread_mutex_lock(&box->lock);
	if (box->row.status == SANDBOX_RUNNING && box->machine && !box->reason[0])
		vm = vm_get(box->machine->vm);
	pthread_mutex_unlock(&box->lock);
	if (!vm)
		error_set(err, EBUSY, "the sandbox is not running");
	return vm;
}

/* Its memory to disk, and the VM stopped but there: thaw undoes it. */
static int freeze(struct box *box, struct vm *vm, struct error *err)
{
	int r = disk_room(&box->s->disk, (uint64_t)box->row.memory_mib << 20, err);

	if (r < 0)
		return r;
	box_boost(box, true);
	r = vm_stop(vm, err);
	if (r == 0) {
		int64_t left = box->deadline_ms - time_mono_ms();
		box->left_ms = left > 0 ? left : 0;
		box->last_stream = link_last_stream(vm_link(vm));
		r = save(box, vm, err);
		if (r < 0)
			(void)vm_run(vm, NULL);
	}
	if (r < 0)
		box_boost(box, false);
	return r;
}

static void thaw(struct box *box, struct vm *vm)
{
	paused_remove(box->s, box->id);
	(void)vm_run(vm, NULL);
	box_boost(box, false);
}

/* false: it is ending. */
static bool set_status(struct box *box, enum sandbox_status status, int64_t expires_ms)
{
	pthread_mutex_lock(&box->lock);
	bool ending = box->reason[0] != '\0';
	if (!ending) {
		box->row.status = status;
		box->row.expires_ms = expires_ms;
	}
	pthread_mutex_unlock(&box->lock);
	return !ending;
}

/* Its state is on disk: the VM is not needed any more. */
static int let_go(struct box *box, struct error *err)
{
	struct machine *m = NULL;

	pthread_mutex_lock(&box->lock);
	if (!box->reason[0]) {
		m = box->machine;
		box->machine = NULL;
	}
	pthread_mutex_unlock(&box->lock);
	if (!m) {
		paused_remove(box->s, box->id); /* the janitor may have passed before it was there */
		return error_set(err, EBUSY, "the sandbox is ending (%s)", box->reason);
	}
	m->keep_scratch = true;
	machine_stop(m);
	return 0;
}

/* Written while the VM could still go on, so that a record that cannot be written undoes the pause. */
static int settle(struct box *box, struct vm *vm, const struct record *record, struct error *err)
{
	int64_t expires_ms = box->row.expires_ms;

	if (!set_status(box, SANDBOX_PAUSED, 0))
		return let_go(box, err);
	(void)FAULT("pause-store");
	int r = box_save(box, record, err);
	if (r == 0)
		return let_go(box, err);
	if (set_status(box, SANDBOX_RUNNING, expires_ms))
		thaw(box, vm);
	else
		paused_remove(box->s, box->id);
	return r;
}

int box_pause_held(struct box *box, const struct record *record, struct error *err)
{
	if (box->row.status == SANDBOX_PAUSED)
		return 0;
	struct vm *vm = take_running(box, err);
	if (!vm)
		return -EBUSY;

	box_book_usage(box, time_wall_ms());
	int r = freeze(box, vm, err);
	if (r == 0)
		r = settle(box, vm, record, err);
	vm_put(vm);
	if (r < 0)
		return box_error(box, r, err);
	log_info("sandbox_paused", "sandbox", box->id, "org", box->org);
	return 0;
}

int sandbox_pause(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		  struct error *err)
{
	struct box *box;
	int r = box_hold(s, actor, id, &box, err);
	if (r < 0)
		return r;
	struct record record = box_record(box, actor, "sandbox.pause");
	r = box_pause_held(box, &record, err);
	if (r == 0 && info_fill(box, info) < 0)
		r = error_set(err, ENOMEM, "no memory for an answer");
	box_release(box);
	return r;
}

/* ---- resume ---- */

static int resume_personality(struct box *box, struct machine *m, const struct image *image, struct error *err)
{
	char **env = env_of(image, box->row.env);
	char hostname[64];
	hostname_of(box->row.name, hostname);
	struct personality p = {
		.hostname = hostname,
		.workdir = image->workdir,
		.env = env,
		.sandbox_id = box->id,
	};
	int r = env ? machine_personalise(m, &p, err) : error_set(err, ENOMEM, "no memory for a sandbox's environment");
	if (r == 0)
		r = machine_settle(m, box->row.cpu_units, err);
	env_free(env);
	return r;
}

/* *lost: the saved state is of no use any more. */
static int wake_machine(struct box *box, struct machine **out, bool *lost, struct error *err)
{
	struct sandboxes *s = box->s;
	struct shape shape = {
		.cpu_units = box->row.cpu_units,
		.memory_mib = box->row.memory_mib,
		.storage_gb = box->row.storage_gb,
	};
	struct machine_source source = {
		.id = box->id,
		.disk = -1,
		.paused = box->id,
		.first_stream = box->last_stream + 1,
	};
	struct net_rules *rules = NULL;
	struct image image = { .fd = -1 };
	struct machine *m = NULL;

	snprintf(shape.image, sizeof(shape.image), "%.127s", box->row.image);
	snprintf(shape.digest, sizeof(shape.digest), "%s", box->row.image_digest);
	int r = paused_verify(s, box->id, err);
	*lost = r == -EPROTO;
	if (r == 0)
		r = rules_of_json(box->row.network, &rules, err);
	if (r == 0)
		r = images_find(s->config.images, shape.image, shape.digest, &image, err);
	source.rules = rules;
	if (r == 0)
		r = machine_start(s, &shape, &source, &m, err);
	if (r == 0)
		r = resume_personality(box, m, &image, err);
	net_rules_free(rules);
	image_free(&image);
	if (r < 0)
		machine_stop(m);
	else
		*out = m;
	return box_error(box, r, err);
}

/* It runs, but the store could not be told: it is paused again, as the store says. */
static void undo_resume(struct box *box)
{
	struct error err = { 0 };
	struct vm *vm = take_running(box, &err);
	int r = vm ? freeze(box, vm, &err) : -EBUSY;

	if (r == 0 && set_status(box, SANDBOX_PAUSED, 0))
		r = let_go(box, &err);
	vm_put(vm);
	if (r < 0)
		log_error("resume_not_undone", "sandbox", box->id, "error", err.text);
}

int box_resume_held(struct box *box, const struct record *record, struct error *err)
{
	struct machine *m = NULL;
	struct error local = { 0 };
	bool lost = false;

	err = err ? err : &local;
	if (box->row.status != SANDBOX_PAUSED)
		return box->row.status == SANDBOX_RUNNING ? 0 : error_set(err, EBUSY, "the sandbox is not paused");
	int r = wake_machine(box, &m, &lost, err);
	if (r < 0) {
		/* With its saved state still there it can be tried again, be it with the image that it needs; else it is lost. */
		if (lost || faccessat(box->s->disk.folders[FOLDER_PAUSED], box->id, F_OK, 0) < 0)
			box_end(box, "host_error", err->text);
		return r;
	}
	m->keep_scratch = false;
	r = box_install(box, m, box->left_ms, err);
	if (r < 0) {
		machine_stop(m);
		return r;
	}
	r = box_save(box, record, err);
	if (r < 0) {
		undo_resume(box);
		return box_error(box, r, err);
	}
	log_info("sandbox_resumed", "sandbox", box->id, "org", box->org);
	return 0;
}

int sandbox_resume(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		   struct error *err)
{
	struct box *box;
	int r = box_hold(s, actor, id, &box, err);
	if (r < 0)
		return r;
	struct record record = box_record(box, actor, "sandbox.resume");
	r = box_resume_held(box, &record, err);
	if (r == 0 && info_fill(box, info) < 0)
		r = error_set(err, ENOMEM, "no memory for an answer");
	box_release(box);
	return r;
}
