#include "launch/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

/* Debian 12's header knows ABI 3 only; these are the kernel's own numbers. */
#define FS_EXECUTE (1u << 0)
#define FS_WRITE_FILE (1u << 1)
#define FS_READ_FILE (1u << 2)
#define FS_READ_DIR (1u << 3)
#define FS_ABI1 ((1u << 13) - 1)
#define FS_REFER (1u << 13)     /* ABI 2 */
#define FS_TRUNCATE (1u << 14)  /* ABI 3 */
#define FS_IOCTL_DEV (1u << 15) /* ABI 5 */
#define NET_TCP 3u              /* bind, connect; ABI 4 */
#define SCOPES 3u               /* abstract unix sockets, signals; ABI 6 */
#define CREATE_VERSION 1u
#define RULE_PATH 1

struct ruleset {
	uint64_t fs, net, scoped;
};

struct path_rule {
	uint64_t access;
	int32_t parent;
} __attribute__((packed));

int landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_VERSION);
	return abi < 0 ? 0 : (int)abi;
}

static uint64_t handled(int abi)
{
	return FS_ABI1 | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) | (abi >= 5 ? FS_IOCTL_DEV : 0);
}

static int add(int ruleset, const char *path, uint64_t access)
{
	_cleanup_fd_ int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	struct path_rule rule = { access, fd };
	return syscall(SYS_landlock_add_rule, ruleset, RULE_PATH, &rule, 0) < 0 ? -errno : 0;
}

int landlock_restrict(int abi, const char *program)
{
	static const char *const readable[] = { "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share" };
	struct ruleset attributes = { handled(abi), abi >= 4 ? NET_TCP : 0, abi >= 6 ? SCOPES : 0 };
	size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
	uint64_t all = handled(abi);
	_cleanup_fd_ int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attributes, size, 0);
	if (ruleset < 0)
		return -errno;
	/* Landlock takes an exec for reading as well; the mode of the program (0111) is what forbids that. */
	int r = add(ruleset, program, FS_EXECUTE | FS_READ_FILE);
	for (size_t i = 0; r == 0 && i < sizeof readable / sizeof readable[0]; i++)
		r = add(ruleset, readable[i], FS_EXECUTE | FS_READ_FILE | FS_READ_DIR);
	r = r < 0 ? r : add(ruleset, "/dev/urandom", FS_READ_FILE);
	r = r < 0 ? r : add(ruleset, "/vm", all & (FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE));
	r = r < 0 ? r : add(ruleset, "/dev/null", FS_READ_FILE | FS_WRITE_FILE);
	r = r < 0 ? r : add(ruleset, "/dev/kvm", all & (FS_READ_FILE | FS_WRITE_FILE | FS_IOCTL_DEV));
	if (r < 0)
		return r;
	return syscall(SYS_landlock_restrict_self, ruleset, 0) < 0 ? -errno : 0;
}
