"""POST …/execute: codes, streams, limits, quoting, timeouts, many at once."""

import concurrent.futures
import hashlib
import re
import threading
import time

import pytest

from harness.client import refused
from harness.wait import wait_until


@pytest.mark.parametrize("command, code", [
    ("true", 0), ("false", 1), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143),
    ("kill -SEGV $$", 139), ("no-such-command-here", 127), ("/etc/hostname", 126), ("exit 0; exit 3", 0),
])
def test_exit_codes(box, command, code):
    result = box.run(command)
    assert result["exit_code"] == code, result


def test_the_answer_is_as_documented(box):
    result = box.run("echo out; echo err >&2")
    assert re.fullmatch(r"exec_[0-9A-Za-z_-]{16,}", result["id"])
    assert result["status"] == "completed"
    assert isinstance(result["execution_time_ms"], (int, float)) and result["execution_time_ms"] >= 0
    assert result["created_at"] <= result["completed_at"]


def test_stdout_and_stderr_are_apart(box):
    result = box.run("for i in 1 2 3; do echo o$i; echo e$i >&2; done")
    assert result["stdout"] == "o1\no2\no3\n" and result["stderr"] == "e1\ne2\ne3\n"


def test_no_output(box):
    result = box.run("true")
    assert result["stdout"] == "" and result["stderr"] == ""
    assert not result.get("stdout_truncated") and not result.get("stderr_truncated")


def test_output_without_a_newline(box):
    assert box.out("printf abc") == "abc"


@pytest.mark.parametrize("text", [
    "simple", "two words", "it's", 'say "hi"', "$HOME `id` $(id)", "a;b|c&d>e<f", "back\\slash", "tab\there", "ümlaut ß",
    "日本語 🎉", "*?[a-z]{x,y}", "--help", "%s%n%d", "new\nline", "\u2028\u2029", "</script><b>", "\x1b[31mred\x1b[0m",
])
def test_quoting_survives(box, text):
    """Through the environment and through single quotes in the command."""
    quoted = "'" + text.replace("'", "'\\''") + "'"
    assert box.out(f"printf %s {quoted}") == text
    assert box.out('printf %s "$TEXT"', env={"TEXT": text}) == text


def test_a_long_command_line(box):
    text = "x" * 60_000
    assert box.out(f"printf %s {text} | wc -c").strip() == "60000"
    refused(box.execute(f"echo {text}{text}"), 400, "invalid_request", "command")


def test_many_lines_in_one_command(box):
    assert box.out("cat <<'E'\na\n$b\nE\nfor i in 1 2\ndo echo $i\ndone") == "a\n$b\n1\n2\n"


def test_the_shell_is_bash(box):
    assert box.out("a=(1 2 3); echo ${#a[@]} <<< x; [[ abc == a* ]] && echo yes") == "3\nyes\n"


def test_bytes_that_are_not_utf8_are_replaced(box):
    result = box.run(r"printf 'a\xff\xfeb\xc3'; printf '\xf0\x9f' >&2")
    assert result["stdout"].startswith("a\ufffd") and "b" in result["stdout"]
    assert result["stdout"].endswith("\ufffd") and "\ufffd" in result["stderr"]


def test_nul_bytes_in_output(box):
    assert box.out(r"printf 'a\0b'") in ("a\0b", "a\ufffdb")


def test_a_character_that_is_split_over_writes_is_whole(box):
    assert box.out(r"printf '\xe6\x97'; sleep 0.3; printf '\xa5'") == "日"


# ---- environment and folder ----


def test_the_default_folder_is_the_images(box):
    assert box.out("pwd") == "/workspace\n"


def test_working_dir(box):
    assert box.out("pwd", working_dir="/tmp") == "/tmp\n"
    box.run("mkdir -p '/tmp/a b/ü'")
    assert box.out("pwd", working_dir="/tmp/a b/ü") == "/tmp/a b/ü\n"


def test_a_working_dir_that_is_not_there(box):
    answer = box.execute("pwd", working_dir="/no/such/folder")
    if answer.status == 200:
        assert answer.json["status"] == "error" or answer.json["exit_code"] != 0, answer
    else:
        refused(answer, 422 if answer.status == 422 else 404)


def test_environment_overrides(own):
    box = own(env_vars={"A": "sandbox", "B": "sandbox", "PATH": "/usr/bin:/bin:/opt/x"})
    assert box.out("echo $A-$B-$C", env={"B": "call", "C": "call"}) == "sandbox-call-call\n"
    assert box.out("echo $A-$B-$C") == "sandbox-sandbox-\n"
    assert box.out("echo $PATH") == "/usr/bin:/bin:/opt/x\n"


def test_environment_values_of_all_kinds(own):
    values = {"EMPTY": "", "SPACES": "  a  b ", "UNI": "日本 🎉", "LINES": "a\nb", "LONG": "x" * 30000, "EQ": "a=b=c"}
    box = own(env_vars=values)
    for name, value in values.items():
        assert box.out(f'printf %s "${name}"') == value, name


def test_commands_share_no_environment(box):
    box.run("export LEFT=1; cd /tmp")
    assert box.out("echo [$LEFT] $PWD") == "[] /workspace\n"


def test_files_stay_between_commands(box):
    box.run("echo kept > /workspace/kept")
    assert box.out("cat kept") == "kept\n"


def test_standard_input_is_empty(box):
    assert box.out("cat; echo done", timeout=20) == "done\n"


# ---- output ----


def test_fifty_megabytes_of_output_keep_both_ends(box):
    """8 MiB are kept: the first and the last 4, and the answer says so."""
    result = box.run("head -c 1000 /dev/zero | tr '\\0' A; head -c 50000000 /dev/zero | tr '\\0' m; echo Z", timeout=120)
    assert result["exit_code"] == 0 and result["stdout_truncated"] is True
    assert result["stdout"].startswith("A" * 1000) and result["stdout"].endswith("mZ\n")
    assert 7 << 20 <= len(result["stdout"]) <= (8 << 20) + 1000


