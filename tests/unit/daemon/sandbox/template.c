/* A template's checksum: of what is in its files, not of how the file system keeps them; and the table of kinds. */
#include "daemon/sandbox/template.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MIB ((off_t)1 << 20)

struct world {
	char path[64];
	int dir;
	struct sandboxes s;
	struct template t;
	struct error err;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	snprintf(w->path, sizeof(w->path), "/var/tmp/akira-template-XXXXXX");
	assert_non_null(mkdtemp(w->path));
	w->dir = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(store_open(w->path, &w->s.store, &w->err), 0);
	assert_int_equal(disk_open(w->path, 0, &w->s.disk, &w->err), 0);
	assert_int_equal(templates_open(&w->s, &w->err), 0);
	w->t = (struct template){ -1, -1, -1, 0 };
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	template_close(&w->t);
	templates_close(&w->s);
	disk_close(&w->s.disk);
	store_close(w->s.store);
	fd_close(&w->dir);
	int r = fd_remove_tree(AT_FDCWD, w->path, NULL);
	free(w);
	return r;
}

static int file(struct world *w, const char *name)
{
	int fd = openat(w->dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

static void put(int fd, off_t at, const char *text)
{
	assert_int_equal(pwrite(fd, text, strlen(text), at), (ssize_t)strlen(text));
}

static int ram(struct world *w, const char *name)
{
	int fd = file(w, name);

	assert_int_equal(ftruncate(fd, 16 * MIB + 777), 0);
	put(fd, 5, "begin");
	put(fd, 3 * MIB - 2, "across");
	put(fd, 16 * MIB + 770, "end");
	return fd;
}

static void sum(struct world *w, const char *key, char hex[65])
{
	assert_int_equal(checksum(&w->s, key, &w->t, hex), 0);
	assert_int_equal(strlen(hex), 64);
}

static void make(struct world *w)
{
	w->t.ram = ram(w, "ram");
	w->t.state = file(w, "state");
	put(w->t.state, 0, "device state");
}

static void layout_does_not_count(void **state)
{
	struct world *w = *state;
	static const char zeros[65536];
	char first[65], again[65];

	make(w);
	sum(w, "key", first);
	sum(w, "key", again);
	assert_string_equal(first, again);
	/* Zeros in the place of holes. */
	for (off_t at = 4 * MIB; at < 9 * MIB; at += sizeof(zeros))
		assert_int_equal(pwrite(w->t.ram, zeros, sizeof(zeros), at), sizeof(zeros));
	assert_int_equal(pwrite(w->t.ram, zeros, 100, 10 * MIB + 4001), 100);
	sum(w, "key", again);
	assert_string_equal(first, again);
	/* A whole copy without any hole. */
	int full = file(w, "full");
	char *data = malloc(16 * MIB + 777);
	assert_non_null(data);
	assert_int_equal(pread(w->t.ram, data, 16 * MIB + 777, 0), 16 * MIB + 777);
	assert_int_equal(pwrite(full, data, 16 * MIB + 777, 0), 16 * MIB + 777);
	free(data);
	close(w->t.ram);
	w->t.ram = full;
	sum(w, "key", again);
	assert_string_equal(first, again);
}

static void every_byte_counts(void **state)
{
	static const off_t places[] = { 0, 5, 65535, 65536, 3 * MIB - 2, 8 * MIB + 1, 16 * MIB + 776 };
	struct world *w = *state;
	char first[65], again[65], old, other;

	make(w);
	sum(w, "key", first);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		assert_int_equal(pread(w->t.ram, &old, 1, places[i]), 1);
		other = old ^ 1;
		assert_int_equal(pwrite(w->t.ram, &other, 1, places[i]), 1);
		sum(w, "key", again);
		assert_string_not_equal(first, again);
		assert_int_equal(pwrite(w->t.ram, &old, 1, places[i]), 1);
	}
	sum(w, "key", again);
	assert_string_equal(first, again);
	put(w->t.state, 0, "D");
	sum(w, "key", again);
	assert_string_not_equal(first, again);
}

static uint32_t random_number(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* G01: whatever a fuzzer would do to a device state, QEMU is never given it. */
static void no_mutation_passes(void **state)
{
	struct world *w = *state;
	unsigned char good[20000], bad[sizeof(good)];
	char first[65], again[65];
	uint32_t dice = 0x9e3779b9;

	make(w);
	for (size_t i = 0; i < sizeof(good); i++)
		good[i] = (unsigned char)random_number(&dice);
	assert_int_equal(ftruncate(w->t.ram, MIB), 0);
	assert_int_equal(pwrite(w->t.state, good, sizeof(good), 0), sizeof(good));
	sum(w, "key", first);
	for (int round = 0; round < 500; round++) {
		size_t size = random_number(&dice) % 4 ? sizeof(good) : random_number(&dice) % sizeof(good);
		memcpy(bad, good, sizeof(bad));
		for (uint32_t n = random_number(&dice) % 8 + 1; n > 0; n--)
			bad[random_number(&dice) % sizeof(bad)] ^= (unsigned char)(1u << random_number(&dice) % 8);
		if (memcmp(bad, good, size) == 0 && size == sizeof(good))
			continue; /* they undid one another */
		assert_int_equal(ftruncate(w->t.state, (off_t)size), 0);
		assert_int_equal(pwrite(w->t.state, bad, size, 0), (ssize_t)size);
		sum(w, "key", again);
		assert_string_not_equal(first, again);
	}
	assert_int_equal(pwrite(w->t.state, good, sizeof(good), 0), sizeof(good));
	sum(w, "key", again);
	assert_string_equal(first, again);
}

static void everything_else_counts(void **state)
{
	struct world *w = *state;
	char first[65], again[65];

	make(w);
	sum(w, "key", first);
	sum(w, "kez", again);
	assert_string_not_equal(first, again); /* another kind's folder, renamed */
	assert_int_equal(ftruncate(w->t.ram, 16 * MIB + 778), 0);
	sum(w, "key", again);
	assert_string_not_equal(first, again);
	assert_int_equal(ftruncate(w->t.ram, 16 * MIB + 777), 0);
	w->t.scratch = file(w, "disk");
	sum(w, "key", again);
	assert_string_not_equal(first, again); /* an empty one more */
	fd_close(&w->t.scratch);
	int swap = w->t.ram;
	w->t.ram = w->t.state;
	w->t.state = swap;
	sum(w, "key", again);
	assert_string_not_equal(first, again);
	swap = w->t.ram;
	w->t.ram = w->t.state;
	w->t.state = swap;
	/* The same bytes 64 KiB further on. */
	int moved = file(w, "moved");
	assert_int_equal(ftruncate(moved, 16 * MIB + 777), 0);
	put(moved, 65536 + 5, "begin");
	put(moved, 3 * MIB - 2, "across");
	put(moved, 16 * MIB + 770, "end");
	close(w->t.ram);
	w->t.ram = moved;
	sum(w, "key", again);
	assert_string_not_equal(first, again);
}

/* Another installation's secret: its templates never fit. */
static void another_secret(void **state)
{
	struct world *w = *state;
	char first[65], again[65];
	struct store *own = w->s.store;

	make(w);
	sum(w, "key", first);
	assert_int_equal(mkdirat(w->dir, "other", 0700), 0);
	char path[128];
	snprintf(path, sizeof(path), "%s/other", w->path);
	assert_int_equal(store_open(path, &w->s.store, &w->err), 0);
	sum(w, "key", again);
	store_close(w->s.store);
	w->s.store = own;
	assert_string_not_equal(first, again);
}

static void verification(void **state)
{
	struct world *w = *state;
	char hex[65], text[128];

	make(w);
	assert_int_equal(verify(&w->s, "key", w->dir, &w->t, &w->err), -ENOENT);
	sum(w, "key", hex);
	snprintf(text, sizeof(text), "{\"checksum\":\"%s\"}", hex);
	assert_int_equal(fd_write_file(w->dir, "manifest.json", text, strlen(text), 0600, NULL), 0);
	assert_int_equal(verify(&w->s, "key", w->dir, &w->t, &w->err), 0);
	assert_int_equal(verify(&w->s, "kez", w->dir, &w->t, &w->err), -EPROTO);
	put(w->t.state, 3, "x");
	assert_int_equal(verify(&w->s, "key", w->dir, &w->t, &w->err), -EPROTO);
	static const char *const wrong[] = {
		"", "{}", "{\"checksum\":7}", "{\"checksum\":\"00\"}", "[]", "{\"checksum\":\"\"}"
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(fd_write_file(w->dir, "manifest.json", wrong[i], strlen(wrong[i]), 0600, NULL), 0);
		assert_int_equal(verify(&w->s, "key", w->dir, &w->t, &w->err), -EPROTO);
	}
}

static void parts(void **state)
{
	struct world *w = *state;
	int fd = -1;

	int plain = file(w, "plain");
	assert_int_equal(ftruncate(plain, 100), 0);
	close(plain);
	assert_int_equal(open_part(w->dir, "plain", 100, &fd, &w->err), 0);
	fd_close(&fd);
	assert_int_equal(open_part(w->dir, "plain", 99, &fd, &w->err), -EPROTO);
	fd_close(&fd);
	assert_int_equal(open_part(w->dir, "plain", 0, &fd, &w->err), 0);
	fd_close(&fd);
	assert_int_equal(symlinkat("plain", w->dir, "link"), 0);
	assert_int_equal(open_part(w->dir, "link", 100, &fd, &w->err), -ELOOP);
	assert_int_equal(linkat(w->dir, "plain", w->dir, "hard", 0), 0);
	assert_int_equal(open_part(w->dir, "plain", 100, &fd, &w->err), -EPROTO); /* somebody has another name for it */
	fd_close(&fd);
	assert_int_equal(mkfifoat(w->dir, "fifo", 0600), 0);
	assert_int_equal(open_part(w->dir, "fifo", 0, &fd, &w->err), -EPROTO);
	fd_close(&fd);
	close(file(w, "empty"));
	assert_int_equal(open_part(w->dir, "empty", 0, &fd, &w->err), -EPROTO);
	fd_close(&fd);
}

/* ---- the table ---- */

static void kinds_make_room(void **state)
{
	struct world *w = *state;
	struct templates *t = w->s.templates;
	char key[KEY_SIZE];

	for (int i = 0; i < 1000; i++) {
		snprintf(key, sizeof(key), "%032d", i);
		struct entry *e = entry_of(t, key);
		assert_non_null(e);
		assert_string_equal(e->key, key);
		assert_false(e->good);
		assert_ptr_equal(entry_of(t, key), e);
		e->good = true;
		e->used_ms = 1000 + i;
	}
	/* The latest are there, the first are gone; one in use is never taken. */
	snprintf(key, sizeof(key), "%032d", 999);
	assert_true(entry_of(t, key)->good);
	for (struct entry *e = t->entries; e; e = e->next)
		e->users = 1;
	assert_null(entry_of(t, "another"));
	entry_of(t, key)->users = 0;
	struct entry *another = entry_of(t, "another");
	assert_non_null(another);
	another->users = 1;
	assert_null(entry_of(t, key)); /* its place was taken, and all others are in use */
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(layout_does_not_count),
		CASE(every_byte_counts),
		CASE(everything_else_counts),
		CASE(no_mutation_passes),
		CASE(another_secret),
		CASE(verification),
		CASE(parts),
		CASE(kinds_make_room),
	};
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
