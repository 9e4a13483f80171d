/* Text: bounded copies, strict numbers, UTF-8, hex, random ids. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copy with a NUL; -ENAMETOOLONG (and an empty result) if it does not fit. */
int str_copy(char *to, size_t size, const char *from);
bool str_starts(const char *text, const char *prefix);
bool str_ends(const char *text, const char *suffix);
/* A decimal number, nothing before or after it, no sign, no spaces. -EINVAL, or -ERANGE outside min..max. */
int str_u64(const char *text, uint64_t min, uint64_t max, uint64_t *value);
/* Valid UTF-8 (RFC 3629: no surrogates, no overlong forms)? NUL bytes are not valid. */
bool str_is_utf8(const char *text, size_t size);
/* A malloc'ed, NUL-terminated copy in which each byte that is not UTF-8, and each NUL, became U+FFFD. NULL: no memory. */
char *str_to_utf8(const char *data, size_t size, size_t *length);
/* Lower-case hex; to must hold 2 * size + 1. */
void str_hex(char *to, const void *data, size_t size);
/* Decode exactly size bytes from 2 * size hex digits. -EINVAL. */
int str_unhex(void *to, size_t size, const char *hex);
/* prefix + "_" + 24 random base-62 characters (142 bits) from getrandom(2); to must hold strlen(prefix) + 26. */
void str_random_id(char *to, const char *prefix);
/* [A-Za-z0-9][A-Za-z0-9._-]{0,62}, the contract's rule for names? */
bool str_is_name(const char *text);
