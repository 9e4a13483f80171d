/* Clocks. Deadlines and durations are CLOCK_MONOTONIC milliseconds; what people read is UTC. */
#pragma once

#include <stdint.h>

#define TIME_TEXT_MAX 32

int64_t time_mono_ms(void); /* CLOCK_MONOTONIC */
int64_t time_mono_us(void);
int64_t time_wall_ms(void); /* since 1970, UTC */
/* Milliseconds until the deadline for poll(2): 0 when past, at most INT32_MAX; deadline < 0 means never (-1). */
int time_left_ms(int64_t deadline);
/* 2026-01-31T12:34:56.789Z; returns to. */
char *time_iso(char to[TIME_TEXT_MAX], int64_t wall_ms);
/* ISO 8601 with Z or ±hh:mm, seconds' fraction optional; -EINVAL. Years 1970..9999. */
int time_parse_iso(const char *text, int64_t *wall_ms);
