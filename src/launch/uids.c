#include "launch/uids.h"

#include <errno.h>
#include <stdlib.h>

int uids_init(struct uids *u, uid_t first, uint32_t count, struct error *err)
{
	*u = (struct uids){ .first = first, .count = count };
	if (first == 0 || count == 0 || count > UIDS_MAX || first > INT32_MAX - count)
		return error_set(err, EINVAL, "uids %u+%u: not a range for VMs", first, count);
	u->queue = calloc(count, sizeof *u->queue);
	u->used = calloc(count, sizeof *u->used);
	if (!u->queue || !u->used) {
		uids_end(u);
		return error_set(err, ENOMEM, "no memory for %u uids", count);
	}
	for (uint32_t i = 0; i < count; i++)
		u->queue[i] = i;
	u->free = count;
	return 0;
}

void uids_end(struct uids *u)
{
	free(u->queue);
	free(u->used);
	*u = (struct uids){ 0 };
}

int uids_take(struct uids *u, uid_t *uid, struct error *err)
{
	if (!u->free)
		return error_set(err, EUSERS, "all %u uids for VMs are in use", u->count);
	uint32_t offset = u->queue[u->head];
	u->head = (u->head + 1) % u->count;
	u->free--;
	u->used[offset] = true;
	*uid = u->first + offset;
	return 0;
}

void uids_give(struct uids *u, uid_t uid)
{
	if (!uids_in_use(u, uid))
		return;
	u->used[uid - u->first] = false;
	u->queue[(u->head + u->free) % u->count] = uid - u->first;
	u->free++;
}

bool uids_in_range(const struct uids *u, uid_t uid)
{
	return uid >= u->first && uid - u->first < u->count;
}

bool uids_in_use(const struct uids *u, uid_t uid)
{
	return uids_in_range(u, uid) && u->used[uid - u->first];
}
