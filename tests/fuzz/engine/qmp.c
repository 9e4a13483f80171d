/* libFuzzer: a QEMU that its guest has taken over, on the control channel. All that it says is there before we ask. */
#include "daemon/engine/qmp.c"

#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void converse(int fd)
{
	struct error err = { 0 };
	struct qmp *qmp = NULL;
	json_t *result = NULL;
	char reason[32];

	if (qmp_open(fd, 1000, &qmp, &err) < 0) {
		if (qmp || err.code == 0)
			abort();
		return;
	}
	for (int i = 0; i < 8; i++) {
		int r = qmp_command(qmp, "query-jobs", json_pack("{s:i}", "i", i), -1, 1000, &result, &err);
		json_t *job = json_array_get(result, 0);
		(void)json_string_value(json_object_get(job, "status"));
		json_decref(result);
		result = NULL;
		if (r < 0 && r != -EREMOTEIO)
			break;
	}
	(void)qmp_wait_event(qmp, "STOP", 0, &result, &err);
	json_decref(result);
	qmp_shutdown_reason(qmp, reason);
	if (strlen(reason) >= sizeof(reason))
		abort();
	qmp_free(qmp);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char opening[] = "{\"QMP\":{}}\n{\"return\":{}}\n";
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	/* What does not fit into the socket is not said. The first byte: with a proper opening, or from its begin. */
	if (size > 0 && data[0] & 1)
		(void)send(pair[0], opening, sizeof(opening) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (size > 1)
		(void)send(pair[0], data + 1, size - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	shutdown(pair[0], SHUT_WR);
	converse(pair[1]);
	close(pair[0]);
	return 0;
}
