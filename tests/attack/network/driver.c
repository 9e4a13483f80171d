/*
 * The launcher's network code and akirad's, in one process, driven by lines: what the tests of this folder run inside
 * a "host" namespace of their own. The argument is the number of a SOCK_SEQPACKET socket; each request is one line of words, each
 * answer one line "ok …" or "error ERRNO TEXT", with descriptors where a request asks for them. The launcher's calls
 * that akirad would make over its socketpair go straight to net.h here, under one lock.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "daemon/net/net.h"
#include "launch/net/net.h"

#define WORDS_MAX 160
#define LINE_MAX_ 8192
#define SLOTS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct launcher_net nets[SLOTS];
static struct net_service *service;
static int control;

/* ---- the launcher as akirad sees it ---- */

int launcher_net_policy(struct launcher *launcher, uint32_t slot, const struct policy *policy, struct error *err)
{
	pthread_mutex_lock(&lock);
	int rc = net_slot_policy(slot, policy, err);
	pthread_mutex_unlock(&lock);
	return rc;
}

int launcher_net_pin(struct launcher *launcher, uint32_t slot, uint32_t address, uint32_t ttl, struct error *err)
{
	pthread_mutex_lock(&lock);
	int rc = net_slot_pin(slot, address, ttl, err);
	pthread_mutex_unlock(&lock);
	return rc;
}

/* ---- requests ---- */

struct request {
	char *words[WORDS_MAX];
	size_t count;
	char answer[1024];
	int fds[2];
	size_t fd_count;
};

static uint32_t number(const struct request *request, size_t which)
{
	return which < request->count ? (uint32_t)strtoul(request->words[which], NULL, 0) : 0;
}

static int do_init(struct request *r, struct error *err)
{
	struct net_config config = {
		.uplink = strcmp(r->words[1], "-") == 0 ? "" : r->words[1],
		.net_base = number(r, 2),
		.tag = r->words[3],
		.run_dir = r->words[4],
	};
	return net_init(&config, err);
}

static int do_make(struct request *r, struct error *err)
{
	struct net_slot made;
	uint32_t slot = number(r, 1) % SLOTS;
	int64_t start = time_mono_us();
	int rc = net_slot_make(slot, &made, err);
	if (rc < 0)
		return rc;
	struct launcher_net *net = &nets[slot];
	*net = (struct launcher_net){
		.guest_address = made.guest_address,
		.gateway = made.gateway,
		.prefix = made.prefix,
		.mtu = made.mtu,
		.host_address = made.host_address,
		.dns_udp = made.dns_udp,
		.dns_tcp = made.dns_tcp,
	};
	memcpy(net->mac, made.mac, sizeof(net->mac));
	snprintf(r->answer, sizeof(r->answer), "%u %u %u %u %u %lld", net->guest_address, net->gateway,
		 net->host_address, net->prefix, net->mtu, (long long)(time_mono_us() - start));
	return 0;
}

static int do_tap(struct request *r, struct error *err)
{
	int tap = net_slot_tap(number(r, 1));
	if (tap < 0)
		return error_set(err, -tap, "no tap");
	r->fds[r->fd_count++] = tap;
	return 0;
}

static void put_cidr(struct policy_cidr *cidrs, uint32_t *count, const char *text)
{
	unsigned a, b, c, d, prefix;
	if (*count < POLICY_CIDRS_MAX && sscanf(text, "%u.%u.%u.%u/%u", &a, &b, &c, &d, &prefix) == 5)
		cidrs[(*count)++] = (struct policy_cidr){ a << 24 | b << 16 | c << 8 | d, (uint8_t)prefix };
}

