"""Nothing is left: every count of O01 and O02 is afterwards what it was before."""

import os

import pytest

from harness.client import Api
from harness.daemon import Daemon
from harness.leaks import Counts

CYCLES = int(os.environ.get("AKIRA_SOAK_CYCLES") or 6)


@pytest.fixture(scope="module")
def quiet():
    """A daemon of its own without a pool, warmed up, with its counts."""
    daemon = Daemon().start()
    api = daemon.api()
    keeper = api.create(name="keeper")
    other = api.create()
    other.out("true")
    counts = Counts(daemon)
    assert counts.parents, "the cgroups of a running VM were not found"
    snapshot = other.snapshot()
    other.pause()
    other.resume()
    other.remove()
    api.forget_snapshot(snapshot["id"])
    counts.settle(counts.take() | {"descriptors": 10**6, "threads": 10**6, "files of run_dir": 10**6, "files of data_dir": 10**6,
                                   "cgroups": 10**6, "mounts": 10**6, "links": 10**6, "processes qemu-system-x86_64": 1})
    yield daemon, api, counts, keeper
    daemon.close()


def settled(counts):
    """What there is when all that was begun has ended."""
    import time

    before = counts.take()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.5)  # two looks apart
        now = counts.take()
        if now == before:
            return now
        before = now
    return before


def cycle_execute(api):
    with api.create() as box:
        box.out("echo x")


def cycle_stream(api):
    with api.create() as box:
        stream = box.stream("sleep 60")
        stream.close()
        box.put("/tmp/x", b"x" * 100000)
        box.fetch("/tmp/x")


def cycle_snapshot(api):
    with api.create() as box:
        made = box.snapshot()
        with api.restore(made["id"]) as copy:
            copy.out("true")
        api.forget_snapshot(made["id"])


def cycle_clone(api):
    with api.create() as box:
        copy, made = box.clone()
        copy.remove()
        api.forget_snapshot(made["id"])


def cycle_pause(api):
    with api.create() as box:
        box.pause()
        box.resume()
        box.pause()


def cycle_refusals(api):
    api.create(expect=422, image="none")
    api.create(expect=400, name="../x")
    assert api.get("/v1/sandboxes/sbx_0000000000000000000000").status == 404
    assert Api(api.host, api.port, "sk_live_wrong").get("/v1/sandboxes/list").status == 401
    api.raw(b"GARBAGE\r\n\r\n", timeout=5)


def cycle_killed(api):
    import signal

    with api.create(name="victim") as box:
        os.kill(cycle_killed.daemon.vm_of(box), signal.SIGKILL)


@pytest.mark.limit(3000 if CYCLES > 6 else 200)
@pytest.mark.parametrize("cycle", [cycle_execute, cycle_stream, cycle_snapshot, cycle_clone, cycle_pause, cycle_refusals, cycle_killed],
                         ids=lambda cycle: cycle.__name__)
def test_counts_come_back(quiet, cycle):
    daemon, api, counts, keeper = quiet
    cycle_killed.daemon = daemon
    cycle(api)
    before = settled(counts)
    resident = daemon.memory()
    heavy = cycle in (cycle_snapshot, cycle_clone)
    for _ in range(max(3, CYCLES // 2) if heavy else CYCLES):
        cycle(api)
    counts.settle(before)
    assert keeper.out("echo here") == "here\n"
    # The sanitizer keeps what was freed for a while; a leak that grows is seen by the long form.
    assert daemon.memory() - resident < 250 << 20
