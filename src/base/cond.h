/* Waiting for a condition with a deadline. */
#pragma once

#include <pthread.h>
#include <stdint.h>
#include <time.h>

/* Until CLOCK_MONOTONIC shows deadline_ms: 0 when woken (perhaps for no reason), or ETIMEDOUT. */
static inline int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_ms)
{
	struct timespec until = { .tv_sec = deadline_ms / 1000, .tv_nsec = deadline_ms % 1000 * 1000000 };

	return pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &until);
}
