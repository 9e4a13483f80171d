/* IPv4 addresses and ranges as a tenant writes them. What is always blocked stands in proto/address.h. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "proto/address.h"

/*
 * "192.0.2.0/24" or "192.0.2.1": four decimal numbers without leading zeros, as inet_pton(3) has it (no octal, hex or
 * short forms), and a prefix of 0..32 without leading zeros. Bits outside the prefix are cleared. -EINVAL.
 */
int address_parse(const char *text, struct policy_cidr *cidr, struct error *err);

/* Is text meant as an address or a range (whatever it is worth), and not as a name? */
bool address_looks_like(const char *text);