def test_output_below_the_bound_is_whole(box):
    result = box.run("seq 1 200000", timeout=60)
    assert result["stdout"] == "".join(f"{number}\n" for number in range(1, 200001))
    assert not result.get("stdout_truncated")


def test_both_streams_full(box):
    result = box.run("head -c 9000000 /dev/zero | tr '\\0' e >&2 & head -c 9000000 /dev/zero | tr '\\0' o; wait", timeout=60)
    assert result["stdout_truncated"] and result["stderr_truncated"]
    assert set(result["stdout"].replace("\n", "")) >= {"o"} and "e" not in result["stdout"]


def test_daemon_memory_is_bounded_by_what_is_kept(daemon, box):
    """A flood far over the bound must not grow akirad by what it cannot keep."""
    box.run("true")
    before = daemon.memory()
    box.run("head -c 80000000 /dev/zero", timeout=200)
    # 16 MiB kept twice (bytes and JSON), the sanitizer's own overhead and quarantine included.
    assert daemon.memory() - before < 420 << 20


# ---- time ----


def test_a_timeout_is_an_answer(box):
    begin = time.monotonic()
    answer = box.execute("echo before; sleep 60", timeout=2)
    assert answer.status == 200, answer
    assert answer.json["status"] == "timeout" and answer.json["exit_code"] == 124
    assert answer.json["stdout"] == "before\n"
    assert 1.9 <= time.monotonic() - begin < 30


def test_a_timeout_kills_grandchildren(box):
    box.execute("(setsid sh -c 'trap \"\" TERM HUP; exec -a grandchild sleep 500' &) ; (sleep 501 &); sleep 502", timeout=2)
    wait_until(lambda: box.out("pgrep -cf 'sleep 50[0-2]|grandchild' || true").split()[0] in ("0", "1"), "all are gone", 20)
    left = box.out("ps -eo args | grep -E '^(grandchild|sleep 50[0-2])' || true")
    assert left == "", left


def test_a_timeout_is_not_ignored_by_signals(box):
    begin = time.monotonic()
    answer = box.execute("trap '' TERM INT HUP QUIT; while :; do :; done", timeout=2)
    assert answer.json["status"] == "timeout" and time.monotonic() - begin < 30


def test_the_longest_time_is_not_cut_short(box):
    assert box.out("sleep 3; echo done", timeout=300) == "done\n"


@pytest.mark.long
def test_over_a_clients_header_timeout(box):
    """The status line comes early, so that a client which waits 60 s for headers does not send it all again."""
    box.run("rm -f /tmp/count")
    begin = time.monotonic()
    connection, response = box.api.open(
        "POST", box.path("execute"), json={"command": "echo x >> /tmp/count; sleep 70", "timeout": 100}, timeout=60
    )
    assert time.monotonic() - begin < 60
    connection.sock.settimeout(60)
    assert b'"completed"' in response.read()
    connection.close()
    assert box.out("wc -l < /tmp/count").strip() == "1"


def test_headers_come_before_a_long_command_ends(box):
    """The short form: well before a minute, and valid JSON at the end of it."""
    connection, response = box.api.open("POST", box.path("execute"), json={"command": "sleep 2; echo late", "timeout": 20})
    assert response.status == 200 and b"late" in response.read()
    connection.close()


# ---- at once ----


def test_twenty_at_once(box):
    def one(number):
        return box.run(f"sleep 0.$((RANDOM % 9)); echo {number}; echo e{number} >&2; exit {number}", timeout=60)

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        results = list(pool.map(one, range(20)))
    for number, result in enumerate(results):
        assert (result["stdout"], result["stderr"], result["exit_code"]) == (f"{number}\n", f"e{number}\n", number)
    assert len({result["id"] for result in results}) == 20


def test_a_client_that_goes_away_does_not_hold_the_sandbox(box):
    """The call's connection closes; the command must not run on for nobody, nor block another."""
    connection = box.api.connect()
    body = b'{"command":"exec -a left-alone sleep 300","timeout":300}'
    head = f"POST {box.path('execute')} HTTP/1.1\r\nHost: x\r\nx-api-key: {box.api.key}\r\nContent-Type: application/json\r\n"
    connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    wait_until(lambda: "left-alone" in box.out("ps -eo args"), "the command runs")
    connection.close()
    wait_until(lambda: not re.search(r"^left-alone", box.out("ps -eo args"), re.M), "the command is gone", 20)


def test_python_runs(box):
    assert box.out("python3 -c 'print(sum(range(1000)))'", timeout=60) == "499500\n"
    digest = hashlib.sha256(b"abc").hexdigest()
    assert box.out("python3 -c 'import hashlib; print(hashlib.sha256(b\"abc\").hexdigest())'", timeout=60) == digest + "\n"


def test_two_sandboxes_do_not_see_each_other(own):
    first, second = own(), own()
    first.run("echo secret > /workspace/mine; exec -a hidden sleep 0.1 & echo")
    assert second.run("cat /workspace/mine")["exit_code"] == 1


def test_interleaved_commands_and_uploads(box):
    """Streams of one sandbox do not mix."""
    errors = []

    def exchange(number):
        data = bytes([number]) * 300_000
        try:
            box.put(f"/tmp/mix{number}", data)
            assert box.out(f"sha256sum < /tmp/mix{number}").split()[0] == hashlib.sha256(data).hexdigest()
            assert box.fetch(f"/tmp/mix{number}") == data
        except AssertionError as error:
            errors.append(error)

    threads = [threading.Thread(target=exchange, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
