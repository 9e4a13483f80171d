/* Landlock for the VM process (Documentation/userspace-api/landlock.rst), as far as the kernel has it. */
#pragma once

/* ABI version, 0 if the kernel has none. */
int landlock_abi(void);
/*
 * Run the program, read libraries and firmware, read and write /vm and the nodes, nothing else; no TCP, no abstract
 * sockets and no signals to the outside. 0 or -errno.
 */
int landlock_restrict(int abi, const char *program);
