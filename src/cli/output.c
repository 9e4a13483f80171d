#include "cli/output.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/time.h"

#define PROGRESS_AFTER_MS 2000

static bool harmless(wchar_t c)
{
	if (c < 0x20 || (c >= 0x7f && c < 0xa0))
		return false;
	/* Marks and overrides of direction make a line read as what it is not. */
	return !(c == 0x200e || c == 0x200f || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069));
}

static void add_escaped(struct buf *to, const char *bytes, size_t size, wchar_t c, size_t *width)
{
	size_t before = to->size;
	if (c == L'\n' || c == L'\t' || c == L'\r')
		buf_addf(to, "\\%c", c == L'\n' ? 'n' : c == L'\t' ? 't' : 'r');
	else if (c >= 0x100)
		buf_addf(to, "\\u%04x", (unsigned)c);
	else
		for (size_t i = 0; i < size; i++)
			buf_addf(to, "\\x%02x", (unsigned char)bytes[i]);
	*width += to->size - before;
}

char *output_safe(const char *text, size_t *width)
{
	struct buf to = { 0 };
	size_t columns = 0, left = strlen(text);
	mbstate_t state = { 0 };

	buf_adds(&to, "");
	while (left > 0) {
		wchar_t c = 0;
		size_t used = mbrtowc(&c, text, left, &state);
		if (used == (size_t)-1 || used == (size_t)-2 || used == 0) {
			state = (mbstate_t){ 0 };
			used = 1;
			add_escaped(&to, text, 1, 0, &columns);
		} else if (harmless(c) && wcwidth(c) >= 0) {
			buf_add(&to, text, used);
			columns += (size_t)wcwidth(c);
		} else {
			add_escaped(&to, text, used, c, &columns);
		}
		text += used;
		left -= used;
	}
	if (width)
		*width = columns;
	if (!to.data)
		abort(); /* no memory for one line of text */
	return to.data;
}

void output_error(const char *format, ...)
{
	char text[2048];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	_cleanup_free_ char *safe = output_safe(text, NULL);
	fprintf(stderr, "akira: %s\n", safe);
}

int output_json(const json_t *value)
{
	size_t flags = JSON_ENCODE_ANY | (isatty(STDOUT_FILENO) ? JSON_INDENT(2) | JSON_ENSURE_ASCII : JSON_COMPACT);
	if (json_dumpf(value, stdout, flags) < 0 || fputc('\n', stdout) == EOF || fflush(stdout) == EOF)
		return -EIO;
	return 0;
}

void output_progress(struct output_progress *progress)
{
	int64_t took = time_mono_ms() - progress->since;
	if (!progress->doing || took < PROGRESS_AFTER_MS || !isatty(STDERR_FILENO))
		return;
	progress->shown = true;
	fprintf(stderr, "\r\033[K%s… %lld s", progress->doing, (long long)took / 1000);
	fflush(stderr);
}

void output_progress_end(struct output_progress *progress)
{
	if (progress->shown)
		fputs("\r\033[K", stderr);
	progress->shown = false;
}
