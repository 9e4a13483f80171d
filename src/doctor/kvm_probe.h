/*
 * Is KVM usable here? /dev/kvm may open and yet emulate guest kernel code instruction by instruction (seen: 560 ns an
 * instruction), where nothing ever boots. So the question is answered by measuring.
 */
#pragma once

#include "base/error.h"

#define DOCTOR_KVM_DEVICE "/dev/kvm"
#define DOCTOR_KVM_USABLE 100e6 /* ring-0 instructions a second below which KVM is not worth having */
#define DOCTOR_KVM_BOUND_MS 2000

/*
 * Run a short 64-bit ring-0 loop in a bare VM and time it: about 10 ms where KVM is real, at most
 * DOCTOR_KVM_BOUND_MS anywhere. All of it happens in a forked child that only makes system calls, so it is safe in a
 * program with threads; SIGCHLD must not be ignored.
 *
 * Returns 0 and *instructions_per_second > 0 (compare with DOCTOR_KVM_USABLE), or -errno: -ENOENT no device, -EACCES
 * no permission, -ENODEV or -ENOTSUP no (or an unknown) KVM behind it, -ETIMEDOUT no loop ended within the bound,
 * other values as the failing ioctl gave them. err then says which step failed.
 */
int doctor_kvm_probe(double *instructions_per_second, struct error *err);
