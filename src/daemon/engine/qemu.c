#include "daemon/engine/qemu.h"

#include <stdarg.h>
#include <stdio.h>

static void add(struct qemu_args *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct qemu_args *a, const char *format, ...)
{
	va_list args;
	size_t room = sizeof(a->text) - a->used;

	va_start(args, format);
	int n = vsnprintf(a->text + a->used, room, format, args);
	va_end(args);
	if (n < 0 || (size_t)n >= room || a->count >= QEMU_ARGS_MAX) {
		a->failed = true;
		return;
	}
	a->args[a->count++] = a->text + a->used;
	a->used += (size_t)n + 1;
}

static void add_machine(const struct engine *e, const struct vm_spec *s, struct qemu_args *a)
{
	bool kvm = e->acceleration == ENGINE_KVM;

	/* No PCI, no option ROMs, no legacy devices beyond what the kernel needs to keep time before it has its own. */
	add(a, "-M");
	add(a,
	    "microvm,memory-backend=ram,acpi=%s,rtc=on,pit=on,pic=on,isa-serial=on,x-option-roms=off,"
	    "auto-kernel-cmdline=%s,dump-guest-core=off",
	    s->acpi ? "on" : "off", s->acpi ? "off" : "on");
	add(a, "-accel");
	if (kvm)
		add(a, "kvm");
	else
		add(a, "tcg,thread=multi,tb-size=%u", e->tcg_cache_mib);
	add(a, "-cpu");
	/* Some hosts fail on MSR 0x10a; nested virtualisation and performance counters stay out of the guest. */
	add(a, "%s", kvm ? "host,arch-capabilities=off,vmx=off,svm=off,pmu=off" : "max,la57=off,vmx=off,svm=off");
	add(a, "-smp");
	add(a, "%u", engine_vcpus(s->cpu_units));
	add(a, "-m");
	add(a, "%uM", s->memory_mib);
	add(a, "-object");
	if (s->ram >= 0)
		add(a, "memory-backend-file,id=ram,size=%uM,mem-path=/vm/ram,share=%s,prealloc=off,dump=off",
		    s->memory_mib, s->ram_shared ? "on" : "off");
	else
		add(a, "memory-backend-ram,id=ram,size=%uM,dump=off", s->memory_mib);
}

static void add_kernel(const struct engine *e, const struct vm_spec *s, struct qemu_args *a)
{
	char tcg[64] = "", clock[40] = "";

	/*
	 * Under TCG alone: address-space randomisation moves the same libraries about and so defeats the code cache, and
	 * there is no hardware boundary that it would back up.
	 */
	if (e->acceleration == ENGINE_TCG)
		snprintf(tcg, sizeof(tcg), " norandmaps mitigations=off");
	if (e->acceleration == ENGINE_TCG && e->tsc_khz > 0)
		snprintf(clock, sizeof(clock), " tsc_early_khz=%u", e->tsc_khz);
	add(a, "-kernel");
	add(a, "/vm/kernel");
	add(a, "-initrd");
	add(a, "/vm/initramfs");
	add(a, "-append");
	/* Freezing a file system waits for several RCU grace periods: expedited, they halve the time of a freeze. */
	add(a, "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 random.trust_cpu=on rcupdate.rcu_expedited=1%s%s %s",
	    clock, tcg, s->cmdline ? s->cmdline : "");
}

static void add_devices(const struct vm_spec *s, struct qemu_args *a)
{
	/* Raw stays raw: a guest that writes another format's header into its disk changes nothing (CVE-2026-27211). */
	add(a, "-blockdev");
	add(a, "driver=file,node-name=base-file,filename=/vm/base,read-only=on,auto-read-only=off,aio=threads");
	add(a, "-blockdev");
	add(a, "driver=raw,node-name=base,file=base-file,read-only=on");
	add(a, "-blockdev");
	/*
	 * The guest's flushes end in the host's page cache: a VM does not outlive its host, and what does (a snapshot, a paused
	 * sandbox) is synced by akirad. Else the first one of a restored guest would write out the whole copy of its disk.
	 */
	add(a, "driver=file,node-name=scratch-file,filename=/vm/scratch,discard=unmap,aio=threads,cache.no-flush=on");
	add(a, "-blockdev");
	add(a, "driver=raw,node-name=scratch,file=scratch-file,discard=unmap");
	add(a, "-device");
	add(a, "virtio-blk-device,id=disk0,drive=base,serial=base");
	add(a, "-device");
	add(a, "virtio-blk-device,id=disk1,drive=scratch,serial=scratch");
	add(a, "-netdev");
	add(a, "tap,id=net,fd=6,vhost=off");
	add(a, "-device");
	add(a, "virtio-net-device,id=nic,netdev=net,mac=%02x:%02x:%02x:%02x:%02x:%02x", s->mac[0], s->mac[1], s->mac[2],
	    s->mac[3], s->mac[4], s->mac[5]);
	add(a, "-object");
	add(a, "rng-random,id=random,filename=/dev/urandom");
	add(a, "-device");
	add(a, "virtio-rng-device,rng=random,max-bytes=65536,period=1000");
	add(a, "-device");
	add(a, "virtio-serial-device,id=serial,max_ports=2");
	add(a, "-chardev");
	add(a, "socket,id=agent,fd=4");
	add(a, "-device");
	add(a, "virtserialport,bus=serial.0,nr=1,chardev=agent,name=%s", GUEST_PORT_NAME);
}

static void add_channels(const struct vm_spec *s, struct qemu_args *a)
{
	add(a, "-chardev");
	add(a, "socket,id=qmp,fd=3");
	add(a, "-mon");
	add(a, "chardev=qmp,mode=control");
	add(a, "-chardev");
	add(a, "socket,id=console,fd=5");
	add(a, "-serial");
	add(a, "chardev:console");
	add(a, "-sandbox");
	add(a, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
	if (s->state >= 0) {
		add(a, "-incoming");
		add(a, "defer");
	}
}

void qemu_arguments(const struct engine *engine, const struct vm_spec *spec, struct qemu_args *a)
{
	a->count = a->used = 0;
	a->failed = false;
	add(a, "-nodefaults");
	add(a, "-no-user-config");
	add(a, "-no-reboot");
	add(a, "-display");
	add(a, "none");
	add(a, "-name");
	add(a, "akira");
	add_machine(engine, spec, a);
	add_kernel(engine, spec, a);
	add_devices(spec, a);
	add_channels(spec, a);
	a->args[a->count] = NULL;
}
