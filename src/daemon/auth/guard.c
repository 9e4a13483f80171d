#include "daemon/auth/guard.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/auth/slots.h"

#define MINUTE_MS 60000
#define FORGET_MS (30 * MINUTE_MS)
#define ADDRESS_TEXT_MAX 64

struct caller {
	struct slot slot;
	double tokens;
	int64_t when_ms;   /* of tokens */
	int64_t window_ms; /* start of the minute in which failures count */
	int64_t failed_ms; /* the last failure */
	int64_t until_ms;  /* made to wait until then */
	uint32_t failures, waits;
};

struct guard {
	pthread_mutex_t lock;
	struct slots slots;
	int64_t per_minute;
};

/* A stranger with many addresses must not be able to push out the ones that are being slowed. */
static int64_t worth(const struct slot *slot)
{
	const struct caller *caller = (const struct caller *)(const void *)slot;
	return slot->used_ms + (int64_t)caller->failures * MINUTE_MS + (int64_t)caller->waits * FORGET_MS;
}

int guard_new(int64_t per_minute, struct guard **guard, struct error *err)
{
	struct guard *made = calloc(1, sizeof(*made));

	if (!made || slots_new(&made->slots, GUARD_ADDRESSES, sizeof(struct caller)) < 0) {
		free(made);
		return error_set(err, ENOMEM, "no memory for the table of addresses");
	}
	made->slots.worth = worth;
	made->per_minute = per_minute;
	pthread_mutex_init(&made->lock, NULL);
	*guard = made;
	return 0;
}

void guard_free(struct guard *guard)
{
	if (!guard)
		return;
	slots_free(&guard->slots);
	pthread_mutex_destroy(&guard->lock);
	free(guard);
}

void guard_name(const char *address, unsigned char name[16])
{
	char text[ADDRESS_TEXT_MAX] = "";
	struct in_addr v4;
	struct in6_addr v6;

	strncpy(text, address ? address : "", sizeof(text) - 1);
	text[strcspn(text, "%")] = '\0'; /* fe80::1%eth0 */
	memset(name, 0, 16);
	if (inet_pton(AF_INET, text, &v4) == 1) {
		name[10] = name[11] = 0xff;
		memcpy(name + 12, &v4, 4);
	} else if (inet_pton(AF_INET6, text, &v6) == 1) {
		memcpy(name, &v6, IN6_IS_ADDR_V4MAPPED(&v6) ? 16 : 8);
	} else {
		crypto_generichash(name, 16, (const unsigned char *)text, strlen(text), NULL, 0);
	}
}

static struct caller *caller_of(struct guard *guard, const char *address, int64_t now_ms)
{
	unsigned char name[16];
	bool made;

	guard_name(address, name);
	struct caller *caller = slots_get(&guard->slots, name, sizeof(name), now_ms, &made);
	if (made) {
		caller->tokens = (double)guard->per_minute;
		caller->when_ms = caller->window_ms = now_ms;
	}
	return caller;
}

static bool take(const struct guard *guard, struct caller *caller, int64_t now_ms, int64_t *retry_after_s)
{
	double full = (double)guard->per_minute;

	if (guard->per_minute < 0)
		return true;
	if (now_ms > caller->when_ms)
		caller->tokens += (double)(now_ms - caller->when_ms) * full / MINUTE_MS;
	caller->when_ms = now_ms;
	if (caller->tokens > full)
		caller->tokens = full;
	if (caller->tokens < 1) {
		*retry_after_s = full > 0 ? 1 + (int64_t)((1 - caller->tokens) * 60 / full) : 60;
		return false;
	}
	caller->tokens -= 1;
	return true;
}

bool guard_enter(struct guard *guard, const char *address, int64_t now_ms, int64_t *retry_after_s)
{
	pthread_mutex_lock(&guard->lock);
	struct caller *caller = caller_of(guard, address, now_ms);
	bool allowed = now_ms >= caller->until_ms;
	if (!allowed)
		*retry_after_s = (caller->until_ms - now_ms + 999) / 1000;
	else
		allowed = take(guard, caller, now_ms, retry_after_s);
	pthread_mutex_unlock(&guard->lock);
	return allowed;
}

void guard_passed(struct guard *guard, const char *address, int64_t now_ms)
{
	pthread_mutex_lock(&guard->lock);
	struct caller *caller = caller_of(guard, address, now_ms);
	caller->tokens += 1;
	pthread_mutex_unlock(&guard->lock);
}

void guard_failed(struct guard *guard, const char *address, int64_t now_ms)
{
	pthread_mutex_lock(&guard->lock);
	struct caller *caller = caller_of(guard, address, now_ms);
	if (now_ms - caller->failed_ms >= FORGET_MS)
		caller->waits = 0;
	if (now_ms - caller->window_ms >= MINUTE_MS) {
		caller->window_ms = now_ms;
		caller->failures = 0;
	}
	caller->failed_ms = now_ms;
	if (caller->failures < GUARD_FAILURES)
		caller->failures++;
	if (caller->failures == GUARD_FAILURES) {
		int64_t wait = GUARD_WAIT_S;
		for (uint32_t i = 0; i < caller->waits && wait < GUARD_WAIT_S_MAX; i++)
			wait *= 2;
		caller->until_ms = now_ms + 1000 * (wait < GUARD_WAIT_S_MAX ? wait : GUARD_WAIT_S_MAX);
		if (caller->waits < 32)
			caller->waits++;
	}
	pthread_mutex_unlock(&guard->lock);
}
