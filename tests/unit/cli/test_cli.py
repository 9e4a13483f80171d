"""The client against a scripted server: what it sends, what it prints, how it exits."""

import json
import os
import pathlib
import pty
import re
import shlex
import shutil
import signal
import subprocess
import threading

import pytest

SANDBOX = {
    "id": "sbx_one", "name": "first", "status": "running", "cpu": 6, "memory": 512, "disk_size": 10,
    "created_at": "2026-01-31T12:00:00.000Z",
}


def lists(server, path, rows, size=100):
    def page(handler, seen):
        number = int(seen["query"].get("page", ["1"])[0])
        handler.answer(200, {"data": rows[(number - 1) * size:number * size], "pagination": {}})
    server.route("GET", path, page)


# ---- run ----


def test_run_makes_runs_deletes_and_returns_the_code(server, client):
    server.output({"stdout": "out\n"}, {}, {"stderr": "err\n"}, {"stdout": "nul\0"}, {"exit_code": 7})
    done = client("run", "--image", "tiny", "--cpus", "1.5", "--memory", "1g", "--storage", "20", "--env", "A=b=c",
                  "--network", "deny", "--allow", "example.com", "--workdir", "/srv", "--", "true")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\nnul\0", b"err\n")
    create = server.asked("POST", "/v1/sandboxes/create")
    assert len(create) == 1
    assert create[0]["body"] == {
        "image": "tiny", "resources": {"cpus": 6, "memory": 1024, "storage": 20}, "env_vars": {"A": "b=c"},
        "network": {"outbound": "deny", "allow": ["example.com"]},
    }
    assert create[0]["headers"]["idempotency-key"].startswith("cli_")
    assert server.asked("POST", ".*/execute_async")[0]["body"] == {
        "command": "exec true", "working_dir": "/srv", "env": {"A": "b=c"},
    }
    assert len(server.asked("DELETE", "/v1/sandboxes/sbx_one/delete")) == 1
    assert not server.asked("POST", ".*/upload")


@pytest.mark.parametrize("arguments", [
    ["echo", "a b", "", "$HOME", "it's", "*", "x\ny", "--help", "--", "é", "\\", "a=b"],
    ["A=b", "c"],
])
def test_arguments_reach_the_command_exactly(server, client, arguments):
    server.output({"exit_code": 0})
    assert client("run", *arguments).returncode == 0
    line = server.asked("POST", ".*/execute_async")[0]["body"]["command"]
    assert shlex.split(line) == ["exec", *arguments]
    shown = subprocess.run(["sh", "-c", line.replace("exec", "printf '<%s>'", 1)], stdout=subprocess.PIPE, check=True)
    assert shown.stdout.decode() == "".join(f"<{a}>" for a in arguments)


def test_shell_line_is_sent_as_it_is(server, client):
    server.output({"exit_code": 0})
    assert client("run", "-c", "echo $A | wc").returncode == 0
    assert server.asked("POST", ".*/execute_async")[0]["body"]["command"] == "echo $A | wc"


@pytest.mark.parametrize("size", [1, 65536, 65537, 3_000_000])
def test_piped_input_is_whole(server, client, size):
    data = os.urandom(size)
    server.output({"exit_code": 0})
    assert client("run", "cat", input=data).returncode == 0
    parts = server.asked("POST", ".*/upload")[0]["parts"]
    path = parts["path"].decode()
    assert parts["file"] == data
    assert re.fullmatch(r"/tmp/\.akira-stdin_[A-Za-z0-9]{24}", path)
    assert server.asked("POST", ".*/execute_async")[0]["body"]["command"] == f"exec <{path} && rm -f {path}\nexec cat"


def test_file_input_starts_where_the_file_stands(server, client, tmp_path):
    (tmp_path / "in").write_bytes(b"0123456789" * 20000)
    server.output({"exit_code": 0})
    with open(tmp_path / "in", "rb", buffering=0) as file:
        file.seek(5)
        assert client("run", "cat", stdin=file).returncode == 0
    assert server.asked("POST", ".*/upload")[0]["parts"]["file"] == (b"0123456789" * 20000)[5:]


