/*
 * What an address may do before it has shown a good key: a bucket of requests, and after GUARD_FAILURES bad keys
 * within a minute a wait that doubles from GUARD_WAIT_S to GUARD_WAIT_S_MAX and is forgotten after half an hour
 * without a failure. Fixed memory (65,536 addresses; those under a wait are the last to be forgotten). Thread-safe.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define GUARD_FAILURES 10
#define GUARD_WAIT_S 5
#define GUARD_WAIT_S_MAX 900
#define GUARD_ADDRESSES 65536

struct guard;

int guard_new(int64_t per_minute, struct guard **guard, struct error *err); /* -1: no bucket */
void guard_free(struct guard *guard);
/* May this address go on to be authenticated? Takes a request from its bucket. Else *retry_after_s >= 1. */
bool guard_enter(struct guard *guard, const char *address, int64_t now_ms, int64_t *retry_after_s);
/* It showed a good key: the request goes back into the bucket. */
void guard_passed(struct guard *guard, const char *address, int64_t now_ms);
void guard_failed(struct guard *guard, const char *address, int64_t now_ms);
/* The 16 bytes by which an address counts: IPv4 (mapped or not) whole, IPv6 its /64; anything else by its text. */
void guard_name(const char *address, unsigned char name[16]);
