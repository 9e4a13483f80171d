/*
 * Lists of fields: tag u16, size u32, value; little endian, no padding. The writer fills a caller's buffer and its
 * failure is sticky; the reader never goes beyond what it was given. Used by the guest and the launch protocol.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tlv_writer {
	unsigned char *data;
	size_t size; /* used */
	size_t room;
	bool failed; /* something did not fit */
};

void tlv_begin(struct tlv_writer *w, void *data, size_t room);
void tlv_bytes(struct tlv_writer *w, uint16_t tag, const void *value, size_t size);
void tlv_text(struct tlv_writer *w, uint16_t tag, const char *text); /* without the NUL */
void tlv_u8(struct tlv_writer *w, uint16_t tag, uint8_t value);
void tlv_u16(struct tlv_writer *w, uint16_t tag, uint16_t value);
void tlv_u32(struct tlv_writer *w, uint16_t tag, uint32_t value);
void tlv_u64(struct tlv_writer *w, uint16_t tag, uint64_t value);

struct tlv_reader {
	const unsigned char *data;
	size_t left;
};

struct tlv_field {
	uint16_t tag;
	uint32_t size;
	const unsigned char *value; /* inside the reader's data */
};

void tlv_read(struct tlv_reader *r, const void *data, size_t size);
/* 1: a field; 0: the end; -EBADMSG: malformed. */
int tlv_next(struct tlv_reader *r, struct tlv_field *field);

/* Take a value of exactly this kind: 0 or -EBADMSG. */
int tlv_get_u8(const struct tlv_field *f, uint8_t *value);
int tlv_get_u16(const struct tlv_field *f, uint16_t *value);
int tlv_get_u32(const struct tlv_field *f, uint32_t *value);
int tlv_get_u64(const struct tlv_field *f, uint64_t *value);
/* Bytes without NUL of at most room - 1, copied with a NUL. */
int tlv_get_text(const struct tlv_field *f, char *to, size_t room);
