#include "daemon/api/internal.h"

#include <errno.h>
#include <string.h>

#define USERS_MAX 100

static struct sandboxes *domain(const struct http_request *request)
{
	return call_of(request)->api->context.sandboxes;
}

static struct store *store(const struct http_request *request)
{
	return call_of(request)->api->context.store;
}

struct wish {
	const char *name;
	bool quick;
};

void sandbox_on_snapshot(struct http_request *request, struct http_response *response)
{
	static const struct check_field fields[] = {
		{ "name", CHECK_NAME, offsetof(struct wish, name), 0, 0, false },
		{ "quick", CHECK_BOOLEAN, offsetof(struct wish, quick), 0, 0, false },
	};
	struct wish wish = { 0 };
	struct store_snapshot row = { 0 };
	struct error err = { 0 };

	int r = check_object(request->json, "", fields, CHECK_COUNT(fields), &wish, &err);
	if (r == 0)
		r = sandbox_snapshot(domain(request), &call_of(request)->actor, request->param, wish.name, wish.quick,
				     &row, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	call_detail(request, "snapshot %s", row.id);
	http_reply_json(response, 201, view_snapshot(&row));
	store_snapshot_free(&row);
}

void sandbox_on_clone(struct http_request *request, struct http_response *response)
{
	_cleanup_spec_ struct spec spec;
	struct sandbox_info info = { 0 };
	struct store_snapshot row = { 0 };
	struct error err = { 0 };

	int r = spec_parse(request, SPEC_CLONE, &spec, &err);
	if (r == 0)
		r = sandbox_clone(domain(request), &call_of(request)->actor, request->param, &spec.domain,
				  spec.snapshot_name, &info, &row, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	call_target(request, info.row.id);
	call_detail(request, "of %s, snapshot %s", request->param, row.id);
	http_reply_json(response, 201,
			json_pack("{s:o,s:o}", "sandbox", view_sandbox(&info.row), "snapshot", view_snapshot(&row)));
	sandbox_info_free(&info);
	store_snapshot_free(&row);
}

void snapshots_on_restore(struct http_request *request, struct http_response *response)
{
	_cleanup_spec_ struct spec spec;
	struct sandbox_info info = { 0 };
	struct error err = { 0 };

	int r = spec_parse(request, SPEC_RESTORE, &spec, &err);
	if (r == 0)
		r = sandbox_restore(domain(request), &call_of(request)->actor, request->param, &spec.domain, &info,
				    &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	call_target(request, info.row.id);
	call_detail(request, "from %s", request->param);
	http_reply_json(response, 201, view_sandbox(&info.row));
	sandbox_info_free(&info);
}

static json_t *depends_on(struct http_request *request, const char *id)
{
	char ids[USERS_MAX][STORE_ID_MAX];
	size_t count = 0;

	if (store_snapshot_users(store(request), id, ids, USERS_MAX, &count, NULL) < 0 || count == 0)
		return NULL;
	json_t *list = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_string(ids[i]));
	return list;
}

void snapshots_on_list(struct http_request *request, struct http_response *response)
{
	static const char *const known[] = { "page", "page_size", NULL };
	struct store_snapshot *rows = NULL;
	struct error err = { 0 };
	uint32_t page, size;
	uint64_t total = 0;
	size_t count = 0;

	int r = check_page(request, &page, &size, &err);
	if (r == 0)
		r = check_query(request, known, &err);
	if (r == 0)
		r = store_snapshot_list(store(request), call_of(request)->org.id, page, size, &rows, &count, &total,
					&err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *data = json_array();
	for (size_t i = 0; i < count; i++) {
		json_t *entry = view_snapshot(&rows[i]);
		json_t *users = depends_on(request, rows[i].id);
		if (users)
			view_set(entry, "depends_on", users);
		json_array_append_new(data, entry);
	}
	store_snapshots_free(rows, count);
	http_reply_json(response, 200, view_page(data, page, size, total));
}

void snapshots_on_delete(struct http_request *request, struct http_response *response)
{
	struct store_snapshot row = { 0 };
	struct error err = { 0 };

	int r = check_object(request->json, "", NULL, 0, NULL, &err);
	if (r == 0)
		r = sandbox_snapshot_delete(domain(request), &call_of(request)->actor, request->param, &row, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	http_reply_json(response, 200,
			json_pack("{s:s,s:s,s:s,s:b}", "id", row.id, "name", row.name, "message",
				  "the snapshot will be deleted", "deferred", 1));
	store_snapshot_free(&row);
}

static int collect_all(struct http_request *request, struct buf *ids, struct error *err)
{
	for (uint32_t page = 1;; page++) {
		struct store_snapshot *rows = NULL;
		size_t count = 0;
		uint64_t total = 0;
		int r = store_snapshot_list(store(request), call_of(request)->org.id, page, 100, &rows, &count, &total,
					    err);
		if (r < 0)
			return r;
		for (size_t i = 0; i < count && r == 0; i++)
			if (rows[i].status != SNAPSHOT_PENDING_DELETION)
				r = buf_add(ids, rows[i].id, sizeof(rows[i].id));
		store_snapshots_free(rows, count);
		if (r < 0)
			return error_set(err, ENOMEM, "out of memory");
		if (count < 100)
			return 0;
	}
}

void snapshots_on_delete_all(struct http_request *request, struct http_response *response)
{
	_cleanup_buf_ struct buf ids = { 0 };
	struct error err = { 0 };

	int r = check_object(request->json, "", NULL, 0, NULL, &err);
	if (r == 0)
		r = collect_all(request, &ids, &err);
	if (r < 0) {
		reply_failure(request, response, r, &err);
		return;
	}
	json_t *deleted = json_array(), *errors = json_array();
	for (size_t at = 0; at < ids.size; at += STORE_ID_MAX) {
		const char *id = ids.data + at;
		struct store_snapshot row = { 0 };
		err = (struct error){ 0 };
		r = sandbox_snapshot_delete(domain(request), &call_of(request)->actor, id, &row, &err);
		if (r == 0) {
			json_array_append_new(deleted, json_string(id));
			store_snapshot_free(&row);
		} else if (r != -ENOENT) {
			json_array_append_new(
				errors, json_pack("{s:s,s:s}", "id", id, "error", failure_text(request, r, &err)));
		}
	}
	reply_deleted(request, response, "snapshots", deleted, errors);
}