def test_empty_input_and_no_stdin_upload_nothing(server, client):
    server.output({"exit_code": 0})
    assert client("run", "cat", input=b"").returncode == 0
    assert client("run", "-n", "cat", input=b"x").returncode == 0
    assert not server.asked("POST", ".*/upload")


def test_keep_says_the_id_and_does_not_delete(server, client):
    server.output({"exit_code": 3})
    done = client("run", "--keep", "true")
    assert done.returncode == 3 and b"sbx_one" in done.stderr
    assert not server.asked("DELETE", ".*")


def test_output_comes_as_it_is_written(server, client):
    go = threading.Event()

    def slow(handler, _):
        handler.begin_stream()
        handler.chunk(b'{"stdout":"fir')
        handler.chunk(b'st"}\n')
        assert go.wait(20)
        handler.chunk(b'{"exit_code":0}\n')
        handler.chunk(b"")
    server.route("POST", ".*/execute_async", slow)
    process = client.start("run", "true")
    assert process.stdout.read(5) == b"first"
    go.set()
    assert process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_the_sandbox(server, client, number):
    closed = []

    def forever(handler, _):
        handler.begin_stream()
        handler.chunk(b'{"stdout":"x"}\n')
        closed.append(handler.gone())
    server.route("POST", ".*/execute_async", forever)
    process = client.start("run", "sleep", "inf")
    assert process.stdout.read(1) == b"x"
    process.send_signal(number)
    assert process.wait(20) == 128 + number
    assert len(server.asked("DELETE", "/v1/sandboxes/sbx_one/delete")) == 1
    server.shutdown()
    assert closed == [True]


def test_a_signal_while_creating_still_deletes(server, client):
    asked, go = threading.Event(), threading.Event()

    def slow(handler, _):
        asked.set()
        assert go.wait(20)
        handler.answer(201, {"id": "sbx_late"})
    server.route("POST", "/v1/sandboxes/create", slow)
    process = client.start("run", "true")
    assert asked.wait(20)
    process.send_signal(signal.SIGINT)
    go.set()
    assert process.wait(20) == 130
    assert len(server.asked("DELETE", "/v1/sandboxes/sbx_late/delete")) == 1
    assert not server.asked("POST", ".*/execute_async")


def test_timeout_kills_and_is_124(server, client):
    server.route("POST", ".*/execute_async", lambda h, _: (h.begin_stream(), h.gone()))
    assert client("run", "--timeout", "1", "sleep", "9").returncode == 124
    assert server.asked("POST", "/v1/sandboxes/create")[0]["body"]["timeout_seconds"] == 121
    assert len(server.asked("DELETE", ".*")) == 1


def test_closed_output_ends_the_command(server, client):
    def much(handler, _):
        handler.begin_stream()
        try:
            for _ in range(10000):
                handler.chunk(json.dumps({"stdout": "y" * 1000}).encode() + b"\n")
        except OSError:
            pass
    server.route("POST", ".*/execute_async", much)
    process = client.start("run", "yes")
    assert process.stdout.read(1) == b"y"
    process.stdout.close()
    assert process.wait(30) == 141
    assert len(server.asked("DELETE", ".*")) == 1


@pytest.mark.parametrize("records, words", [
    ([{"stdout": "x"}], b"the stream ended before the command did"),
    ([{"error": "the sandbox was deleted"}], b"the sandbox was deleted"),
])
def test_a_broken_stream_is_125(server, client, records, words):
    server.output(*records)
    done = client("run", "true")
    assert done.returncode == 125 and words in done.stderr
    assert len(server.asked("DELETE", ".*")) == 1


def test_garbage_in_the_stream_is_125(server, client):
    server.route("POST", ".*/execute_async", lambda h, _: (h.begin_stream(), h.chunk(b"<html>\n"), h.chunk(b"")))
    assert client("run", "true").returncode == 125


# ---- errors ----


