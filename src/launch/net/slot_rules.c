/* The rules of a slot while it lives: policy, pins, counters, and the watch over them. */
#include "launch/net/slot_rules.h"

#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/time.h"
#include "launch/net/nft.h"
#include "launch/net/rules.h"
#include "launch/net/slot.h"

/* ---- what the rules are when nobody else touches them ---- */

static int remember(struct slot *slot, struct error *err)
{
	int rc = nft_generation(&slot->filter, &slot->rules_generation);
	if (rc == 0)
		rc = nft_digest(&slot->filter, RULES_TABLE, rules_slot_sets, &slot->rules_digest);
	if (rc < 0)
		return error_errno(err, -rc, "cannot read back the rules of slot %u", slot->number);
	return 0;
}

static void pins_prune(struct slot *slot)
{
	int64_t now = time_mono_ms();
	size_t kept = 0;
	for (size_t i = 0; i < slot->pin_count; i++)
		if (slot->pins[i].until > now)
			slot->pins[kept++] = slot->pins[i];
	slot->pin_count = kept;
}

static void put_pins(struct buf *text, struct slot *slot)
{
	pins_prune(slot);
	int64_t now = time_mono_ms();
	for (size_t i = 0; i < slot->pin_count; i++) {
		uint32_t a = slot->pins[i].address;
		buf_addf(text, "add element inet " RULES_TABLE " " RULES_PINS " { %u.%u.%u.%u timeout %llds }\n",
			 a >> 24, a >> 16 & 255, a >> 8 & 255, a & 255,
			 (long long)(slot->pins[i].until - now) / 1000 + 1);
	}
}

int slot_restore(struct slot *slot, struct error *err)
{
	_cleanup_buf_ struct buf text = { 0 };
	struct rules_addresses addresses = { SLOT_GUEST, SLOT_GATEWAY, slot_guest_mac, slot_gateway_mac };
	rules_slot(&text, &addresses, &slot->policy, slot->policy_generation);
	put_pins(&text, slot);
	int rc = nft_run(slot->ns, &text, err);
	if (rc < 0)
		return error_prefix(err, "slot %u", slot->number);
	return remember(slot, err);
}

/* ---- policy ---- */

struct shaping {
	uint32_t kbps;
};

static int shape_inside(void *argument, struct error *err)
{
	const struct shaping *shaping = argument;
	_cleanup_rtnl_ struct rtnl rtnl = { 0 };
	int rc = rtnl_open(&rtnl, NETLINK_ROUTE, err);
	rc = rc < 0 ? rc : rtnl_shape(&rtnl, RULES_VETH, shaping->kbps, err);
	return rc < 0 ? rc : rtnl_shape(&rtnl, RULES_TAP, shaping->kbps, err);
}

static int shape(struct slot *slot, uint32_t kbps, struct error *err)
{
	struct shaping shaping = { kbps };
	return slot_inside(slot->ns, shape_inside, &shaping, err);
}

static uint32_t next_generation(uint32_t generation)
{
	return generation == UINT32_MAX ? 1 : generation + 1;
}

int slot_policy(struct slot *slot, const struct policy *policy, struct error *err)
{
	bool reshape = policy->bandwidth_kbps != slot->policy.bandwidth_kbps;
	int rc = reshape ? shape(slot, policy->bandwidth_kbps, err) : 0;
	if (rc < 0)
		return rc;
	_cleanup_buf_ struct buf text = { 0 };
	uint32_t generation = next_generation(slot->policy_generation);
	rules_policy(&text, &slot->policy, policy, generation);
	rc = nft_run(slot->ns, &text, err);
	if (rc < 0) {
		if (reshape && shape(slot, slot->policy.bandwidth_kbps, NULL) < 0)
			log_warn("net_shape_not_restored", "slot", LOG_INT(slot->number));
		return rc;
	}
	slot->policy = *policy;
	slot->policy_generation = generation;
	slot->pin_count = 0;
	return remember(slot, err);
}

/* ---- pins ---- */

static struct slot_pin *pin_find(struct slot *slot, uint32_t address)
{
	for (size_t i = 0; i < slot->pin_count; i++)
		if (slot->pins[i].address == address)
			return &slot->pins[i];
	return NULL;
}

