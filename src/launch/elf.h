/* What a program needs to be loaded, by asking its own loader ("ld.so --list"), as ldd does. */
#pragma once

#include <stddef.h>

#include "base/error.h"

#define ELF_LIBRARIES_MAX 256
#define ELF_PATH_SIZE 512

struct elf_list {
	size_t count;
	char path[ELF_LIBRARIES_MAX][ELF_PATH_SIZE]; /* absolute, as the loader will look for them; no doubles */
};

/* The interpreter's path into to; empty for a static program. -ENOEXEC if path is no 64-bit ELF file. */
int elf_interpreter(const char *path, char *to, size_t size, struct error *err);
/* Add the loader and every library of the program or shared object at path, using this loader. */
int elf_libraries(const char *loader, const char *path, struct elf_list *list, struct error *err);
