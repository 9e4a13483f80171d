/* TLS: which versions are spoken, and a new certificate without dropping anybody. */
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "client.h"
#include "daemon/http/http.h"

static char dir[64], cert_path[96], key_path[96];
static struct http_server *server;

static void on_hello(struct http_request *request, struct http_response *response)
{
	http_reply_json(response, 200, json_pack("{s:s}", "hello", "you"));
}

static const struct http_route routes[] = { { "GET", "/hello", on_hello, 0, HTTP_OPEN, 0, "hello", NULL } };

static void write_file(const char *path, const gnutls_datum_t *data)
{
	_cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_int_equal(fd_write_all(fd, data->data, data->size), 0);
}

/* A self-signed certificate with this serial number; key: whether its key is written too. */
static void make_certificate(unsigned char serial, bool key)
{
	gnutls_x509_privkey_t private;
	gnutls_x509_crt_t cert;
	gnutls_datum_t text;

	assert_int_equal(gnutls_x509_privkey_init(&private), 0);
	assert_int_equal(gnutls_x509_privkey_generate(private, GNUTLS_PK_ECDSA,
						      GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
			 0);
	assert_int_equal(gnutls_x509_crt_init(&cert), 0);
	gnutls_x509_crt_set_version(cert, 3);
	gnutls_x509_crt_set_serial(cert, &serial, 1);
	gnutls_x509_crt_set_activation_time(cert, time(NULL) - 60);
	gnutls_x509_crt_set_expiration_time(cert, time(NULL) + 3600);
	gnutls_x509_crt_set_dn(cert, "CN=localhost", NULL);
	gnutls_x509_crt_set_key(cert, private);
	assert_int_equal(gnutls_x509_crt_sign2(cert, cert, private, GNUTLS_DIG_SHA256, 0), 0);
	assert_int_equal(gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &text), 0);
	write_file(cert_path, &text);
	gnutls_free(text.data);
	if (key) {
		assert_int_equal(gnutls_x509_privkey_export2(private, GNUTLS_X509_FMT_PEM, &text), 0);
		write_file(key_path, &text);
		gnutls_free(text.data);
	}
	gnutls_x509_crt_deinit(cert);
	gnutls_x509_privkey_deinit(private);
}

struct session {
	int fd;
	gnutls_session_t tls;
	gnutls_certificate_credentials_t credentials;
};

static int session_open(struct session *session, const char *versions)
{
	int r;

	session->fd = client_connect(http_port(server));
	gnutls_init(&session->tls, GNUTLS_CLIENT);
	gnutls_certificate_allocate_credentials(&session->credentials);
	gnutls_credentials_set(session->tls, GNUTLS_CRD_CERTIFICATE, session->credentials);
	gnutls_priority_set_direct(session->tls, versions, NULL);
	gnutls_transport_set_int(session->tls, session->fd);
	do
		r = gnutls_handshake(session->tls);
	while (r < 0 && !gnutls_error_is_fatal(r));
	return r;
}

static void session_close(struct session *session)
{
	gnutls_deinit(session->tls);
	gnutls_certificate_free_credentials(session->credentials);
	close(session->fd);
}

static unsigned char serial_of(struct session *session)
{
	unsigned count;
	unsigned char serial[20];
	size_t size = sizeof(serial);
	gnutls_x509_crt_t cert;
	const gnutls_datum_t *chain = gnutls_certificate_get_peers(session->tls, &count);

	assert_true(chain && count == 1);
	gnutls_x509_crt_init(&cert);
	assert_int_equal(gnutls_x509_crt_import(cert, &chain[0], GNUTLS_X509_FMT_DER), 0);
	assert_int_equal(gnutls_x509_crt_get_serial(cert, serial, &size), 0);
	gnutls_x509_crt_deinit(cert);
	return serial[size - 1];
}

static void hello(struct session *session)
{
	static const char request[] = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
	char text[4096];
	size_t used = 0;

	assert_int_equal(gnutls_record_send(session->tls, request, sizeof(request) - 1), sizeof(request) - 1);
	do {
		ssize_t n = gnutls_record_recv(session->tls, text + used, sizeof(text) - 1 - used);
		if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
			continue;
		assert_true(n > 0);
		used += (size_t)n;
		text[used] = '\0';
	} while (!strstr(text, "{\"hello\":\"you\"}"));
	assert_non_null(strstr(text, "Strict-Transport-Security: "));
}

static void test_certificate_reload(void **state)
{
	struct session old, new, last;
	struct error err = { 0 };

	assert_int_equal(session_open(&old, "NORMAL"), 0);
	assert_int_equal(serial_of(&old), 1);
	hello(&old);
	make_certificate(2, true);
	assert_int_equal(http_reload_tls(server, &err), 0);
	hello(&old); /* not dropped */
	assert_int_equal(session_open(&new, "NORMAL"), 0);
	assert_int_equal(serial_of(&new), 2);
	hello(&new);

	/* The certificate without its key: refused, the old pair stays. */
	make_certificate(3, false);
	assert_int_equal(http_reload_tls(server, &err), -EINVAL);
	assert_non_null(strstr(err.text, "does not belong"));
	assert_int_equal(session_open(&last, "NORMAL"), 0);
	assert_int_equal(serial_of(&last), 2);
	session_close(&old);
	session_close(&new);
	session_close(&last);
}

static void test_versions(void **state)
{
	struct session session;

	assert_int_equal(session_open(&session, "NORMAL:-VERS-ALL:+VERS-TLS1.2"), 0);
	session_close(&session);
	assert_int_equal(session_open(&session, "NORMAL:-VERS-ALL:+VERS-TLS1.3"), 0);
	session_close(&session);
	assert_true(session_open(&session, "NORMAL:-VERS-ALL:+VERS-TLS1.1:%ALLOW_SMALL_RECORDS") < 0);
	session_close(&session);
}

static int start(void **state)
{
	struct error err = { 0 };

	snprintf(dir, sizeof(dir), "/tmp/akira-tls-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(cert_path, sizeof(cert_path), "%s/cert.pem", dir);
	snprintf(key_path, sizeof(key_path), "%s/key.pem", dir);
	make_certificate(1, true);
	struct http_config config = { .tls_cert = cert_path, .tls_key = key_path };
	if (http_start(&config, routes, 1, NULL, &server, &err) < 0)
		fail_msg("%s", err.text);
	return 0;
}

static int stop(void **state)
{
	assert_int_equal(http_stop(server, 5000), 0);
	return fd_remove_tree(AT_FDCWD, dir, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_versions),
		cmocka_unit_test(test_certificate_reload),
	};
	return cmocka_run_group_tests(tests, start, stop);
}
