"""The disks' file system stops to answer (N17): whoever writes there waits, nobody else does, and all goes on afterwards."""

import os
import subprocess
import threading
import time

import pytest

from harness.daemon import is_running
from harness.wait import wait_until
from test_storage import Volume


class Frozen:
    """The volume's writers sleep until it is thawed; that it is thawed is seen to even when the test fails."""

    def __init__(self, volume):
        self.point = volume.point

    def __enter__(self):
        subprocess.run(["fsfreeze", "-f", self.point], check=True, stdin=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        subprocess.run(["fsfreeze", "-u", self.point], check=True, stdin=subprocess.DEVNULL)


def in_background(call):
    result = {}

    def run():
        try:
            result["answer"] = call()
        except Exception as error:  # noqa: BLE001 - told by whoever looks at the result
            result["answer"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, result


@pytest.fixture
def frozen_world(private, tmp_path):
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        os.chmod(folder, 0o755)
    volume = Volume("ext4", 1400, tmp_path)
    daemon = private({"limits": {"disk_reserve_mib": 64}}, data_dir=volume.point / "data")
    try:
        yield daemon.start(), volume
    finally:
        daemon.close()
        volume.close()


def bounded(api, method, path, **options):
    """The status and the seconds; None when nothing came in 15 s."""
    begin = time.monotonic()
    try:
        status = api.request(method, path, timeout=15, **options).status
    except TimeoutError:
        status = None
    return status, time.monotonic() - begin


@pytest.mark.limit(240)
def test_n17_storage_that_hangs(frozen_world):
    """
    The data folder with database and disks: two calls may sleep with it, all others are refused within their bound. A
    sandbox whose time is over is ended all the same, and what was refused was not done.
    """
    daemon, volume = frozen_world
    api = daemon.api()
    quiet, writer, ending = api.create(), api.create(), api.create(timeout_seconds=600)
    vms = {box.id: daemon.vm_of(box) for box in (quiet, writer, ending)}
    writing = writer.stream("head -c 30000000 /dev/urandom > /workspace/y; sync; echo written")
    assert api.request("PUT", ending.path("timeout"), json={"timeout_seconds": 4}).status == 200
    key = {"name": "while-frozen", "scopes": ["sandboxes:read"]}
    with Frozen(volume):
        asleep = [in_background(lambda: bounded(api, "GET", quiet.path())) for _ in range(2)]
        calls = [("GET", "/healthz", {"key": None}), ("GET", "/v1/sandboxes/list", {}), ("POST", "/v1/keys", {"json": key}),
                 ("DELETE", writer.path("delete"), {})]
        answers = [in_background(lambda call=call: bounded(api, *call[:2], **call[2])) for call in calls]
        wait_until(lambda: not is_running(vms[ending.id]), "the one whose time is over is ended", 40)
        assert is_running(vms[quiet.id])
        for thread, _ in answers:
            thread.join(40)
        given = [result.get("answer") for _, result in answers]
        assert [status for status, _ in given].count(None) <= 2, given  # the one that reads and the one that writes
        assert {status for status, _ in given} <= {200, 503, 504, None}, given
    for thread, _ in asleep:
        thread.join(40)
        assert not thread.is_alive()
    wait_until(lambda: bounded(api, "GET", "/v1/sandboxes/list")[0] == 200, "it answers as ever", 60)
    wait_until(lambda: ending.get()["status"] == "terminated", "its end is written down", 60)
    assert ending.get()["termination"]["reason"] == "timeout"
    if given[2][0] in (503, 504):
        assert key["name"] not in api.get("/v1/keys", query={"page_size": 100}).body.decode()
    assert quiet.out("echo x > /workspace/x; sync; cat /workspace/x", timeout=60) == "x\n"
    if writer.get()["status"] == "running":
        assert writer.out("sync; ls /workspace", timeout=60) == "y\n"
    writing.close()
    writer.remove()
    with api.create() as last:
        assert last.out("echo x > /workspace/x; sync; cat /workspace/x", timeout=60) == "x\n"
    wait_until(lambda: len(daemon.vms()) == 1 and set(api.live()) == {quiet.id}, "nothing else is left", 30)
    assert api.get("/v1/audit/verify").json["valid"] is True
