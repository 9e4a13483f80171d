/*
 * The table of sandboxes and their end, with VMs that the test plays: who owns a machine, when it may go, and that no
 * order of calls leaves one behind. Meant for ThreadSanitizer too.
 */
#include "daemon/sandbox/box.c"
#include "daemon/sandbox/record.c"

#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/fd.h"

/* ---- machines without a VM ---- */

struct vm {
	atomic_int references;
	pthread_mutex_t lock;
	bool ended;
	struct machine *machine;
	struct vm_exit exit;
};

static atomic_int machines; /* that were made and not stopped */

static void fake_ended(struct vm *vm, enum vm_end end)
{
	struct machine *m = vm->machine;

	pthread_mutex_lock(&vm->lock);
	bool first = !vm->ended;
	if (first) {
		vm->ended = true;
		vm->exit.end = end;
		snprintf(vm->exit.message, sizeof(vm->exit.message), "played");
	}
	pthread_mutex_unlock(&vm->lock);
	if (!first)
		return;
	/* As machine.c's vm_ended does. */
	pthread_mutex_lock(&m->lock);
	m->has_ended = true;
	void (*tell)(struct machine *, void *) = m->ended;
	void *whom = m->context;
	m->ended = NULL;
	pthread_mutex_unlock(&m->lock);
	if (tell)
		tell(m, whom);
}

static struct machine *fake_machine(struct sandboxes *s)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct vm *vm = calloc(1, sizeof(*vm));

	assert_non_null(m);
	assert_non_null(vm);
	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&vm->lock, NULL);
	atomic_init(&vm->references, 1);
	vm->machine = m;
	m->s = s;
	m->vm = vm;
	atomic_fetch_add(&machines, 1);
	return m;
}

struct vm *vm_get(struct vm *vm)
{
	atomic_fetch_add(&vm->references, 1);
	return vm;
}