static int pin_room(struct slot *slot, struct error *err)
{
	if (!slot->pins)
		slot->pins = calloc(POLICY_PINS_MAX, sizeof(*slot->pins));
	if (!slot->pins)
		return error_set(err, ENOMEM, "no memory for pins");
	pins_prune(slot);
	return 0;
}

int slot_pin(struct slot *slot, uint32_t address, uint32_t ttl, struct error *err)
{
	if (address_is_blocked(address))
		return error_set(err, EACCES, "the address is always blocked");
	int rc = pin_room(slot, err);
	if (rc < 0)
		return rc;
	int64_t until = time_mono_ms() + (int64_t)ttl * 1000;
	struct slot_pin *pin = pin_find(slot, address);
	if (pin && pin->until >= until)
		return 0;
	if (!pin && slot->pin_count == POLICY_PINS_MAX)
		return error_set(err, ENOSPC, "%u addresses are pinned already", POLICY_PINS_MAX);
	struct nft_element element = {
		.table = RULES_TABLE,
		.set = RULES_PINS,
		.address = address,
		.timeout_ms = (uint64_t)ttl * 1000,
		.replace = pin != NULL,
	};
	rc = nft_element_add(&slot->filter, &element);
	if (rc == -ENOENT && element.replace) { /* it ran out just now */
		element.replace = false;
		rc = nft_element_add(&slot->filter, &element);
	}
	if (rc < 0)
		return error_errno(err, -rc, "cannot pin an address of slot %u", slot->number);
	if (!pin)
		pin = &slot->pins[slot->pin_count++];
	*pin = (struct slot_pin){ address, until };
	slot->rules_generation++; /* one transaction; if somebody else made another, slot_check will look */
	return 0;
}

/* ---- counters ---- */

static void counter_add(const char *name, uint64_t packets, uint64_t bytes, void *argument)
{
	struct policy_counters *c = argument;
	if (strcmp(name, "n_out") == 0) {
		c->packets_out += packets;
		c->bytes_out += bytes;
	} else if (strcmp(name, "n_in") == 0) {
		c->packets_in += packets;
		c->bytes_in += bytes;
	} else if (strcmp(name, "n_private") == 0) {
		c->refused_private += packets;
	} else if (strcmp(name, "n_policy") == 0) {
		c->refused_policy += packets;
	} else if (strcmp(name, "n_spoofed") == 0) {
		c->refused_spoofed += packets;
	} else if (strcmp(name, "n_limited") == 0) {
		c->refused_limited += packets;
	}
}

static int drops_inside(void *argument, struct error *err)
{
	struct policy_counters *counters = argument;
	_cleanup_rtnl_ struct rtnl rtnl = { 0 };
	uint64_t out = 0, in = 0;
	int rc = rtnl_open(&rtnl, NETLINK_ROUTE, err);
	if (rc < 0)
		return rc;
	if (rtnl_shape_drops(&rtnl, RULES_VETH, &out) == 0 && rtnl_shape_drops(&rtnl, RULES_TAP, &in) == 0)
		counters->refused_limited += out + in;
	return 0;
}

int slot_counters(struct slot *slot, struct policy_counters *counters, struct error *err)
{
	*counters = slot->past;
	int rc = nft_counters(&slot->filter, NFPROTO_UNSPEC, RULES_TABLE, counter_add, counters);
	if (rc < 0)
		return error_errno(err, -rc, "cannot read the counters of slot %u", slot->number);
	if (slot->policy.bandwidth_kbps)
		rc = slot_inside(slot->ns, drops_inside, counters, err);
	counters->repaired = slot->repaired;
	return rc;
}

/* ---- the watch ---- */

int slot_check(struct slot *slot, struct error *err)
{
	uint32_t generation = 0;
	uint64_t digest = 0;
	int rc = nft_generation(&slot->filter, &generation);
	if (rc == 0 && generation == slot->rules_generation)
		return 0;
	if (rc == 0)
		rc = nft_digest(&slot->filter, RULES_TABLE, rules_slot_sets, &digest);
	if (rc == 0 && digest == slot->rules_digest) {
		slot->rules_generation = generation;
		return 0;
	}
	nft_counters(&slot->filter, NFPROTO_UNSPEC, RULES_TABLE, counter_add, &slot->past);
	rc = slot_restore(slot, err);
	if (rc < 0)
		return rc;
	slot->repaired = true;
	return 1;
}