def test_a_refusal_is_told_with_its_code(server, client):
    server.route("POST", "/v1/sandboxes/create", lambda h, _: h.answer(
        400, {"error": {"code": "invalid_request", "message": "image: no image 'x'\x1b[2J"}}))
    done = client("run", "true")
    assert done.returncode == 125
    assert done.stderr == b"akira: run: image: no image 'x'\\x1b[2J (invalid_request)\n"
    assert client("sandbox", "create").returncode == 1


def test_busy_is_waited_out_but_quota_is_not(server, client):
    answers = [(503, "capacity"), (429, "rate_limited"), (201, None)]

    def busy(handler, _):
        status, code = answers.pop(0)
        value = {"error": {"code": code, "message": "later"}} if code else {"id": "sbx_one"}
        handler.answer(status, value, [("Retry-After", "1")])
    server.route("POST", "/v1/sandboxes/create", busy)
    assert client("sandbox", "create").stdout == b"sbx_one\n"
    keys = {s["headers"]["idempotency-key"] for s in server.asked("POST", ".*/create")}
    assert len(server.asked("POST", ".*/create")) == 3 and len(keys) == 1
    answers[:] = [(429, "quota_exceeded")]
    assert client("sandbox", "create").returncode == 1


def test_a_failure_after_the_status_is_a_failure(server, client):
    server.route("POST", "/v1/sandboxes/create", lambda h, _: h.answer(
        201, {"error": {"code": "capacity", "message": "no memory left"}}))
    done = client("sandbox", "create")
    assert done.returncode == 1 and b"no memory left (capacity)" in done.stderr and not done.stdout


def test_a_broken_create_is_repeated_with_its_key(server, client):
    calls = []

    def drop(handler, seen):
        calls.append(seen["headers"]["idempotency-key"])
        if len(calls) == 1:
            handler.close_connection = True
            handler.connection.shutdown(2)
        else:
            handler.answer(201, {"id": "sbx_one"})
    server.route("POST", "/v1/sandboxes/create", drop)
    assert client("sandbox", "create").stdout == b"sbx_one\n"
    assert len(calls) == 2 and calls[0] == calls[1]


def test_no_server_and_not_akira(server, client):
    done = client("sandbox", "list", env={"AKIRA_BASE_URL": "http://127.0.0.1:1"})
    assert done.returncode == 1 and b"cannot reach http://127.0.0.1:1" in done.stderr
    server.route("GET", "/v1/sandboxes/list", lambda h, _: h.answer(200, b"<html>"))
    done = client("sandbox", "list")
    assert done.returncode == 1 and b"not JSON" in done.stderr


def test_the_key_follows_no_redirect(server, client):
    server.route("GET", "/v1/sandboxes/list", lambda h, _: h.answer(302, {}, [("Location", server.url + "/elsewhere")]))
    assert client("sandbox", "list").returncode == 1
    assert not server.asked("GET", "/elsewhere")


@pytest.mark.parametrize("arguments, code", [
    ((), 2), (("nonsense",), 2), (("sandbox",), 2), (("sandbox", "nonsense"), 2), (("sandbox", "get"), 2),
    (("sandbox", "list", "extra"), 2), (("sandbox", "list", "--nonsense"), 2), (("sandbox", "create", "--cpus", "0.3"), 2),
    (("sandbox", "create", "--name"), 2), (("sandbox", "create", "--name=a", "--name=b"), 2), (("run",), 125),
    (("run", "--timeout", "x", "true"), 125), (("run", "-c", "x", "y"), 125), (("run", "-c", ""), 125),
    (("sandbox", "create", "--memory", "1x"), 2), (("sandbox", "create", "--env", "=x"), 2),
    (("sandbox", "create", "--json=1"), 2), (("sandbox", "rm"), 2), (("sandbox", "rm", "--all", "x"), 2),
    (("sandbox", "get", ".."), 1), (("key", "create", "x", "--expires-days", "0"), 2),
])
def test_wrong_usage(server, client, arguments, code):
    lists(server, "/v1/sandboxes/list", [])
    done = client(*arguments)
    assert done.returncode == code
    assert not server.asked("POST", ".*") and not server.asked("DELETE", ".*")


# ---- credentials ----


