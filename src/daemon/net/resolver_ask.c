/* From a guest's question, by its rules, to an upstream, and with pinned addresses back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/time.h"
#include "daemon/net/resolver_inside.h"
#include "proto/address.h"

/* ---- pins ---- */

static void pinned_prune(struct resolver_slot *slot)
{
	int64_t now = time_mono_ms();
	size_t kept = 0;
	for (size_t i = 0; i < slot->pinned_count; i++) {
		if (slot->pinned[i].until > now)
			slot->pinned[kept++] = slot->pinned[i];
		else
			free(slot->pinned[i].name);
	}
	slot->pinned_count = kept;
}

/* What cannot be remembered is only not pinned again after a change of rules. */
static void pinned_remember(struct resolver_slot *slot, const char *name, uint32_t address, uint32_t ttl)
{
	int64_t until = time_mono_ms() + (int64_t)ttl * 1000;
	for (size_t i = 0; i < slot->pinned_count; i++) {
		struct pinned *pinned = &slot->pinned[i];
		if (pinned->address == address && strcmp(pinned->name, name) == 0) {
			pinned->until = until > pinned->until ? until : pinned->until;
			return;
		}
	}
	pinned_prune(slot);
	if (!slot->pinned)
		slot->pinned = calloc(POLICY_PINS_MAX, sizeof(*slot->pinned));
	char *copy = slot->pinned && slot->pinned_count < POLICY_PINS_MAX ? strdup(name) : NULL;
	if (copy)
		slot->pinned[slot->pinned_count++] = (struct pinned){ copy, address, until };
}

void resolver_pins_free(struct resolver_slot *slot)
{
	for (size_t i = 0; i < slot->pinned_count; i++)
		free(slot->pinned[i].name);
	free(slot->pinned);
	slot->pinned = NULL;
	slot->pinned_count = 0;
}

void resolver_pin_again(struct resolver *r, struct resolver_slot *slot)
{
	pinned_prune(slot);
	int64_t now = time_mono_ms();
	size_t kept = 0;
	for (size_t i = 0; i < slot->pinned_count; i++) {
		struct pinned *pinned = &slot->pinned[i];
		uint32_t ttl = (uint32_t)((pinned->until - now) / 1000 + 1);
		bool allowed = !slot->rules->numbers.open && policy_name_allowed(slot->rules, pinned->name);
		if (allowed && r->pin(slot->number, pinned->address, ttl, r->pin_argument) == 0)
			slot->pinned[kept++] = *pinned;
		else
			free(pinned->name);
	}
	slot->pinned_count = kept;
}

/* ---- to an upstream ---- */

void resolver_asked_drop(struct resolver *r, struct asked *asked)
{
	if (r->slots[asked->slot])
		r->slots[asked->slot]->asked--;
	fd_close(&asked->fd);
	asked->used = false;
}

