/*
 * QEMU's machine protocol (docs/interop/qmp-spec.txt): one command at a time over a connected socket. QEMU is hostile
 * once its guest is: messages are bounded, waits are bounded, and a broken conversation stays broken.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "base/error.h"

struct qmp;

/* Takes over fd. Reads the greeting and negotiates; timeout_ms for both. */
int qmp_open(int fd, int timeout_ms, struct qmp **qmp, struct error *err);
void qmp_free(struct qmp *qmp);
/*
 * Run a command. arguments (may be NULL) is stolen. pass_fd >= 0 goes along by SCM_RIGHTS. *result (may be NULL) is a
 * new reference. -EREMOTEIO: QEMU refused it, err holds its words. Every other error: the conversation is
 * over, kill the VM.
 */
int qmp_command(struct qmp *qmp, const char *name, json_t *arguments, int pass_fd, int timeout_ms, json_t **result,
		struct error *err);
/* Wait for an event of this name that came since the last qmp_command began; data (may be NULL) is a new reference. */
int qmp_wait_event(struct qmp *qmp, const char *name, int timeout_ms, json_t **data, struct error *err);
/* After the process ended: the `reason` of its SHUTDOWN event ("guest-shutdown", "guest-panic", …) or "". */
void qmp_shutdown_reason(struct qmp *qmp, char reason[32]);
