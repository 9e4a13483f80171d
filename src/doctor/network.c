#include "doctor/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"

#define TRIAL_MS 5000

static const char *const nft_paths[] = { "/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", NULL };

/* What the launcher's rules ask of the kernel, in small: its families, hooks, sets and expressions. */
static const char sample_rules[] =
	"table netdev akira_doctor {\n"
	"chain ingress { type filter hook ingress device \"lo\" priority -500; policy drop;\n"
	"ether type arp limit rate 20/second burst 50 packets accept\n"
	"ip hdrlength != 5 drop\n}\n}\n"
	"table inet akira_doctor {\n"
	"counter c { }\n"
	"set pins { type ipv4_addr; flags timeout; size 64; }\n"
	"set blocked { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }\n"
	"chain forward { type filter hook forward priority 0; policy drop;\n"
	"ct state established,related accept\n"
	"fib daddr type != unicast counter name c drop\n"
	"ip daddr @blocked reject with icmp type admin-prohibited\n"
	"meta l4proto tcp reject with tcp reset\n"
	"ip daddr @pins ct count over 10 drop\n}\n"
	"chain nat { type nat hook postrouting priority 100; policy accept;\n"
	"oifname \"lo\" masquerade fully-random\n}\n}\n";

static void check_nft(struct doctor *d)
{
	const char *program = doctor_program(nft_paths);
	char output[1024];
	if (!program) {
		doctor_add(d, "nftables", DOCTOR_FAIL, "apt-get install nftables", "there is no nft program");
		return;
	}
	if (d->config->looks_only || geteuid() != 0) {
		doctor_add(d, "nftables", DOCTOR_INFO, "Run `akira doctor` as root to try the rules.",
			   "%s, rules not tried", program);
		return;
	}
	/* In a network namespace of its own: even a trial never touches the host's rules. */
	const char *const argv[] = { program, "-c", "-f", "-", NULL };
	int r = doctor_spawn(argv, sample_rules, CLONE_NEWNET, output, sizeof(output), TRIAL_MS);
	output[strcspn(output, "\n")] = '\0';
	if (r == 0)
		doctor_add(d, "nftables", DOCTOR_OK, NULL, "the kernel takes our rules");
	else
		doctor_add(
			d, "nftables", DOCTOR_FAIL,
			"Load nf_tables, nft_ct, nft_limit, nft_reject, nft_masq, nft_fib and nft_connlimit, or use a kernel that has them.",
			"the kernel refuses rules: %s",
			r < 0     ? strerror(-r)
			: *output ? output
				  : "no network namespace");
}

static void check_tun(struct doctor *d)
{
	if (!doctor_exists(d, "/dev/net/tun")) {
		doctor_add(d, "tun", DOCTOR_FAIL, "modprobe tun; in a container, pass /dev/net/tun in.",
			   "there is no /dev/net/tun");
		return;
	}
	_cleanup_fd_ int fd = openat(d->root, "dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno != EACCES)
		doctor_add(d, "tun", DOCTOR_FAIL, "modprobe tun", "/dev/net/tun: %s", strerror(errno));
	else
		doctor_add(d, "tun", DOCTOR_OK, NULL, fd < 0 ? "/dev/net/tun is there" : "/dev/net/tun opens");
}

static void check_forwarding(struct doctor *d)
{
	int64_t on = doctor_number(d, "/proc/sys/net/ipv4/ip_forward");
	doctor_add(d, "ip-forward", DOCTOR_INFO, NULL,
		   on == 1 ? "on for all interfaces" : "off; akirad turns it on for the uplink alone");
}

static void check_route(struct doctor *d)
{
	char text[DOCTOR_FILE_MAX];
	doctor_read(d, "/proc/net/route", text, sizeof(text));
	char *rest = text, *line, name[16];
	unsigned destination = 1;
	while ((line = strsep(&rest, "\n")) && destination)
		if (sscanf(line, "%15s %8x", name, &destination) != 2)
			destination = 1; /* the heading */
	if (!destination)
		doctor_add(d, "default-route", DOCTOR_OK, NULL, "by %s", name);
	else
		doctor_add(d, "default-route", DOCTOR_WARN, "Sandboxes will have no way out until there is one.",
			   "none");
}

static void check_conntrack(struct doctor *d)
{
	int64_t most = doctor_number(d, "/proc/sys/net/netfilter/nf_conntrack_max");
	if (most < 0)
		return;
	doctor_add(d, "conntrack", most < 65536 ? DOCTOR_WARN : DOCTOR_OK,
		   most < 65536 ? "sysctl net.netfilter.nf_conntrack_max=262144: sandboxes share this table." : NULL,
		   "%lld connections at most", (long long)most);
}

void doctor_check_network(struct doctor *d)
{
	check_nft(d);
	check_tun(d);
	check_route(d);
	check_forwarding(d);
	check_conntrack(d);
}
