/*
 * What each organisation has and has used, for the operator's monitoring. What was used counts from the start of this
 * process, as such counters do; bills go by store_usage, which survives it. An organisation that has once had a sandbox
 * stays in the list: there are as many as an administrator has made.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/sandbox/internal.h"

struct org_entry {
	struct sandboxes_org_figures figures; /* what has been used; the rest is filled in when asked for */
	struct org_entry *next;
};

/* Under the lock; NULL: no memory. */
static struct org_entry *entry_of(struct org_list *list, const char *org)
{
	struct org_entry *e = list->first;

	while (e && strcmp(e->figures.org, org) != 0)
		e = e->next;
	if (e)
		return e;
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	snprintf(e->figures.org, sizeof(e->figures.org), "%s", org);
	e->next = list->first;
	list->first = e;
	list->count++;
	return e;
}

void org_list_add(struct org_list *list, const struct store_usage *more, uint64_t refused)
{
	pthread_mutex_lock(&list->lock);
	struct org_entry *e = entry_of(list, more->org);
	if (e) {
		e->figures.cpu_s += more->cpu_s;
		e->figures.bytes_in += more->bytes_in;
		e->figures.bytes_out += more->bytes_out;
		e->figures.refused += refused;
	}
	pthread_mutex_unlock(&list->lock);
}

void org_list_free(struct org_list *list)
{
	while (list->first) {
		struct org_entry *next = list->first->next;
		free(list->first);
		list->first = next;
	}
	pthread_mutex_destroy(&list->lock);
}

static struct sandboxes_org_figures *copy_list(struct org_list *list, size_t *count)
{
	size_t n = 0;

	pthread_mutex_lock(&list->lock);
	struct sandboxes_org_figures *rows = calloc(list->count ? list->count : 1, sizeof(*rows));
	for (struct org_entry *e = list->first; e && rows; e = e->next)
		rows[n++] = e->figures;
	pthread_mutex_unlock(&list->lock);
	*count = n;
	return rows;
}

/* Paused ones hold disk alone. */
static void add_box(struct sandboxes_org_figures *row, struct box *box)
{
	int dir = box->s->disk.folders[FOLDER_SCRATCH];
	struct stat st;

	pthread_mutex_lock(&box->lock);
	bool runs = box->machine != NULL;
	row->sandboxes++;
	row->memory_bytes += runs ? (uint64_t)box->row.memory_mib << 20 : 0;
	row->cpu_units += runs ? box->row.cpu_units : 0;
	pthread_mutex_unlock(&box->lock);
	if (fstatat(dir, box->id, &st, AT_SYMLINK_NOFOLLOW) == 0)
		row->disk_bytes += (uint64_t)st.st_blocks * 512;
}

int sandboxes_org_figures(struct sandboxes *s, struct sandboxes_org_figures **rows, size_t *count)
{
	size_t boxes;
	struct box **all = box_all(s, &boxes);

	for (size_t i = 0; all && i < boxes; i++) {
		struct store_usage none = { 0 };
		snprintf(none.org, sizeof(none.org), "%s", all[i]->org);
		org_list_add(&s->orgs, &none, 0);
	}
	*rows = copy_list(&s->orgs, count);
	for (size_t i = 0; all && i < boxes; i++) {
		for (size_t k = 0; *rows && k < *count; k++)
			if (strcmp((*rows)[k].org, all[i]->org) == 0)
				add_box(&(*rows)[k], all[i]);
		box_put(all[i]);
	}
	free(all);
	for (size_t k = 0; *rows && k < *count; k++) {
		struct store_totals totals;
		if (store_totals(s->store, (*rows)[k].org, &totals, NULL) == 0)
			(*rows)[k].snapshot_bytes = totals.snapshot_bytes;
	}
	return *rows ? 0 : -ENOMEM;
}
