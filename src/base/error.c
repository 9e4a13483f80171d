#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void vset(struct error *err, int code, const char *format, va_list args) __attribute__((format(printf, 3, 0)));

static void vset(struct error *err, int code, const char *format, va_list args)
{
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), format, args);
}

int error_set(struct error *err, int code, const char *format, ...)
{
	if (err) {
		va_list args;
		va_start(args, format);
		vset(err, code, format, args);
		va_end(args);
	}
	return -code;
}

int error_errno(struct error *err, int code, const char *format, ...)
{
	if (err) {
		va_list args;
		va_start(args, format);
		vset(err, code, format, args);
		va_end(args);

		size_t used = strlen(err->text);
		/* strerror is thread-safe in glibc since 2.32 and in musl; strerror_r is not the same function in both. */
		snprintf(err->text + used, sizeof(err->text) - used, ": %s", strerror(code));
	}
	return -code;
}

int error_prefix(struct error *err, const char *format, ...)
{
	if (!err || !err->code)
		return -EIO;

	char rest[ERROR_TEXT_MAX];
	memcpy(rest, err->text, sizeof(rest));

	va_list args;
	va_start(args, format);
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);

	size_t used = strlen(err->text);
	snprintf(err->text + used, sizeof(err->text) - used, ": %s", rest);
	return -err->code;
}