def credentials(tmp_path, text, mode=0o600):
    path = tmp_path / ".config/akira/credentials"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_credentials_file(server, client, tmp_path):
    lists(server, "/v1/sandboxes/list", [])
    credentials(tmp_path, f"# mine\n\n api_key = sk_live_test \nbase_url={server.url}/v1/\n")
    assert client("sandbox", "list", env={"AKIRA_API_KEY": "", "AKIRA_BASE_URL": ""}).returncode == 0


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660])
def test_credentials_that_others_may_read_are_refused(server, client, tmp_path, mode):
    credentials(tmp_path, f"api_key = sk_live_test\nbase_url = {server.url}\n", mode)
    done = client("sandbox", "list", env={"AKIRA_API_KEY": "", "AKIRA_BASE_URL": ""})
    assert done.returncode == 1 and b"chmod 600" in done.stderr
    assert not server.seen


@pytest.mark.parametrize("env", [
    {"AKIRA_API_KEY": "a\r\nb"}, {"AKIRA_API_KEY": "x" * 5000}, {"AKIRA_BASE_URL": "file:///etc/passwd"},
    {"AKIRA_BASE_URL": "http://a b"}, {"AKIRA_API_KEY": "", "AKIRA_CREDENTIALS": "/nonexistent"},
])
def test_bad_settings(server, client, env):
    assert client("sandbox", "list", env=env).returncode == 1
    assert not server.seen


def test_unencrypted_to_another_host_is_warned_of(client):
    done = client("sandbox", "list", "--base-url", "http://127.evil.invalid:1")
    assert b"unencrypted" in done.stderr


def test_wrong_key(server, client):
    done = client("sandbox", "list", env={"AKIRA_API_KEY": "sk_live_other"})
    assert done.returncode == 1 and b"(unauthorized)" in done.stderr


# ---- lists, names, tables ----


def test_list_as_table_and_as_json(server, client):
    rows = [{**SANDBOX, "id": f"sbx_{i}", "name": f"n{i}"} for i in range(250)]
    lists(server, "/v1/sandboxes/list", rows)
    lines = client("sandbox", "list").stdout.decode().splitlines()
    assert len(lines) == 251 and lines[0].split() == ["ID", "NAME", "STATUS", "CPUS", "MEMORY", "DISK", "CREATED"]
    assert len({line.index("running") for line in lines[1:]}) == 1
    assert "1.5" in lines[1] and "512 MiB" in lines[1] and "10 GB" in lines[1]
    assert json.loads(client("sandbox", "list", "--json").stdout) == rows


def test_a_name_stands_for_its_id(server, client):
    lists(server, "/v1/sandboxes/list", [SANDBOX, {**SANDBOX, "id": "sbx_two", "name": "twin"},
                                         {**SANDBOX, "id": "sbx_three", "name": "twin"}])
    server.route("GET", "/v1/sandboxes/sbx_one", lambda h, _: h.answer(200, SANDBOX))
    assert b"sbx_one" in client("sandbox", "get", "first").stdout
    done = client("sandbox", "get", "twin")
    assert done.returncode == 1 and b"2 have the name" in done.stderr
    assert client("sandbox", "get", "nobody").returncode == 1


def on_terminal(client, *arguments, columns=60):
    master, slave = pty.openpty()
    subprocess.run(["stty", "cols", str(columns), "-onlcr"], stdin=slave, check=True)
    process = client.start(*arguments, stdout=slave)
    os.close(slave)
    text = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:
            data = b""
        if not data:
            break
        text += data
    os.close(master)
    process.wait(20)
    return text.decode()


def test_terminal_tables_are_cut_and_harmless(server, client):
    evil = "\x1b]0;owned\x07\x9b2J\u202egnp" + "w" * 200
    lists(server, "/v1/sandboxes/list", [{**SANDBOX, "name": evil}])
    text = on_terminal(client, "sandbox", "list")
    assert all(len(line) <= 60 for line in text.splitlines()) and "…" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "\\x1b]0;owned" in client("sandbox", "list").stdout.decode()
    assert "\x1b" not in on_terminal(client, "sandbox", "list", "--json")


