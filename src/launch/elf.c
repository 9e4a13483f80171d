#include "launch/elf.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/str.h"

int elf_interpreter(const char *path, char *to, size_t size, struct error *err)
{
	Elf64_Ehdr head;
	_cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, errno, "open %s", path);
	if (pread(fd, &head, sizeof head, 0) != sizeof head || memcmp(head.e_ident, ELFMAG, SELFMAG) ||
	    head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_phentsize != sizeof(Elf64_Phdr) || head.e_phnum > 64)
		return error_set(err, ENOEXEC, "%s is no 64-bit ELF program", path);
	to[0] = 0;
	for (unsigned i = 0; i < head.e_phnum; i++) {
		Elf64_Phdr ph;
		if (pread(fd, &ph, sizeof ph, (off_t)(head.e_phoff + i * sizeof ph)) != sizeof ph)
			return error_set(err, ENOEXEC, "%s is cut short", path);
		if (ph.p_type != PT_INTERP)
			continue;
		if (ph.p_filesz < 2 || ph.p_filesz > size ||
		    pread(fd, to, ph.p_filesz, (off_t)ph.p_offset) != (ssize_t)ph.p_filesz)
			return error_set(err, ENOEXEC, "%s names no usable loader", path);
		to[ph.p_filesz - 1] = 0;
	}
	return 0;
}

static int add_path(struct elf_list *list, const char *path, struct error *err)
{
	for (size_t i = 0; i < list->count; i++)
		if (!strcmp(list->path[i], path))
			return 0;
	if (list->count == ELF_LIBRARIES_MAX || str_copy(list->path[list->count], ELF_PATH_SIZE, path) < 0)
		return error_set(err, E2BIG, "more than %d libraries, or too long a path: %s", ELF_LIBRARIES_MAX, path);
	list->count++;
	return 0;
}

static int run_loader(const char *loader, const char *path, char *text, size_t room, struct error *err)
{
	int ends[2], status = 0;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(err, errno, "pipe");
	pid_t pid = fork();
	if (pid == 0) {
		char *const env[] = { NULL };
		dup2(ends[1], STDOUT_FILENO);
		execle(loader, loader, "--list", path, (char *)NULL, env);
		_exit(127);
	}
	close(ends[1]);
	ssize_t got = pid < 0 ? -errno : fd_read_all(ends[0], text, room - 1);
	close(ends[0]);
	if (pid > 0 && waitpid(pid, &status, 0) != pid)
		status = -1;
	if (got < 0 || status)
		return error_set(err, EIO, "%s --list %s did not work (status %d)", loader, path, status);
	text[got] = 0;
	return 0;
}

/* Lines are "NAME => PATH (0x…)", "PATH (0x…)" for the loader and "linux-vdso.so.1 (0x…)". */
int elf_libraries(const char *loader, const char *path, struct elf_list *list, struct error *err)
{
	static char text[64 << 10];
	int r = run_loader(loader, path, text, sizeof text, err);
	r = r < 0 ? r : add_path(list, loader, err);
	char *save = NULL;
	for (char *line = strtok_r(text, "\n", &save); r == 0 && line; line = strtok_r(NULL, "\n", &save)) {
		char *found = strstr(line, " => ");
		found = found ? found + 4 : line + strspn(line, " \t");
		char *end = strstr(found, " (0x");
		if (*found != '/' || !end)
			continue;
		*end = 0;
		r = add_path(list, found, err);
	}
	return r;
}