void vm_put(struct vm *vm)
{
	if (!vm || atomic_fetch_sub(&vm->references, 1) != 1)
		return;
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

void vm_kill(struct vm *vm, const char *why)
{
	(void)why;
	fake_ended(vm, VM_END_KILLED);
}

bool vm_has_ended(struct vm *vm, struct vm_exit *exit)
{
	pthread_mutex_lock(&vm->lock);
	bool ended = vm->ended;
	if (ended && exit)
		*exit = vm->exit;
	pthread_mutex_unlock(&vm->lock);
	return ended;
}

void machine_own(struct machine *m, void (*ended)(struct machine *machine, void *context), void *context)
{
	pthread_mutex_lock(&m->lock);
	bool already = m->has_ended;
	m->ended = already ? NULL : ended;
	m->context = context;
	pthread_mutex_unlock(&m->lock);
	if (already && ended)
		ended(m, context);
}

void machine_stop(struct machine *m)
{
	if (!m)
		return;
	machine_own(m, NULL, NULL);
	vm_kill(m->vm, "stopped");
	vm_put(m->vm);
	pthread_mutex_destroy(&m->lock);
	free(m);
	atomic_fetch_sub(&machines, 1);
}

/* ---- the rest of the domain ---- */

/* machine.c's, in short. */
int host_error(int r, struct error *err)
{
	if (r == 0 || r == -ENOSPC || r == -EBUSY)
		return r;
	return error_set(err, EIO, "hidden");
}

static atomic_int saved_states; /* what paused_remove would find */
static int (*resume)(struct box *box, struct error *err);

int box_resume_held(struct box *box, const struct record *record, struct error *err)
{
	assert_string_equal(record->target, box->id);
	return resume(box, err);
}
void box_book_usage(struct box *box, int64_t now_wall_ms)
{
	(void)box, (void)now_wall_ms;
}
void box_last_stats(struct box *box, struct vm *vm)
{
	(void)box, (void)vm;
}
void keeper_ask(struct sandboxes *s)
{
	(void)s;
}

void paused_remove(struct sandboxes *s, const char *id)
{
	(void)s, (void)id;
	atomic_store(&saved_states, 0);
}

void disk_remove(const struct disk *disk, enum folder folder, const char *name)
{
	(void)disk, (void)folder, (void)name;
}

/* ---- the world ---- */

struct world {
	char path[64];
	struct sandboxes s;
	pthread_t janitor;
	struct store_org org;
	struct sandbox_actor actor;
	struct error err;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	snprintf(w->path, sizeof(w->path), "/tmp/akira-box-XXXXXX");
	assert_non_null(mkdtemp(w->path));
	assert_int_equal(store_open(w->path, &w->s.store, &w->err), 0);
	w->org = (struct store_org){ .id = "org_a", .name = "a", .tier = "pro", .created_ms = 1 };
	assert_int_equal(store_org_add(w->s.store, &w->org, &w->err), 0);
	w->actor = (struct sandbox_actor){ .org = &w->org };
	pthread_mutex_init(&w->s.lock, NULL);
	pthread_cond_init(&w->s.janitor_wake, NULL);
	assert_int_equal(pthread_create(&w->janitor, NULL, janitor_main, &w->s), 0);
	*state = w;
	return 0;
}

/* Whatever happened: no sandbox and no machine is left. */
static int teardown(void **state)
{
	struct world *w = *state;

	pthread_mutex_lock(&w->s.lock);
	w->s.closing = true;
	pthread_cond_broadcast(&w->s.janitor_wake);
	pthread_mutex_unlock(&w->s.lock);
	pthread_join(w->janitor, NULL);
	bool left = w->s.boxes != NULL;
	store_close(w->s.store);
	int r = fd_remove_tree(AT_FDCWD, w->path, NULL);
	free(w);
	assert_int_equal(atomic_load(&machines), 0);
	assert_false(left);
	return r;
}

static struct box *new_box(struct world *w, const char *id, enum sandbox_status status)
{
	struct store_sandbox row = {
		.name = "web",
		.image = "default",
		.status = status,
		.cpu_units = 1,
		.memory_mib = 512,
		.storage_gb = 10,
		.created_ms = 1,
		.timeout_s = 3600,
	};

	snprintf(row.id, sizeof(row.id), "%s", id);
	snprintf(row.org, sizeof(row.org), "org_a");
	if (store_sandbox_add(w->s.store, &row, &w->err) < 0)
		fail_msg("%s", w->err.text);
	struct box *box = box_new(&w->s, &row);
	assert_non_null(box);
	box_publish(box);
	return box;
}

static struct box *running_box(struct world *w, const char *id)
{
	struct box *box = new_box(w, id, SANDBOX_CREATING);
	assert_int_equal(box_install(box, fake_machine(&w->s), 3600000, &w->err), 0);
	return box;
}

static void expect_end(struct world *w, struct box *box, const char *reason)
{
	struct store_sandbox row;

	assert_int_equal(box_wait_gone(box, 10000), 0);
	assert_null(box_find(&w->s, NULL, box->id));
	assert_int_equal(store_sandbox_get(w->s.store, NULL, box->id, &row, &w->err), 0);
	assert_int_equal(row.status, SANDBOX_TERMINATED);
	assert_string_equal(row.reason, reason);
	store_sandbox_free(&row);
}

/* ---- one at a time ---- */

static void lives_and_ends(void **state)
{
	struct world *w = *state;
	struct box *box = running_box(w, "sbx_1"), *used;
	struct vm *vm;

	assert_int_equal(box->row.status, SANDBOX_RUNNING);
	assert_true(box->row.expires_ms >= box->row.started_ms + 3600000);
	assert_int_equal(box_use(&w->s, &w->actor, "sbx_1", &used, &vm, &w->err), 0);
	assert_ptr_equal(used, box);
	assert_int_equal(box->active, 1);
	box_end(box, "deleted", "by request");
	box_end(box, "timeout", "the first reason stands");
	expect_end(w, box, "deleted");
	assert_true(vm_has_ended(vm, NULL)); /* it is still ours to look at */
	box_done(used, vm);
	assert_int_equal(box_use(&w->s, &w->actor, "sbx_1", &used, &vm, &w->err), -EBUSY);
	assert_non_null(strstr(w->err.text, "deleted"));
	assert_int_equal(box_use(&w->s, &w->actor, "sbx_2", &used, &vm, &w->err), -ENOENT);
	box_put(box);
}

static size_t records(struct world *w, const char *action)
{
	struct store_audit_filter filter = { .action = action, .limit = 10 };
	struct store_audit *rows = NULL;
	size_t count = 0;

	assert_int_equal(store_audit_list(w->s.store, &filter, &rows, &count, &w->err), 0);
	free(rows);
	return count;
}

static void a_change_after_the_end(void **state)
{
	struct world *w = *state;
	struct box *box = running_box(w, "sbx_1");
	struct record record;
	int32_t recorded = 0;

	w->actor.action = "sandbox.timeout";
	w->actor.status = 200;
	w->actor.recorded = &recorded;
	record = box_record(box, &w->actor, "sandbox.resume"); /* a step on the way */
	assert_int_equal(box_save(box, &record, &w->err), 0);
	assert_int_equal(recorded, 0);
	record.action = NULL;
	assert_int_equal(box_save(box, &record, &w->err), 0);
	assert_int_equal(recorded, 200);
	struct box *held;
	assert_int_equal(box_hold(&w->s, NULL, "sbx_1", &held, &w->err), 0);
	box_end(box, "deleted", "");
	record.action = "sandbox.pause";
	assert_int_equal(box_save(box, &record, &w->err), 0); /* keeps that it is to end, for a start after a crash */
	struct store_sandbox row;
	assert_int_equal(store_sandbox_get(w->s.store, NULL, "sbx_1", &row, &w->err), 0);
	assert_int_equal(row.status, SANDBOX_STOPPING);
	assert_string_equal(row.reason, "deleted");
	store_sandbox_free(&row);
	box_release(held);
	expect_end(w, box, "deleted");
	record.action = NULL;
	assert_int_equal(box_save(box, &record, &w->err), -EBUSY); /* does not bring it back */
	expect_end(w, box, "deleted");
	assert_int_equal(records(w, "sandbox.resume"), 1);
	assert_int_equal(records(w, "sandbox.timeout"), 1);
	assert_int_equal(records(w, "sandbox.terminated"), 1);
	box_put(box);
}

static void ends_of_vms(void **state)
{
	static const struct {
		enum vm_end end;
		const char *reason;
	} cases[] = {
		{ VM_END_OOM, "oom" },
		{ VM_END_GUEST_SHUTDOWN, "guest_shutdown" },
		{ VM_END_CRASHED, "host_error" },
		{ VM_END_LAUNCHER_LOST, "host_error" },
	};
	struct world *w = *state;
	char id[16];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(id, sizeof(id), "sbx_%zu", i);
		struct box *box = running_box(w, id);
		fake_ended(box->machine->vm, cases[i].end);
		expect_end(w, box, cases[i].reason);
		box_put(box);
	}
}

