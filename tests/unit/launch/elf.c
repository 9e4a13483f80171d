/* Which loader a program asks for, also of files that are no programs; its libraries, by a real loader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "launch/elf.h"

static char path[] = "/tmp/akira-elf-XXXXXX";

static int interpreter_of(const void *bytes, size_t size, char *to, size_t room)
{
	strcpy(path + strlen(path) - 6, "XXXXXX");
	_cleanup_fd_ int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, bytes, size), 0);
	int r = elf_interpreter(path, to, room, NULL);
	unlink(path);
	return r;
}

struct program {
	Elf64_Ehdr head;
	Elf64_Phdr ph;
	char name[32];
};

static struct program sound(void)
{
	struct program p = { .head = { .e_phoff = sizeof(Elf64_Ehdr), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1 },
			     .ph = { .p_type = PT_INTERP, .p_offset = offsetof(struct program, name), .p_filesz = 10 },
			     .name = "/lib/ld.x" };
	memcpy(p.head.e_ident, ELFMAG, SELFMAG);
	p.head.e_ident[EI_CLASS] = ELFCLASS64;
	return p;
}

static void test_sound_and_static(void **state)
{
	char to[64];
	struct program p = sound();
	assert_int_equal(interpreter_of(&p, sizeof p, to, sizeof to), 0);
	assert_string_equal(to, "/lib/ld.x");
	p.ph.p_type = PT_LOAD;
	assert_int_equal(interpreter_of(&p, sizeof p, to, sizeof to), 0);
	assert_string_equal(to, "");
}

static void test_malformed(void **state)
{
	char to[16];
	struct program p = sound();
	assert_int_equal(interpreter_of("#!/bin/sh\n", 10, to, sizeof to), -ENOEXEC);
	assert_int_equal(interpreter_of("", 0, to, sizeof to), -ENOEXEC);
	assert_int_equal(interpreter_of(&p, sizeof p.head, to, sizeof to), -ENOEXEC);
	p.ph.p_filesz = 17; /* longer than there is room */
	assert_int_equal(interpreter_of(&p, sizeof p, to, sizeof to), -ENOEXEC);
	p.ph.p_filesz = UINT64_MAX;
	assert_int_equal(interpreter_of(&p, sizeof p, to, sizeof to), -ENOEXEC);
	p.ph.p_filesz = 0;
	assert_int_equal(interpreter_of(&p, sizeof p, to, sizeof to), -ENOEXEC);
	p = sound();
	p.ph.p_offset = UINT64_MAX - 3;
	assert_int_equal(interpreter_of(&p, sizeof p, to, sizeof to), -ENOEXEC);
	p = sound();
	p.head.e_phoff = 1 << 30;
	assert_int_equal(interpreter_of(&p, sizeof p, to, sizeof to), -ENOEXEC);
	p = sound();
	p.head.e_phnum = 65535;
	assert_int_equal(interpreter_of(&p, sizeof p, to, sizeof to), -ENOEXEC);
	assert_int_equal(elf_interpreter("/nonexistent", to, sizeof to, NULL), -ENOENT);
}

static void test_libraries_of_a_real_program(void **state)
{
	static struct elf_list list;
	char loader[ELF_PATH_SIZE];
	bool libc = false;
	assert_int_equal(elf_interpreter("/bin/sh", loader, sizeof loader, NULL), 0);
	assert_int_equal(elf_libraries(loader, "/bin/sh", &list, NULL), 0);
	assert_true(list.count >= 2);
	size_t count = list.count;
	for (size_t i = 0; i < count; i++) {
		assert_int_equal(access(list.path[i], R_OK), 0);
		libc |= strstr(list.path[i], "libc.so") != NULL;
	}
	assert_true(libc);
	assert_int_equal(elf_libraries(loader, "/bin/sh", &list, NULL), 0);
	assert_int_equal(list.count, count); /* each once */
	assert_int_equal(elf_libraries(loader, "/etc/passwd", &list, NULL), -EIO);
	assert_int_equal(elf_libraries("/nonexistent", "/bin/sh", &list, NULL), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sound_and_static),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_libraries_of_a_real_program),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
