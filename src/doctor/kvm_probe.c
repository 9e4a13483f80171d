/*
 * Theory of operation. The guest is 64-bit code in ring 0, because that is what a guest kernel is: long mode needs
 * neither unrestricted guest support nor a TSS page from KVM, as real and unpaged mode would. Memory is one slot:
 *
 *   0x1000 PML4 -> 0x2000 PDPT -> 0x3000 PD -> one 2 MiB identity page    0x4000 code    0x5000 counter
 *
 * The code counts ecx down, storing it each time, and halts; without an interrupt controller HLT comes back as
 * KVM_EXIT_HLT. A small count is run first, so that an emulated guest gives its (bad) figure early, and only where
 * that was fast is a larger count run, whose figure is not spoilt by the cost of entry and exit.
 */
#include "doctor/kvm_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"

enum {
	GUEST_SIZE = 0x10000,
	GUEST_PML4 = 0x1000,
	GUEST_PDPT = 0x2000,
	GUEST_PD = 0x3000,
	GUEST_CODE = 0x4000,
	GUEST_DATA = 0x5000,
	LOOP_INSTRUCTIONS = 3,
	COUNT_SMALL = 10000,
	COUNT_LARGE = 3000000,
	SMALL_RUNS = 4,
	LARGE_RUNS = 3,
};

static const unsigned char guest_code[] = {
	0xff, 0xc9, /* again: dec ecx */
	0x89, 0x0b, /* mov [rbx], ecx */
	0x75, 0xfa, /* jnz again */
	0xf4,       /* hlt */
};

/* What the child tells the parent: one write of at most PIPE_BUF bytes. */
struct answer {
	int code;         /* errno of the step that failed, 0 for none */
	const char *step; /* a literal: the same address on both sides of a fork */
	double speed;     /* instructions a second */
};

struct vm {
	int kvm, vm, vcpu;
	unsigned char *memory;
	struct kvm_run *run;
	const char *step;
};

static int64_t now_ns(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static void put64(unsigned char *memory, size_t at, uint64_t value)
{
	memcpy(memory + at, &value, sizeof(value));
}

static int make_vm(struct vm *vm)
{
	vm->step = "open " DOCTOR_KVM_DEVICE;
	vm->kvm = open(DOCTOR_KVM_DEVICE, O_RDWR | O_CLOEXEC);
	if (vm->kvm < 0)
		return -errno;
	vm->step = "KVM_GET_API_VERSION";
	int version = ioctl(vm->kvm, KVM_GET_API_VERSION, 0);
	if (version < 0)
		return -errno;
	if (version != KVM_API_VERSION)
		return -ENOTSUP;
	vm->step = "KVM_CREATE_VM";
	vm->vm = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	return vm->vm < 0 ? -errno : 0;
}

static int make_memory(struct vm *vm)
{
	vm->step = "guest memory";
	// cppcheck-suppress invalidFunctionArg -- -1 is what MAP_ANONYMOUS wants
	vm->memory = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->memory == MAP_FAILED)
		return -errno;
	put64(vm->memory, GUEST_PML4, GUEST_PDPT | 3); /* present, writable */
	put64(vm->memory, GUEST_PDPT, GUEST_PD | 3);
	put64(vm->memory, GUEST_PD, 0x80 | 3); /* 2 MiB page at 0 */
	memcpy(vm->memory + GUEST_CODE, guest_code, sizeof(guest_code));
	struct kvm_userspace_memory_region region = {
		.memory_size = GUEST_SIZE,
		.userspace_addr = (uintptr_t)vm->memory,
	};
	vm->step = "KVM_SET_USER_MEMORY_REGION";
	return ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? -errno : 0;
}

static int make_vcpu(struct vm *vm)
{
	vm->step = "KVM_CREATE_VCPU";
	vm->vcpu = ioctl(vm->vm, KVM_CREATE_VCPU, 0);
	if (vm->vcpu < 0)
		return -errno;
	vm->step = "KVM_GET_VCPU_MMAP_SIZE";
	int size = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return size < 0 ? -errno : -ENOTSUP;
	vm->step = "map kvm_run";
	void *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	if (run == MAP_FAILED)
		return -errno;
	vm->run = run;
	return 0;
}

