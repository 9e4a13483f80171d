/* The malloc that fails when it is told to. See alloc.h. The sanitizers' malloc, if there is one, does the work. */
#include "alloc.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <pthread.h>
#include <pwd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct alloc_control own;
struct alloc_control *alloc_control = &own;

/*
 * What is asked for before our constructor has run, and by dlsym itself: never given back. AddressSanitizer takes over
 * dlsym, and allocates before it can serve a call of it.
 */
static _Alignas(16) unsigned char early[4 << 20];
static size_t early_used;
static bool begun;
static __thread bool spared;

static struct {
	void *(*malloc)(size_t);
	void *(*calloc)(size_t, size_t);
	void *(*realloc)(void *, size_t);
	void *(*memalign)(size_t, size_t);
	void (*free)(void *);
} next;

static void resolve(void)
{
	next.malloc = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
	next.calloc = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc");
	next.realloc = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
	next.memalign = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "memalign");
	next.free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
	begun = true;
}

static void *early_take(size_t size)
{
	size_t need = (size + 15) & ~(size_t)15;

	if (need > sizeof(early) - early_used)
		abort();
	early_used += need;
	return early + early_used - need;
}

static bool is_early(const void *p)
{
	return (const unsigned char *)p >= early && (const unsigned char *)p < early + sizeof(early);
}

static bool fails(void)
{
	if (spared)
		return false;
	struct alloc_control *c = alloc_control;
	int64_t number = atomic_fetch_add(&c->count, 1) + 1, at = atomic_load(&c->fail_at);

	if (at == 0 || number < at || number > at + atomic_load(&c->burst))
		return false;
	atomic_fetch_add(&c->failed, 1);
	errno = ENOMEM;
	return true;
}

static void *counted(void *p)
{
	if (p)
		atomic_fetch_add(&alloc_control->live, 1);
	return p;
}

void *malloc(size_t size)
{
	if (!begun)
		return early_take(size);
	return fails() ? NULL : counted(next.malloc(size));
}

void *calloc(size_t count, size_t size)
{
	if (!begun)
		return early_take(count * size);
	return fails() ? NULL : counted(next.calloc(count, size));
}

void *realloc(void *p, size_t size)
{
	if (!p)
		return malloc(size);
	if (!begun || is_early(p)) {
		const unsigned char *old = p;
		void *made = early_take(size);
		size_t most = (size_t)(early + early_used - old);
		return memmove(made, old, size < most ? size : most);
	}
	if (size > 0 && fails())
		return NULL;
	if (size == 0)
		atomic_fetch_sub(&alloc_control->live, 1);
	return next.realloc(p, size);
}

void *memalign(size_t alignment, size_t size)
{
	if (!begun)
		return early_take(size); /* no more than 16 is asked for so early */
	return fails() ? NULL : counted(next.memalign(alignment, size));
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return memalign(alignment, size);
}

int posix_memalign(void **p, size_t alignment, size_t size)
{
	void *made = memalign(alignment, size);

	if (!made)
		return ENOMEM;
	*p = made;
	return 0;
}

/* AddressSanitizer has these of its own, which do not pass through malloc. */
char *strdup(const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = malloc(size);

	return copy ? memcpy(copy, text, size) : NULL;
}

char *strndup(const char *text, size_t most)
{
	size_t size = strnlen(text, most);
	char *copy = malloc(size + 1);

	if (!copy)
		return NULL;
	copy[size] = '\0';
	return memcpy(copy, text, size);
}

void free(void *p)
{
	if (!p || !begun || is_early(p))
		return;
	atomic_fetch_sub(&alloc_control->live, 1);
	next.free(p);
}

/* The C library itself dies in these two without memory (glibc 2.36, nss_database.c): no matter of ours. */
struct passwd *getpwnam(const char *name)
{
	struct passwd *(*real)(const char *) = (struct passwd * (*)(const char *)) dlsym(RTLD_NEXT, "getpwnam");

	spared = true;
	struct passwd *found = real(name);
	spared = false;
	return found;
}

struct group *getgrnam(const char *name)
{
	struct group *(*real)(const char *) = (struct group * (*)(const char *)) dlsym(RTLD_NEXT, "getgrnam");

	spared = true;
	struct group *found = real(name);
	spared = false;
	return found;
}

/* AddressSanitizer alone asks for it, at the start of each thread, and dies without an answer. */
int pthread_getattr_np(pthread_t thread, pthread_attr_t *attributes)
{
	int (*real)(pthread_t, pthread_attr_t *) = (int (*)(pthread_t, pthread_attr_t *))dlsym(RTLD_NEXT, __func__);

	spared = true;
	int code = real(thread, attributes);
	spared = false;
	return code;
}

static int place_of(const char *program)
{
	const char *name = strrchr(program, '/');

	name = name ? name + 1 : program;
	return strcmp(name, "akirad") == 0 ? 0 : strcmp(name, "akira-launch") == 0 ? 1 : -1;
}

static __attribute__((constructor)) void attach(void)
{
	char program[512] = "";

	resolve();
	const char *path = getenv("AKIRA_FAIL_ALLOC");
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	int place = n > 0 ? place_of(program) : -1;
	int fd = path && place >= 0 ? open(path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	struct alloc_control *both = mmap(NULL, ALLOC_FILE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (both != MAP_FAILED)
		alloc_control = both + place;
}
