"""Both ways to copy a disk: reflink on XFS, sparse copy on ext4."""

import os
import subprocess

import pytest

from harness.daemon import TEMPORARY, Daemon


def run(*command):
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (command, done.stderr.decode())
    return done.stdout.decode()


class Volume:
    """A file system in a file."""

    def __init__(self, kind, mib, folder):
        self.image, self.point = folder / f"{kind}.img", folder / kind
        self.point.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(mib << 20)
        if kind == "xfs":
            run("mkfs.xfs", "-q", "-m", "reflink=1", self.image)
        else:
            run("mkfs.ext4", "-q", "-F", self.image)
        run("mount", "-o", "loop", self.image, self.point)

    def used(self):
        os.sync()
        stats = os.statvfs(self.point)
        return (stats.f_blocks - stats.f_bfree) * stats.f_frsize

    def free(self):
        stats = os.statvfs(self.point)
        return stats.f_bavail * stats.f_frsize

    def close(self):
        subprocess.run(["umount", "-l", self.point], check=False, stdin=subprocess.DEVNULL)
        self.image.unlink()
        self.point.rmdir()


@pytest.fixture(scope="module")
def folder():
    import tempfile
    from pathlib import Path

    path = Path(tempfile.mkdtemp(prefix="akira-volume-", dir=TEMPORARY))
    path.chmod(0o755)
    yield path
    path.rmdir()


@pytest.fixture(scope="module", params=["xfs", "ext4"])
def stored(request, folder):
    volume = Volume(request.param, 3072, folder)
    daemon = Daemon({"limits": {"disk_reserve_mib": 64}}, data_dir=volume.point / "data")
    try:
        daemon.start()
        daemon.api().create().remove()
        yield request.param, volume, daemon
    finally:
        daemon.close()
        volume.close()


@pytest.mark.limit(240)
def test_snapshot_restore_and_clone(stored):
    kind, volume, daemon = stored
    api = daemon.api()
    with api.create(resources={"storage": 2}) as box:
        box.run("head -c 40000000 /dev/urandom > /workspace/big; sync", timeout=100)
        digest = box.out("sha256sum < /workspace/big", timeout=60)
        before = volume.used()
        made = box.snapshot()
        grown = volume.used() - before
        if kind == "xfs":
            assert grown < 15 << 20, "a reflink shares its blocks"
        else:
            assert 36 << 20 < grown < 300 << 20, "a sparse copy holds what was written, not the whole disk"
        with api.restore(made["id"]) as copy:
            assert copy.out("sha256sum < /workspace/big", timeout=60) == digest
            copy.run("head -c 1000 /dev/urandom > /workspace/big; sync")
        assert box.out("sha256sum < /workspace/big", timeout=60) == digest
        copy, between = box.clone()
        assert copy.out("sha256sum < /workspace/big", timeout=60) == digest
        copy.remove()
        api.forget_snapshot(between["id"])
        api.forget_snapshot(made["id"])


@pytest.mark.limit(240)
def test_pause_and_resume(stored):
    _, _, daemon = stored
    with daemon.api().create() as box:
        box.run("echo there > /dev/shm/x 2>/dev/null || echo there > /tmp/x")
        box.pause()
        assert box.out("cat /dev/shm/x 2>/dev/null || cat /tmp/x") == "there\n"


@pytest.mark.limit(120)
def test_space_comes_back(stored):
    from harness.wait import wait_until

    _, volume, daemon = stored
    before = volume.used()
    with daemon.api().create() as box:
        box.run("head -c 40000000 /dev/urandom > /workspace/big; sync", timeout=100)
        assert volume.used() - before > 36 << 20
    wait_until(lambda: volume.used() - before < 15 << 20, "the space has come back", 30)
