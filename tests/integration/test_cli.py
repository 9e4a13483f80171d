"""The client `akira` against the real daemon."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from harness.client import TIMEOUT
from harness.daemon import program
from harness.wait import wait_until

SHAPE = ["--image", "tiny", "--memory", "256"]


@pytest.fixture(scope="module")
def environment(daemon):
    return {
        "PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "AKIRA_API_KEY": daemon.key,
        "AKIRA_BASE_URL": f"http://127.0.0.1:{daemon.port}", "ASAN_OPTIONS": "detect_leaks=1:exitcode=99",
    }


@pytest.fixture(scope="module")
def akira(environment):
    """Runs it; (exit code, stdout, stderr)."""

    def run(*arguments, stdin=None, extra=None, timeout=TIMEOUT):
        options = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            [program("akira"), *arguments], env={**environment, **(extra or {})}, capture_output=True, timeout=timeout, check=False, **options
        )
        assert b"Sanitizer" not in done.stderr, done.stderr.decode("utf-8", "replace")
        return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")

    return run


def test_run_shows_output_and_ends_with_the_code(akira, api):
    code, out, err = akira("run", *SHAPE, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (code, out) == (7, "out\n") and "err\n" in err
    wait_until(lambda: not [row for row in api.live().values() if row["name"].startswith("sandbox-")], "it was deleted", 30)


def test_run_passes_arguments_exactly(akira):
    words = ["a b", "c'd", '"', "$HOME", "*", "ü", "", "-x"]
    code, out, _ = akira("run", *SHAPE, "--", "python3", "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *words)
    assert code == 0 and json.loads(out) == words


def test_run_passes_standard_input(akira):
    code, out, err = akira("run", *SHAPE, "--", "sha256sum", stdin=b"abc")
    assert code == 0 and out.startswith("ba7816bf8f01cfea414140de5dae2223"), err


def test_run_of_what_is_not_there(akira):
    assert akira("run", *SHAPE, "--", "no-such-program")[0] == 127
    code, _, err = akira("run", "--image", "no-such-image", "--", "true")
    assert code == 125 and "tiny" in err


def test_run_with_a_timeout(akira):
    assert akira("run", *SHAPE, "--timeout", "2", "--", "sleep", "60")[0] == 124


def test_run_is_interrupted(environment, api):
    child = subprocess.Popen(
        [program("akira"), "run", *SHAPE, "--name", "interrupted", "--", "sh", "-c", "echo begin; sleep 300"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"begin\n"
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    wait_until(lambda: not [row for row in api.live().values() if row["name"] == "interrupted"], "it was deleted", 30)


def test_output_comes_as_it_is_produced(environment):
    child = subprocess.Popen(
        [program("akira"), "run", *SHAPE, "--", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 1; done"],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    times = []
    for _ in range(3):
        assert child.stdout.readline()
        times.append(time.monotonic())
    child.communicate(timeout=60)
    assert times[2] - times[0] > 1


def test_the_life_of_a_sandbox(akira, tmp_path):
    code, out, err = akira("sandbox", "create", *SHAPE, "--name", "by-cli")
    assert code == 0, err
    identifier = re.search(r"sbx_\w+", out).group()
    try:
        assert identifier in akira("sandbox", "list")[1]
        listed = json.loads(akira("sandbox", "list", "--json")[1])
        rows = listed if isinstance(listed, list) else listed["data"]
        assert identifier in [row["id"] for row in rows]
        assert json.loads(akira("sandbox", "get", identifier, "--json")[1])["name"] == "by-cli"
        assert akira("sandbox", "exec", "by-cli", "--", "echo", "hello")[:2] == (0, "hello\n")
        assert akira("sandbox", "exec", identifier, "--", "sh", "-c", "exit 9")[0] == 9
        data = os.urandom(100_000)
        (tmp_path / "in").write_bytes(data)
        assert akira("sandbox", "cp", str(tmp_path / "in"), f"{identifier}:/workspace/x")[0] == 0
        assert akira("sandbox", "cp", f"{identifier}:/workspace/x", str(tmp_path / "out"))[0] == 0
        assert (tmp_path / "out").read_bytes() == data
        assert "echo" in akira("logs", identifier)[1]
        assert akira("sandbox", "pause", identifier)[0] == 0 and akira("sandbox", "resume", identifier)[0] == 0
        code, out, err = akira("snapshot", "create", identifier, "--name", "cli-snap")
        assert code == 0, err
        snapshot = re.search(r"snap_\w+", out).group()
        assert snapshot in akira("snapshot", "list")[1]
        code, out, err = akira("snapshot", "restore", snapshot)
        assert code == 0, err
        assert akira("sandbox", "rm", re.search(r"sbx_\w+", out).group())[0] == 0
        assert akira("snapshot", "rm", snapshot)[0] == 0
    finally:
        assert akira("sandbox", "rm", identifier)[0] == 0
    assert identifier not in akira("sandbox", "list")[1]


def test_keys(akira, api):
    code, out, err = akira("key", "create", "cli-key", "--scope", "sandboxes:read")
    assert code == 0, err
    key = re.search(r"sk_live_\w+", out).group()
    assert api.get("/v1/sandboxes/list", key=key).status == 200
    listed = akira("key", "list")[1]
    assert "cli-key" in listed and key not in listed
    assert akira("key", "revoke", "cli-key")[0] == 0
    assert api.come_from("127.0.9.1").get("/v1/sandboxes/list", key=key).status == 401


def test_audit_and_usage(akira):
    assert akira("audit", "list")[0] == 0
    assert akira("audit", "verify")[0] == 0
    assert akira("usage")[0] == 0


def test_help_and_wrong_usage(akira):
    for arguments in (["--help"], ["run", "--help"], ["sandbox", "create", "--help"], ["key", "--help"]):
        code, out, _ = akira(*arguments)
        assert code == 0 and len(out) > 100, arguments
    for arguments in (["nonsense"], ["run"], ["sandbox", "get"], ["sandbox", "list", "--no-such"], ["run", "--memory", "x", "--", "true"]):
        code, out, err = akira(*arguments)
        assert code in (2, 125) and err and not out, arguments


def test_no_server_and_no_key(akira):
    code, _, err = akira("sandbox", "list", extra={"AKIRA_BASE_URL": "http://127.0.0.1:1"})
    assert code == 1 and "127.0.0.1:1" in err
    code, _, err = akira("sandbox", "list", extra={"AKIRA_API_KEY": "sk_live_wrong"})
    assert code == 1 and err and "sk_live_wrong" not in err


def test_doctor_speaks(akira):
    code, out, err = akira("doctor")
    assert code in (0, 1) and len(out + err) > 200
