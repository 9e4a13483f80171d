/* SETUP: the scratch disk, the overlay, the namespaces in which commands run. */
#pragma once

#include "agent/agent.h"

/* Once in the life of a VM. On failure the VM is of no more use. */
int sandbox_setup(struct agent *a, struct error *err);
