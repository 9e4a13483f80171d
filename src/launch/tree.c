#include "launch/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"
#include "launch/elf.h"

#define TREE_OPTIONS "size=512m,nr_inodes=2048,mode=0555"

/* What qemu-system-x86_64 with -M microvm (and q35, for hosts that want it) reads beside its libraries. */
static const char *const qemu_files[] = {
	"/usr/share/qemu/bios-microvm.bin", "/usr/share/qemu/linuxboot.bin",     "/usr/share/qemu/linuxboot_dma.bin",
	"/usr/share/qemu/multiboot.bin",    "/usr/share/qemu/multiboot_dma.bin", "/usr/share/qemu/pvh.bin",
	"/usr/share/qemu/kvmvapic.bin",     "/usr/share/qemu/qboot.rom",         "/usr/share/seabios/bios-microvm.bin",
	"/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/bios.bin",
};
static const char *const qemu_modules[] = { "/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so",
					    "/usr/lib64/qemu/accel-tcg-x86_64.so" };

/* The folders above path, inside the tree. */
static int make_parents(int root, const char *path, struct error *err)
{
	char part[ELF_PATH_SIZE];
	for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		size_t length = (size_t)(slash - path) - 1;
		if (length >= sizeof part)
			return error_set(err, ENAMETOOLONG, "%s", path);
		memcpy(part, path + 1, length);
		part[length] = 0;
		if (mkdirat(root, part, 0755) < 0 && errno != EEXIST)
			return error_errno(err, errno, "jail tree: make /%s", part);
	}
	return 0;
}

