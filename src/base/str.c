#include "base/str.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

int str_copy(char *to, size_t size, const char *from)
{
	size_t length = strlen(from);
	if (length >= size) {
		if (size > 0)
			to[0] = '\0';
		return -ENAMETOOLONG;
	}
	memcpy(to, from, length + 1);
	return 0;
}

bool str_starts(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *text, const char *suffix)
{
	size_t length = strlen(text), tail = strlen(suffix);
	return length >= tail && memcmp(text + length - tail, suffix, tail) == 0;
}

int str_u64(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
	uint64_t n = 0;

	if (!*text)
		return -EINVAL;
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return -ERANGE;
	}
	if (n < min || n > max)
		return -ERANGE;
	*value = n;
	return 0;
}

/* Length of the well-formed sequence at data, 0 if there is none (RFC 3629, section 4). */
static size_t utf8_sequence(const unsigned char *data, size_t size)
{
	unsigned char c = data[0];
	size_t need;
	unsigned char low = 0x80, high = 0xbf;

	if (c < 0x80)
		return c != 0;
	if (c >= 0xc2 && c <= 0xdf) {
		need = 2;
	} else if (c >= 0xe0 && c <= 0xef) {
		need = 3;
		if (c == 0xe0)
			low = 0xa0;
		if (c == 0xed)
			high = 0x9f;
	} else if (c >= 0xf0 && c <= 0xf4) {
		need = 4;
		if (c == 0xf0)
			low = 0x90;
		if (c == 0xf4)
			high = 0x8f;
	} else {
		return 0;
	}
	if (size < need || data[1] < low || data[1] > high)
		return 0;
	for (size_t i = 2; i < need; i++)
		if (data[i] < 0x80 || data[i] > 0xbf)
			return 0;
	return need;
}

bool str_is_utf8(const char *text, size_t size)
{
	for (size_t i = 0; i < size;) {
		size_t n = utf8_sequence((const unsigned char *)text + i, size - i);
		if (n == 0)
			return false;
		i += n;
	}
	return true;
}

char *str_to_utf8(const char *data, size_t size, size_t *length)
{
	size_t room, used = 0;
	if (__builtin_mul_overflow(size, 3, &room) || __builtin_add_overflow(room, 1, &room))
		return NULL;
	/* The common case is clean text: do not ask for three times the memory then. */
	if (str_is_utf8(data, size))
		room = size + 1;
	char *text = malloc(room);
	if (!text)
		return NULL;
	for (size_t i = 0; i < size;) {
		size_t n = utf8_sequence((const unsigned char *)data + i, size - i);
		if (n == 0) {
			memcpy(text + used, "\xef\xbf\xbd", 3);
			used += 3;
			i++;
		} else {
			memcpy(text + used, data + i, n);
			used += n;
			i += n;
		}
	}
	text[used] = '\0';
	if (length)
		*length = used;
	return text;
}

void str_hex(char *to, const void *data, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *bytes = data;

	for (size_t i = 0; i < size; i++) {
		to[2 * i] = digits[bytes[i] >> 4];
		to[2 * i + 1] = digits[bytes[i] & 15];
	}
	to[2 * size] = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int str_unhex(void *to, size_t size, const char *hex)
{
	unsigned char *bytes = to;

	if (strlen(hex) != 2 * size)
		return -EINVAL;
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
		if (high < 0 || low < 0)
			return -EINVAL;
		bytes[i] = (unsigned char)(high << 4 | low);
	}
	return 0;
}

void str_random_id(char *to, const char *prefix)
{
	static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
	size_t used = strlen(prefix), end = used + 1 + 24;

	memcpy(to, prefix, used);
	to[used++] = '_';
	while (used < end) {
		unsigned char random[48];
		if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
			abort(); /* the kernel's generator does not fail once it is up; an id must never be guessable */
		/* 248 = 4 * 62: bytes above it are thrown away so that no letter is likelier than another. */
		for (size_t i = 0; i < sizeof(random) && used < end; i++)
			if (random[i] < 248)
				to[used++] = alphabet[random[i] % 62];
	}
	to[end] = '\0';
}

bool str_is_name(const char *text)
{
	size_t length = strlen(text);

	if (length < 1 || length > 63 || !isalnum((unsigned char)text[0]))
		return false;
	for (size_t i = 0; i < length; i++)
		if (!isalnum((unsigned char)text[i]) && !strchr("._-", text[i]))
			return false;
	return true;
}
