/*
 * libFuzzer: the launcher's decoder of requests (and akirad's of answers). What is taken must encode again to something
 * that is taken as the same. The first byte chooses which of both.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/launch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void request(const uint8_t *data, size_t size)
{
	static struct launch_request first, second;
	static unsigned char again[LAUNCH_MESSAGE_MAX];
	if (launch_decode_request(&first, data, size, NULL) < 0)
		return;
	int length = launch_encode_request(&first, again, sizeof again);
	if (length < 0 || launch_decode_request(&second, again, (size_t)length, NULL) < 0)
		abort();
	if (first.type != second.type || strcmp(first.id, second.id) ||
	    launch_request_fds(&first) != launch_request_fds(&second))
		abort();
	if (first.type == LAUNCH_VM_START &&
	    (first.vm.arg_count != second.vm.arg_count || first.vm.args[first.vm.arg_count] ||
	     (first.vm.arg_count && first.vm.args[0] != first.vm.text)))
		abort();
}

static void reply(const uint8_t *data, size_t size)
{
	static unsigned char again[LAUNCH_MESSAGE_MAX];
	struct launch_reply first, second;
	if (launch_decode_reply(&first, data, size) < 0)
		return;
	int length = launch_encode_reply(&first, again, sizeof again);
	if (length < 0 || launch_decode_reply(&second, again, (size_t)length) < 0 || first.code != second.code)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	if (data[0] & 1)
		reply(data + 1, size - 1);
	else
		request(data + 1, size - 1);
	return 0;
}
