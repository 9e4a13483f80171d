/* The service against an upstream on the loopback. The "guest" is 127.0.0.1, its gateway's sockets are on free ports. */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "daemon/net/message.h"
#include "daemon/net/net.h"
#include "fake.h"
#include "proto/address.h"

#define SLOT 3
#define PUBLIC ADDRESS_IPV4(93, 184, 216, 34)
#define PRIVATE ADDRESS_IPV4(10, 0, 0, 1)

struct bench {
	struct net_service *service;
	struct launcher_net net;
	struct sockaddr_in gateway; /* the UDP one */
	int guest;
};

static int bound(int type, const char *address, struct sockaddr_in *where)
{
	struct sockaddr_in any = { .sin_family = AF_INET };
	socklen_t size = sizeof(any);
	inet_pton(AF_INET, address, &any.sin_addr);
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&any, &size), 0);
	if (where)
		*where = any;
	struct timeval timeout = { .tv_sec = 8 };
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	return fd;
}

static int set_up(void **state)
{
	static struct bench bench;
	fake_reset();
	const char *upstream = fake_upstream_start();
	struct net_service_config config = { .upstreams = &upstream, .upstream_count = 1 };
	const uint32_t address = PUBLIC;
	assert_non_null(upstream);
	fake_upstream_answer(MESSAGE_OK, &address, 1);
	assert_int_equal(net_service_start(NULL, &config, &bench.service, NULL), 0);
	bench.net = (struct launcher_net){ .guest_address = INADDR_LOOPBACK };
	bench.net.dns_udp = bound(SOCK_DGRAM, "127.0.0.1", &bench.gateway);
	bench.net.dns_tcp = bound(SOCK_STREAM, "127.0.0.1", NULL);
	assert_int_equal(listen(bench.net.dns_tcp, 4), 0);
	bench.guest = bound(SOCK_DGRAM, "127.0.0.1", NULL);
	*state = &bench;
	return 0;
}

static int tear_down(void **state)
{
	struct bench *bench = *state;
	net_service_stop(bench->service);
	fake_upstream_stop();
	close(bench->net.dns_udp);
	close(bench->net.dns_tcp);
	close(bench->guest);
	return 0;
}

static struct net_rules *rules_of(const char *outbound, const char *allow)
{
	struct net_request request = { .outbound = outbound, .allow = &allow, .allow_count = allow ? 1 : 0 };
	struct net_rules *rules = NULL;
	assert_int_equal(net_rules_parse(&request, &rules, NULL), 0);
	return rules;
}

static void attach(struct bench *bench, const char *outbound, const char *allow)
{
	struct net_rules *rules = rules_of(outbound, allow);
	assert_int_equal(net_service_attach(bench->service, SLOT, &bench->net, rules, NULL), 0);
	net_rules_free(rules);
}

static int update(struct bench *bench, const char *outbound, const char *allow)
{
	struct net_rules *rules = rules_of(outbound, allow);
	int rc = net_service_update(bench->service, SLOT, rules, NULL);
	net_rules_free(rules);
	return rc;
}

static void send_question(struct bench *bench, const char *name)
{
	uint8_t data[MESSAGE_QUERY_MAX];
	size_t size = message_query_make(data, 77, name);
	assert_int_equal(
		sendto(bench->guest, data, size, 0, (struct sockaddr *)&bench->gateway, sizeof(bench->gateway)), size);
}

static int ask(struct bench *bench, const char *name, struct message_answer *answer)
{
	uint8_t data[MESSAGE_QUERY_MAX];
	send_question(bench, name);
	ssize_t got = recv(bench->guest, data, sizeof(data), 0);
	assert_true(got > 0);
	assert_int_equal(message_answer_parse(data, (size_t)got, 77, name, answer, NULL, NULL), 0);
	return answer->rcode;
}

