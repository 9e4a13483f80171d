#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/store/internal.h"

#define F(type, member, flags) FIELD(type, struct store_exec, member, flags)
static const struct field exec_fields[] = {
	F(TEXT, id, FIELD_KEY),    F(TEXT, request, 0),       F(TEXT, org, 0),        F(TEXT, sandbox, 0),
	F(STRING, command, 0),     F(STRING, cwd, 0),         F(STRING, out, 0),      F(STRING, err_out, 0),
	F(BOOL, out_truncated, 0), F(BOOL, err_truncated, 0), F(INT, exit_code, 0),   F(TEXT, status, 0),
	F(BOOL, stream, 0),        F(INT, started_ms, 0),     F(INT, duration_ms, 0),
};
static const struct table exec_table = TABLE("exec", struct store_exec, exec_fields);

#define S(type, member) FIELD(type, struct store_sample, member, 0)
static const struct field sample_fields[] = { S(INT, when_ms), S(REAL, cpu_percent), S(INT, memory_bytes) };
static const struct table sample_table = TABLE("sample", struct store_sample, sample_fields);

void store_execs_free(struct store_exec *rows, size_t count)
{
	rows_free(&exec_table, rows, count);
}

int store_exec_add(struct store *store, const struct store_exec *row, struct error *err)
{
	if ((row->out && strlen(row->out) > STORE_OUTPUT_MAX) ||
	    (row->err_out && strlen(row->err_out) > STORE_OUTPUT_MAX))
		return error_set(err, EINVAL, "an execution's output is over %d bytes", STORE_OUTPUT_MAX);
	return table_insert(store, &exec_table, row, "", NULL, err);
}

int store_exec_list(struct store *store, const struct store_exec_filter *filter, struct store_exec **rows,
		    size_t *count, uint64_t *total, struct error *err)
{
	struct list list = { .table = &exec_table };
	struct list_range range = { .order = "started_ms DESC, rowid DESC", .limit = filter->limit };
	void *got;

	list_text(&list, "org = ?", filter->org);
	list_text(&list, "sandbox = ?", filter->sandbox);
	list_number(&list, "started_ms >= ?", filter->from_ms);
	list_number(&list, "started_ms <= ?", filter->to_ms ? filter->to_ms : INT64_MAX);
	int r = list_fetch(store, &list, &range, &got, count, total, err);
	*rows = got;
	return r;
}

int store_exec_purge(struct store *store, int64_t before_ms, struct error *err)
{
	return table_purge(store, "DELETE FROM exec WHERE started_ms < ?", before_ms, err);
}

int store_sample_add(struct store *store, const char *sandbox, const struct store_sample *sample, struct error *err)
{
	struct query query;

	query_write(
		&query, store,
		"INSERT INTO sample (sandbox, when_ms, cpu_percent, memory_bytes) VALUES (?, ?, ?, ?)"
		" ON CONFLICT DO UPDATE SET cpu_percent = excluded.cpu_percent, memory_bytes = excluded.memory_bytes",
		err);
	query_text(&query, sandbox);
	query_int(&query, sample->when_ms);
	query_real(&query, sample->cpu_percent);
	query_int(&query, (int64_t)sample->memory_bytes);
	return query_run(&query, NULL);
}

static void reverse(struct store_sample *rows, size_t count)
{
	for (size_t i = 0; i < count / 2; i++) {
		struct store_sample other = rows[i];
		rows[i] = rows[count - 1 - i];
		rows[count - 1 - i] = other;
	}
}

int store_sample_list(struct store *store, const char *sandbox, int64_t from_ms, int64_t to_ms, uint32_t limit,
		      struct store_sample **rows, size_t *count, struct error *err)
{
	struct list list = { .table = &sample_table };
	struct list_range range = { .order = "when_ms DESC", .limit = limit };
	void *got;

	list_text(&list, "sandbox = ?", sandbox ? sandbox : "");
	list_number(&list, "when_ms >= ?", from_ms);
	list_number(&list, "when_ms <= ?", to_ms ? to_ms : INT64_MAX);
	int r = list_fetch(store, &list, &range, &got, count, NULL, err);
	*rows = got;
	reverse(*rows, *count);
	return r;
}

int store_sample_purge(struct store *store, int64_t before_ms, struct error *err)
{
	return table_purge(store, "DELETE FROM sample WHERE when_ms < ?", before_ms, err);
}
