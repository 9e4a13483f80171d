/*
 * What every jail has as its root folder: a small read-only tmpfs with the one program, the libraries it is linked
 * with, the firmware files it reads, three device nodes and the empty folder /vm.
 *
 * Theory of operation. It is made once, at the launcher's start, inside a mount namespace of its own whose root it
 * then becomes (pivot_root); that namespace has one mount and is kept by a descriptor alone: nothing of it shows in
 * the host's mount table, no path leads to it and it ends with the launcher and its VMs. A VM's child enters it with
 * setns and unshares: it gets a copy of one mount, and no mount of the host was ever in its namespace.
 * The files are copies, so that no write, link or race on the host's side can change what later VMs run.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define TREE_SHIM "/lib/akira-shim.so"
#define TREE_FILTER "/lib/akira-shim.bpf"

struct tree_config {
	const char *program; /* the host's path; in the tree it is /usr/bin/NAME */
	const char *shim;    /* the host's path of libakira-shim.so; NULL: none */
	const char *run_dir; /* any folder: where the tmpfs is mounted, seen by nobody else */
	bool kvm;
	const void *filter; /* what the shim installs: struct sock_filter[] */
	size_t filter_size;
};

struct tree {
	int mount_ns;      /* namespace whose root is the tree */
	char program[256]; /* its path in the tree */
	bool shim;         /* the program is dynamic and gets TREE_SHIM preloaded */
};

int tree_make(const struct tree_config *config, struct tree *tree, struct error *err);