/* policy SLOT open|closed [dns] [allow=CIDR] [deny=CIDR] [kbps=N] [pps=N] [flows=N] [tracked=N] … */
static int do_policy(struct request *r, struct error *err)
{
	struct policy policy = { .open = strcmp(r->words[2], "open") == 0 };
	for (size_t i = 3; i < r->count; i++) {
		const char *word = r->words[i], *value = strchr(word, '=');
		value = value ? value + 1 : "";
		if (strcmp(word, "dns") == 0)
			policy.dns = true;
		else if (strncmp(word, "allow=", 6) == 0)
			put_cidr(policy.allow, &policy.allow_count, value);
		else if (strncmp(word, "deny=", 5) == 0)
			put_cidr(policy.deny, &policy.deny_count, value);
		else if (strncmp(word, "kbps=", 5) == 0)
			policy.bandwidth_kbps = (uint32_t)atol(value);
		else if (strncmp(word, "pps=", 4) == 0)
			policy.packets_per_s = (uint32_t)atol(value);
		else if (strncmp(word, "flows=", 6) == 0)
			policy.new_flows_per_s = (uint32_t)atol(value);
		else if (strncmp(word, "tracked=", 8) == 0)
			policy.flows_max = (uint32_t)atol(value);
		else
			return error_set(err, EINVAL, "unknown word %s", word);
	}
	int64_t start = time_mono_us();
	int rc = launcher_net_policy(NULL, number(r, 1), &policy, err);
	snprintf(r->answer, sizeof(r->answer), "%lld", (long long)(time_mono_us() - start));
	return rc;
}

static int do_pin(struct request *r, struct error *err)
{
	int64_t start = time_mono_us();
	int rc = launcher_net_pin(NULL, number(r, 1), number(r, 2), number(r, 3), err);
	snprintf(r->answer, sizeof(r->answer), "%lld", (long long)(time_mono_us() - start));
	return rc;
}

static int do_counters(struct request *r, struct error *err)
{
	struct policy_counters c;
	int rc = net_slot_counters(number(r, 1), &c, err);
	if (rc == 0)
		snprintf(r->answer, sizeof(r->answer),
			 "bytes_out=%llu bytes_in=%llu packets_out=%llu packets_in=%llu private=%llu policy=%llu "
			 "spoofed=%llu limited=%llu repaired=%d",
			 (unsigned long long)c.bytes_out, (unsigned long long)c.bytes_in,
			 (unsigned long long)c.packets_out, (unsigned long long)c.packets_in,
			 (unsigned long long)c.refused_private, (unsigned long long)c.refused_policy,
			 (unsigned long long)c.refused_spoofed, (unsigned long long)c.refused_limited, c.repaired);
	return rc;
}

static int do_slot(struct request *r, struct error *err)
{
	int64_t start = time_mono_us();
	uint32_t slot = number(r, 1) % SLOTS;
	bool reset = strcmp(r->words[0], "reset") == 0;
	if (!reset) {
		fd_close(&nets[slot].dns_udp);
		fd_close(&nets[slot].dns_tcp);
	}
	int rc = reset ? net_slot_reset(slot, err) : net_slot_destroy(slot, err);
	snprintf(r->answer, sizeof(r->answer), "%lld", (long long)(time_mono_us() - start));
	return rc;
}

static int do_tick(struct request *r, struct error *err)
{
	int64_t start = time_mono_us();
	int repaired = net_tick();
	snprintf(r->answer, sizeof(r->answer), "%d %lld", repaired, (long long)(time_mono_us() - start));
	return 0;
}

static int do_sweep(struct request *r, struct error *err)
{
	snprintf(r->answer, sizeof(r->answer), "%u", net_sweep());
	return 0;
}

static int do_end(struct request *r, struct error *err)
{
	net_service_stop(service);
	service = NULL;
	net_end();
	return 0;
}

/* ---- akirad's side ---- */

static int do_service(struct request *r, struct error *err)
{
	const char *upstreams[NET_UPSTREAMS_MAX];
	struct net_service_config config = { .upstreams = upstreams };
	for (size_t i = 1; i < r->count && config.upstream_count < NET_UPSTREAMS_MAX; i++)
		upstreams[config.upstream_count++] = r->words[i];
	return net_service_start(NULL, &config, &service, err);
}

