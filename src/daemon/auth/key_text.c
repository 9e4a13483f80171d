#include <sodium.h>
#include <string.h>

#include "base/str.h"
#include "daemon/auth/auth.h"

#define HEAD "sk_live_"
#define HEAD_LENGTH 8
#define RANDOM_BYTES 20
#define RANDOM_DIGITS 27 /* 62^27 > 2^160 */
#define SUM_DIGITS 6     /* 62^6 > 2^32 */
#define BODY_LENGTH (HEAD_LENGTH + RANDOM_DIGITS)
#define SHOWN 6
_Static_assert(BODY_LENGTH + SUM_DIGITS == AUTH_KEY_LENGTH && AUTH_KEY_LENGTH < AUTH_KEY_MAX, "length of a key");

static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* IEEE 802.3, as in zlib and PNG. */
static uint32_t crc32_of(const char *data, size_t size)
{
	uint32_t crc = 0xffffffff;

	for (size_t i = 0; i < size; i++) {
		crc ^= (unsigned char)data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}

/* Long division of a big-endian number by 62, digit by digit; leaves 0 in it. */
static void to_digits(unsigned char *number, size_t size, char *digits, size_t count)
{
	while (count > 0) {
		unsigned int rest = 0;
		for (size_t i = 0; i < size; i++) {
			unsigned int part = rest * 256 + number[i];
			number[i] = (unsigned char)(part / 62);
			rest = part % 62;
		}
		digits[--count] = alphabet[rest];
	}
}

static void add_sum(char *text)
{
	uint32_t crc = crc32_of(text, BODY_LENGTH);
	unsigned char number[4] = { (unsigned char)(crc >> 24), (unsigned char)(crc >> 16), (unsigned char)(crc >> 8),
				    (unsigned char)crc };

	to_digits(number, sizeof(number), text + BODY_LENGTH, SUM_DIGITS);
	text[AUTH_KEY_LENGTH] = '\0';
}

void auth_key_make(char text[AUTH_KEY_MAX], char prefix[AUTH_PREFIX_MAX])
{
	unsigned char number[RANDOM_BYTES];

	randombytes_buf(number, sizeof(number));
	memcpy(text, HEAD, HEAD_LENGTH);
	to_digits(number, sizeof(number), text + HEAD_LENGTH, RANDOM_DIGITS);
	add_sum(text);
	memset(prefix, 0, AUTH_PREFIX_MAX);
	memcpy(prefix, text, HEAD_LENGTH + SHOWN);
}

bool auth_key_wellformed(const char *text)
{
	char sum[AUTH_KEY_LENGTH + 1];

	if (!text || strnlen(text, AUTH_KEY_MAX) != AUTH_KEY_LENGTH || !str_starts(text, HEAD))
		return false;
	if (strspn(text + HEAD_LENGTH, alphabet) != AUTH_KEY_LENGTH - HEAD_LENGTH)
		return false;
	memcpy(sum, text, BODY_LENGTH);
	add_sum(sum);
	bool same = strcmp(sum, text) == 0;
	sodium_memzero(sum, sizeof(sum));
	return same;
}

void auth_key_hash(const unsigned char secret[32], const char *text, unsigned char hash[32])
{
	unsigned char key[32];

	store_subkey(secret, "akira.auth.key.v1", key);
	crypto_generichash(hash, 32, (const unsigned char *)text, strlen(text), key, sizeof(key));
	sodium_memzero(key, sizeof(key));
}
