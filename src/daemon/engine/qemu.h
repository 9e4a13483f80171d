/* The command line of QEMU's microvm for a VM. */
#pragma once

#include "daemon/engine/engine.h"

#define QEMU_ARGS_MAX 80
#define QEMU_TEXT_MAX 8192

struct qemu_args {
	const char *args[QEMU_ARGS_MAX + 1]; /* NULL-terminated; point into text or to literals */
	size_t count;
	char text[QEMU_TEXT_MAX];
	size_t used;
	bool failed; /* something did not fit */
};

/* Descriptors in the VM process, see launcher_vm.fds: QMP 3, agent 4, console 5, tap 6. */
void qemu_arguments(const struct engine *engine, const struct vm_spec *spec, struct qemu_args *args);