static void an_allowed_name_is_pinned(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	attach(bench, "deny", "a.example");
	assert_false(fake.policy.open);
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_OK);
	assert_int_equal(answer.count, 1);
	assert_int_equal(answer.addresses[0], PUBLIC);
	assert_int_equal(fake.pins, 1);
	assert_int_equal(fake.addresses[0], PUBLIC);
	assert_int_equal(fake.ttls[0], 60 + 30);
	assert_int_equal(ask(bench, "b.example", &answer), MESSAGE_NXDOMAIN);
	assert_int_equal(fake_upstream_asked(), 1);
}

static void an_open_slot_pins_nothing(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	attach(bench, "allow", NULL);
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_OK);
	assert_int_equal(fake.pins, 0);
}

static void blocked_addresses_are_taken_out(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	const uint32_t mixed[] = { PRIVATE, PUBLIC, ADDRESS_IPV4(169, 254, 169, 254) };
	fake_upstream_answer(MESSAGE_OK, mixed, 3);
	attach(bench, "deny", "a.example");
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_OK);
	assert_int_equal(answer.count, 1);
	assert_int_equal(fake.pins, 1);
	struct net_dns_counters counters;
	assert_int_equal(net_service_counters(bench->service, SLOT, &counters), 0);
	assert_int_equal(counters.filtered, 2);
	assert_int_equal(counters.questions, 1);
}

static void no_pin_no_address(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	attach(bench, "deny", "a.example");
	fake.pin_result = -ENOSPC;
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_SERVFAIL);
	assert_int_equal(answer.count, 0);
}

static void upstream_failures_are_servfail(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	const uint32_t none = 0;
	attach(bench, "allow", NULL);
	fake_upstream_answer(MESSAGE_REFUSED, &none, 0);
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_SERVFAIL);
	assert_int_equal(fake_upstream_asked(), 2); /* it was asked again */
	fake_upstream_answer(MESSAGE_NXDOMAIN, &none, 0);
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_NXDOMAIN);
}

static void an_update_pins_again_what_is_still_allowed(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	attach(bench, "deny", "*.example");
	ask(bench, "a.example", &answer);
	ask(bench, "a.example", &answer);
	const uint32_t other = PUBLIC + 1;
	fake_upstream_answer(MESSAGE_OK, &other, 1);
	ask(bench, "b.example", &answer);
	assert_int_equal(update(bench, "deny", "b.example"), 0);
	assert_int_equal(fake.policies, 2);
	assert_int_equal(fake.pins, 1);
	assert_int_equal(fake.addresses[0], other);
	assert_in_range(fake.ttls[0], 1, 91);
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_NXDOMAIN);
}

static void a_failed_update_leaves_the_old_rules(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	assert_int_equal(update(bench, "allow", NULL), -ENOENT);
	attach(bench, "deny", "a.example");
	fake.policy_result = -EIO;
	assert_int_equal(update(bench, "allow", NULL), -EIO);
	assert_int_equal(ask(bench, "b.example", &answer), MESSAGE_NXDOMAIN);
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_OK);
}

static void a_failed_attach_serves_nothing(void **state)
{
	struct bench *bench = *state;
	struct net_rules *rules = rules_of("allow", NULL);
	struct net_dns_counters counters;
	fake.policy_result = -EIO;
	assert_int_equal(net_service_attach(bench->service, SLOT, &bench->net, rules, NULL), -EIO);
	assert_int_equal(net_service_counters(bench->service, SLOT, &counters), -ENOENT);
	fake.policy_result = 0;
	assert_int_equal(net_service_attach(bench->service, SLOT, &bench->net, rules, NULL), 0);
	assert_int_equal(net_service_attach(bench->service, SLOT, &bench->net, rules, NULL), -EEXIST);
	assert_int_equal(net_service_attach(bench->service, LAUNCHER_SLOTS_MAX, &bench->net, rules, NULL), -EINVAL);
	net_rules_free(rules);
}

/* An answer that comes when its sandbox has gone pins nothing. */
static void no_pin_after_detach(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	attach(bench, "deny", "*.example");
	fake_upstream_mute(true);
	send_question(bench, "a.example");
	for (int i = 0; i < 5000 && fake_upstream_asked() == 0; i++)
		usleep(1000);
	assert_int_equal(fake_upstream_asked(), 1);
	net_service_detach(bench->service, SLOT);
	net_service_detach(bench->service, SLOT);
	fake_upstream_mute(false);
	attach(bench, "deny", "b.example");
	assert_int_equal(ask(bench, "b.example", &answer), MESSAGE_OK);
	assert_int_equal(fake.pins, 1); /* that of b.example */
}