/* attach|update SLOT allow|deny [allow=X] [deny=X] [mbps=N] … */
static int do_rules(struct request *r, struct error *err)
{
	const char *allow[WORDS_MAX], *deny[WORDS_MAX];
	struct net_request request = { .outbound = r->words[2], .allow = allow, .deny = deny };
	for (size_t i = 3; i < r->count; i++) {
		if (strncmp(r->words[i], "allow=", 6) == 0)
			allow[request.allow_count++] = r->words[i] + 6;
		else if (strncmp(r->words[i], "deny=", 5) == 0)
			deny[request.deny_count++] = r->words[i] + 5;
		else if (strncmp(r->words[i], "mbps=", 5) == 0)
			request.bandwidth_mbps = atol(r->words[i] + 5);
	}
	struct net_rules *rules;
	uint32_t slot = number(r, 1) % SLOTS;
	int rc = net_rules_parse(&request, &rules, err);
	if (rc < 0)
		return rc;
	if (strcmp(r->words[0], "attach") == 0)
		rc = net_service_attach(service, slot, &nets[slot], rules, err);
	else
		rc = net_service_update(service, slot, rules, err);
	net_rules_free(rules);
	return rc;
}

static int do_detach(struct request *r, struct error *err)
{
	net_service_detach(service, number(r, 1));
	return 0;
}

static int do_dns_counters(struct request *r, struct error *err)
{
	struct net_dns_counters c;
	int rc = net_service_counters(service, number(r, 1), &c);
	if (rc < 0)
		return error_set(err, -rc, "not attached");
	snprintf(r->answer, sizeof(r->answer), "questions=%llu refused=%llu limited=%llu filtered=%llu failed=%llu",
		 (unsigned long long)c.questions, (unsigned long long)c.refused, (unsigned long long)c.limited,
		 (unsigned long long)c.filtered, (unsigned long long)c.failed);
	return 0;
}

static const struct {
	const char *name;
	size_t words; /* at least */
	int (*run)(struct request *request, struct error *err);
} commands[] = {
	{ "init", 5, do_init },         { "sweep", 1, do_sweep },   { "make", 2, do_make },
	{ "tap", 2, do_tap },           { "policy", 3, do_policy }, { "pin", 4, do_pin },
	{ "counters", 2, do_counters }, { "reset", 2, do_slot },    { "destroy", 2, do_slot },
	{ "tick", 1, do_tick },         { "end", 1, do_end },       { "service", 1, do_service },
	{ "attach", 3, do_rules },      { "update", 3, do_rules },  { "detach", 2, do_detach },
	{ "dns", 2, do_dns_counters },
};

static int run(struct request *r, struct error *err)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (r->count >= commands[i].words && strcmp(r->words[0], commands[i].name) == 0)
			return commands[i].run(r, err);
	return error_set(err, EINVAL, "no such command");
}

static void answer(struct request *r)
{
	char line[2048];
	struct error err = { 0 };
	int rc = run(r, &err);
	if (rc < 0)
		snprintf(line, sizeof(line), "error %d %s", -rc, err.text);
	else
		snprintf(line, sizeof(line), "ok %s", r->answer);
	if (fd_send(control, line, strlen(line), r->fds, rc < 0 ? 0 : r->fd_count) < 0)
		exit(1);
}

int main(int argc, char **argv)
{
	char line[LINE_MAX_];
	if (argc != 2)
		return 2;
	control = atoi(argv[1]);
	log_init("driver", "json", LOG_INFO_);
	for (;;) {
		ssize_t size = recv(control, line, sizeof(line) - 1, 0);
		if (size <= 0)
			return 0; /* the test is over: everything goes with us */
		line[size] = '\0';
		struct request request = { 0 };
		char *rest = NULL;
		for (char *word = strtok_r(line, " \n", &rest); word && request.count < WORDS_MAX;
		     word = strtok_r(NULL, " \n", &rest))
			request.words[request.count++] = word;
		if (request.count > 0)
			answer(&request);
	}
}