def test_rm_several_goes_on_after_a_failure(server, client):
    server.route("DELETE", "/v1/sandboxes/[^/]+/delete", lambda h, s: h.answer(
        *((404, {"error": {"code": "not_found", "message": "no"}}) if "bad" in s["path"] else (200, {"id": "x"}))))
    done = client("sandbox", "rm", "sbx_a", "sbx_bad", "sbx_c")
    assert done.returncode == 1 and done.stdout == b"sbx_a\nsbx_c\n"


# ---- files ----


def test_cp_both_ways(server, client, tmp_path):
    data = os.urandom(300_000)
    (tmp_path / "up").write_bytes(data)
    assert client("sandbox", "cp", str(tmp_path / "up"), "sbx_one:/workspace/").returncode == 0
    parts = server.asked("POST", ".*/upload")[0]["parts"]
    assert parts == {"path": b"/workspace/up", "file": data}
    server.route("GET", ".*/download", lambda h, _: h.answer(200, data))
    assert client("sandbox", "cp", "sbx_one:/a b&c=d", str(tmp_path) + "/").returncode == 0
    assert (tmp_path / "a b&c=d").read_bytes() == data
    assert server.asked("GET", ".*/download")[0]["query"] == {"path": ["/a b&c=d"]}
    assert client("sandbox", "cp", "sbx_one:/x", "-").stdout == data


def test_a_failed_download_leaves_the_old_file(server, client, tmp_path):
    target = tmp_path / "old"
    target.write_text("old")

    def cut(handler, _):
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(b"part")
        handler.close_connection = True
    server.route("GET", ".*/download", cut)
    assert client("sandbox", "cp", "sbx_one:/x", str(target)).returncode == 1
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["old"]
    server.route("GET", ".*/download", lambda h, _: h.answer(404, {"error": {"code": "not_found", "message": "no file"}}))
    assert b"no file" in client("sandbox", "cp", "sbx_one:/x", str(target)).stderr
    assert target.read_text() == "old"


def test_cp_needs_exactly_one_remote_side(server, client, tmp_path):
    assert client("sandbox", "cp", "sbx_a:/x", "sbx_b:/y").returncode == 2
    assert client("sandbox", "cp", "x", "y").returncode == 2
    assert client("sandbox", "cp", str(tmp_path), "sbx_a:/x").returncode == 1


# ---- the rest ----


def test_exec_in_a_sandbox(server, client):
    server.output({"stdout": "hi"}, {"exit_code": 5})
    done = client("sandbox", "exec", "-e", "A=1", "sbx_one", "--", "ls", "-l")
    assert (done.returncode, done.stdout) == (5, b"hi")
    assert server.asked("POST", ".*/execute_async")[0]["body"] == {"command": "exec ls -l", "env": {"A": "1"}}
    assert not server.asked("DELETE", ".*")
    client("sandbox", "exec", "sbx_one", "ls", "-c")
    assert server.asked("POST", ".*/execute_async")[1]["body"]["command"] == "exec ls -c"


def test_snapshot_restore_and_clone(server, client):
    server.route("POST", "/v1/snapshots/snap_a/restore", lambda h, _: h.answer(201, {"id": "sbx_new"}))
    server.route("POST", "/v1/sandboxes/sbx_one/clone", lambda h, _: h.answer(201, {"sandbox": {"id": "sbx_copy"}, "snapshot": {}}))
    assert client("snapshot", "restore", "snap_a", "--storage", "20").stdout == b"sbx_new\n"
    body = server.asked("POST", ".*/restore")[0]["body"]
    assert body["resources"] == {"storage": "20Gi"} and body["name"].startswith("restored-")
    assert client("clone", "sbx_one", "--no-wait").stdout == b"sbx_copy\n"
    assert server.asked("POST", ".*/clone")[0]["body"] == {"wait_for_ready": False}


