/* The MACs that every slot has (slot.c), for the rules (slot_rules.c). */
#pragma once

#include <stdint.h>

extern const uint8_t slot_guest_mac[6], slot_gateway_mac[6];
