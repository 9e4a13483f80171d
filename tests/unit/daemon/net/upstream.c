#include "daemon/net/upstream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static void parses_addresses(void **state)
{
	struct upstream upstream;
	assert_int_equal(upstream_parse("9.9.9.9", &upstream, NULL), 0);
	assert_int_equal(((struct sockaddr_in *)&upstream.address)->sin_port, htons(53));
	assert_int_equal(upstream_parse("127.0.0.1:5353", &upstream, NULL), 0);
	assert_int_equal(((struct sockaddr_in *)&upstream.address)->sin_port, htons(5353));
	assert_int_equal(upstream_parse("2620:fe::fe", &upstream, NULL), 0);
	assert_int_equal(upstream.address.ss_family, AF_INET6);
	static const char *const wrong[] = { "",         "dns.example", "9.9.9.9:0", "9.9.9.9:65536",
					     "9.9.9.9:", "9.9.9",       "[::1]:53" };
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(upstream_parse(wrong[i], &upstream, NULL), -EINVAL);
}

static void write_file(const char *path, const char *text)
{
	FILE *file = fopen(path, "we");
	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

static void reads_resolv_conf(void **state)
{
	char path[] = "/tmp/test-resolv-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	write_file(path,
		   "# comment\nsearch example\nnameserver 9.9.9.9\n\tnameserver\t1.1.1.1 \nnameserver fe80::1%eth0\n"
		   "nameserver\nnameserver 2620:fe::fe\nnameserver 8.8.8.8\noptions edns0\n");
	struct upstreams upstreams;
	struct net_service_config config = { .resolv_conf = path };
	assert_int_equal(upstreams_init(&upstreams, &config, NULL), 0);
	assert_int_equal(upstreams.count, NET_UPSTREAMS_MAX);
	assert_int_equal(upstreams.list[2].address.ss_family, AF_INET6);
	write_file(path, "nameserver 1.0.0.1\n");
	upstreams_refresh(&upstreams); /* looked just now */
	assert_int_equal(upstreams.count, 3);
	upstreams.looked_at -= 60000;
	upstreams.changed_at--;
	upstreams_refresh(&upstreams);
	assert_int_equal(upstreams.count, 1);
	unlink(path);
	upstreams.looked_at -= 60000;
	upstreams_refresh(&upstreams);
	assert_int_equal(upstreams.count, 0); /* names fail; nothing else does */
	upstreams_free(&upstreams);
}

static void configured_ones_are_never_read_again(void **state)
{
	const char *list[] = { "9.9.9.9", "1.1.1.1" };
	struct net_service_config config = { .upstreams = list, .upstream_count = 2, .resolv_conf = "/nowhere" };
	struct upstreams upstreams;
	assert_int_equal(upstreams_init(&upstreams, &config, NULL), 0);
	upstreams.looked_at -= 60000;
	upstreams_refresh(&upstreams);
	assert_int_equal(upstreams.count, 2);
	upstreams_free(&upstreams);
	const char *wrong[] = { "9.9.9.9", "x" };
	config.upstreams = wrong;
	assert_int_equal(upstreams_init(&upstreams, &config, NULL), -EINVAL);
	config.upstream_count = 4;
	assert_int_equal(upstreams_init(&upstreams, &config, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parses_addresses),
		cmocka_unit_test(reads_resolv_conf),
		cmocka_unit_test(configured_ones_are_never_read_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
