/*
 * A VM process behind one interface: start, run, stop, save, back up, kill, exited. What an engine must do stands in
 * api/engine.md. The engine of this version is QEMU's microvm with KVM or, where KVM is unusable, TCG.
 *
 * A struct vm is reference-counted and may be used by several threads; control calls on one VM are serialised.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "daemon/engine/link.h"
#include "daemon/launcher/launcher.h"

enum engine_acceleration { ENGINE_AUTO, ENGINE_KVM, ENGINE_TCG };

/*
 * The decision, from what was measured (0 or -errno of doctor_kvm_probe and its figure): ENGINE_KVM or ENGINE_TCG.
 * wanted ENGINE_KVM with no usable KVM: -ENOTSUP. why: one sentence for people, in every case.
 */
int engine_decide(enum engine_acceleration wanted, int probe, double instructions_per_second,
		  enum engine_acceleration *chosen, char why[256], struct error *err);

struct engine {
	struct launcher *launcher;
	enum engine_acceleration acceleration; /* KVM or TCG */
	uint32_t tcg_cache_mib;                /* QEMU's code cache, 16..1024 */
	uint64_t io_bytes_per_s;               /* of a scratch disk, both directions together; 0 = no limit */
	uint64_t io_ops_per_s;                 /* requests, likewise */
	uint32_t tsc_khz;                      /* the host's, 0 = unknown: spares the guest its calibration under TCG */
};

/* Whole vCPUs of a VM that is granted this many quarters of one. */
static inline uint32_t engine_vcpus(uint32_t cpu_units)
{
	return (cpu_units + 3) / 4;
}

struct vm_spec {
	const char *id;     /* as launcher_vm.id */
	uint32_t cpu_units; /* of 0.25 vCPU: decides the number of vCPUs and the quota */
	uint32_t memory_mib;
	int kernel, initramfs, base, scratch; /* borrowed; scratch is writable */
	uint64_t scratch_bytes;
	bool acpi;           /* the kernel finds its devices by ACPI (Debian's) */
	const char *cmdline; /* added to the kernel's command line; may be NULL */
	int ram;             /* file of exactly the RAM's size, or -1: anonymous memory */
	bool ram_shared;     /* true: a template is being made, RAM goes to the file; false: mapped copy-on-write */
	int state;           /* device state to load before it runs (borrowed), or -1: cold boot */
	uint32_t slot;       /* network slot; always given: the device state of a template has a network card */
	uint8_t mac[6];
	uint32_t first_stream; /* of the guest protocol; 1 unless resumed */
	/* Done while the process starts up, which takes tens of milliseconds; may be NULL. A failure ends the VM. */
	int (*meanwhile)(void *context, struct error *err);
	void *meanwhile_context;
};

enum vm_end { VM_END_GUEST_SHUTDOWN, VM_END_OOM, VM_END_KILLED, VM_END_CRASHED, VM_END_LAUNCHER_LOST };

struct vm_exit {
	enum vm_end end;
	char message[256]; /* for people */
};

struct vm;

/*
 * Start the process and, with a state, load it. It is then stopped (state given) or running (cold boot).
 * ended (may be NULL) is called once from the VM's own thread when the process has gone and its jail with it; it must
 * not drop the last reference and must not block for long.
 */
int vm_start(const struct engine *engine, const struct vm_spec *spec, void (*ended)(struct vm *vm, void *context),
	     void *context, struct vm **vm, struct error *err);
struct vm *vm_get(struct vm *vm);
void vm_put(struct vm *vm); /* the last one kills it; NULL is fine */

/* The agent's channel; lives as long as the VM. Say link_hello once the VM runs. */
struct link *vm_link(struct vm *vm);
pid_t vm_pid(const struct vm *vm);
const char *vm_id(const struct vm *vm);

int vm_run(struct vm *vm, struct error *err);
int vm_stop(struct vm *vm, struct error *err);
/*
 * A VM whose write found no space on the host stands still until it is told to try again. Tells it, if that is why it
 * stands: true. Does not wait for another control call.
 */
bool vm_unstall(struct vm *vm);
/* The scratch device has this size from now on (before vm_run after a load, or at any time). */
int vm_resize_scratch(struct vm *vm, uint64_t bytes, struct error *err);
/*
 * Device state (and RAM, unless it is a shared file) of a stopped VM into a new file, from its start. timeout_ms for
 * all of it. The VM stays stopped.
 */
int vm_save(struct vm *vm, int fd, int timeout_ms, struct error *err);
/*
 * Begin a copy of the scratch device as it is at this moment into fd (of the same size, empty), while the guest goes
 * on; vm_backup_wait returns when it is whole (or failed) and the target is closed. It is not on disk
 * before the caller has synced it.
 */
int vm_backup_begin(struct vm *vm, int fd, struct error *err);
int vm_backup_wait(struct vm *vm, int timeout_ms, struct error *err);

/* SIGKILL; returns at once. why: for vm_exit when nothing better is known. */
void vm_kill(struct vm *vm, const char *why);
/* Wait for the end, and until `ended` has returned (so never call it from there): 0, or -ETIMEDOUT. */
int vm_wait(struct vm *vm, int timeout_ms);
bool vm_has_ended(struct vm *vm, struct vm_exit *exit);
/* Last bytes of the serial console; returns the size copied (<= room). */
size_t vm_console(struct vm *vm, char *to, size_t room);
int vm_stats(struct vm *vm, struct launcher_stats *stats, struct error *err);

/* What the host pays for a VM of this RAM on top of it, MiB: the monitor, its code cache, page tables. */
uint32_t engine_overhead_mib(const struct engine *engine);