static int enter_long_mode(struct vm *vm)
{
	struct kvm_sregs sregs;
	vm->step = "KVM_GET_SREGS";
	if (ioctl(vm->vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	struct kvm_segment data = {
		.limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1
	};
	struct kvm_segment code = {
		.limit = 0xffffffff, .selector = 0x08, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 = 0x80000033; /* PG, NE, ET, MP, PE */
	sregs.cr3 = GUEST_PML4;
	sregs.cr4 = 0x20;   /* PAE */
	sregs.efer = 0x500; /* LME, LMA */
	vm->step = "KVM_SET_SREGS";
	return ioctl(vm->vcpu, KVM_SET_SREGS, &sregs) < 0 ? -errno : 0;
}

/* Run the loop `count` times; *speed in instructions a second. */
static int run_loop(struct vm *vm, uint32_t count, double *speed)
{
	struct kvm_regs regs = { .rip = GUEST_CODE, .rbx = GUEST_DATA, .rcx = count, .rflags = 2 };
	vm->step = "KVM_SET_REGS";
	if (ioctl(vm->vcpu, KVM_SET_REGS, &regs) < 0)
		return -errno;
	put64(vm->memory, GUEST_DATA, UINT64_MAX);
	vm->step = "KVM_RUN";
	int64_t start = now_ns();
	do {
		if (ioctl(vm->vcpu, KVM_RUN, 0) < 0 && errno != EINTR && errno != EAGAIN)
			return -errno;
	} while (vm->run->exit_reason == KVM_EXIT_INTR);
	int64_t took = now_ns() - start;
	uint32_t left;
	memcpy(&left, vm->memory + GUEST_DATA, sizeof(left));
	vm->step = "the guest's loop";
	if (vm->run->exit_reason != KVM_EXIT_HLT || left != 0)
		return -ENOTSUP;
	*speed = (double)count * LOOP_INSTRUCTIONS * 1e9 / (double)(took > 0 ? took : 1);
	return 0;
}

static int measure(struct vm *vm, double *speed)
{
	int r = make_vm(vm);
	if (r == 0)
		r = make_memory(vm);
	if (r == 0)
		r = make_vcpu(vm);
	if (r == 0)
		r = enter_long_mode(vm);
	/* The best of a few: another process on this CPU, or cold code, makes a run slower, nothing makes it faster. */
	double once = 0, least = DOCTOR_KVM_USABLE / 20;
	for (int i = 0; r == 0 && i < SMALL_RUNS && *speed < least; i++) {
		r = run_loop(vm, COUNT_SMALL, &once);
		*speed = once > *speed ? once : *speed;
	}
	bool fast = *speed >= least;
	for (int i = 0; r == 0 && fast && i < LARGE_RUNS; i++) {
		r = run_loop(vm, COUNT_LARGE, &once);
		*speed = i == 0 || once > *speed ? once : *speed;
	}
	return r;
}

static void __attribute__((noreturn)) child(int to)
{
	struct vm vm = { .kvm = -1, .vm = -1, .vcpu = -1 };
	struct answer answer = { 0 };
	answer.code = -measure(&vm, &answer.speed);
	answer.step = vm.step;
	(void)fd_write_all(to, &answer, sizeof(answer));
	_exit(0);
}

static int collect(int from, struct answer *answer)
{
	int64_t deadline = time_mono_ms() + DOCTOR_KVM_BOUND_MS;
	struct pollfd wait = { .fd = from, .events = POLLIN };
	int r;
	do
		r = poll(&wait, 1, time_left_ms(deadline));
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	ssize_t size = fd_read_all(from, answer, sizeof(*answer));
	if (size != (ssize_t)sizeof(*answer))
		return -EPIPE;
	return 0;
}

int doctor_kvm_probe(double *instructions_per_second, struct error *err)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, errno, "KVM probe: pipe");
	_cleanup_fd_ int from = ends[0];
	_cleanup_fd_ int to = ends[1];
	pid_t pid = fork();
	if (pid < 0)
		return error_errno(err, errno, "KVM probe: fork");
	if (pid == 0)
		child(to);
	fd_close(&to);
	struct answer answer = { 0 };
	int r = collect(from, &answer);
	kill(pid, SIGKILL); /* no-op on the zombie that a finished child is */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (r == -ETIMEDOUT)
		return error_set(err, ETIMEDOUT, "KVM probe: the guest's loop did not end within %d ms",
				 DOCTOR_KVM_BOUND_MS);
	if (r < 0)
		return error_errno(err, -r, "KVM probe: the probing process died");
	if (answer.code != 0)
		return error_errno(err, answer.code, "KVM probe: %s", answer.step ? answer.step : "start");
	*instructions_per_second = answer.speed;
	return 0;
}
