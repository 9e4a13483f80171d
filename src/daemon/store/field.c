#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/str.h"
#include "daemon/store/internal.h"

static const void *member_of(const struct field *field, const void *row)
{
	return (const char *)row + field->offset;
}

static char *string_of(const struct field *field, const void *row)
{
	char *text;
	memcpy(&text, member_of(field, row), sizeof(text));
	return text;
}

static int64_t int_of(const struct field *field, const void *row)
{
	if (field->size == 4) {
		/* All 32-bit members but exit codes and HTTP's status are unsigned; neither sort leaves 32 bits' range. */
		int32_t number;
		memcpy(&number, member_of(field, row), sizeof(number));
		return number;
	}
	int64_t number;
	memcpy(&number, member_of(field, row), sizeof(number));
	return number;
}

void digest_part(crypto_generichash_state *state, const void *data, size_t size)
{
	unsigned char length[8];

	for (size_t i = 0; i < sizeof(length); i++)
		length[i] = (unsigned char)((uint64_t)size >> (8 * i));
	crypto_generichash_update(state, length, sizeof(length));
	crypto_generichash_update(state, data, size);
}

static void digest_field(crypto_generichash_state *state, const struct field *field, const void *row)
{
	const char *member = member_of(field, row);
	unsigned char number[8];

	switch (field->type) {
	case FIELD_TEXT: digest_part(state, member, strnlen(member, field->size)); return;
	case FIELD_INT:
		for (size_t i = 0; i < sizeof(number); i++)
			number[i] = (unsigned char)((uint64_t)int_of(field, row) >> (8 * i));
		digest_part(state, number, sizeof(number));
		return;
	default: digest_part(state, member, field->size);
	}
}

void row_digest(crypto_generichash_state *state, const struct table *table, unsigned int flags, const void *row)
{
	for (size_t i = 0; i < table->count; i++)
		if (flags == 0 || (table->fields[i].flags & flags))
			digest_field(state, &table->fields[i], row);
}

/* A key for this row alone: a sealed value copied to another row does not open there. */
static void row_key(const struct store *store, const struct table *table, const void *row, unsigned char key[32])
{
	crypto_generichash_state state;

	crypto_generichash_init(&state, store->seal_key, sizeof(store->seal_key), 32);
	digest_part(&state, table->name, strlen(table->name));
	row_digest(&state, table, FIELD_KEY, row);
	crypto_generichash_final(&state, key, 32);
}

static void bind_secret(struct query *query, struct store *store, const struct table *table, const void *row,
			const char *text)
{
	_cleanup_free_ unsigned char *box = NULL;
	unsigned char key[32];
	size_t size = 0;

	if (!text) {
		query_text(query, NULL);
		return;
	}
	row_key(store, table, row, key);
	if (query->r == 0 && secret_seal(key, text, &box, &size) < 0)
		query->r = error_set(query->err, ENOMEM, "no memory to seal a value");
	query_blob(query, box, size);
	sodium_memzero(key, sizeof(key));
}

/* Not a CHECK in the schema: json_valid() may not stand there under trusted_schema = OFF. */
static void bind_json(struct query *query, const char *column, const char *text)
{
	struct query check;

	if (text && query->r == 0) {
		query_on(&check, query->conn, "SELECT json_valid(?)", query->err);
		query_text(&check, text);
		if (query_step(&check) > 0 && !sqlite3_column_int(check.stmt, 0))
			check.r = error_set(check.err, EINVAL, "%s is not JSON", column);
		query->r = query_close(&check);
	}
	query_text(query, text);
}

void field_bind(struct query *query, struct store *store, const struct table *table, const struct field *field,
		const void *row)
{
	const char *member = member_of(field, row);
	double real;

	switch (field->type) {
	case FIELD_TEXT:
		if (query->r == 0 && strnlen(member, field->size) == field->size)
			query->r = error_set(query->err, EINVAL, "%s is not terminated", field->column);
		query_text(query, member);
		break;
	case FIELD_STRING: query_text(query, string_of(field, row)); break;
	case FIELD_JSON: bind_json(query, field->column, string_of(field, row)); break;
	case FIELD_SECRET: bind_secret(query, store, table, row, string_of(field, row)); break;
	case FIELD_BLOB: query_blob(query, member, field->size); break;
	case FIELD_INT: query_int(query, int_of(field, row)); break;
	case FIELD_BOOL: query_int(query, *member != 0); break;
	case FIELD_REAL:
		memcpy(&real, member, sizeof(real));
		query_real(query, real);
		break;
	}
}

