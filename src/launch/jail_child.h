/* The child's side of jail_start; runs as root in the new namespaces and never returns. */
#pragma once

#include "launch/jail.h"

#define JAIL_NAMESPACES 6
/* Below /proc/PID. */
extern const char *const jail_namespaces[JAIL_NAMESPACES];

/* report: one struct error is sent on it when the jail cannot be made; closed by the exec otherwise. */
_Noreturn void jail_child(const struct jail_host *host, const struct jail *jail, int report);
/*
 * Is everything as it should be? proc: descriptor of the child's own folder in the host's /proc. To be called last,
 * before seccomp.
 */
int jail_verify(const struct jail_host *host, const struct jail *jail, int proc, struct error *err);
