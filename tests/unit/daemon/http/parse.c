/* The parsers alone, without a socket. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"
#include "daemon/http/internal.h"
#include "daemon/http/multipart.h"

/* ---- multipart: what was seen, as one line ---- */

static int seen_begin(void *context, const struct multipart_part *part, struct error *err)
{
	return buf_addf(context, "[%s%s:", part->name, part->has_filename ? "*" : "");
}

static int seen_data(void *context, const char *data, size_t size, struct error *err)
{
	return buf_add(context, data, size);
}

static int seen_end(void *context, struct error *err)
{
	return buf_adds(context, "]");
}

/* Fed in pieces of every size; NULL: refused. */
static void multipart(const char *type, const char *body, const char *wanted)
{
	size_t size = strlen(body);
	for (size_t piece = 1; piece <= size; piece++) {
		_cleanup_buf_ struct buf seen = { 0 };
		struct multipart_events events = { seen_begin, seen_data, seen_end, &seen };
		struct multipart reader;
		struct error err = { 0 };
		int r = multipart_open(&reader, type, &events, &err);
		for (size_t at = 0; r == 0 && at < size; at += piece)
			r = multipart_feed(&reader, body + at, size - at < piece ? size - at : piece, &err);
		if (r == 0)
			r = multipart_finish(&reader, &err);
		multipart_close(&reader);
		if (wanted) {
			assert_string_equal(err.text, "");
			assert_string_equal(buf_text(&seen), wanted);
		} else {
			assert_int_equal(r, -EINVAL);
		}
	}
}

#define TYPE "multipart/form-data; boundary=XX"
#define PART(name) "Content-Disposition: form-data; name=\"" name "\"\r\n\r\n"

static void test_multipart(void **state)
{
	multipart(TYPE, "--XX\r\n" PART("path") "/a\r\n--XX\r\n" PART("file") "data\r\n--XX--\r\n",
		  "[path:/a][file:data]");
	multipart(TYPE,
		  "--XX\r\nContent-Type: a/b\r\ncontent-disposition:form-data;name=file; filename=\"x;y\\\"z\"\r\n\r\n"
		  "\r\n\r\n--X\r\n--XX--",
		  "[file*:\r\n\r\n--X]");
	multipart(TYPE, "--XX\r\n" PART("file") "\r\n--XX--", "[file:]");
	multipart("multipart/form-data; charset=x; boundary=\"a b'c\"", "--a b'c\r\n" PART("p") "1\r\n--a b'c--",
		  "[p:1]");
	multipart(TYPE, "--XX--", "");
}

static void test_multipart_refusals(void **state)
{
	multipart(TYPE, "--XX\r\n" PART("path") "/a\r\n", NULL);               /* no end */
	multipart(TYPE, "junk--XX\r\n" PART("path") "/a\r\n--XX--", NULL);     /* no boundary first */
	multipart(TYPE, "--XX\r\nContent-Type: a/b\r\n\r\nx\r\n--XX--", NULL); /* no name */
	multipart(TYPE, "--XX\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n--XX--", NULL);
	multipart(TYPE, "--XX\r\n" PART("a") "x\r\n--XXjunk", NULL);
	multipart("multipart/form-data", "--\r\n", NULL);
	multipart("multipart/form-data; boundary=", "--\r\n", NULL);
	multipart("multipart/form-data; boundary=\"a\x01\"", "--\r\n", NULL);
	struct multipart reader;
	struct multipart_events events = { 0 };
	assert_int_equal(multipart_open(&reader, "multipart/form-dataX; boundary=a", &events, NULL), -ENOTSUP);
	assert_int_equal(multipart_open(&reader, NULL, &events, NULL), -ENOTSUP);
}

static void test_multipart_bounds(void **state)
{
	_cleanup_buf_ struct buf body = { 0 }, seen = { 0 };
	struct multipart_events events = { seen_begin, seen_data, seen_end, &seen };
	struct multipart reader;

	for (int i = 0; i <= MULTIPART_PARTS_MAX; i++)
		buf_adds(&body, "--XX\r\n" PART("a") "\r\n");
	assert_int_equal(multipart_open(&reader, TYPE, &events, NULL), 0);
	assert_int_equal(multipart_feed(&reader, body.data, body.size, NULL), -EINVAL);
	multipart_close(&reader);

	buf_clear(&body);
	buf_adds(&body, "--XX\r\nX: ");
	for (int i = 0; i < MULTIPART_HEADERS_MAX; i++)
		buf_adds(&body, "y");
	assert_int_equal(multipart_open(&reader, TYPE, &events, NULL), 0);
	assert_int_equal(multipart_feed(&reader, body.data, body.size, NULL), -EINVAL);
	multipart_close(&reader);
}

