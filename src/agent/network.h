/* The guest's network: lo, and the first other interface, as PERSONALISE says. */
#pragma once

#include "agent/request.h"
#include "base/error.h"

/* No address in the request: the interface goes down. */
int network_apply(const struct request *r, struct error *err);
