#include "daemon/net/message.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const uint8_t plain[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\3wWw\7exAmple\3com\0\0\1\0\1";
#define PLAIN_SIZE (sizeof(plain) - 1)

static void reads_a_question(void **state)
{
	struct message_question question;
	assert_int_equal(message_question_parse(plain, PLAIN_SIZE, &question), MESSAGE_OK);
	assert_string_equal(question.name, "www.example.com");
	assert_int_equal(question.id, 0x1234);
	assert_int_equal(question.type, MESSAGE_A);
	assert_true(question.recursion_desired);
	assert_int_equal(question.wire_size, PLAIN_SIZE - 12);
	assert_memory_equal(question.wire, plain + 12, question.wire_size); /* its case is kept */
}

static void every_cut_is_refused(void **state)
{
	struct message_question question;
	for (size_t size = 0; size < PLAIN_SIZE; size++) {
		uint8_t exact[PLAIN_SIZE];
		memcpy(exact, plain, size);
		assert_int_not_equal(message_question_parse(exact, size, &question), MESSAGE_OK);
	}
}

static void odd_headers_are_refused(void **state)
{
	static const struct {
		size_t at;
		uint8_t value;
		int rcode;
	} cases[] = {
		{ 2, 0x81, -1 },
		{ 2, 0x29, MESSAGE_NOTIMP },
		{ 5, 0, MESSAGE_FORMERR },
		{ 5, 2, MESSAGE_FORMERR },
		{ 7, 1, MESSAGE_FORMERR },
		{ 9, 1, MESSAGE_FORMERR },
		{ 11, 2, MESSAGE_FORMERR },
		{ 12, 0xc0, MESSAGE_FORMERR },
		{ 12, 0x40, MESSAGE_FORMERR },
		{ PLAIN_SIZE - 1, 3, MESSAGE_REFUSED },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t data[PLAIN_SIZE];
		struct message_question question;
		memcpy(data, plain, PLAIN_SIZE);
		data[cases[i].at] = cases[i].value;
		assert_int_equal(message_question_parse(data, PLAIN_SIZE, &question), cases[i].rcode);
	}
}

static void a_name_of_odd_bytes_matches_no_rule(void **state)
{
	static const uint8_t odd[] = "\0\1\1\0\0\1\0\0\0\0\0\0\5a.b\0c\3com\0\0\1\0\1";
	struct message_question question;
	assert_int_equal(message_question_parse(odd, sizeof(odd) - 1, &question), MESSAGE_OK);
	assert_string_equal(question.name, "");
}

static void writes_a_query_that_it_can_read(void **state)
{
	uint8_t data[MESSAGE_QUERY_MAX];
	struct message_question question;
	size_t size = message_query_make(data, 7, "a.example");
	assert_int_equal(message_question_parse(data, size, &question), MESSAGE_OK);
	assert_string_equal(question.name, "a.example");
	char longest[300];
	for (size_t i = 0; i < 254; i++)
		longest[i] = i % 50 == 49 ? '.' : 'a';
	longest[253] = '\0';
	assert_true(message_query_make(data, 7, longest) <= MESSAGE_QUERY_MAX);
	assert_true(message_query_make(data, 7, longest) > 0);
	strcpy(longest + 253, "a");
	assert_int_equal(message_query_make(data, 7, longest), 0);
	assert_int_equal(message_query_make(data, 7, ""), 0);
	assert_int_equal(message_query_make(data, 7, "a..b"), 0);
}

/* ---- answers, built by hand ---- */

struct built {
	uint8_t data[2000];
	size_t size;
};

static void add(struct built *b, const void *bytes, size_t size)
{
	memcpy(b->data + b->size, bytes, size);
	b->size += size;
}

static void start(struct built *b, const char *flags_and_counts)
{
	b->size = 0;
	add(b, "\x12\x34", 2);
	add(b, flags_and_counts, 10);
	add(b, "\1a\7example\0\0\1\0\1", 15);
}

static void add_a(struct built *b, const char *owner, size_t owner_size, const char *address)
{
	add(b, owner, owner_size);
	add(b, "\0\1\0\1\0\0\0\x3c\0\4", 10);
	add(b, address, 4);
}

#define OWNER "\xc0\x0c", 2

static bool alias_seen(const char *name, void *argument)
{
	return strcmp(name, "denied.example") != 0;
}

static int answer_to(const struct built *b, struct message_answer *answer)
{
	return message_answer_parse(b->data, b->size, 0x1234, "a.example", answer, alias_seen, NULL);
}

static void reads_an_answer(void **state)
{
	struct built b;
	struct message_answer answer;
	start(&b, "\x81\x80\0\1\0\2\0\0\0\0");
	add_a(&b, OWNER, "\1\2\3\4");
	add_a(&b, OWNER, "\5\6\7\x8");
	assert_int_equal(answer_to(&b, &answer), 0);
	assert_int_equal(answer.count, 2);
	assert_int_equal(answer.addresses[0], 0x01020304);
	assert_int_equal(answer.ttl, 60);
}

static void believes_no_other_question(void **state)
{
	struct built b;
	struct message_answer answer;
	start(&b, "\x81\x80\0\1\0\1\0\0\0\0");
	add_a(&b, OWNER, "\1\2\3\4");
	assert_int_equal(message_answer_parse(b.data, b.size, 0x1235, "a.example", &answer, NULL, NULL), -EBADMSG);
	assert_int_equal(message_answer_parse(b.data, b.size, 0x1234, "b.example", &answer, NULL, NULL), -EBADMSG);
	assert_int_equal(message_answer_parse(b.data, b.size, 0x1234, "A.Example", &answer, NULL, NULL), 0);
	b.data[2] = 0x01; /* not an answer */
	assert_int_equal(answer_to(&b, &answer), -EBADMSG);
}