static int copy_in(int root, const char *from, const char *to, mode_t mode, struct error *err)
{
	struct stat st;
	_cleanup_fd_ int in = open(from, O_RDONLY | O_CLOEXEC);
	if (in < 0 || fstat(in, &st) < 0)
		return error_errno(err, errno, "jail tree: open %s", from);
	if (!S_ISREG(st.st_mode))
		return error_set(err, EINVAL, "jail tree: %s is no regular file", from);
	int r = make_parents(root, to, err);
	if (r < 0)
		return r;
	_cleanup_fd_ int out = openat(root, to + 1, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (out < 0)
		return error_errno(err, errno, "jail tree: make %s", to);
	for (off_t left = st.st_size; left > 0;) {
		ssize_t done = sendfile(out, in, NULL, (size_t)left);
		if (done <= 0)
			return error_errno(err, done < 0 ? errno : EIO, "jail tree: copy %s", from);
		left -= done;
	}
	if (fchmod(out, mode) < 0)
		return error_errno(err, errno, "jail tree: mode of %s", to);
	return 0;
}

static int copy_list(int root, const char *const *paths, size_t count, struct error *err)
{
	for (size_t i = 0; i < count; i++) {
		int r = access(paths[i], R_OK) ? 0 : copy_in(root, paths[i], paths[i], 0444, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int make_node(int root, const char *path, unsigned major, unsigned minor, mode_t mode, struct error *err)
{
	int r = make_parents(root, path, err);
	if (r < 0)
		return r;
	if (mknodat(root, path + 1, S_IFCHR | mode, makedev(major, minor)) < 0 || fchmodat(root, path + 1, mode, 0) < 0)
		return error_errno(err, errno, "jail tree: make %s", path);
	return 0;
}

static int put_filter(int root, const struct tree_config *c, struct error *err)
{
	int r = make_parents(root, TREE_FILTER, err);
	if (r < 0)
		return r;
	_cleanup_fd_ int out = openat(root, TREE_FILTER + 1, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (out < 0)
		return error_errno(err, errno, "jail tree: make %s", TREE_FILTER);
	r = fd_write_all(out, c->filter, c->filter_size);
	return r < 0 ? error_errno(err, -r, "jail tree: write %s", TREE_FILTER) : 0;
}

static bool is_qemu(const char *program)
{
	const char *base = strrchr(program, '/');
	return base && str_starts(base, "/qemu-system-");
}

static int list_libraries(const struct tree_config *c, const char *loader, struct elf_list *list, struct error *err)
{
	int r = elf_libraries(loader, c->program, list, err);
	if (r == 0 && c->shim)
		r = elf_libraries(loader, c->shim, list, err);
	for (size_t i = 0; r == 0 && is_qemu(c->program) && i < sizeof qemu_modules / sizeof qemu_modules[0]; i++)
		r = access(qemu_modules[i], R_OK) ? 0 : elf_libraries(loader, qemu_modules[i], list, err);
	return r;
}

static int fill(int root, const struct tree_config *c, const struct elf_list *list, const struct tree *tree,
		struct error *err)
{
	/*
	 * Executable, not readable: the kernel then makes the process undumpable from its exec on, and /proc/self/exe
	 * cannot be opened, even before the shim runs.
	 */
	int r = copy_in(root, c->program, tree->program, 0111, err);
	for (size_t i = 0; r == 0 && i < list->count; i++)
		r = copy_in(root, list->path[i], list->path[i], 0555, err);
	if (r == 0 && is_qemu(c->program)) {
		r = copy_list(root, qemu_files, sizeof qemu_files / sizeof qemu_files[0], err);
		r = r < 0 ? r : copy_list(root, qemu_modules, sizeof qemu_modules / sizeof qemu_modules[0], err);
	}
	r = r < 0 || !tree->shim ? r : copy_in(root, c->shim, TREE_SHIM, 0555, err);
	r = r < 0 || !tree->shim ? r : put_filter(root, c, err);
	r = r < 0 ? r : make_node(root, "/dev/null", 1, 3, 0666, err);
	r = r < 0 ? r : make_node(root, "/dev/urandom", 1, 9, 0444, err);
	r = r < 0 || !c->kvm ? r : make_node(root, "/dev/kvm", 10, 232, 0666, err);
	if (r == 0 && mkdirat(root, "vm", 0555) < 0)
		r = error_errno(err, errno, "jail tree: make /vm");
	return r;
}

static int become_root(const char *run_dir, struct error *err)
{
	if (chdir(run_dir) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return error_errno(err, errno, "jail tree: pivot_root");
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return error_errno(err, errno, "jail tree: let the host's mounts go");
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID, TREE_OPTIONS) < 0)
		return error_errno(err, errno, "jail tree: make it read-only");
	return 0;
}

static int build(const struct tree_config *c, const struct elf_list *list, const struct tree *tree, struct error *err)
{
	umask(022);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_errno(err, errno, "jail tree: new mount namespace");
	if (mount("akira-jail", c->run_dir, "tmpfs", MS_NOSUID, TREE_OPTIONS) < 0)
		return error_errno(err, errno, "jail tree: mount tmpfs on %s", c->run_dir);
	_cleanup_fd_ int root = open(c->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return error_errno(err, errno, "jail tree: open %s", c->run_dir);
	int r = fill(root, c, list, tree, err);
	return r < 0 ? r : become_root(c->run_dir, err);
}

/* The child says how it went with one struct error, then lives until its socket is closed. */
static void builder(int socket, const struct tree_config *c, const struct elf_list *list, const struct tree *tree)
{
	struct error err = { 0 };
	char byte;
	build(c, list, tree, &err);
	if (fd_write_all(socket, &err, sizeof err) == 0 && !err.code)
		while (read(socket, &byte, 1) < 0 && errno == EINTR)
			;
	_exit(err.code != 0);
}

static int hold(int socket, pid_t pid, struct tree *tree, struct error *err)
{
	struct error told;
	char path[48];
	if (fd_read_all(socket, &told, sizeof told) != sizeof told)
		return error_set(err, EIO, "jail tree: its builder died");
	if (told.code)
		return error_set(err, told.code, "%.400s", told.text);
	snprintf(path, sizeof path, "/proc/%d/ns/mnt", pid);
	tree->mount_ns = open(path, O_RDONLY | O_CLOEXEC);
	return tree->mount_ns < 0 ? error_errno(err, errno, "jail tree: open %s", path) : 0;
}

int tree_make(const struct tree_config *config, struct tree *tree, struct error *err)
{
	static struct elf_list list;
	char loader[ELF_PATH_SIZE];
	int ends[2];
	list.count = 0;
	const char *base = strrchr(config->program, '/');
	*tree = (struct tree){ .mount_ns = -1 };
	if (!base || (size_t)snprintf(tree->program, sizeof tree->program, "/usr/bin%s", base) >= sizeof tree->program)
		return error_set(err, EINVAL, "%s is no path of a program", config->program);
	int r = elf_interpreter(config->program, loader, sizeof loader, err);
	tree->shim = r == 0 && loader[0] && config->shim;
	r = r < 0 || !loader[0] ? r : list_libraries(config, loader, &list, err);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return error_errno(err, errno, "socketpair");
	pid_t pid = fork();
	if (pid == 0) {
		close(ends[0]);
		builder(ends[1], config, &list, tree);
	}
	close(ends[1]);
	r = pid < 0 ? error_errno(err, errno, "fork") : hold(ends[0], pid, tree, err);
	close(ends[0]);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	return r;
}
