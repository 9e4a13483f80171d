/*
 * Theory of operation. A template is a folder TEMPLATES/<key>/ with `ram`, `state` and, for kind fresh, `scratch`, and
 * a manifest that is written last and holds a keyed hash over all of them: damage and forgery are found alike, and a
 * template of another installation never fits. The key is a hash over everything that has to be the same. A folder
 * without a good manifest is refused with its reason and built anew.
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

#define TEMPLATE_VERSION 2
#define KEY_SIZE 33 /* 16 bytes in hex */
#define ENTRIES_MAX 256
#define HASH_STEP 65536
#define STATE_MAX (64 << 20)

struct entry {
	char key[KEY_SIZE];
	bool busy;          /* somebody verifies or builds it */
	bool good;          /* verified in this process; the folder is ours alone, so once is enough */
	unsigned int users; /* who uses it or waits for it */
	int64_t used_ms;
	struct entry *next;
};

struct templates {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct entry *entries;
};

int templates_open(struct sandboxes *s, struct error *err)
{
	struct templates *t = calloc(1, sizeof(*t));
	if (!t)
		return error_set(err, ENOMEM, "no memory for templates");
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	s->templates = t;

	/* What a crash left half made. */
	DIR *stream = fdopendir(openat(s->disk.folders[FOLDER_TEMPLATES], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *e;
	while (stream && (e = readdir(stream)))
		if (str_starts(e->d_name, "tmp-"))
			disk_remove(&s->disk, FOLDER_TEMPLATES, e->d_name);
	if (stream)
		closedir(stream);
	return 0;
}

void templates_close(struct sandboxes *s)
{
	struct entry *e = s->templates ? s->templates->entries : NULL;

	while (e) {
		struct entry *next = e->next;
		free(e);
		e = next;
	}
	free(s->templates);
	s->templates = NULL;
}

static void make_key(struct sandboxes *s, const struct shape *shape, enum template_kind kind,
		     const struct guest_kernel *guest, char key[KEY_SIZE])
{
	char text[1024];
	unsigned char hash[16];
	const struct engine *e = &s->config.engine;

	snprintf(text, sizeof(text), "%d|%d|%s|%s|%u|%u|%s|%d|%u|%u|%s", TEMPLATE_VERSION, kind, shape->digest,
		 guest->digest, engine_vcpus(shape->cpu_units), shape->memory_mib, s->config.engine_version,
		 e->acceleration, e->tcg_cache_mib, e->tsc_khz, AKIRA_VERSION);
	crypto_generichash(hash, sizeof(hash), (const unsigned char *)text, strlen(text), NULL, 0);
	str_hex(key, hash, sizeof(hash));
}

/* ---- the checksum ---- */

static bool all_zero(const unsigned char *data, size_t size)
{
	return size == 0 || (data[0] == 0 && memcmp(data, data + 1, size - 1) == 0);
}

/* Holes and zeros count the same, however the file system keeps them: only what is not zero is hashed, with its place. */
static int hash_file(crypto_generichash_state *state, int fd, const char *name)
{
	_cleanup_free_ unsigned char *data = malloc(HASH_STEP);
	struct stat st;
	off_t at = 0;

	if (!data || fstat(fd, &st) < 0)
		return -EIO;
	int64_t size = st.st_size;
	crypto_generichash_update(state, (const unsigned char *)name, strlen(name) + 1);
	crypto_generichash_update(state, (const unsigned char *)&size, sizeof(size));
	while (at < st.st_size) {
		off_t start = lseek(fd, at, SEEK_DATA);
		if (start < 0 && errno == ENXIO)
			return 0;
		if (start < 0)
			return -errno;
		start -= start % HASH_STEP;
		size_t want = st.st_size - start < HASH_STEP ? (size_t)(st.st_size - start) : HASH_STEP;
		ssize_t n = pread(fd, data, want, start);
		if (n != (ssize_t)want)
			return n < 0 ? -errno : -EIO;
		if (!all_zero(data, (size_t)n)) {
			int64_t place = start;
			crypto_generichash_update(state, (const unsigned char *)&place, sizeof(place));
			crypto_generichash_update(state, data, (unsigned long long)n);
		}
		at = start + n;
	}
	return 0;
}

static int checksum(struct sandboxes *s, const char *key, const struct template *t, char hex[65])
{
	static const char purpose[] = "akira template";
	crypto_generichash_state state;
	unsigned char hash[32];
	int r;

	crypto_generichash_init(&state, store_secret(s->store), 32, sizeof(hash));
	crypto_generichash_update(&state, (const unsigned char *)purpose, sizeof(purpose));
	crypto_generichash_update(&state, (const unsigned char *)key, strlen(key));
	r = hash_file(&state, t->ram, "ram");
	if (r == 0)
		r = hash_file(&state, t->state, "state");
	if (r == 0 && t->scratch >= 0)
		r = hash_file(&state, t->scratch, "scratch");
	crypto_generichash_final(&state, hash, sizeof(hash));
	str_hex(hex, hash, sizeof(hash));
	return r;
}

/* ---- opening ---- */

static int open_part(int dir, const char *name, uint64_t size, int *fd, struct error *err)
{
	struct stat st;
	*fd = fd_open_beneath(dir, name, O_RDONLY | O_NONBLOCK, 0);
	if (*fd < 0)
		return error_errno(err, -*fd, "open %s", name);
	if (fstat(*fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1)
		return error_set(err, EPROTO, "%s is not a plain file", name);
	if (size > 0 && (uint64_t)st.st_size != size)
		return error_set(err, EPROTO, "%s has %lld bytes instead of %llu", name, (long long)st.st_size,
				 (unsigned long long)size);
	if (size == 0 && (st.st_size == 0 || st.st_size > STATE_MAX))
		return error_set(err, EPROTO, "%s has an impossible size", name);
	return 0;
}

static int open_parts(struct sandboxes *s, const char *name, const struct shape *shape, enum template_kind kind,
		      struct template *t, int *dir, struct error *err)
{
	*t = (struct template){ .ram = -1, .state = -1, .scratch = -1, .storage_gb = DEFAULT_STORAGE_GB };
	*dir = openat(s->disk.folders[FOLDER_TEMPLATES], name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (*dir < 0)
		return error_errno(err, errno, "open the template");
	int r = open_part(*dir, "ram", (uint64_t)shape->memory_mib << 20, &t->ram, err);
	if (r == 0)
		r = open_part(*dir, "state", 0, &t->state, err);
	if (r == 0 && kind == TEMPLATE_FRESH)
		r = open_part(*dir, "scratch", (uint64_t)DEFAULT_STORAGE_GB << 30, &t->scratch, err);
	return r;
}

static int verify(struct sandboxes *s, const char *key, int dir, const struct template *t, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	char hex[65];

	int r = fd_read_file(dir, "manifest.json", 4096, &text, &size, err);
	if (r < 0)
		return r;
	json_t *manifest = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
	const char *expected = json_string_value(json_object_get(manifest, "checksum"));
	r = checksum(s, key, t, hex);
	if (r == 0 && (!expected || strlen(expected) != 64 || sodium_memcmp(expected, hex, 64) != 0))
		r = error_set(err, EPROTO, "the checksum does not fit: it is damaged, or not this installation's");
	else if (r < 0)
		error_errno(err, -r, "read the template");
	json_decref(manifest);
	return r;
}

void template_close(struct template *template)
{
	fd_close(&template->ram);
	fd_close(&template->state);
	fd_close(&template->scratch);
}

/* ---- building ---- */

struct build {
	char name[STORE_ID_MAX]; /* temporary folder */
	int dir;
	int ram, state, scratch;
	uint64_t scratch_bytes;
};

static int new_file(const struct build *b, const char *name, uint64_t size, int *fd, struct error *err)
{
	*fd = openat(b->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0660);
	if (*fd < 0 || ftruncate(*fd, (off_t)size) < 0)
		return error_errno(err, errno, "make %s of a template", name);
	return 0;
}

static int build_files(struct sandboxes *s, const struct shape *shape, enum template_kind kind, struct build *b,
		       struct error *err)
{
	str_random_id(b->name, "tmp");
	b->name[3] = '-';
	if (mkdirat(s->disk.folders[FOLDER_TEMPLATES], b->name, 0700) < 0)
		return error_errno(err, errno, "make a folder for a template");
	b->dir = openat(s->disk.folders[FOLDER_TEMPLATES], b->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (b->dir < 0)
		return error_errno(err, errno, "open a folder for a template");
	int r = new_file(b, "ram.built", (uint64_t)shape->memory_mib << 20, &b->ram, err);
	if (r == 0)
		r = new_file(b, "state", 0, &b->state, err);
	if (r == 0)
		r = new_file(b, "scratch", 0, &b->scratch, err);
	if (r < 0)
		return r;
	if (kind == TEMPLATE_FRESH) {
		b->scratch_bytes = (uint64_t)DEFAULT_STORAGE_GB << 30;
		return disk_format(&s->disk, b->scratch, DEFAULT_STORAGE_GB, err);
	}
	b->scratch_bytes = 64 << 20; /* untouched; each sandbox brings its own */
	return ftruncate(b->scratch, (off_t)b->scratch_bytes) < 0 ? error_errno(err, errno, "size a disk") : 0;
}

/*
 * Debian's kernel was seen to hang while it calibrates its clock under emulation on a loaded host, before the agent
 * runs. A second boot is cheap beside a create that fails.
 */
static int build_boot(struct sandboxes *s, const struct shape *shape, struct build *b, struct machine **m,
		      struct error *err)
{
	int r, attempt = 0;

	do {
		/* RAM as of a machine that was just switched on. */
		if (ftruncate(b->ram, 0) < 0 || ftruncate(b->ram, (off_t)shape->memory_mib << 20) < 0) {
			error_errno(err, errno, "size a template's RAM");
			return -EIO;
		}
		r = machine_boot(s, shape, b->ram, b->scratch, b->scratch_bytes, m, err);
	} while (r == -ETIMEDOUT && ++attempt < BOOT_ATTEMPTS);
	return r;
}

/* The guest, from power-on to the point from which every sandbox begins. */
static int build_run(struct sandboxes *s, const struct shape *shape, enum template_kind kind, struct build *b,
		     struct error *err)
{
	struct machine *m = NULL;
	unsigned char fields[16];
	struct tlv_writer w;

	int r = build_boot(s, shape, b, &m, err);
	if (r < 0)
		return r;
	r = guest_request(m->vm, GUEST_WARM, NULL, BOOT_MS, err);
	if (r == 0 && kind == TEMPLATE_FRESH) {
		tlv_begin(&w, fields, sizeof(fields));
		tlv_u8(&w, GUEST_TAG_FRESH, 1);
		r = guest_request(m->vm, GUEST_SETUP, &w, BOOT_MS, err);
	}
	if (r == 0 && kind == TEMPLATE_FRESH)
		r = machine_rehearse(m, err);
	if (r == 0 && kind == TEMPLATE_FRESH)
		r = guest_request(m->vm, GUEST_SYNC, NULL, BOOT_MS, err);
	if (r == 0)
		r = vm_stop(m->vm, err);
	if (r == 0)
		r = vm_save(m->vm, b->state, BOOT_MS, err);
	machine_stop(m);
	return r;
}

/*
 * The file that the builder's VM wrote belongs to that VM's user. Sandboxes get a copy that is ours and that every VM
 * may read and none may write.
 */
static int build_ram(struct sandboxes *s, struct build *b, struct error *err)
{
	int copy = -1;
	int r = new_file(b, "ram", 0, &copy, err);

	if (r == 0)
		r = disk_copy(&s->disk, b->ram, copy, err);
	if (r == 0 && fchmod(copy, 0644) < 0)
		r = error_errno(err, errno, "open a template for reading");
	fd_close(&b->ram);
	b->ram = copy;
	(void)unlinkat(b->dir, "ram.built", 0);
	return r;
}

static int build_seal(struct sandboxes *s, const struct shape *shape, const char *key, enum template_kind kind,
		      struct build *b, struct error *err)
{
	struct template parts = { b->ram, b->state, kind == TEMPLATE_FRESH ? b->scratch : -1, 0 };
	char hex[65];
	int r = checksum(s, key, &parts, hex);

	if (r < 0)
		return error_errno(err, -r, "read a new template");
	json_t *manifest = json_pack("{s:i, s:s, s:s, s:s, s:i, s:i}", "version", TEMPLATE_VERSION, "checksum", hex,
				     "image", shape->image, "kind", kind == TEMPLATE_FRESH ? "fresh" : "bare",
				     "memory_mib", (int)shape->memory_mib, "vcpus",
				     (int)engine_vcpus(shape->cpu_units));
	_cleanup_free_ char *text = json_text(manifest, JSON_INDENT(1));
	json_decref(manifest);
	if (!text)
		return error_set(err, ENOMEM, "no memory for a manifest");
	if (fsync(b->ram) < 0 || fsync(b->state) < 0 || fsync(b->scratch) < 0)
		return error_errno(err, errno, "sync a new template");
	if (FAULT("template-manifest") < 0)
		return error_set(err, EIO, "injected: template-manifest");
	r = fd_write_file(b->dir, "manifest.json", text, strlen(text), 0600, err);
	if (r < 0)
		return r;
	disk_remove(&s->disk, FOLDER_TEMPLATES, key);
	if (renameat(s->disk.folders[FOLDER_TEMPLATES], b->name, s->disk.folders[FOLDER_TEMPLATES], key) < 0)
		return error_errno(err, errno, "name a new template");
	r = disk_sync_folder(&s->disk, FOLDER_TEMPLATES);
	return r < 0 ? error_errno(err, -r, "sync the templates") : 0;
}

static int build(struct sandboxes *s, const struct shape *shape, const char *key, enum template_kind kind,
		 struct error *err)
{
	struct build b = { .dir = -1, .ram = -1, .state = -1, .scratch = -1 };
	int64_t begin = time_mono_ms();

	int r = disk_room(&s->disk, (uint64_t)shape->memory_mib << 20, err);
	if (r == 0)
		r = build_files(s, shape, kind, &b, err);
	if (r == 0)
		r = build_run(s, shape, kind, &b, err);
	if (r == 0)
		r = build_ram(s, &b, err);
	if (r == 0)
		r = build_seal(s, shape, key, kind, &b, err);
	fd_close(&b.ram);
	fd_close(&b.state);
	fd_close(&b.scratch);
	fd_close(&b.dir);
	if (r < 0 && b.name[0])
		disk_remove(&s->disk, FOLDER_TEMPLATES, b.name);
	if (r == 0) {
		atomic_fetch_add(&s->template_builds, 1);
		log_info("template_built", "image", shape->image, "kind", kind == TEMPLATE_FRESH ? "fresh" : "bare",
			 "memory_mib", LOG_INT(shape->memory_mib), "ms", LOG_INT(time_mono_ms() - begin), "key", key);
	} else {
		log_error("template_failed", "image", shape->image, "error", err ? err->text : "");
	}
	return r;
}

/* ---- finding ---- */

/* Sizes are the clients' choice, so that kinds are many: the one that was not used for longest makes room. */
static struct entry *entry_of(struct templates *t, const char *key)
{
	struct entry *e = t->entries, *oldest = NULL;
	size_t count = 0;

	for (; e && strcmp(e->key, key) != 0; e = e->next) {
		count++;
		if (e->users == 0 && (!oldest || e->used_ms < oldest->used_ms))
			oldest = e;
	}
	if (e)
		return e;
	if (count < ENTRIES_MAX) {
		e = calloc(1, sizeof(*e));
		if (!e)
			return NULL;
		e->next = t->entries;
		t->entries = e;
	} else if (oldest) {
		e = oldest;
		e->good = false;
	} else {
		return NULL;
	}
	snprintf(e->key, sizeof(e->key), "%s", key);
	return e;
}

static int open_good(struct sandboxes *s, struct entry *e, const struct shape *shape, enum template_kind kind,
		     struct template *template, struct error *err)
{
	_cleanup_fd_ int dir = -1;
	int r = open_parts(s, e->key, shape, kind, template, &dir, err);
	if (r == 0 && !e->good)
		r = verify(s, e->key, dir, template, err);
	/* One that was never made is no news; one of which a part is missing is damaged. */
	if (r == -ENOENT && dir >= 0)
		err->code = EPROTO;
	if (r < 0)
		template_close(template);
	else
		(void)futimens(dir, NULL); /* when it was last used, for templates_trim after a restart */
	return r;
}

/* With the entry busy: open what is there, else build and open. */
static int obtain(struct sandboxes *s, struct entry *e, const struct shape *shape, enum template_kind kind,
		  struct template *template, struct error *err)
{
	struct error why = { 0 };

	if (open_good(s, e, shape, kind, template, &why) == 0) {
		atomic_fetch_add(&s->template_hits, 1);
		return 0;
	}
	if (why.code != ENOENT)
		log_warn("template_refused", "key", e->key, "image", shape->image, "reason", why.text);
	e->good = false;
	int r = build(s, shape, e->key, kind, err);
	if (r < 0)
		return r;
	templates_trim(s);
	e->good = true; /* we have just written it, and hashed it */
	return open_good(s, e, shape, kind, template, err);
}

int template_get(struct sandboxes *s, const struct shape *shape, enum template_kind kind, struct template *template,
		 struct error *err)
{
	struct templates *t = s->templates;
	struct guest_kernel guest;
	char key[KEY_SIZE];

	*template = (struct template){ .ram = -1, .state = -1, .scratch = -1 };
	int r = images_guest(s->config.images, &guest, err);
	if (r < 0)
		return r;
	make_key(s, shape, kind, &guest, key);
	guest_kernel_close(&guest);

	pthread_mutex_lock(&t->lock);
	struct entry *e = entry_of(t, key);
	if (e)
		e->users++;
	while (e && e->busy)
		pthread_cond_wait(&t->changed, &t->lock);
	if (e) {
		e->busy = true;
		e->used_ms = time_mono_ms();
	}
	pthread_mutex_unlock(&t->lock);
	if (!e)
		return error_set(err, EAGAIN, "too many kinds of sandboxes at once");

	r = obtain(s, e, shape, kind, template, err);
	pthread_mutex_lock(&t->lock);
	e->good = r == 0;
	e->busy = false;
	e->users--;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	return r;
}

/* ---- the budget ---- */

static uint64_t folder_bytes(int parent, const char *name, int64_t *used_s)
{
	static const char *const parts[] = { "ram", "state", "scratch" };
	uint64_t sum = 0;
	struct stat st;
	_cleanup_fd_ int dir = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (dir < 0 || fstat(dir, &st) < 0)
		return 0;
	*used_s = st.st_mtim.tv_sec;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (fstatat(dir, parts[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
			sum += (uint64_t)st.st_blocks * 512;
	return sum;
}

static bool is_busy(struct templates *t, const char *key)
{
	bool busy = false;

	pthread_mutex_lock(&t->lock);
	for (struct entry *e = t->entries; e; e = e->next)
		if (strcmp(e->key, key) == 0)
			busy = e->busy;
	pthread_mutex_unlock(&t->lock);
	return busy;
}

void templates_trim(struct sandboxes *s)
{
	for (int round = 0; round < ENTRIES_MAX; round++) {
		char oldest[256] = "";
		int64_t oldest_s = INT64_MAX;
		uint64_t sum = 0;
		size_t count = 0;
		struct dirent *e;
		DIR *stream = fdopendir(
			openat(s->disk.folders[FOLDER_TEMPLATES], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));

		while (stream && (e = readdir(stream))) {
			int64_t used_s = 0;
			if (e->d_name[0] == '.' || str_starts(e->d_name, "tmp-"))
				continue;
			sum += folder_bytes(s->disk.folders[FOLDER_TEMPLATES], e->d_name, &used_s);
			count++;
			if (used_s < oldest_s && !is_busy(s->templates, e->d_name)) {
				oldest_s = used_s;
				snprintf(oldest, sizeof(oldest), "%s", e->d_name);
			}
		}
		if (stream)
			closedir(stream);
		if (count <= 1 || sum <= s->config.template_budget_bytes || !oldest[0])
			return;
		log_info("template_dropped", "key", oldest, "reason", "disk budget");
		disk_remove(&s->disk, FOLDER_TEMPLATES, oldest);
	}
}
