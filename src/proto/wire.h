/* Little-endian integers at any address. */
#pragma once

#include <stdint.h>
#include <string.h>

static inline void wire_put16(void *to, uint16_t v)
{
	unsigned char *p = to;
	p[0] = (unsigned char)v;
	p[1] = (unsigned char)(v >> 8);
}

static inline void wire_put32(void *to, uint32_t v)
{
	wire_put16(to, (uint16_t)v);
	wire_put16((unsigned char *)to + 2, (uint16_t)(v >> 16));
}

static inline void wire_put64(void *to, uint64_t v)
{
	wire_put32(to, (uint32_t)v);
	wire_put32((unsigned char *)to + 4, (uint32_t)(v >> 32));
}

static inline uint16_t wire_get16(const void *from)
{
	const unsigned char *p = from;
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t wire_get32(const void *from)
{
	const unsigned char *p = from;
	return (uint32_t)wire_get16(p) | (uint32_t)wire_get16(p + 2) << 16;
}

static inline uint64_t wire_get64(const void *from)
{
	const unsigned char *p = from;
	return (uint64_t)wire_get32(p) | (uint64_t)wire_get32(p + 4) << 32;
}