/* ---- JSON ---- */

static void test_json_bounds(void **state)
{
	json_t *json = NULL;
	_cleanup_buf_ struct buf text = { 0 };

	buf_adds(&text, "{\"a\":[0");
	for (int i = 0; i < JSON_VALUES_MAX; i++)
		buf_adds(&text, ",0");
	buf_adds(&text, "]}");
	assert_int_equal(http_json_parse(text.data, text.size, &json, NULL), -EINVAL);

	/* A million levels must be refused before anything recurses. */
	buf_clear(&text);
	for (int i = 0; i < 1000000; i++)
		buf_adds(&text, "[");
	assert_int_equal(http_json_parse(text.data, text.size, &json, NULL), -EINVAL);

	/* Brackets and commas in strings are no structure. */
	buf_clear(&text);
	buf_adds(&text, "{\"a\":\"");
	for (int i = 0; i < 20000; i++)
		buf_adds(&text, "[,\\\"");
	buf_adds(&text, "\"}");
	assert_int_equal(http_json_parse(text.data, text.size, &json, NULL), 0);
	json_decref(json);
}

/* A refusal names the field, however deep it is. */
static void test_json_names_the_field(void **state)
{
	static const char *const bad[][2] = {
		{ "{\"a\":{\"b\":[1,\"x\\u0000y\"]}}", "a.b[1]: must not hold a NUL" },
		{ "{\"x\":1,\"n\":9223372036854775808}", "n: the number is too large" },
		{ "{\"x\":[{\"n\":-99999999999999999999}]}", "x[0].n: the number is too large" },
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *json = NULL;
		struct error err = { 0 };
		assert_int_equal(http_json_parse(bad[i][0], strlen(bad[i][0]), &json, &err), -EINVAL);
		assert_string_equal(err.text, bad[i][1]);
	}
}

/* ---- addresses ---- */

static void client_is(const char *peer, const char *forwarded, const char *wanted)
{
	struct http_cidr trusted[2];
	struct in6_addr address;
	char text[HTTP_ADDRESS_MAX];

	assert_int_equal(http_cidr_parse("10.0.0.0/8", &trusted[0]), 0);
	assert_int_equal(http_cidr_parse("fd00::/9", &trusted[1]), 0);
	assert_int_equal(http_address_parse(peer, &address), 0);
	http_address_client(&address, forwarded, trusted, 2, text);
	assert_string_equal(text, wanted);
}

static void test_client_address(void **state)
{
	client_is("192.0.2.1", "8.8.8.8", "192.0.2.1"); /* no proxy: what it says is its own invention */
	client_is("10.1.1.1", "8.8.8.8", "8.8.8.8");
	client_is("10.1.1.1", "6.6.6.6, 8.8.8.8 , 10.2.2.2", "8.8.8.8");
	client_is("10.1.1.1", "8.8.8.8:1234", "8.8.8.8");
	client_is("10.1.1.1", "[2001:db8::1]:80", "2001:db8::1");
	client_is("fd7f::1", "2001:db8::1", "2001:db8::1");
	client_is("fd80::1", "2001:db8::1", "fd80::1");
	client_is("10.1.1.1", "6.6.6.6, junk", "10.1.1.1");
	client_is("10.1.1.1", "", "10.1.1.1");
	client_is("10.1.1.1", "10.9.9.9", "10.9.9.9");
}

static void test_cidrs(void **state)
{
	static const char *const bad[] = { "", "10.0.0.0/33", "10.0.0/8", "::/129", "a", "10.0.0.0/", "10.0.0.0/-1" };
	struct http_cidr cidr;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(http_cidr_parse(bad[i], &cidr), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_multipart),
		cmocka_unit_test(test_multipart_refusals),
		cmocka_unit_test(test_multipart_bounds),
		cmocka_unit_test(test_json_bounds),
		cmocka_unit_test(test_json_names_the_field),
		cmocka_unit_test(test_client_address),
		cmocka_unit_test(test_cidrs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
