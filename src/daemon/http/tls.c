/*
 * Theory of operation. MHD asks for the certificate at each handshake, so a new one serves from the next connection on
 * and no open one is dropped. gnutls keeps using what it was given for as long as that handshake lasts, so replaced
 * generations are kept until the end; a process sees a handful of them.
 */
#include "daemon/http/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

#define CHAIN_MAX 8
#define PEM_MAX ((size_t)1 << 20)

struct generation {
	struct generation *older;
	gnutls_pcert_st chain[CHAIN_MAX];
	unsigned count;
	gnutls_privkey_t key;
};

struct http_tls {
	char *cert, *key;
	struct generation *current;
};

/* The callback of gnutls has no context of ours. */
static struct http_tls *serving;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void generation_free(struct generation *generation)
{
	while (generation) {
		struct generation *older = generation->older;
		for (unsigned i = 0; i < generation->count; i++)
			gnutls_pcert_deinit(&generation->chain[i]);
		if (generation->key)
			gnutls_privkey_deinit(generation->key);
		free(generation);
		generation = older;
	}
}

static int load_chain(struct generation *generation, const char *path, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	int r = fd_read_file(AT_FDCWD, path, PEM_MAX, &text, &size, err);
	if (r < 0)
		return r;
	gnutls_datum_t datum = { (unsigned char *)text, (unsigned)size };
	unsigned count = CHAIN_MAX;
	r = gnutls_pcert_list_import_x509_raw(generation->chain, &count, &datum, GNUTLS_X509_FMT_PEM, 0);
	if (r < 0)
		return error_set(err, EINVAL, "TLS certificate %s: %s", path, gnutls_strerror(r));
	generation->count = count;
	return 0;
}

static int load_key(struct generation *generation, const char *path, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	int r = fd_read_file(AT_FDCWD, path, PEM_MAX, &text, &size, err);
	if (r < 0)
		return r;
	gnutls_datum_t datum = { (unsigned char *)text, (unsigned)size };
	r = gnutls_privkey_init(&generation->key);
	if (r >= 0)
		r = gnutls_privkey_import_x509_raw(generation->key, &datum, GNUTLS_X509_FMT_PEM, NULL, 0);
	explicit_bzero(text, size);
	return r < 0 ? error_set(err, EINVAL, "TLS key %s: %s", path, gnutls_strerror(r)) : 0;
}

/* A key that does not belong to the certificate would fail every handshake: notice it here. */
static int check_pair(const struct generation *generation, struct error *err)
{
	unsigned char ours[64], theirs[64];
	size_t our_size = sizeof(ours), their_size = sizeof(theirs);
	gnutls_pubkey_t public;

	if (gnutls_pubkey_init(&public) < 0)
		return error_set(err, ENOMEM, "out of memory");
	int r = gnutls_pubkey_import_privkey(public, generation->key, 0, 0);
	if (r >= 0)
		r = gnutls_pubkey_get_key_id(public, GNUTLS_KEYID_USE_SHA256, ours, &our_size);
	if (r >= 0)
		r = gnutls_pubkey_get_key_id(generation->chain[0].pubkey, GNUTLS_KEYID_USE_SHA256, theirs, &their_size);
	gnutls_pubkey_deinit(public);
	if (r < 0 || our_size != their_size || memcmp(ours, theirs, our_size) != 0)
		return error_set(err, EINVAL, "TLS: the key does not belong to the certificate");
	return 0;
}

int http_tls_reload(struct http_tls *tls, struct error *err)
{
	struct generation *generation = calloc(1, sizeof(*generation));
	if (!generation)
		return error_set(err, ENOMEM, "out of memory");
	int r = load_chain(generation, tls->cert, err);
	if (r == 0)
		r = load_key(generation, tls->key, err);
	if (r == 0)
		r = check_pair(generation, err);
	if (r < 0) {
		generation_free(generation);
		return r;
	}
	pthread_mutex_lock(&lock);
	generation->older = tls->current;
	tls->current = generation;
	pthread_mutex_unlock(&lock);
	return 0;
}

int http_tls_open(const char *cert, const char *key, struct http_tls **out, struct error *err)
{
	if (serving)
		return error_set(err, EBUSY, "a TLS server runs in this process already");
	struct http_tls *tls = calloc(1, sizeof(*tls));
	if (!tls)
		return error_set(err, ENOMEM, "out of memory");
	tls->cert = strdup(cert);
	tls->key = strdup(key);
	int r = tls->cert && tls->key ? http_tls_reload(tls, err) : error_set(err, ENOMEM, "out of memory");
	if (r < 0) {
		http_tls_close(tls);
		return r;
	}
	pthread_mutex_lock(&lock);
	serving = tls;
	pthread_mutex_unlock(&lock);
	*out = tls;
	return 0;
}

void http_tls_close(struct http_tls *tls)
{
	if (!tls)
		return;
	pthread_mutex_lock(&lock);
	if (serving == tls)
		serving = NULL;
	pthread_mutex_unlock(&lock);
	generation_free(tls->current);
	free(tls->cert);
	free(tls->key);
	free(tls);
}

static int retrieve(gnutls_session_t session, const gnutls_datum_t *authorities, int authority_count,
		    const gnutls_pk_algorithm_t *algorithms, int algorithm_count, gnutls_pcert_st **chain,
		    unsigned *count, gnutls_privkey_t *key)
{
	pthread_mutex_lock(&lock);
	struct generation *generation = serving ? serving->current : NULL;
	pthread_mutex_unlock(&lock);
	if (!generation)
		return -1;
	*chain = generation->chain;
	*count = generation->count;
	*key = generation->key;
	return 0;
}

void *http_tls_callback(void)
{
	/* MHD's options take every pointer as void *. */
	gnutls_certificate_retrieve_function2 *function = retrieve;
	void *pointer;
	memcpy(&pointer, &function, sizeof(pointer));
	return pointer;
}
