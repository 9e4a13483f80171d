#include "proto/tlv.h"

#include <errno.h>
#include <string.h>

#include "proto/wire.h"

#define TLV_HEADER 6

void tlv_begin(struct tlv_writer *w, void *data, size_t room)
{
	*w = (struct tlv_writer){ .data = data, .room = room };
}

void tlv_bytes(struct tlv_writer *w, uint16_t tag, const void *value, size_t size)
{
	size_t left = w->room - w->size;

	if (w->failed || left < TLV_HEADER || size > left - TLV_HEADER || size > UINT32_MAX) {
		w->failed = true;
		return;
	}
	wire_put16(w->data + w->size, tag);
	wire_put32(w->data + w->size + 2, (uint32_t)size);
	if (size > 0)
		memcpy(w->data + w->size + TLV_HEADER, value, size);
	w->size += TLV_HEADER + size;
}

void tlv_text(struct tlv_writer *w, uint16_t tag, const char *text)
{
	tlv_bytes(w, tag, text, strlen(text));
}

void tlv_u8(struct tlv_writer *w, uint16_t tag, uint8_t value)
{
	tlv_bytes(w, tag, &value, 1);
}

void tlv_u16(struct tlv_writer *w, uint16_t tag, uint16_t value)
{
	unsigned char bytes[2];
	wire_put16(bytes, value);
	tlv_bytes(w, tag, bytes, sizeof(bytes));
}

void tlv_u32(struct tlv_writer *w, uint16_t tag, uint32_t value)
{
	unsigned char bytes[4];
	wire_put32(bytes, value);
	tlv_bytes(w, tag, bytes, sizeof(bytes));
}

void tlv_u64(struct tlv_writer *w, uint16_t tag, uint64_t value)
{
	unsigned char bytes[8];
	wire_put64(bytes, value);
	tlv_bytes(w, tag, bytes, sizeof(bytes));
}

void tlv_read(struct tlv_reader *r, const void *data, size_t size)
{
	*r = (struct tlv_reader){ .data = data, .left = size };
}

int tlv_next(struct tlv_reader *r, struct tlv_field *field)
{
	if (r->left == 0)
		return 0;
	if (r->left < TLV_HEADER)
		return -EBADMSG;
	field->tag = wire_get16(r->data);
	field->size = wire_get32(r->data + 2);
	if (field->size > r->left - TLV_HEADER)
		return -EBADMSG;
	field->value = r->data + TLV_HEADER;
	r->data += TLV_HEADER + field->size;
	r->left -= TLV_HEADER + field->size;
	return 1;
}

int tlv_get_u8(const struct tlv_field *f, uint8_t *value)
{
	if (f->size != 1)
		return -EBADMSG;
	*value = f->value[0];
	return 0;
}

int tlv_get_u16(const struct tlv_field *f, uint16_t *value)
{
	if (f->size != 2)
		return -EBADMSG;
	*value = wire_get16(f->value);
	return 0;
}

int tlv_get_u32(const struct tlv_field *f, uint32_t *value)
{
	if (f->size != 4)
		return -EBADMSG;
	*value = wire_get32(f->value);
	return 0;
}

int tlv_get_u64(const struct tlv_field *f, uint64_t *value)
{
	if (f->size != 8)
		return -EBADMSG;
	*value = wire_get64(f->value);
	return 0;
}

int tlv_get_text(const struct tlv_field *f, char *to, size_t room)
{
	if (f->size >= room || memchr(f->value, 0, f->size))
		return -EBADMSG;
	memcpy(to, f->value, f->size);
	to[f->size] = '\0';
	return 0;
}
