#include "cli/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/time.h"

#define COLUMNS_MAX 16
#define COLUMN_NARROWEST 8
#define GAP 2

static const json_t *at_path(const json_t *object, const char *path)
{
	char part[64];
	while (object && *path) {
		size_t length = strcspn(path, ".");
		if (length >= sizeof(part))
			return NULL;
		memcpy(part, path, length);
		part[length] = '\0';
		object = json_object_get(object, part);
		path += length + (path[length] == '.');
	}
	return object;
}

static char *plain(const json_t *value)
{
	if (json_is_string(value))
		return strdup(json_string_value(value));
	if (json_is_boolean(value))
		return strdup(json_is_true(value) ? "yes" : "no");
	if (!value || json_is_null(value))
		return NULL;
	return json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII);
}

/* The text of one cell, harmless to a terminal; malloc'ed. */
static char *cell_text(const json_t *row, const struct output_column *column, size_t *width)
{
	const json_t *value = at_path(row, column->key);
	_cleanup_free_ char *text = !value || json_is_null(value) ? NULL
				    : column->format              ? column->format(value)
								  : plain(value);
	return output_safe(text && *text ? text : "-", width);
}

static size_t terminal_width(void)
{
	struct winsize size;
	if (!isatty(STDOUT_FILENO))
		return SIZE_MAX;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 20)
		return 80;
	return size.ws_col;
}

/* Take columns away from the widest until the sum fits. */
static void fit(size_t *widths, size_t count, size_t room)
{
	for (;;) {
		size_t sum = GAP * (count - 1), widest = 0;
		for (size_t i = 0; i < count; i++) {
			sum += widths[i];
			if (widths[i] > widths[widest])
				widest = i;
		}
		if (sum <= room || widths[widest] <= COLUMN_NARROWEST)
			return;
		widths[widest]--;
	}
}

/* Print text in exactly `room` columns; the last cell of a line is not padded. */
static void print_cell(const char *text, size_t width, size_t room, bool last)
{
	if (width <= room) {
		printf("%s%*s", text, last ? 0 : (int)(room - width + GAP), "");
		return;
	}
	mbstate_t state = { 0 };
	size_t used = 0, left = strlen(text);
	while (left > 0) {
		wchar_t c;
		size_t size = mbrtowc(&c, text, left, &state);
		size_t columns = size > 0 && size <= left && wcwidth(c) >= 0 ? (size_t)wcwidth(c) : 1;
		if (size == 0 || size > left || used + columns > room - 1)
			break;
		fwrite(text, 1, size, stdout);
		used += columns;
		text += size;
		left -= size;
	}
	printf("…%*s", last ? 0 : (int)(room - used - 1 + GAP), "");
}

void output_table(const json_t *rows, const struct output_column *columns, size_t count)
{
	size_t widths[COLUMNS_MAX], index;
	json_t *row;
	if (count == 0 || count > COLUMNS_MAX)
		return;
	for (size_t i = 0; i < count; i++)
		widths[i] = strlen(columns[i].title);
	json_array_foreach((json_t *)(uintptr_t)rows, index, row) for (size_t i = 0; i < count; i++)
	{
		size_t width;
		free(cell_text(row, &columns[i], &width));
		widths[i] = width > widths[i] ? width : widths[i];
	}
	fit(widths, count, terminal_width());
	for (size_t i = 0; i < count; i++)
		print_cell(columns[i].title, strlen(columns[i].title), widths[i], i + 1 == count);
	putchar('\n');
	json_array_foreach((json_t *)(uintptr_t)rows, index, row)
	{
		for (size_t i = 0; i < count; i++) {
			size_t width;
			_cleanup_free_ char *text = cell_text(row, &columns[i], &width);
			print_cell(text, width, widths[i], i + 1 == count);
		}
		putchar('\n');
	}
}

void output_record(const json_t *object, const struct output_column *columns, size_t count)
{
	size_t widest = 0;
	for (size_t i = 0; i < count; i++)
		if (at_path(object, columns[i].key) && strlen(columns[i].title) > widest)
			widest = strlen(columns[i].title);
	for (size_t i = 0; i < count; i++) {
		if (!at_path(object, columns[i].key))
			continue;
		_cleanup_free_ char *text = cell_text(object, &columns[i], NULL);
		printf("%-*s  %s\n", (int)widest, columns[i].title, text);
	}
}

static char *words(const char *format, double number, const char *unit)
{
	char *text = NULL;
	/* The format is one of this file's literals. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	if (asprintf(&text, format, number, unit) < 0)
		return NULL;
#pragma GCC diagnostic pop
	return text;
}

char *output_age(const json_t *value)
{
	static const struct {
		int64_t seconds;
		const char *unit;
	} units[] = {
		{ 86400, "d" },
		{ 3600, "h" },
		{ 60, "min" },
		{ 1, "s" },
	};
	int64_t when;
	if (!json_is_string(value) || time_parse_iso(json_string_value(value), &when) < 0)
		return plain(value);
	int64_t seconds = (time_wall_ms() - when) / 1000;
	bool past = seconds >= 0;
	seconds = past ? seconds : -seconds;
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (seconds >= 2 * units[i].seconds)
			return words(past ? "%.0f %s ago" : "in %.0f %s", (double)(seconds / units[i].seconds),
				     units[i].unit);
	return strdup("now");
}

char *output_bytes(const json_t *value)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	if (!json_is_number(value))
		return plain(value);
	double bytes = json_number_value(value);
	size_t unit = 0;
	while (bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		bytes /= 1024;
		unit++;
	}
	return words(unit == 0 || bytes >= 100 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

char *output_mib(const json_t *value)
{
	return json_is_number(value) ? words("%.0f %s", json_number_value(value), "MiB") : plain(value);
}

char *output_gb(const json_t *value)
{
	return json_is_number(value) ? words("%.0f %s", json_number_value(value), "GB") : plain(value);
}

char *output_cpus(const json_t *value)
{
	return json_is_number(value) ? words("%g%s", json_number_value(value) / 4, "") : plain(value);
}

char *output_seconds(const json_t *value)
{
	return json_is_number(value) ? words("%.1f%s", json_number_value(value), "") : plain(value);
}

char *output_list(const json_t *value)
{
	struct buf text = { 0 };
	size_t index;
	json_t *item;
	json_array_foreach((json_t *)(uintptr_t)value, index, item)
		buf_addf(&text, "%s%s", index ? ", " : "", json_is_string(item) ? json_string_value(item) : "?");
	return text.data;
}
