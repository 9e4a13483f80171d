#include <errno.h>
#include <string.h>

#include "base/str.h"
#include "daemon/auth/internal.h"

static void describe(struct auth_change *change, const struct store_org *org)
{
	snprintf(change->target, sizeof(change->target), "%s", org->id);
	snprintf(change->detail, sizeof(change->detail), "name=%s tier=%s suspended=%d requests_per_minute=%lld",
		 org->name, org->tier, org->suspended, (long long)org->requests_per_minute);
}

/* Writes the row with `write` in one transaction with its audit row. */
static int change_org(struct auth *auth, struct auth_change *change, const struct store_org *org,
		      int (*write)(struct store *, const struct store_org *, struct error *), struct error *err)
{
	if (!str_is_name(org->name))
		return error_set(err, EINVAL, "name: 1-63 characters, A-Z a-z 0-9 . _ -, the first a letter or digit");
	int r = change_begin(auth->store, err);
	if (r < 0)
		return r;
	r = change_allowed(auth->store, change, SCOPE_ADMIN, 0, err);
	if (r == 0)
		r = write(auth->store, org, err);
	describe(change, org);
	return change_end(auth->store, auth, change, r, err);
}

int auth_org_create(struct auth *auth, const struct auth_actor *actor, struct store_org *org, struct error *err)
{
	struct auth_change change = {
		.actor = actor, .action = "org.create", .status = 201, .now_ms = auth->config.wall_ms()
	};

	str_random_id(org->id, "org");
	org->created_ms = change.now_ms;
	return change_org(auth, &change, org, store_org_add, err);
}

int auth_org_update(struct auth *auth, const struct auth_actor *actor, const struct store_org *org, struct error *err)
{
	struct auth_change change = {
		.actor = actor, .action = "org.update", .status = 200, .now_ms = auth->config.wall_ms()
	};

	return change_org(auth, &change, org, store_org_update, err);
}