static int attempt_send(struct resolver *r, struct asked *asked)
{
	const struct upstream *upstream = &r->upstreams.list[asked->attempts % r->upstreams.count];
	uint8_t query[MESSAGE_QUERY_MAX];
	if (getrandom(&asked->id, sizeof(asked->id), 0) != sizeof(asked->id))
		return -EIO;
	size_t size = message_query_make(query, asked->id, asked->question.name);
	/* Connected: the kernel gives it a random port and drops what comes from anybody else. */
	asked->fd = socket(upstream->address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (size == 0 || asked->fd < 0 ||
	    connect(asked->fd, (const struct sockaddr *)&upstream->address, upstream->size) < 0 ||
	    send(asked->fd, query, size, MSG_NOSIGNAL) < 0)
		return -EIO;
	asked->generation = ++r->next_generation;
	return resolver_watch(r, asked->fd, SOURCE_ASKED, (uint32_t)(asked - r->asked), asked->generation);
}

static void asked_fail(struct resolver *r, struct asked *asked)
{
	struct resolver_slot *slot = r->slots[asked->slot];
	slot->counters.failed++;
	resolver_reply(r, slot, &asked->origin, &asked->question, MESSAGE_SERVFAIL, NULL, 0, 0);
	resolver_asked_drop(r, asked);
}

/* The next attempt that can be sent, or the end. */
static void asked_next(struct resolver *r, struct asked *asked)
{
	unsigned most = r->upstreams.count > 1 ? RESOLVER_ATTEMPTS_MAX : 2;
	while (r->upstreams.count > 0 && asked->attempts < most) {
		fd_close(&asked->fd);
		int rc = attempt_send(r, asked);
		asked->attempts++;
		if (rc == 0) {
			asked->deadline = time_mono_ms() + RESOLVER_ATTEMPT_MS;
			resolver_deadline(r, asked->deadline);
			return;
		}
	}
	asked_fail(r, asked);
}

void resolver_asked_late(struct resolver *r, struct asked *asked)
{
	asked_next(r, asked);
}

static struct asked *asked_new(struct resolver *r)
{
	for (size_t i = 0; i < RESOLVER_ASKED_MAX; i++)
		if (!r->asked[i].used)
			return &r->asked[i];
	return NULL;
}

static void forward(struct resolver *r, struct resolver_slot *slot, const struct origin *origin,
		    const struct message_question *question)
{
	struct asked *asked = slot->asked < RESOLVER_SLOT_ASKED_MAX ? asked_new(r) : NULL;
	if (!asked) {
		slot->counters.limited++;
		resolver_reply(r, slot, origin, question, MESSAGE_SERVFAIL, NULL, 0, 0);
		return;
	}
	*asked = (struct asked){
		.used = true, .slot = slot->number, .fd = -1, .origin = *origin, .question = *question
	};
	slot->asked++;
	upstreams_refresh(&r->upstreams);
	asked_next(r, asked);
}

/* ---- the guest's question ---- */

static bool tokens_take(struct resolver_slot *slot)
{
	int64_t now = time_mono_ms(), most = RESOLVER_BURST * 1000;
	slot->tokens += (now - slot->tokens_at) * RESOLVER_RATE;
	slot->tokens_at = now;
	if (slot->tokens > most)
		slot->tokens = most;
	if (slot->tokens < 1000)
		return false;
	slot->tokens -= 1000;
	return true;
}

/* The rcode to answer with at once, or -1: ask an upstream. */
static int verdict(struct resolver_slot *slot, const struct message_question *question)
{
	switch (question->type) {
	case MESSAGE_A:
	case MESSAGE_AAAA:
	case MESSAGE_HTTPS:
	case MESSAGE_SVCB: break;
	case MESSAGE_PTR: return MESSAGE_NXDOMAIN;
	default: slot->counters.refused++; return MESSAGE_REFUSED;
	}
	if (!*question->name || !policy_name_allowed(slot->rules, question->name)) {
		slot->counters.refused++;
		return MESSAGE_NXDOMAIN;
	}
	return question->type == MESSAGE_A ? -1 : MESSAGE_OK;
}

bool resolver_ask(struct resolver *r, struct resolver_slot *slot, const struct origin *origin, const uint8_t *data,
		  size_t size)
{
	struct message_question question;
	slot->counters.questions++;
	if (!tokens_take(slot)) {
		slot->counters.limited++;
		if (log_allowed(&slot->log, 1, 60))
			log_info("dns_limited", "slot", LOG_INT(slot->number), "questions",
				 LOG_INT(slot->counters.questions));
		return false;
	}
	int rcode = message_question_parse(data, size, &question);
	if (rcode < 0)
		return false;
	if (rcode == MESSAGE_OK)
		rcode = verdict(slot, &question);
	if (rcode >= 0)
		resolver_reply(r, slot, origin, &question, rcode, NULL, 0, 0);
	else
		forward(r, slot, origin, &question);
	return true;
}

/* ---- the upstream's answer ---- */

static bool alias_allowed(const char *name, void *argument)
{
	const struct resolver_slot *slot = argument;
	return !policy_name_denied(slot->rules, name);
}

/* Under outbound "deny" an address is worth nothing to the guest before it is pinned. */
static bool pin(struct resolver *r, struct resolver_slot *slot, const char *name, uint32_t address, uint32_t ttl)
{
	if (slot->rules->numbers.open)
		return true;
	if (r->pin(slot->number, address, ttl + RESOLVER_GRACE, r->pin_argument) < 0)
		return false;
	pinned_remember(slot, name, address, ttl + RESOLVER_GRACE);
	return true;
}

static void deliver(struct resolver *r, struct asked *asked, const struct message_answer *answer)
{
	struct resolver_slot *slot = r->slots[asked->slot];
	uint32_t addresses[MESSAGE_ADDRESSES_MAX], filtered = 0;
	uint32_t ttl = answer->ttl < RESOLVER_TTL_MIN   ? RESOLVER_TTL_MIN
		       : answer->ttl > RESOLVER_TTL_MAX ? RESOLVER_TTL_MAX
							: answer->ttl;
	size_t count = 0;
	for (size_t i = 0; i < answer->count; i++) {
		if (address_is_blocked(answer->addresses[i]))
			filtered++;
		else if (pin(r, slot, asked->question.name, answer->addresses[i], ttl))
			addresses[count++] = answer->addresses[i];
	}
	slot->counters.filtered += filtered;
	if (answer->count > filtered && count == 0) { /* nothing could be pinned */
		asked_fail(r, asked);
		return;
	}
	resolver_reply(r, slot, &asked->origin, &asked->question, answer->rcode, addresses, count, ttl);
	resolver_asked_drop(r, asked);
}

static void refuse(struct resolver *r, struct asked *asked)
{
	struct resolver_slot *slot = r->slots[asked->slot];
	slot->counters.refused++;
	resolver_reply(r, slot, &asked->origin, &asked->question, MESSAGE_NXDOMAIN, NULL, 0, 0);
	resolver_asked_drop(r, asked);
}

static void answered(struct resolver *r, struct asked *asked, const uint8_t *data, size_t size)
{
	struct message_answer answer;
	struct resolver_slot *slot = r->slots[asked->slot];
	int rc = message_answer_parse(data, size, asked->id, asked->question.name, &answer, alias_allowed, slot);
	if (rc == -EBADMSG)
		return; /* not ours: the right one may still come */
	/* The rules may be others than when it was asked. */
	if (rc == -EPERM || !policy_name_allowed(slot->rules, asked->question.name))
		refuse(r, asked);
	else if ((answer.rcode != MESSAGE_OK && answer.rcode != MESSAGE_NXDOMAIN) ||
		 (answer.truncated && answer.count == 0))
		asked_next(r, asked);
	else
		deliver(r, asked, &answer);
}

void resolver_asked_ready(struct resolver *r, struct asked *asked)
{
	uint8_t data[MESSAGE_ANSWER_MAX + 1];
	ssize_t size = recv(asked->fd, data, sizeof(data), MSG_DONTWAIT);
	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size < 0)
		asked_next(r, asked); /* port unreachable */
	else
		answered(r, asked, data, (size_t)size);
}