static void ended_before_it_was_installed(void **state)
{
	struct world *w = *state;
	struct box *box = new_box(w, "sbx_1", SANDBOX_CREATING);
	struct machine *m = fake_machine(&w->s);

	fake_ended(m->vm, VM_END_OOM);
	assert_int_equal(box_install(box, m, 1000, &w->err), 0);
	expect_end(w, box, "oom");
	box_put(box);
}

static void not_installed_in_what_is_ending(void **state)
{
	struct world *w = *state;
	struct box *box = new_box(w, "sbx_1", SANDBOX_CREATING);
	struct machine *m = fake_machine(&w->s);

	box_end(box, "deleted", "while it was made");
	expect_end(w, box, "deleted");
	assert_int_equal(box_install(box, m, 1000, &w->err), -EBUSY);
	assert_null(box->machine);
	machine_stop(m);
	box_put(box);
}

static void belongs_to_its_organisation(void **state)
{
	struct world *w = *state;
	struct box *box = running_box(w, "sbx_1"), *used;
	struct store_org other = { .id = "org_b" };
	struct sandbox_actor actor = { .org = &other };
	struct vm *vm;

	assert_int_equal(box_use(&w->s, &actor, "sbx_1", &used, &vm, &w->err), -ENOENT);
	assert_int_equal(box_hold(&w->s, &actor, "sbx_1", &used, &w->err), -ENOENT);
	box_end(box, "deleted", "");
	expect_end(w, box, "deleted");
	assert_int_equal(box_use(&w->s, &actor, "sbx_1", &used, &vm, &w->err), -ENOENT);
	box_put(box);
}

