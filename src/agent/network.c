#include "agent/network.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"

static void set_setting(const char *path, const char *value)
{
	_cleanup_fd_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, value, strlen(value)) < 0) {
		/* Not every kernel has it; the host's rules do not depend on it. */
	}
}

static struct sockaddr_in address_of(uint32_t ip)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(ip) };
}

/* Name of the first interface that is not lo; false if there is none. */
static bool find_interface(char name[IFNAMSIZ])
{
	DIR *dir = opendir("/sys/class/net");
	bool found = false;

	if (!dir)
		return false;
	for (struct dirent *e; !found && (e = readdir(dir));)
		if (str_starts(e->d_name, "eth") || str_starts(e->d_name, "en"))
			found = str_copy(name, IFNAMSIZ, e->d_name) == 0;
	closedir(dir);
	return found;
}

static int set_up(int socket, const char *name, bool up)
{
	struct ifreq request = { 0 };

	strcpy(request.ifr_name, name);
	if (ioctl(socket, SIOCGIFFLAGS, &request) < 0)
		return -errno;
	bool is = request.ifr_flags & IFF_UP;
	if (is == up)
		return 0;
	request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
	return ioctl(socket, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

/* A template has been given the same address before it was stopped; to set it again would take the routes down. */
static bool is_address(int socket, const char *name, unsigned long what, uint32_t ip)
{
	struct ifreq request = { 0 };
	struct sockaddr_in address;

	strcpy(request.ifr_name, name);
	if (ioctl(socket, (int)what, &request) < 0)
		return false;
	memcpy(&address, &request.ifr_addr, sizeof(address));
	return address.sin_family == AF_INET && address.sin_addr.s_addr == htonl(ip);
}

static bool is_mtu(int socket, const char *name, int mtu)
{
	struct ifreq request = { 0 };

	strcpy(request.ifr_name, name);
	return ioctl(socket, SIOCGIFMTU, &request) == 0 && request.ifr_mtu == mtu;
}

static int set_address(int socket, const char *name, unsigned long what, uint32_t ip)
{
	struct ifreq request = { 0 };
	struct sockaddr_in address = address_of(ip);

	strcpy(request.ifr_name, name);
	memcpy(&request.ifr_addr, &address, sizeof(address));
	return ioctl(socket, (int)what, &request) < 0 ? -errno : 0;
}

static int set_gateway(int socket, uint32_t ip)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };
	struct sockaddr_in gateway = address_of(ip), any = address_of(0);

	memcpy(&route.rt_gateway, &gateway, sizeof(gateway));
	memcpy(&route.rt_dst, &any, sizeof(any));
	memcpy(&route.rt_genmask, &any, sizeof(any));
	return ioctl(socket, SIOCADDRT, &route) < 0 && errno != EEXIST ? -errno : 0;
}

static int configure(int socket, const char *name, const struct request *r, struct error *err)
{
	uint32_t address = (uint32_t)r->number[GUEST_TAG_ADDRESS];
	uint32_t mask = UINT32_MAX << (32 - (uint32_t)r->number[GUEST_TAG_PREFIX]);
	int result = 0;

	if (request_has(r, GUEST_TAG_MTU) && !is_mtu(socket, name, (int)r->number[GUEST_TAG_MTU])) {
		struct ifreq request = { .ifr_mtu = (int)r->number[GUEST_TAG_MTU] };
		strcpy(request.ifr_name, name);
		if (ioctl(socket, SIOCSIFMTU, &request) < 0)
			return error_errno(err, errno, "set the MTU of %s", name);
	}
	if (!is_address(socket, name, SIOCGIFADDR, address) || !is_address(socket, name, SIOCGIFNETMASK, mask)) {
		result = set_address(socket, name, SIOCSIFADDR, address);
		if (result == 0)
			result = set_address(socket, name, SIOCSIFNETMASK, mask);
	}
	if (result == 0)
		result = set_up(socket, name, true);
	if (result == 0 && request_has(r, GUEST_TAG_GATEWAY))
		result = set_gateway(socket, (uint32_t)r->number[GUEST_TAG_GATEWAY]);
	return result < 0 ? error_errno(err, -result, "set the address of %s", name) : 0;
}

int network_apply(const struct request *r, struct error *err)
{
	char name[IFNAMSIZ];
	_cleanup_fd_ int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (control < 0)
		return error_errno(err, errno, "no network in this kernel");
	set_setting("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
	set_setting("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
	set_setting("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
	int result = set_up(control, "lo", true);
	if (result < 0)
		return error_errno(err, -result, "set lo up");
	bool wanted = request_has(r, GUEST_TAG_ADDRESS);
	if (!find_interface(name))
		return wanted ? error_set(err, ENODEV, "the machine has no network interface") : 0;
	if (wanted)
		return configure(control, name, r, err);
	result = set_up(control, name, false);
	return result < 0 ? error_errno(err, -result, "set %s down", name) : 0;
}
