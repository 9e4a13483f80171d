import os
import shutil
import subprocess
import threading

import pytest

from fake_server import KEY, FakeServer


def pytest_addoption(parser):
    parser.addoption("--akira", default=os.environ.get("AKIRA_CLI"), help="the client under test")
    parser.addoption("--akirad", default=os.environ.get("AKIRAD"), help="the server, for the tests of packaging")


@pytest.fixture
def server():
    fake = FakeServer()
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield fake
    fake.shutdown()
    fake.server_close()
    thread.join(10)


@pytest.fixture
def client(request, server, tmp_path):
    """Call client("run", …): a finished process; client.start(…): one that runs."""
    program = request.config.getoption("--akira") or shutil.which("akira")
    assert program, "give --akira PATH or set AKIRA_CLI"
    base = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "AKIRA_API_KEY": KEY,
        "AKIRA_BASE_URL": server.url,
    }

    def start(*arguments, env=None, **more):
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen([program, *arguments], env={**base, **(env or {})}, **more)

    def call(*arguments, input=None, **more):
        if input is not None:
            more["stdin"] = subprocess.PIPE
        process = start(*arguments, **more)
        try:
            out, err = process.communicate(input, timeout=60)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    call.start = start
    return call
