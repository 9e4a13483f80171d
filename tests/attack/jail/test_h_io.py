"""H14, the disk: a VM process that was taken over and no longer keeps to QEMU's throttle is held by its cgroup."""
import glob
import os
import re
import subprocess
import time

import pytest

from jail import MIB, Jail, until

LIMIT = MIB  # bytes a second


def mount_points(kind, option=""):
    lines = [line.split() for line in open("/proc/mounts")]
    return [f[1] for f in lines if f[2] == kind and (not option or option in f[3].split(","))]


def has_v2_io():
    return any("io" in open(f"{m}/cgroup.controllers").read().split() for m in mount_points("cgroup2"))


@pytest.fixture(scope="module")
def controller(tmp_path_factory):
    """v2's io, or v1's blkio, which the test mounts itself where nobody has."""
    if has_v2_io() or mount_points("cgroup", "blkio"):
        yield
        return
    at = tmp_path_factory.mktemp("blkio")
    if subprocess.run(["mount", "-t", "cgroup", "-o", "blkio", "cgroup", at], check=False).returncode:
        pytest.skip("this kernel has no io controller")
    yield
    subprocess.run(["umount", at], check=True)


@pytest.fixture(scope="module")
def disk(controller, tmp_path_factory):
    """A file system on a disk of its own, so that nobody else's requests are counted."""
    image, at = tmp_path_factory.mktemp("image") / "ext4", tmp_path_factory.mktemp("disk")
    subprocess.run(["mkfs.ext4", "-q", image, "96M"], check=True)
    if subprocess.run(["mount", "-o", "loop", image, at], check=False).returncode:
        pytest.skip("no loop device here")
    os.chmod(at, 0o755)
    yield at
    subprocess.run(["umount", at], check=True)


def moved(jail, vm, writes):
    """Bytes that the group's requests moved so far, of v1's counter or of v2's."""
    groups = [g for g in jail.cgroups() if os.path.basename(g[:-1]).startswith(vm + ".")]
    old = [p for g in groups for p in glob.glob(g + "blkio.throttle.io_service_bytes")]
    text = "".join(open(p).read() for p in old or [g + "io.stat" for g in groups])
    word = (r"Write " if writes else r"Read ") if old else (r"wbytes=" if writes else r"rbytes=")
    return sum(int(n) for n in re.findall(word + r"(\d+)", text))


def rate(jail, way, name):
    """Bytes a second, over at least 16 requests of 64 KiB."""
    path = jail.file(name, 8 * MIB, data=b"d" * 8 * MIB)
    vm, _ = jail.start("disk", "/vm/x", 8, way, "again", files=f"w:x:{path}")
    counter = lambda: moved(jail, vm, way == "w")
    until(lambda: counter() > 0, 20, "the first request is done")
    first, began = counter(), time.monotonic()
    until(lambda: counter() - first >= 16 * 65536, 60, "requests go on")
    speed = (counter() - first) / (time.monotonic() - began)
    jail.command("kill", vm)
    jail.wait(vm)
    return speed


@pytest.mark.parametrize("way", ["w", "r"])
def test_h14_disk_is_held_by_the_cgroup(disk, way):
    # A limit far away: without any, kernels since 6.9 count nothing on v1.
    with Jail(base=str(disk), io_ops=10_000_000) as free:
        without = rate(free, way, "free" + way)
    with Jail(base=str(disk), io_bytes=LIMIT) as held:
        limited = rate(held, way, "held" + way)
    with Jail(base=str(disk), io_ops=16) as held:  # of 64 KiB each
        few = rate(held, way, "ops" + way)
    assert limited < 1.6 * LIMIT and few < 1.6 * LIMIT, (limited, few)
    assert without > 3 * LIMIT, f"nothing is shown by a disk of {without:.0f} bytes a second"


def test_h14_disk_limit_is_on_the_disk(disk):
    with Jail(base=str(disk), io_bytes=LIMIT, io_ops=500) as jail:
        vm, _ = jail.start("stay")
        assert jail.read(vm) == "ok"
        device = os.stat(disk).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        files = {os.path.basename(p): open(p).read().strip() for g in jail.cgroups()
                 for p in glob.glob(g + "io.max") + glob.glob(g + "blkio.throttle.*_device")}
        if "io.max" in files:
            assert files["io.max"] == f"{number} rbps={LIMIT} wbps={LIMIT} riops=500 wiops=500"
        else:
            assert {files[f"blkio.throttle.{way}_bps_device"] for way in ("read", "write")} == {f"{number} {LIMIT}"}
            assert {files[f"blkio.throttle.{way}_iops_device"] for way in ("read", "write")} == {f"{number} 500"}
        jail.command("kill", vm)
        jail.wait(vm)


def test_h14_no_disk_no_limit_and_it_is_said(tmp_path):
    """On tmpfs there is nothing to hold, so the VM starts, and the log says that it is QEMU's throttle alone."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        os.chmod(tmp_path, 0o755)
        with Jail(base=str(tmp_path), io_bytes=LIMIT) as jail:
            for _ in range(3):
                assert jail.attack("fds")[0] == "ok 0 1 2 3"
            assert jail.log_text().count("no_io_limit_by_cgroup") == 1
    finally:
        subprocess.run(["umount", tmp_path], check=True)
