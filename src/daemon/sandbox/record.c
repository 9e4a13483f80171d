#include "daemon/sandbox/record.h"

#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/time.h"

struct record record_of(const struct sandbox_actor *actor, const char *action, const char *org, const char *target)
{
	struct record record = { .actor = actor, .action = action };

	snprintf(record.org, sizeof(record.org), "%s", org);
	snprintf(record.target, sizeof(record.target), "%s", target);
	return record;
}

static const char *action_of(const struct record *record)
{
	if (record->action)
		return record->action;
	return record->actor && record->actor->action ? record->actor->action : "";
}

static bool is_own(const struct record *record)
{
	const struct sandbox_actor *actor = record->actor;
	return actor && actor->action && strcmp(action_of(record), actor->action) == 0;
}

static void copy(char *to, size_t size, const char *from)
{
	snprintf(to, size, "%s", from ? from : "");
}

static int32_t status_of(const struct record *record)
{
	if (!is_own(record))
		return 0; /* a step on the way, or a consequence */
	return record->status ? record->status : record->actor->status;
}

int record_add(struct store *store, const struct record *record, struct error *err)
{
	const struct sandbox_actor *actor = record->actor;
	struct store_audit row = { .status = status_of(record) };
	bool refused = row.status == 401 || row.status == 403 || row.status == 429;

	if (actor) {
		copy(row.request, sizeof(row.request), actor->request);
		copy(row.key, sizeof(row.key), actor->key);
		copy(row.address, sizeof(row.address), actor->address);
	}
	if (is_own(record) && actor->started_us)
		row.duration_us = time_mono_us() - actor->started_us;
	copy(row.org, sizeof(row.org), record->org);
	copy(row.action, sizeof(row.action), action_of(record));
	copy(row.target, sizeof(row.target), record->target);
	copy(row.outcome, sizeof(row.outcome), row.status < 400 ? "ok" : refused ? "refused" : "failed");
	copy(row.detail, sizeof(row.detail), record->detail);
	return store_audit_add(store, &row, err);
}

int record_end(struct store *store, const struct record *record, int r, struct error *err)
{
	if (r == 0)
		r = record_add(store, record, err);
	if (r < 0) {
		store_rollback(store);
		return r;
	}
	r = store_commit(store, err);
	if (r < 0)
		return r;
	(void)FAULT_OF("recorded", action_of(record));
	if (is_own(record) && record->actor->recorded)
		*record->actor->recorded = status_of(record);
	return 0;
}