static void failures_of_what_is_ending(void **state)
{
	struct world *w = *state;
	struct box *box = running_box(w, "sbx_1");

	assert_int_equal(box_error(box, 0, &w->err), 0);
	assert_int_equal(box_error(box, -EIO, &w->err), -EIO);
	assert_int_equal(box_error(box, -ENOSPC, &w->err), -ENOSPC);
	box_end(box, "deleted", "");
	assert_int_equal(box_error(box, -EPIPE, &w->err), -EBUSY);
	assert_int_equal(w->err.code, EBUSY);
	assert_non_null(strstr(w->err.text, "deleted"));
	assert_int_equal(box_error(box, -ENOSPC, &w->err), -ENOSPC);
	expect_end(w, box, "deleted");
	assert_int_equal(box_error(box, -EIO, NULL), -EBUSY);
	box_put(box);
}

/* Who holds it goes on using the machine and its slot, however dead it is. */
static void a_held_one_keeps_its_machine(void **state)
{
	struct world *w = *state;
	struct box *box = running_box(w, "sbx_1"), *held;

	assert_int_equal(box_hold(&w->s, &w->actor, "sbx_1", &held, &w->err), 0);
	box_end(box, "deleted", "");
	assert_int_equal(box_wait_gone(box, 100), -ETIMEDOUT);
	assert_non_null(box->machine);
	assert_int_equal(atomic_load(&machines), 1);
	box_release(held);
	expect_end(w, box, "deleted");
	box_put(box);
}

/* The machine of before a pause ends late: the one of now has nothing to do with it. */
static void a_late_end_of_an_earlier_machine(void **state)
{
	struct world *w = *state;
	struct box *box = running_box(w, "sbx_1");
	struct machine *old = box->machine;

	pthread_mutex_lock(&box->lock);
	box->machine = NULL;
	box->row.status = SANDBOX_PAUSED;
	pthread_mutex_unlock(&box->lock);
	assert_int_equal(box_install(box, fake_machine(&w->s), 1000, &w->err), 0);
	janitor_push(box); /* what the old one's end had queued before it was taken away */
	machine_stop(old);
	assert_int_equal(box_wait_gone(box, 200), -ETIMEDOUT);
	assert_int_equal(box->row.status, SANDBOX_RUNNING);
	box_end(box, "deleted", "");
	expect_end(w, box, "deleted");
	box_put(box);
}

static int resume_and_be_deleted(struct box *box, struct error *err)
{
	struct machine *m = fake_machine(box->s);

	box_end(box, "deleted", "during its resume");
	assert_int_equal(box_wait_gone(box, 100), -ETIMEDOUT); /* not before we are done */
	int r = box_install(box, m, 1000, err);
	assert_int_equal(r, -EBUSY);
	machine_stop(m);
	return r;
}

static void deleted_during_its_resume(void **state)
{
	struct world *w = *state;
	struct box *box = new_box(w, "sbx_1", SANDBOX_PAUSED), *used;
	struct vm *vm;

	resume = resume_and_be_deleted;
	atomic_store(&saved_states, 1);
	assert_int_equal(box_use(&w->s, &w->actor, "sbx_1", &used, &vm, &w->err), -EBUSY);
	expect_end(w, box, "deleted");
	assert_int_equal(atomic_load(&saved_states), 0);
	box_put(box);
}

static int resume_well(struct box *box, struct error *err)
{
	struct machine *m = fake_machine(box->s);
	int r = box_install(box, m, 1000, err);

	if (r < 0)
		machine_stop(m);
	return r;
}

