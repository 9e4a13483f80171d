/*
 * Theory of operation. The API streams a command's output (NDJSON) but has no way in for its input. So input is put
 * into a file of the sandbox first, and the line opens and removes that file before it becomes the command: the
 * command reads a file of which no name is left. Closing the connection is what kills a command.
 */
#include "cli/exec.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "base/time.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/shape.h"

#define LINE_MAX_BYTES 131072         /* the server's bound */
#define RECORD_MAX ((size_t)32 << 20) /* one line of NDJSON */
#define INPUT_PATH_MAX 64

struct stream {
	struct buf pending;
	bool ended;
	int exit_code;
	int seen;
	char error[ERROR_TEXT_MAX];
};

static void quote_one(struct buf *line, const char *text)
{
	static const char safe[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+:,./-";
	if (*text && strspn(text, safe) == strlen(text)) {
		buf_adds(line, text);
		return;
	}
	buf_add(line, "'", 1);
	for (; *text; text++)
		buf_add(line, *text == '\'' ? "'\\''" : text, *text == '\'' ? 4 : 1);
	buf_add(line, "'", 1);
}

int exec_quote(struct buf *line, char *const *arguments, int count)
{
	for (int i = 0; i < count; i++) {
		if (i > 0)
			buf_add(line, " ", 1);
		quote_one(line, arguments[i]);
	}
	return line->failed ? -EFBIG : 0;
}

int exec_line(const struct cli *cli, int first, struct buf *line)
{
	const char *shell = cli_value(cli, "command");
	int count = cli->argument_count - first;
	if (shell && count > 0)
		return cli_usage(cli, "either -c LINE or a command, not both");
	if (!shell && count == 0)
		return cli_usage(cli, "which command?");
	if (shell) {
		buf_adds(line, shell);
	} else {
		/* exec: no shell stays around the command, and a built-in is not taken for a program. */
		if (cli->arguments[first][0] != '-')
			buf_adds(line, "exec ");
		exec_quote(line, cli->arguments + first, count);
	}
	if (line->failed || line->size == 0 || line->size > LINE_MAX_BYTES)
		return cli_usage(cli, "the command line must have 1 to %d bytes: put long data into a file",
				 LINE_MAX_BYTES);
	if (!str_is_utf8(line->data, line->size))
		return cli_usage(cli, "the command line is not UTF-8");
	return 0;
}

int exec_input_open(const struct cli *cli, struct exec_input *input, struct error *err)
{
	struct stat st;
	input->present = false;
	input->first_size = 0;
	input->size = -1;
	if (cli_flag(cli, "no-stdin") || fstat(STDIN_FILENO, &st) < 0)
		return 0;
	if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode) && !S_ISSOCK(st.st_mode))
		return 0;
	struct output_progress progress = {
		.doing = cli->quiet ? NULL : "waiting for standard input (see --no-stdin)",
		.since = time_mono_ms(),
	};
	int seen = 0;
	for (;;) {
		struct pollfd fds[] = { { .fd = STDIN_FILENO, .events = POLLIN },
					{ .fd = interrupt_fd(), .events = POLLIN } };
		int ready = poll(fds, 2, 500);
		if (interrupt_count() > seen) {
			output_progress_end(&progress);
			return error_set(err, EINTR, "interrupted");
		}
		if (ready > 0 && fds[0].revents)
			break;
		output_progress(&progress);
	}
	output_progress_end(&progress);
	ssize_t got = read(STDIN_FILENO, input->first, sizeof(input->first));
	if (got < 0)
		return error_errno(err, errno, "standard input");
	input->present = got > 0;
	input->first_size = (size_t)got;
	off_t at = S_ISREG(st.st_mode) ? lseek(STDIN_FILENO, 0, SEEK_CUR) : -1;
	if (at >= 0 && st.st_size >= at)
		input->size = st.st_size - at + got;
	return 0;
}

/* All of it, however long the reader of our output takes; a signal ends the wait. */
static int pass_on(struct stream *stream, int fd, const json_t *text)
{
	const char *data = json_string_value(text);
	size_t left = data ? json_string_length(text) : 0;
	while (left > 0) {
		ssize_t done = write(fd, data, left);
		if (done < 0 && errno == EAGAIN)
			done = 0;
		if (done < 0 && errno != EINTR)
			return -errno;
		if (done > 0) {
			data += done;
			left -= (size_t)done;
			continue;
		}
		int r = interrupt_wait(fd, POLLOUT, stream->seen);
		if (r < 0)
			return r;
	}
	return 0;
}