/* NULL for a NULL. */
static int column_text(sqlite3_stmt *stmt, int column, const char **text)
{
	/* Asked for first: without memory for its text the column would look like a NULL. */
	bool null = sqlite3_column_type(stmt, column) == SQLITE_NULL;

	*text = (const char *)sqlite3_column_text(stmt, column);
	return *text || null ? 0 : -ENOMEM;
}

static int read_text(sqlite3_stmt *stmt, int column, const struct field *field, char *member)
{
	const char *text;
	int r = column_text(stmt, column, &text);
	return r == 0 && text ? str_copy(member, field->size, text) : r;
}

static int read_string(sqlite3_stmt *stmt, int column, char *member)
{
	const char *text;
	int r = column_text(stmt, column, &text);
	if (r < 0 || !text)
		return r;
	char *copy = strdup(text);
	memcpy(member, &copy, sizeof(copy));
	return copy ? 0 : -ENOMEM;
}

static int read_secret(sqlite3_stmt *stmt, int column, const unsigned char key[32], char *member)
{
	if (sqlite3_column_type(stmt, column) == SQLITE_NULL)
		return 0;
	char *text = NULL;
	const void *box = sqlite3_column_blob(stmt, column);
	if (!box)
		return -ENOMEM;
	int r = secret_unseal(key, box, (size_t)sqlite3_column_bytes(stmt, column), &text);
	memcpy(member, &text, sizeof(text));
	return r;
}

static int read_blob(sqlite3_stmt *stmt, int column, const struct field *field, char *member)
{
	if ((size_t)sqlite3_column_bytes(stmt, column) != field->size)
		return -EBADMSG;
	const void *data = sqlite3_column_blob(stmt, column);
	if (!data)
		return -ENOMEM;
	memcpy(member, data, field->size);
	return 0;
}

static int read_int(sqlite3_stmt *stmt, int column, const struct field *field, char *member)
{
	int64_t number = sqlite3_column_int64(stmt, column);
	int32_t small = (int32_t)number;

	if (field->size == 4 && number != small)
		return -ERANGE;
	if (field->size == 4)
		memcpy(member, &small, sizeof(small));
	else
		memcpy(member, &number, sizeof(number));
	return 0;
}

static int read_field(struct query *query, struct store *store, const struct table *table, size_t i, void *row)
{
	const struct field *field = &table->fields[i];
	char *member = (char *)row + field->offset;
	unsigned char key[32];
	double real;
	int column = (int)i;

	switch (field->type) {
	case FIELD_TEXT: return read_text(query->stmt, column, field, member);
	case FIELD_STRING:
	case FIELD_JSON: return read_string(query->stmt, column, member);
	case FIELD_SECRET: row_key(store, table, row, key); return read_secret(query->stmt, column, key, member);
	case FIELD_BLOB: return read_blob(query->stmt, column, field, member);
	case FIELD_INT: return read_int(query->stmt, column, field, member);
	case FIELD_BOOL: *(bool *)member = sqlite3_column_int(query->stmt, column) != 0; return 0;
	case FIELD_REAL:
		real = sqlite3_column_double(query->stmt, column);
		memcpy(member, &real, sizeof(real));
		return 0;
	}
	return -EINVAL;
}

int row_read(struct query *query, struct store *store, const struct table *table, void *row)
{
	memset(row, 0, table->row_size);
	for (size_t i = 0; i < table->count && query->r == 0; i++) {
		int r = read_field(query, store, table, i, row);
		if (r == -ENOMEM)
			query->r = error_set(query->err, ENOMEM, "no memory for a row of %s", table->name);
		else if (r < 0)
			query->r = error_set(query->err, EIO, "the database holds a wrong value in %s.%s: %s",
					     table->name, table->fields[i].column,
					     r == -EBADMSG ? "it was altered or akira.secret is another"
							   : "out of range");
	}
	if (query->r < 0)
		row_free(table, row);
	return query->r;
}

void row_free(const struct table *table, void *row)
{
	for (size_t i = 0; i < table->count; i++) {
		const struct field *field = &table->fields[i];
		char *none = NULL, *text;

		if (field->type != FIELD_STRING && field->type != FIELD_JSON && field->type != FIELD_SECRET)
			continue;
		text = string_of(field, row);
		if (text && field->type == FIELD_SECRET)
			sodium_memzero(text, strlen(text));
		free(text);
		memcpy((char *)row + field->offset, &none, sizeof(none));
	}
}

void rows_free(const struct table *table, void *rows, size_t count)
{
	for (size_t i = 0; i < count; i++)
		row_free(table, (char *)rows + i * table->row_size);
	free(rows);
}