static void use_resumes(void **state)
{
	struct world *w = *state;
	struct box *box = new_box(w, "sbx_1", SANDBOX_PAUSED), *used;
	struct vm *vm;

	resume = resume_well;
	assert_int_equal(box_use(&w->s, &w->actor, "sbx_1", &used, &vm, &w->err), 0);
	box_done(used, vm);
	assert_int_equal(box->active, 0);
	box_end(box, "deleted", "");
	expect_end(w, box, "deleted");
	box_put(box);
}

/* ---- all at once ---- */

struct actor {
	pthread_t thread;
	struct world *w;
	const char *id;
	atomic_bool *stop;
};

static void *use_it(void *context)
{
	struct actor *a = context;
	struct box *box;
	struct vm *vm;

	while (!atomic_load(a->stop)) {
		if (box_use(&a->w->s, &a->w->actor, a->id, &box, &vm, NULL) < 0)
			break;
		(void)vm_has_ended(vm, NULL);
		box_done(box, vm);
	}
	return NULL;
}

/* As a pause does, and the next use resumes it. */
static void *pause_it(void *context)
{
	struct actor *a = context;
	struct box *box;

	while (!atomic_load(a->stop) && box_hold(&a->w->s, &a->w->actor, a->id, &box, NULL) == 0) {
		pthread_mutex_lock(&box->lock);
		struct machine *m = box->row.status == SANDBOX_RUNNING && !box->reason[0] ? box->machine : NULL;
		if (m) {
			box->machine = NULL;
			box->row.status = SANDBOX_PAUSED;
		}
		pthread_mutex_unlock(&box->lock);
		machine_stop(m);
		box_release(box);
	}
	return NULL;
}

static void *look_at_it(void *context)
{
	struct actor *a = context;

	while (!atomic_load(a->stop)) {
		size_t count;
		struct box **all = box_all(&a->w->s, &count);
		for (size_t i = 0; i < count; i++) {
			pthread_mutex_lock(&all[i]->lock);
			bool ended = all[i]->machine && vm_has_ended(all[i]->machine->vm, NULL);
			pthread_mutex_unlock(&all[i]->lock);
			if (ended)
				janitor_push(all[i]);
			box_put(all[i]);
		}
		free(all);
		if (count == 0)
			break;
	}
	return NULL;
}

static void race(struct world *w, int round)
{
	static void *(*const parts[])(void *) = { use_it, use_it, pause_it, look_at_it };
	struct actor actors[4];
	atomic_bool stop = false;
	char id[32];

	snprintf(id, sizeof(id), "sbx_%d", round);
	struct box *box = running_box(w, id);
	for (int i = 0; i < 4; i++) {
		actors[i] = (struct actor){ .w = w, .id = id, .stop = &stop };
		assert_int_equal(pthread_create(&actors[i].thread, NULL, parts[i], &actors[i]), 0);
	}
	for (volatile int i = 0; i < round % 7 * 20000; i++)
		;
	box_end(box, "deleted", "in the middle of it");
	expect_end(w, box, "deleted");
	atomic_store(&stop, true);
	for (int i = 0; i < 4; i++)
		pthread_join(actors[i].thread, NULL);
	assert_null(box->machine);
	box_put(box);
}

static void races(void **state)
{
	resume = resume_well;
	for (int round = 0; round < 60; round++) {
		race(*state, round);
		assert_int_equal(atomic_load(&machines), 0);
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(lives_and_ends),
		CASE(a_change_after_the_end),
		CASE(ends_of_vms),
		CASE(ended_before_it_was_installed),
		CASE(not_installed_in_what_is_ending),
		CASE(belongs_to_its_organisation),
		CASE(failures_of_what_is_ending),
		CASE(a_held_one_keeps_its_machine),
		CASE(a_late_end_of_an_earlier_machine),
		CASE(deleted_during_its_resume),
		CASE(use_resumes),
		CASE(races),
	};
	log_init("test", "json", LOG_ERROR_ + 1);
	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
