#include "fake_domain.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fd.h"
#include "base/str.h"
#include "base/time.h"

struct fake fake;
struct store *fake_store;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

void fake_hold(int hold)
{
	pthread_mutex_lock(&lock);
	fake.hold = hold;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void count(int *counter)
{
	pthread_mutex_lock(&lock);
	++*counter;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

bool fake_reached(const int *counter, int value)
{
	struct timespec until;
	int code = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	pthread_mutex_lock(&lock);
	while (*counter < value && code == 0)
		code = pthread_cond_timedwait(&changed, &lock, &until);
	bool reached = *counter >= value;
	pthread_mutex_unlock(&lock);
	return reached;
}

static int outcome(struct error *err)
{
	return fake.result < 0 ? error_set(err, -fake.result, "%s", fake.text ? fake.text : "") : 0;
}

void sandbox_info_free(struct sandbox_info *info)
{
	store_sandbox_free(&info->row);
}

int sandbox_create(struct sandboxes *s, const struct sandbox_actor *actor, const struct sandbox_spec *spec,
		   struct sandbox_info *info, struct error *err)
{
	struct store_sandbox *row = &info->row;

	count(&fake.creates);
	pthread_mutex_lock(&lock);
	while (fake.hold)
		pthread_cond_wait(&changed, &lock);
	fake.last = *spec;
	str_copy(fake.last_name, sizeof(fake.last_name), spec->name ? spec->name : "");
	str_copy(fake.last_env, sizeof(fake.last_env), spec->env_json ? spec->env_json : "");
	pthread_mutex_unlock(&lock);
	if (fake.result < 0)
		return outcome(err);
	str_random_id(row->id, "sbx");
	if (spec->named)
		spec->named(row->id, spec->context);
	str_copy(row->org, sizeof(row->org), actor->org->id);
	str_copy(row->key, sizeof(row->key), actor->key);
	str_copy(row->name, sizeof(row->name), spec->name ? spec->name : "sandbox-auto");
	str_copy(row->image, sizeof(row->image), "default");
	row->status = SANDBOX_RUNNING;
	row->cpu_units = spec->cpu_units ? spec->cpu_units : 1;
	row->memory_mib = spec->memory_mib ? spec->memory_mib : 512;
	row->storage_gb = spec->storage_gb ? spec->storage_gb : 10;
	row->created_ms = time_wall_ms();
	row->timeout_s = spec->timeout_s < 0 ? 3600 : spec->timeout_s;
	row->expires_ms = row->created_ms + row->timeout_s * 1000;
	row->metadata = spec->metadata_json ? strdup(spec->metadata_json) : NULL;
	row->network = spec->network_json ? strdup(spec->network_json) : NULL;
	return store_sandbox_add(fake_store, row, err);
}

int sandbox_get(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		struct error *err)
{
	int r = store_sandbox_get(fake_store, actor->org->id, id, &info->row, err);
	return r == -ENOENT ? error_set(err, ENOENT, "there is no such sandbox") : r;
}

int sandbox_list(struct sandboxes *s, const struct store_sandbox_filter *filter, uint32_t page, uint32_t size,
		 struct store_sandbox **rows, size_t *number, uint64_t *total, struct error *err)
{
	return store_sandbox_list(fake_store, filter, page, size, rows, number, total, err);
}

int sandbox_delete(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *snapshot_name,
		   struct store_snapshot *snapshot, struct error *err)
{
	struct sandbox_info info = { 0 };
	int r = sandbox_get(s, actor, id, &info, err);
	if (r < 0)
		return r;
	info.row.status = SANDBOX_TERMINATED;
	info.row.terminated_ms = time_wall_ms();
	str_copy(info.row.reason, sizeof(info.row.reason), "deleted");
	r = store_sandbox_update(fake_store, &info.row, err);
	sandbox_info_free(&info);
	if (r == 0 && snapshot_name) {
		str_copy(snapshot->id, sizeof(snapshot->id), "snap_1");
		str_copy(snapshot->name, sizeof(snapshot->name), snapshot_name[0] ? snapshot_name : "auto");
	}
	count(&fake.deletes);
	return r;
}

static int same(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		struct error *err)
{
	int r = outcome(err);

	if (fake.recorded)
		*actor->recorded = fake.recorded;
	return r < 0 ? r : sandbox_get(s, actor, id, info, err);
}

int sandbox_set_timeout(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, int64_t timeout_s,
			struct sandbox_info *info, struct error *err)
{
	return same(s, actor, id, info, err);
}

int sandbox_set_network(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
			const struct sandbox_network *network, const char *network_json, struct sandbox_info *info,
			struct error *err)
{
	return same(s, actor, id, info, err);
}

int sandbox_pause(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		  struct error *err)
{
	return same(s, actor, id, info, err);
}

int sandbox_resume(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, struct sandbox_info *info,
		   struct error *err)
{
	return same(s, actor, id, info, err);
}

int sandbox_console(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, char **text, size_t *size,
		    struct error *err)
{
	*text = strdup("boot\xff\n");
	*size = 6;
	return 0;
}

int sandbox_stop_all(struct sandboxes *s, const struct sandbox_actor *actor, const char *org, const char *why,
		     struct error *err)
{
	return 3;
}

/* ---- commands ---- */

struct sandbox_exec {
	size_t at;
};

int sandbox_exec_start(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
		       const struct sandbox_exec_spec *spec, struct sandbox_exec **exec, struct error *err)
{
	struct sandbox_info info = { 0 };
	int r = same(s, actor, id, &info, err);
	sandbox_info_free(&info);
	if (r < 0)
		return r;
	str_copy(fake.last_command, sizeof(fake.last_command), spec->command);
	*exec = calloc(1, sizeof(**exec));
	return 0;
}

const char *sandbox_exec_id(const struct sandbox_exec *exec)
{
	return "exec_1";
}

int sandbox_exec_next(struct sandbox_exec *exec, int wait_ms, int watch, struct sandbox_exec_event *event,
		      struct error *err)
{
	if (exec->at < fake.event_count) {
		*event = fake.events[exec->at++];
		return 0;
	}
	struct pollfd wait = { .fd = watch, .events = POLLRDHUP };
	if (fake.wait_for_client && poll(&wait, 1, wait_ms) > 0)
		return error_set(err, EPIPE, "the client went away");
	event->kind = EXEC_NOTHING;
	return fake.wait_for_client ? 0 : error_set(err, EIO, "no more events");
}

int sandbox_exec_write(struct sandbox_exec *exec, const void *data, size_t size, struct error *err)
{
	return error_set(err, ENOSYS, "no input here");
}

int sandbox_exec_resize(struct sandbox_exec *exec, uint16_t rows, uint16_t cols, struct error *err)
{
	return error_set(err, ENOSYS, "no terminal here");
}

void sandbox_exec_close(struct sandbox_exec *exec, int32_t status)
{
	if (!exec)
		return;
	free(exec);
	count(&fake.execs_closed);
}

/* ---- files ---- */

struct sandbox_file {
	size_t at;
};

int sandbox_file_read_open(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *path,
			   struct sandbox_file **file, uint64_t *size, struct error *err)
{
	int r = outcome(err);
	if (r < 0)
		return r;
	*file = calloc(1, sizeof(**file));
	*size = fake.file_size;
	return 0;
}

int64_t sandbox_file_read(struct sandbox_file *file, void *data, size_t size, struct error *err)
{
	size_t left = fake.file_size - file->at, part = left < size ? left : size;
	memcpy(data, fake.file + file->at, part);
	file->at += part;
	return (int64_t)part;
}

int sandbox_file_write_open(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *path,
			    uint32_t mode, struct sandbox_file **file, struct error *err)
{
	int r = outcome(err);
	if (r < 0)
		return r;
	*file = calloc(1, sizeof(**file));
	fake.file_size = 0;
	fake.finished = false;
	return str_copy(fake.last_path, sizeof(fake.last_path), path);
}

int sandbox_file_write(struct sandbox_file *file, const void *data, size_t size, struct error *err)
{
	if (size > sizeof(fake.file) - fake.file_size)
		return error_set(err, ENOSPC, "the disk is full");
	memcpy(fake.file + fake.file_size, data, size);
	fake.file_size += size;
	return 0;
}

int sandbox_file_finish(struct sandbox_file *file, uint64_t *size, struct error *err)
{
	fake.finished = true;
	*size = fake.file_size;
	return 0;
}

void sandbox_file_close(struct sandbox_file *file)
{
	if (!file)
		return;
	free(file);
	count(&fake.files_closed);
}

/* ---- the rest ---- */

int sandbox_metrics(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, int64_t from_ms,
		    int64_t to_ms, struct sandbox_metrics *metrics, struct error *err)
{
	*metrics = (struct sandbox_metrics){
		.current = true, .cpu_percent = 12.5, .memory_bytes = 64 << 20, .memory_total_bytes = 512 << 20
	};
	metrics->history = calloc(1, sizeof(*metrics->history));
	metrics->history[0].when_ms = from_ms;
	metrics->history_count = 1;
	return 0;
}

int sandbox_snapshot(struct sandboxes *s, const struct sandbox_actor *actor, const char *id, const char *name,
		     bool quick, struct store_snapshot *snapshot, struct error *err)
{
	int r = outcome(err);
	if (r < 0)
		return r;
	str_random_id(snapshot->id, "snap");
	str_copy(snapshot->org, sizeof(snapshot->org), actor->org->id);
	str_copy(snapshot->name, sizeof(snapshot->name), name ? name : "auto");
	snapshot->status = SNAPSHOT_READY;
	snapshot->quick = quick;
	snapshot->created_ms = time_wall_ms();
	return store_snapshot_add(fake_store, snapshot, err);
}

int sandbox_clone(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
		  const struct sandbox_spec *spec, const char *snapshot_name, struct sandbox_info *info,
		  struct store_snapshot *snapshot, struct error *err)
{
	int r = sandbox_snapshot(s, actor, id, snapshot_name, false, snapshot, err);
	return r < 0 ? r : sandbox_create(s, actor, spec, info, err);
}

int sandbox_restore(struct sandboxes *s, const struct sandbox_actor *actor, const char *snapshot_id,
		    const struct sandbox_spec *spec, struct sandbox_info *info, struct error *err)
{
	struct store_snapshot row = { 0 };
	int r = store_snapshot_get(fake_store, actor->org->id, snapshot_id, &row, err);
	store_snapshot_free(&row);
	return r < 0 ? r : sandbox_create(s, actor, spec, info, err);
}

int sandbox_snapshot_delete(struct sandboxes *s, const struct sandbox_actor *actor, const char *id,
			    struct store_snapshot *snapshot, struct error *err)
{
	int r = store_snapshot_get(fake_store, actor->org->id, id, snapshot, err);
	if (r == 0) {
		snapshot->status = SNAPSHOT_PENDING_DELETION;
		r = store_snapshot_update(fake_store, snapshot, err);
	}
	return r;
}

void sandboxes_figures(struct sandboxes *s, struct sandboxes_figures *figures)
{
	*figures = (struct sandboxes_figures){ .creates = (uint64_t)fake.creates };
}

int sandboxes_org_figures(struct sandboxes *s, struct sandboxes_org_figures **rows, size_t *count)
{
	*rows = calloc(1, sizeof(**rows));
	*count = *rows ? 1 : 0;
	if (*rows)
		**rows = (struct sandboxes_org_figures){
			.org = "org_fake", .sandboxes = 3, .refused = 7, .cpu_s = 1.5
		};
	return *rows ? 0 : -ENOMEM;
}

const char *sandboxes_acceleration(const struct sandboxes *s, const char **why)
{
	*why = "no usable KVM";
	return "tcg";
}
