/* The inside of the sandbox: its root file system and its first process. */
#pragma once

#define ROOT_BOOT_ID "/run/boot_id" /* of the agent; the sandbox sees it as /proc/sys/kernel/random/boot_id */

/*
 * The anchor: PID 1 of the sandbox's pid namespace, forked from the agent into new namespaces. Builds the root,
 * writes a struct error (code 0: built) to the descriptor, gives up all rights and stays to reap orphans.
 */
void root_anchor(int report) __attribute__((noreturn));