static int take_record(struct stream *stream, const char *line, size_t size)
{
	json_t *record = json_loadb(line, size, JSON_ALLOW_NUL, NULL);
	if (!json_is_object(record)) {
		json_decref(record);
		return -EPROTO;
	}
	const json_t *code = json_object_get(record, "exit_code");
	const char *error = json_string_value(json_object_get(record, "error"));
	int r = pass_on(stream, STDOUT_FILENO, json_object_get(record, "stdout"));
	if (r == 0)
		r = pass_on(stream, STDERR_FILENO, json_object_get(record, "stderr"));
	if (error && !stream->error[0])
		snprintf(stream->error, sizeof(stream->error), "%s", *error ? error : "unknown error");
	if (json_is_integer(code)) {
		stream->ended = true;
		stream->exit_code = (int)json_integer_value(code);
	}
	json_decref(record);
	return r;
}

static int on_output(void *context, const char *data, size_t size)
{
	struct stream *stream = context;
	int r = buf_add(&stream->pending, data, size);
	size_t done = 0;
	while (r == 0) {
		char *line = stream->pending.data + done;
		char *end = memchr(line, '\n', stream->pending.size - done);
		if (!end)
			break;
		if (end > line)
			r = take_record(stream, line, (size_t)(end - line));
		done = (size_t)(end - stream->pending.data) + 1;
	}
	buf_drop(&stream->pending, done);
	return r;
}

/* Exit code of a finished stream, errors printed. */
static int conclude(const struct cli *cli, struct stream *stream, int r, const struct error *err)
{
	if (r == -EINTR || (r < 0 && interrupt_count() > stream->seen))
		return CLI_INTERRUPTED;
	if (r == -ETIMEDOUT)
		return CLI_TIMED_OUT;
	if (r == -EPIPE)
		return CLI_BROKEN_PIPE;
	if (r < 0)
		return cli_fail(cli, err);
	if (stream->error[0]) {
		output_error("%s: %s", cli->command->name, stream->error);
		return CLI_NOT_RUN;
	}
	if (!stream->ended) {
		output_error("%s: the stream ended before the command did", cli->command->name);
		return CLI_NOT_RUN;
	}
	return stream->exit_code & 0xff;
}

static int stream_command(struct cli *cli, const char *id, const struct exec_spec *spec, const json_t *body)
{
	char path[HTTP_PATH_MAX];
	struct stream stream = { .pending.max = RECORD_MAX, .seen = interrupt_count() };
	struct http_request request = {
		.method = "POST",
		.path = http_path(path, "/v1/sandboxes/%s/execute_async", id),
		.body = body,
		.timeout_ms = spec->timeout_s ? spec->timeout_s * 1000 : HTTP_FOREVER,
		.sink = on_output,
		.context = &stream,
	};
	_cleanup_answer_ struct http_answer answer = { 0 };
	struct error err = { 0 };
	int r = http_call(cli->http, &request, &answer, &err);
	/* Our own failures come back as libcurl's "write error": what matters is which. */
	int code = conclude(cli, &stream, r, &err);
	buf_free(&stream.pending);
	return code;
}

static int upload_input(struct cli *cli, const char *id, const struct exec_input *input, char to[INPUT_PATH_MAX],
			struct error *err)
{
	char path[HTTP_PATH_MAX];
	str_random_id(to, "/tmp/.akira-stdin");
	struct http_upload upload = {
		.path = to,
		.fd = STDIN_FILENO,
		.size = input->size,
		.first = input->first,
		.first_size = input->first_size,
	};
	struct http_request request = {
		.method = "POST",
		.path = http_path(path, "/v1/sandboxes/%s/upload", id),
		.upload = &upload,
		.timeout_ms = HTTP_FOREVER,
		.doing = cli->quiet ? NULL : "passing standard input on",
	};
	_cleanup_answer_ struct http_answer answer = { 0 };
	int r = http_call(cli->http, &request, &answer, err);
	return r < 0 ? error_prefix(err, "standard input: ") : 0;
}

static int make_body(const struct cli *cli, const struct exec_spec *spec, const char *input, json_t **body,
		     struct error *err)
{
	json_t *env;
	int r = shape_env(cli, &env, err);
	if (r < 0)
		return r;
	*body = json_object();
	if (input)
		json_object_set_new(*body, "command",
				    json_sprintf("exec <%s && rm -f %s\n%s", input, input, spec->line));
	else
		json_object_set_new(*body, "command", json_string(spec->line));
	if (cli_value(cli, "workdir"))
		json_object_set_new(*body, "working_dir", json_string(cli_value(cli, "workdir")));
	if (env)
		json_object_set_new(*body, "env", env);
	return 0;
}

int exec_in_sandbox(struct cli *cli, const char *id, const struct exec_spec *spec)
{
	struct error err = { 0 };
	char input[INPUT_PATH_MAX];
	bool present = spec->input && spec->input->present;
	json_t *body = NULL;
	int r = present ? upload_input(cli, id, spec->input, input, &err) : 0;
	if (r == 0)
		r = make_body(cli, spec, present ? input : NULL, &body, &err);
	if (r < 0)
		return r == -EINTR ? CLI_INTERRUPTED : cli_fail(cli, &err);
	int code = stream_command(cli, id, spec, body);
	json_decref(body);
	return code;
}
