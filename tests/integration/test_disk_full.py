"""A host whose disk is full: clear errors, running sandboxes unharmed, and recovery without a restart (G15, N06)."""

import os
from pathlib import Path

import pytest

from harness.client import refused
from harness.daemon import TEMPORARY, Daemon
from harness.wait import wait_until
from test_storage import Volume


@pytest.fixture(scope="module")
def small():
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="akira-full-", dir=TEMPORARY))
    folder.chmod(0o755)
    volume = Volume("ext4", 1400, folder)
    daemon = Daemon({"limits": {"disk_reserve_mib": 150}}, data_dir=volume.point / "data")
    try:
        daemon.start()
        yield volume, daemon
    finally:
        daemon.close()
        volume.close()
        folder.rmdir()


def fill(volume, leave_mib):
    """Takes the space away from outside."""
    path = volume.point / "filler"
    size = max(0, volume.free() - (leave_mib << 20))
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))
    return path


@pytest.mark.limit(240)
def test_below_the_reserve_creates_and_snapshots_are_refused(small):
    volume, daemon = small
    api = daemon.api()
    with api.create() as box:
        box.put("/workspace/x", b"kept")
        filler = fill(volume, 100)
        try:
            refused(api.create(expect=507), 507)
            answer = api.post(box.path("snapshot"), {"name": "none"})
            if answer.status in (200, 201):
                api.forget_snapshot(answer.json["id"])
            else:
                refused(answer, 507)
            assert box.out("cat /workspace/x; echo alive") == "keptalive\n"
            assert not [row for row in api.snapshots().values() if row["name"] == "none" and row["status"] == "creating"]
        finally:
            filler.unlink()
        made = wait_until(lambda: api.post(box.path("snapshot"), {}), "a snapshot")
        assert made.status in (200, 201), made
        api.forget_snapshot(made.json["id"])
        with api.create() as other:
            assert other.out("echo again") == "again\n"


@pytest.mark.limit(240)
def test_full_to_the_last_byte(small):
    """Nothing can be written at all: no crash, no 500 without a reason, and it goes on when there is space."""
    volume, daemon = small
    api = daemon.api()
    with api.create() as box:
        filler = fill(volume, 0)
        try:
            answers = [api.get("/healthz", key=None), api.get("/v1/sandboxes/list")]
            answers += [api.post("/v1/sandboxes/create", {"image": "tiny"})]
            answers += [api.post(box.path("snapshot"), {}), box.execute("echo x")]
            assert daemon.alive
            assert answers[0].status in (200, 503)
            assert answers[2].status in (503, 507), answers[2]
            assert answers[3].status in (503, 507), answers[3]
        finally:
            filler.unlink()
        wait_until(lambda: box.execute("echo back").status == 200, "it goes on", 30)
        with api.create() as other:
            assert other.out("echo again") == "again\n"
