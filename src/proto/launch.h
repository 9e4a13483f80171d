/*
 * Messages between akirad and akira-launch (api/launch-protocol.md): one SOCK_SEQPACKET message each, bounded, typed
 * fields, descriptors beside it. Encoding and decoding only, no I/O. Both sides take the other for hostile: a decoded
 * structure holds nothing that was not checked for form (lengths, characters, counts, ranges of enums). Whether it
 * makes sense (an id in use, a file of the wrong owner) is the launcher's affair.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "proto/policy.h"

#define LAUNCH_VERSION 1
#define LAUNCH_MESSAGE_MAX (48u << 10)
#define LAUNCH_HEADER_SIZE 8 /* u8 version, u8 reserved, u16 type, u32 serial */
#define LAUNCH_FD 3          /* akira-launch's end of the socketpair */

#define LAUNCH_ID_SIZE 64 /* [A-Za-z0-9_]{1,63} and NUL */
#define LAUNCH_PATH_SIZE 512
#define LAUNCH_LINK_SIZE 16
#define LAUNCH_ARGS 128
#define LAUNCH_ARG_SIZE 2048         /* longest argument, without NUL */
#define LAUNCH_ARGS_SIZE (32u << 10) /* all arguments, NULs counted */
#define LAUNCH_FILES 6
#define LAUNCH_FDS 6
#define LAUNCH_FILE_NAME_SIZE 16
#define LAUNCH_SLOTS 4096
#define LAUNCH_NO_SLOT UINT32_MAX
#define LAUNCH_QUARTERS_MAX 1024 /* 256 vCPUs */
#define LAUNCH_IO_BYTES_MAX (UINT64_C(1) << 40)
#define LAUNCH_IO_OPS_MAX 10000000
#define LAUNCH_MEMORY_MAX (UINT64_C(1) << 44)

enum launch_type {
	LAUNCH_CONFIG = 1, /* the first message, once */
	LAUNCH_NET_MAKE,
	LAUNCH_NET_POLICY,
	LAUNCH_NET_PIN,
	LAUNCH_NET_COUNTERS,
	LAUNCH_NET_RESET,
	LAUNCH_NET_DESTROY,
	LAUNCH_VM_START,
	LAUNCH_VM_KILL,
	LAUNCH_VM_LIMITS,
	LAUNCH_VM_STATS,
	LAUNCH_TYPES
};
#define LAUNCH_REPLY 0x8000u /* or'ed into the type of the answer */

struct launch_config {
	char qemu[LAUNCH_PATH_SIZE], run_dir[LAUNCH_PATH_SIZE], data_dir[LAUNCH_PATH_SIZE]; /* absolute */
	char uplink[LAUNCH_LINK_SIZE];
	uint32_t user, group, vm_uid_first, vm_uid_count, net_base;
	bool kvm;
	uint64_t io_bytes; /* a second, that the cgroup of a VM may read, and write; 0: no limit */
	uint32_t io_ops;   /* requests, likewise */
};

struct launch_file {
	char name[LAUNCH_FILE_NAME_SIZE]; /* [a-z0-9]{1,15}, each once */
	bool writable;
};

/* VM_START. Descriptors: one for each file in order, then fd_count more. */
struct launch_vm {
	uint32_t arg_count, file_count, fd_count;
	const char *args[LAUNCH_ARGS + 1]; /* into text; NULL-terminated */
	struct launch_file files[LAUNCH_FILES];
	uint32_t slot, cpu_quarters;
	uint64_t memory_bytes, file_bytes_max;
	uint32_t text_size;
	char text[LAUNCH_ARGS_SIZE];
};

struct launch_request {
	uint16_t type;
	uint32_t serial;
	char id[LAUNCH_ID_SIZE]; /* VM_* */
	uint32_t slot;           /* NET_* */
	union {
		struct launch_config config;
		struct policy policy;
		struct {
			uint32_t address, ttl;
		} pin;
		struct {
			uint32_t cpu_quarters;
			uint64_t memory_bytes;
		} limits;
		struct launch_vm vm;
	};
};

struct launch_net {
	uint32_t guest_address, gateway, host_address;
	uint8_t prefix, mac[6];
	uint16_t mtu;
};

struct launch_stats {
	uint64_t cpu_us, memory_bytes, oom_kills;
	uint32_t pids;
};

/* NET_MAKE brings the descriptors dns_udp and dns_tcp, VM_START the status. */
struct launch_reply {
	uint16_t type; /* the request's, without LAUNCH_REPLY */
	uint32_t serial;
	uint32_t code; /* 0, or errno: then text, and nothing of the union */
	char text[ERROR_TEXT_MAX];
	union {
		uint32_t swept;
		uint32_t pid;
		struct launch_net net;
		struct policy_counters counters;
		struct launch_stats stats;
	};
};

/* Add an argument to vm->text (which must stay in place). -E2BIG beyond a bound. */
int launch_add_arg(struct launch_vm *vm, const char *arg);

/* Size of the message, or -EMSGSIZE when it does not fit in room. */
int launch_encode_request(const struct launch_request *request, void *data, size_t room);
int launch_encode_reply(const struct launch_reply *reply, void *data, size_t room);

/* 0, or -EBADMSG with *err saying which field. serial and type are set as soon as the header was whole, else 0. */
int launch_decode_request(struct launch_request *request, const void *data, size_t size, struct error *err);
int launch_decode_reply(struct launch_reply *reply, const void *data, size_t size);

/* How many descriptors go with this request. */
size_t launch_request_fds(const struct launch_request *request);

bool launch_id_ok(const char *id);
