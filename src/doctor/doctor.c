#include "doctor/internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"

static const char *const status_names[] = { "ok", "info", "warn", "FAIL" };
static_assert(sizeof(status_names) / sizeof(status_names[0]) == DOCTOR_STATUSES, "a name for each status");

const char *doctor_status_name(enum doctor_status status)
{
	return status_names[status];
}

enum doctor_status doctor_worst(const struct doctor_fact *facts, size_t count)
{
	enum doctor_status worst = DOCTOR_OK;
	for (size_t i = 0; i < count; i++)
		worst = facts[i].status > worst ? facts[i].status : worst;
	return worst;
}

void doctor_add(struct doctor *d, const char *name, enum doctor_status status, const char *advice, const char *format,
		...)
{
	if (d->count == DOCTOR_FACTS_MAX)
		return;
	struct doctor_fact *fact = &d->facts[d->count++];
	va_list args;
	fact->name = name;
	fact->status = status;
	va_start(args, format);
	vsnprintf(fact->found, sizeof(fact->found), format, args);
	va_end(args);
	snprintf(fact->advice, sizeof(fact->advice), "%s", advice ? advice : "");
	for (char *p = fact->found; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = ' ';
}

void doctor_append(char *to, size_t size, const char *format, ...)
{
	size_t used = strlen(to);
	va_list args;
	va_start(args, format);
	vsnprintf(to + used, size - used, format, args);
	va_end(args);
}

static const char *relative(const char *path)
{
	return *path == '/' ? path + 1 : path;
}

int doctor_read(const struct doctor *d, const char *path, char *to, size_t size)
{
	to[0] = '\0';
	_cleanup_fd_ int fd = openat(d->root, relative(path), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -errno;
	ssize_t got = fd_read_all(fd, to, size - 1);
	to[got > 0 ? got : 0] = '\0';
	if (got < 0)
		return (int)got;
	if (got > 0 && to[got - 1] == '\n')
		to[got - 1] = '\0';
	return 0;
}

int64_t doctor_number(const struct doctor *d, const char *path)
{
	char text[64];
	uint64_t value;
	if (doctor_read(d, path, text, sizeof(text)) < 0 || str_u64(text, 0, INT64_MAX, &value) < 0)
		return -1;
	return (int64_t)value;
}

bool doctor_exists(const struct doctor *d, const char *path)
{
	return faccessat(d->root, relative(path), F_OK, 0) == 0;
}

bool doctor_has_word(const char *text, const char *word)
{
	static const char gaps[] = " ,\t\n";
	size_t length = strlen(word);
	for (const char *p = text; (p = strstr(p, word)); p += length) {
		bool begins = p == text || strchr(gaps, p[-1]);
		bool ends = !p[length] || strchr(gaps, p[length]);
		if (begins && ends)
			return true;
	}
	return false;
}

static int run_parts(const struct doctor_config *config, bool service, struct doctor_fact **facts, size_t *count,
		     struct error *err)
{
	struct doctor d = { .config = config };
	_cleanup_fd_ int root = open(config->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return error_errno(err, errno, "%s", config->root);
	d.root = root;
	d.facts = calloc(DOCTOR_FACTS_MAX, sizeof(*d.facts));
	if (!d.facts)
		return error_errno(err, ENOMEM, "facts");
	doctor_check_cpu(&d);
	doctor_check_memory(&d);
	doctor_check_kernel(&d);
	doctor_check_network(&d);
	doctor_check_storage(&d);
	doctor_check_settings(&d);
	if (service)
		doctor_check_service(&d);
	*facts = d.facts;
	*count = d.count;
	return 0;
}

int doctor_run(const struct doctor_config *config, struct doctor_fact **facts, size_t *count, struct error *err)
{
	return run_parts(config, true, facts, count, err);
}

int doctor_summary(const struct doctor_config *config, struct doctor_fact **facts, size_t *count, struct error *err)
{
	struct doctor_config standard = DOCTOR_CONFIG_DEFAULT;
	size_t all = 0, kept = 0;
	int r = run_parts(config ? config : &standard, false, facts, &all, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < all; i++)
		if ((*facts)[i].status >= DOCTOR_WARN)
			(*facts)[kept++] = (*facts)[i];
	if (kept == 0) {
		free(*facts);
		*facts = NULL;
	}
	*count = kept;
	return 0;
}
