/* PERSONALISE: what makes this sandbox differ from every other that came from the same template. */
#pragma once

#include "agent/agent.h"

int personal_apply(struct agent *a, const struct request *r, struct error *err);
