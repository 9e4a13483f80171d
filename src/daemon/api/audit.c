#include "daemon/api/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "daemon/api/scope.h"

#define MAC_SIZE 16

/* A cursor is a row's number with a keyed hash, so that only cursors that we gave out are taken. */
static void sign(const struct store *store, uint64_t seq, const char *org, unsigned char mac[MAC_SIZE])
{
	char text[STORE_ID_MAX + 64];
	int size = snprintf(text, sizeof(text), "audit cursor %" PRIu64 " %s", seq, org ? org : "all");

	crypto_generichash(mac, MAC_SIZE, (const unsigned char *)text, (size_t)size, store_secret(store), 32);
}

static json_t *cursor_make(const struct store *store, uint64_t seq, const char *org)
{
	unsigned char mac[MAC_SIZE];
	char hex[2 * MAC_SIZE + 1];

	sign(store, seq, org, mac);
	str_hex(hex, mac, sizeof(mac));
	return json_sprintf("%" PRIu64 ".%s", seq, hex);
}

static int cursor_read(const struct store *store, const char *text, const char *org, uint64_t *seq, struct error *err)
{
	unsigned char given[MAC_SIZE], right[MAC_SIZE];
	char number[24];
	size_t size = strcspn(text, ".");

	if (size < sizeof(number) && text[size] == '.') {
		memcpy(number, text, size);
		number[size] = '\0';
		if (str_u64(number, 1, UINT64_MAX, seq) == 0 && str_unhex(given, sizeof(given), text + size + 1) == 0) {
			sign(store, *seq, org, right);
			if (sodium_memcmp(given, right, sizeof(right)) == 0)
				return 0;
		}
	}
	return error_set(err, EINVAL, "cursor: is not one of ours");
}

static json_t *view_record(const struct store_audit *row)
{
	json_t *object = json_object();

	view_set(object, "seq", json_integer((json_int_t)row->seq));
	view_set(object, "at", view_time(row->when_ms));
	view_set(object, "request_id", json_string(row->request));
	view_set(object, "organisation_id", json_string(row->org));
	view_set(object, "key_id", json_string(row->key));
	view_set(object, "address", json_string(row->address));
	view_set(object, "action", json_string(row->action));
	view_set(object, "target", json_string(row->target));
	view_set(object, "outcome", json_string(row->outcome));
	view_set(object, "status", json_integer(row->status));
	view_set(object, "duration_us", json_integer(row->duration_us));
	view_set(object, "detail", json_string(row->detail));
	view_set(object, "hash", json_string(row->hash));
	return object;
}

/* Whose: one's own organisation; an administrator may name another, or "all". */
static int read_filter(const struct http_request *request, struct store_audit_filter *filter, struct error *err)
{
	const char *cursor = http_query(request, "cursor"), *wanted = http_query(request, "organisation_id");
	uint64_t limit = 100;

	int r = scope_org(request, wanted, &filter->org, err);
	if (r == 0 && wanted && strcmp(wanted, "all") == 0)
		filter->org = NULL;
	if (r == 0 && cursor)
		r = cursor_read(call_of(request)->api->context.store, cursor, filter->org, &filter->before_seq, err);
	if (r == 0)
		r = check_number(request, "limit", 1, 1000, &limit, err);
	if (r == 0)
		r = check_time(request, "from", &filter->from_ms, err);
	if (r == 0)
		r = check_time(request, "to", &filter->to_ms, err);
	filter->limit = (uint32_t)limit;
	filter->action = http_query(request, "action");
	filter->target = http_query(request, "target");
	filter->key = http_query(request, "key_id");
	filter->outcome = http_query(request, "outcome");
	return r;
}

void audit_on_list(struct http_request *request, struct http_response *response)
{
	static const char *const known[] = { "action", "target", "key_id", "outcome",         "from",
					     "to",     "cursor", "limit",  "organisation_id", NULL };
	struct store *store = call_of(request)->api->context.store;
	struct store_audit_filter filter = { 0 };
	struct store_audit *rows = NULL;
	struct error err = { 0 };
	size_t count = 0;

	int r = check_query(request, known, &err);
	if (r == 0)
		r = read_filter(request, &filter, &err);
	if (r == 0)
		r = store_audit_list(store, &filter, &rows, &count, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *data = json_array(), *next = json_null();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(data, view_record(&rows[i]));
	if (count == filter.limit)
		next = cursor_make(store, rows[count - 1].seq, filter.org);
	free(rows);
	http_reply_json(response, 200, json_pack("{s:o,s:o}", "data", data, "next_cursor", next));
}

void audit_on_verify(struct http_request *request, struct http_response *response)
{
	struct error err = { 0 };
	uint64_t rows = 0, seq = 0;

	int r = store_audit_verify(call_of(request)->api->context.store, &rows, &seq, &err);
	if (r == 0)
		http_reply_json(response, 200, json_pack("{s:b,s:I}", "valid", 1, "rows", (json_int_t)rows));
	else if (r == -EBADMSG)
		http_reply_json(response, 200,
				json_pack("{s:b,s:I,s:I,s:s}", "valid", 0, "rows", (json_int_t)rows, "first_bad_seq",
					  (json_int_t)seq, "message", err.text));
	else
		reply_failure(request, response, r, &err);
}
