/*
 * What a failure was. A function that can fail returns 0 or -errno and takes a `struct error *` that it fills only
 * on failure; a caller that does not care passes NULL. Libraries never print: the edge of a program logs once.
 */
#pragma once

#define ERROR_TEXT_MAX 512

struct error {
	int code;                  /* errno, positive; 0 when unset */
	char text[ERROR_TEXT_MAX]; /* for a person: what failed and why; always terminated */
};

/* Set code (positive errno) and text; cut at ERROR_TEXT_MAX. Returns -code. err may be NULL. */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As error_set, with ": " and strerror(code) added. */
int error_errno(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Put words before the text of an error already set. Returns -err->code (or -EIO if err is NULL or unset). */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
