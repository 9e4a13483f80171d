/* A launcher that only remembers what it was asked, and an upstream on the loopback that answers what a test says. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "daemon/net/net.h"

#define FAKE_PINS_MAX 64

struct fake_launcher {
	int policy_result, pin_result; /* what the calls return */
	unsigned policies;
	struct policy policy; /* the last */
	unsigned pins;        /* since the last policy */
	uint32_t addresses[FAKE_PINS_MAX], ttls[FAKE_PINS_MAX];
};

extern struct fake_launcher fake;
void fake_reset(void);

/* Start the upstream; text ("127.0.0.1:PORT") for net_service_config. It answers every A question with the addresses. */
const char *fake_upstream_start(void);
void fake_upstream_answer(int rcode, const uint32_t *addresses, size_t count);
void fake_upstream_mute(bool mute);
unsigned fake_upstream_asked(void);
void fake_upstream_stop(void);
