/* Landlock for the VM process (Documentation/userspace-api/landlock.rst), as far as the kernel has it. */
#pragma once

/* ABI version, 0 if the kernel has none. */
int landlock_abi(void);
/* Read and run what the jail holds, write to /vm and the nodes, nothing else; no TCP, no signals out. 0 or -errno. */
int landlock_restrict(int abi);