static void questions_left_behind_are_thrown_away(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	for (int i = 0; i < 50; i++)
		send_question(bench, "old.example");
	attach(bench, "allow", NULL);
	assert_int_equal(ask(bench, "new.example", &answer), MESSAGE_OK);
	assert_int_equal(fake_upstream_asked(), 1);
}

static void a_stranger_is_not_answered(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	uint8_t data[MESSAGE_QUERY_MAX];
	attach(bench, "allow", NULL);
	int stranger = bound(SOCK_DGRAM, "127.0.0.2", NULL);
	size_t size = message_query_make(data, 1, "a.example");
	sendto(stranger, data, size, 0, (struct sockaddr *)&bench->gateway, sizeof(bench->gateway));
	assert_int_equal(ask(bench, "b.example", &answer), MESSAGE_OK); /* by now the stranger's was read */
	assert_int_equal(fake_upstream_asked(), 1);
	assert_int_equal(recv(stranger, data, sizeof(data), MSG_DONTWAIT), -1);
	close(stranger);
}

static void *update_always(void *argument)
{
	struct bench *bench = argument;
	for (int i = 0; i < 300; i++)
		assert_int_equal(update(bench, i % 2 ? "deny" : "allow", i % 2 ? "*.example" : NULL), 0);
	return NULL;
}

static void *attach_always(void *argument)
{
	struct bench *bench = argument;
	struct net_rules *rules = rules_of("allow", NULL);
	for (uint32_t i = 0; i < 300; i++) {
		net_service_attach(bench->service, 100 + i % 7, &bench->net, rules, NULL);
		net_service_detach(bench->service, 100 + (i + 3) % 7);
	}
	for (uint32_t i = 0; i < 7; i++)
		net_service_detach(bench->service, 100 + i);
	net_rules_free(rules);
	return NULL;
}

static void calls_from_many_threads(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	pthread_t threads[2];
	attach(bench, "allow", NULL);
	assert_int_equal(pthread_create(&threads[0], NULL, update_always, bench), 0);
	for (int i = 0; i < 40; i++)
		assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_OK);
	pthread_join(threads[0], NULL);
	assert_int_equal(pthread_create(&threads[1], NULL, attach_always, bench), 0);
	pthread_join(threads[1], NULL);
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_OK);
}

static void without_an_upstream_names_fail_at_once(void **state)
{
	struct bench *bench = *state;
	struct message_answer answer;
	struct net_service *service = NULL;
	struct net_service_config config = { .resolv_conf = "/nowhere" };
	struct net_rules *rules = rules_of("allow", NULL);
	assert_int_equal(net_service_start(NULL, &config, &service, NULL), 0);
	assert_int_equal(net_service_attach(service, SLOT, &bench->net, rules, NULL), 0);
	assert_int_equal(ask(bench, "a.example", &answer), MESSAGE_SERVFAIL);
	net_service_stop(service);
	net_service_stop(NULL);
	net_rules_free(rules);
}

#define WITH_BENCH(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_BENCH(an_allowed_name_is_pinned),
		WITH_BENCH(an_open_slot_pins_nothing),
		WITH_BENCH(blocked_addresses_are_taken_out),
		WITH_BENCH(no_pin_no_address),
		WITH_BENCH(upstream_failures_are_servfail),
		WITH_BENCH(an_update_pins_again_what_is_still_allowed),
		WITH_BENCH(a_failed_update_leaves_the_old_rules),
		WITH_BENCH(a_failed_attach_serves_nothing),
		WITH_BENCH(no_pin_after_detach),
		WITH_BENCH(questions_left_behind_are_thrown_away),
		WITH_BENCH(a_stranger_is_not_answered),
		WITH_BENCH(calls_from_many_threads),
		WITH_BENCH(without_an_upstream_names_fail_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
