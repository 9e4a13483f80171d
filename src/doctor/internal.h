/* What the files of doctor/ share. */
#pragma once

#include <sys/types.h>

#include "doctor/doctor.h"

#define DOCTOR_FILE_MAX 65536

struct doctor {
	const struct doctor_config *config;
	int root; /* O_PATH descriptor of config->root */
	struct doctor_fact *facts;
	size_t count;
};

/* Adds a fact; both texts are cut to fit and control characters replaced. advice may be NULL. */
void doctor_add(struct doctor *d, const char *name, enum doctor_status status, const char *advice, const char *format,
		...) __attribute__((format(printf, 5, 6)));

/* Adds text to a NUL-terminated one, cut to fit. */
void doctor_append(char *to, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A small file below the root, without its last newline; to is "" on failure. 0 or -errno. Longer files are cut. */
int doctor_read(const struct doctor *d, const char *path, char *to, size_t size);
/* A file with one whole number; -1 when absent or not one. */
int64_t doctor_number(const struct doctor *d, const char *path);
bool doctor_exists(const struct doctor *d, const char *path);
/* Is `word` one of the words of text, parted by spaces, commas or newlines? */
bool doctor_has_word(const char *text, const char *word);

/*
 * In a forked child: run(context), whose result (0..255) is the child's exit code. Returns that, or -ETIMEDOUT (the
 * child is killed), or -errno. run must only make system calls, or exec.
 */
int doctor_try(int (*run)(void *context), void *context, int bound_ms);
/*
 * A program with `input` (may be NULL) on its standard input, in new namespaces (CLONE_NEW…, or 0); the first bytes of
 * its output and errors in `output`. Returns its exit code (126: no namespaces, 127: no program), or -errno.
 */
int doctor_spawn(const char *const *argv, const char *input, int namespaces, char *output, size_t size, int bound_ms);
/* The first of these paths (NULL-ended) that can be executed, below the real root; NULL if none. */
const char *doctor_program(const char *const *paths);

/* Each adds the facts of its part, in order. */
void doctor_check_cpu(struct doctor *d);
void doctor_check_memory(struct doctor *d);
void doctor_check_kernel(struct doctor *d);
void doctor_check_network(struct doctor *d);
void doctor_check_storage(struct doctor *d);
void doctor_check_settings(struct doctor *d);
void doctor_check_service(struct doctor *d);