def test_key_create_prints_the_key_alone(server, client):
    server.route("POST", "/v1/keys", lambda h, _: h.answer(201, {"id": "key_a", "key": "sk_live_new"}))
    done = client("key", "create", "ci", "--scope", "sandboxes:read", "--scope", "sandboxes:write")
    assert done.stdout == b"sk_live_new\n"
    assert server.asked("POST", "/v1/keys")[0]["body"] == {"name": "ci", "scopes": ["sandboxes:read", "sandboxes:write"]}


def test_key_create_grants_no_more_than_use(server, client):
    server.route("POST", "/v1/keys", lambda h, _: h.answer(201, {"id": "key_a", "key": "sk_live_new"}))
    client("key", "create", "ci")
    assert server.asked("POST", "/v1/keys")[0]["body"]["scopes"] == ["sandboxes:read", "sandboxes:write"]


def test_audit_follows_the_cursor_to_its_limit(server, client):
    def page(handler, seen):
        start = int(seen["query"].get("cursor", ["0"])[0])
        handler.answer(200, {"data": [{"seq": start + i} for i in range(2)], "next_cursor": str(start + 2)})
    server.route("GET", "/v1/audit", page)
    done = client("audit", "list", "--json", "--limit", "5", "--action", "key.create")
    assert [row["seq"] for row in json.loads(done.stdout)] == list(range(6))[:len(json.loads(done.stdout))]
    assert len(server.asked("GET", "/v1/audit")) == 3
    assert all(s["query"]["action"] == ["key.create"] for s in server.asked("GET", "/v1/audit"))
    server.route("GET", "/v1/audit/verify", lambda h, _: h.answer(200, {"valid": False, "rows": 9, "first_bad_seq": 4}))
    assert client("audit", "verify").returncode == 1


def test_image_list_reads_manifests(client, tmp_path):
    (tmp_path / "images/tiny").mkdir(parents=True)
    (tmp_path / "images/tiny/manifest.json").write_text('{"name": "tiny", "aliases": ["t"], "size": 1048576}')
    done = client("image", "list", env={"AKIRA_CACHE": str(tmp_path)})
    assert done.returncode == 0 and b"1.0 MiB" in done.stdout


def test_image_build_passes_its_options_on(client, tmp_path):
    script = tmp_path / "build"
    script.write_text("#!/bin/sh\nexec echo \"$@\"\n")
    script.chmod(0o755)
    done = client("image", "build", "tiny", "--dir", "/images", "--prune", env={"AKIRA_IMAGES_BUILD": str(script)})
    assert done.stdout == b"tiny --out /images --prune\n"


def all_commands(client):
    text = client("--help").stdout.decode()
    return [line[2:20].strip() for line in text.splitlines() if line.startswith("  ")]


def test_help_of_every_command(server, client):
    commands = all_commands(client)
    assert len(commands) > 25
    for command in commands:
        done = client(*command.split(), "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"Usage: akira {command} ".encode())
        assert max(len(line) for line in done.stdout.decode().splitlines()) <= 100
    assert not server.seen
    assert client("--version").stdout.startswith(b"akira ")


def test_man_page_and_completion(client, tmp_path):
    page = client("help", "--man").stdout
    if not shutil.which("man"):
        pytest.skip("no man here")
    checked = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-"], input=page, capture_output=True)
    assert checked.returncode == 0 and not checked.stderr
    for command in all_commands(client):
        assert f"akira {command}".encode() in page
    script = tmp_path / "akira.bash"
    script.write_bytes(client("help", "--bash").stdout)

    def complete(*words):
        line = f'. {script}; COMP_WORDS=({" ".join(words)} ""); COMP_CWORD={len(words)}; _akira; echo "${{COMPREPLY[@]}}"'
        return subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode().split()
    assert {"run", "sandbox", "help"} <= set(complete("akira"))
    assert {"create", "list", "exec"} <= set(complete("akira", "sandbox"))


def test_the_documentation_names_every_command_and_no_other(client):
    path = pathlib.Path(__file__).resolve().parents[3] / "docs/cli.md"
    table = path.read_text().split("## Commands")[1].split("\n## ")[0]
    named = {name for name in re.findall(r"`akira ([a-z ]+)`", table)}
    assert named == set(all_commands(client))
