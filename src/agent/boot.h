/* From the kernel's hand-over to a mounted base and an open port. Dies when something that it needs is not there. */
#pragma once

#include "agent/agent.h"

void boot(struct agent *a);