static void takes_no_address_of_another_name(void **state)
{
	struct built b;
	struct message_answer answer;
	start(&b, "\x81\x80\0\1\0\1\0\0\0\0");
	add_a(&b, "\1b\7example\0", 11, "\1\2\3\4");
	assert_int_equal(answer_to(&b, &answer), 0);
	assert_int_equal(answer.count, 0);
}

static void follows_aliases(void **state)
{
	struct built b;
	struct message_answer answer;
	start(&b, "\x81\x80\0\1\0\2\0\0\0\0");
	add(&b, "\xc0\x0c\0\5\0\1\0\0\0\5\0\4\1B\xc0\x0e", 16); /* a.example is B.example, 5 s */
	add_a(&b, "\1b\xc0\x0e", 4, "\1\2\3\4");
	assert_int_equal(answer_to(&b, &answer), 0);
	assert_int_equal(answer.count, 1);
	assert_int_equal(answer.ttl, 5);
	start(&b, "\x81\x80\0\1\0\2\0\0\0\0");
	add(&b, "\xc0\x0c\0\5\0\1\0\0\0\5\0\11\6dEnied\xc0\x0e", 21);
	add_a(&b, "\6denied\xc0\x0e", 9, "\1\2\3\4");
	assert_int_equal(answer_to(&b, &answer), -EPERM);
}

static void ends_at_a_loop(void **state)
{
	struct built b;
	struct message_answer answer;
	start(&b, "\x81\x80\0\1\0\1\0\0\0\0");
	add(&b, "\xc0\x0c\0\5\0\1\0\0\0\5\0\2\xc0\x0c", 14); /* a.example is a.example */
	assert_int_equal(answer_to(&b, &answer), 0);
	assert_int_equal(answer.count, 0);
	start(&b, "\x81\x80\0\1\0\1\0\0\0\0");
	add(&b, "\xc0\x1b\0\5\0\1\0\0\0\5\0\2\xc0\x1b", 14); /* a pointer to itself */
	assert_int_equal(answer_to(&b, &answer), 0);
	assert_int_equal(answer.count, 0);
}

static void no_cut_is_read_beyond(void **state)
{
	struct built b;
	struct message_answer answer;
	start(&b, "\x81\x80\0\1\0\3\0\0\0\0");
	add(&b, "\xc0\x0c\0\5\0\1\0\0\0\5\0\4\1b\xc0\x0e", 16);
	add_a(&b, "\1b\xc0\x0e", 4, "\1\2\3\4");
	add_a(&b, "\1b\xc0\x0e", 4, "\5\6\7\x8");
	for (size_t size = 0; size < b.size; size++) {
		uint8_t *exact = malloc(size + !size); /* on the heap, where ASan sees a byte too many */
		memcpy(exact, b.data, size);
		assert_int_equal(message_answer_parse(exact, size, 0x1234, "a.example", &answer, NULL, NULL), -EBADMSG);
		free(exact);
	}
}

static void replies_fit_512_bytes(void **state)
{
	struct message_question question = { .wire_size = MESSAGE_WIRE_MAX - 1 };
	uint32_t addresses[MESSAGE_ADDRESSES_MAX] = { 0 };
	uint8_t data[MESSAGE_QUERY_MAX];
	assert_true(message_reply_make(data, &question, MESSAGE_OK, addresses, MESSAGE_ADDRESSES_MAX, 60) <= 512);
	question.wire_size = 0;
	assert_int_equal(message_reply_make(data, &question, MESSAGE_FORMERR, NULL, 0, 0), 12);
}

static void a_reply_is_an_answer_to_its_question(void **state)
{
	uint8_t data[MESSAGE_QUERY_MAX];
	struct message_question question;
	struct message_answer answer;
	const uint32_t addresses[] = { 0x01020304, 0x05060708 };
	assert_int_equal(message_question_parse(plain, PLAIN_SIZE, &question), MESSAGE_OK);
	size_t size = message_reply_make(data, &question, MESSAGE_OK, addresses, 2, 77);
	assert_int_equal(message_answer_parse(data, size, 0x1234, "www.example.com", &answer, NULL, NULL), 0);
	assert_int_equal(answer.count, 2);
	assert_int_equal(answer.ttl, 77);
	assert_memory_equal(answer.addresses, addresses, sizeof(addresses));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_a_question),
		cmocka_unit_test(every_cut_is_refused),
		cmocka_unit_test(odd_headers_are_refused),
		cmocka_unit_test(a_name_of_odd_bytes_matches_no_rule),
		cmocka_unit_test(writes_a_query_that_it_can_read),
		cmocka_unit_test(reads_an_answer),
		cmocka_unit_test(believes_no_other_question),
		cmocka_unit_test(takes_no_address_of_another_name),
		cmocka_unit_test(follows_aliases),
		cmocka_unit_test(ends_at_a_loop),
		cmocka_unit_test(no_cut_is_read_beyond),
		cmocka_unit_test(replies_fit_512_bytes),
		cmocka_unit_test(a_reply_is_an_answer_to_its_question),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
