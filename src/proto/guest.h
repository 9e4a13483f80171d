/*
 * Frames between akirad and akira-init: numbers, bounds, header codec. The meaning stands in api/guest-protocol.md.
 * No I/O and no allocation; links with glibc and with musl.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define GUEST_VERSION 1
#define GUEST_HEADER_SIZE 12
#define GUEST_PAYLOAD_MAX 65536
#define GUEST_FRAME_MAX (GUEST_HEADER_SIZE + GUEST_PAYLOAD_MAX)
#define GUEST_WINDOW 262144 /* bytes of DATA that may be under way at first, per stream and direction */
#define GUEST_WINDOW_MAX (16 << 20)
#define GUEST_STREAMS_MAX 256
#define GUEST_NONCE_SIZE 16
#define GUEST_ARGS_MAX 1024
#define GUEST_PATH_MAX 4096
#define GUEST_PORT_NAME "akira.agent"

enum guest_type {
	GUEST_HELLO = 1,
	/* requests */
	GUEST_PING = 16,
	GUEST_SETUP,
	GUEST_PERSONALISE,
	GUEST_SYNC,
	GUEST_FREEZE,
	GUEST_THAW,
	GUEST_GROW,
	GUEST_WARM,
	GUEST_METRICS,
	GUEST_SHUTDOWN,
	GUEST_STAT,
	/* requests that open a stream */
	GUEST_OPEN_EXEC = 32,
	GUEST_OPEN_READ,
	GUEST_OPEN_WRITE,
	GUEST_OPEN_TCP,
	GUEST_OPEN_WATCH,
	/* on an open stream, from the host */
	GUEST_SIGNAL = 48,
	GUEST_RESIZE,
	GUEST_CLOSE,
	GUEST_DETACH,
	/* either way */
	GUEST_DATA = 64,
	GUEST_EOF,
	GUEST_CREDIT,
	/* answers */
	GUEST_RESULT = 80,
	GUEST_OPENED,
	GUEST_EXIT,
	GUEST_ERROR,
};

enum guest_tag {
	GUEST_TAG_VERSION = 1, /* u32 */
	GUEST_TAG_NONCE,       /* 16 bytes */
	GUEST_TAG_KEEP,        /* u8 */
	GUEST_TAG_AGENT,       /* text, at most 63 */
	GUEST_TAG_PHASE,       /* u8, enum guest_phase */
	GUEST_TAG_ERRNO,       /* u32, 1..4095 */
	GUEST_TAG_MESSAGE,     /* text, at most 511 */
	GUEST_TAG_FRESH,       /* u8 */
	GUEST_TAG_WALL_MS,     /* u64, milliseconds since 1970 UTC */
	GUEST_TAG_ENTROPY,     /* 32..512 bytes */
	GUEST_TAG_HOSTNAME,    /* text, at most 63 */
	GUEST_TAG_MACHINE_ID,  /* 16 bytes */
	GUEST_TAG_BOOT_ID,     /* 16 bytes */
	GUEST_TAG_ADDRESS,     /* u32, IPv4, host order */
	GUEST_TAG_GATEWAY,     /* u32 */
	GUEST_TAG_PREFIX,      /* u32, 1..30 */
	GUEST_TAG_MTU,         /* u32 */
	GUEST_TAG_DNS,         /* u32 */
	GUEST_TAG_WORKDIR,     /* path */
	GUEST_TAG_ENV,         /* bytes K=V, repeated */
	GUEST_TAG_MAX_PROCS,   /* u32 */
	GUEST_TAG_ARG,         /* bytes, repeated */
	GUEST_TAG_SHELL,       /* u8 */
	GUEST_TAG_CWD,         /* path */
	GUEST_TAG_USER,        /* u32 */
	GUEST_TAG_STDIN,       /* u8: 1 = a pipe, 0 = /dev/null */
	GUEST_TAG_PTY,         /* u8 */
	GUEST_TAG_ROWS,        /* u16 */
	GUEST_TAG_COLS,        /* u16 */
	GUEST_TAG_PATH,        /* path */
	GUEST_TAG_MODE,        /* u32, permission bits */
	GUEST_TAG_SIZE,        /* u64 */
	GUEST_TAG_MTIME_MS,    /* u64 */
	GUEST_TAG_PID,         /* u32 */
	GUEST_TAG_CODE,        /* u32, 0..255 */
	GUEST_TAG_SIGNAL,      /* u32, 0..64 */
	GUEST_TAG_CPU_US,      /* u64 */
	GUEST_TAG_MEM_TOTAL,   /* u64, bytes */
	GUEST_TAG_MEM_USED,    /* u64, bytes */
	GUEST_TAG_DISK_TOTAL,  /* u64, bytes */
	GUEST_TAG_DISK_USED,   /* u64, bytes */
	GUEST_TAG_PROCS,       /* u32 */
	GUEST_TAG_PORT,        /* u16 */
};

enum guest_phase { GUEST_BOOTED, GUEST_SET_UP, GUEST_PERSONALISED };

struct guest_header {
	uint32_t length; /* of the payload */
	uint8_t type;    /* enum guest_type */
	uint8_t channel; /* 0 or 1 */
	uint32_t stream;
};

/* Write the 12 bytes of a header. */
void guest_put_header(unsigned char to[GUEST_HEADER_SIZE], const struct guest_header *header);
/* Read and check a header against every rule that needs no state. 0 or -EBADMSG. */
int guest_get_header(const unsigned char from[GUEST_HEADER_SIZE], struct guest_header *header);
