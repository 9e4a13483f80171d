"""Many sandboxes at once, as many as this machine takes or a dozen: all busy (J11), all idle (O04)."""

import concurrent.futures
import os
import time
from pathlib import Path

import pytest

from harness.daemon import Daemon
from harness.leaks import Counts
from harness.wait import wait_until

MOST = 12
SHAPE = {"cpus": 1, "memory": 128, "storage": 1}  # the smallest
TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def crowd():
    """(daemon, its sandboxes). Afterwards every count is as before they were made."""
    with Daemon() as daemon:
        daemon.start()
        yield from make(daemon)
        assert daemon.stop() == 0


def make(daemon):
    api = daemon.api()
    keeper = api.create(resources=SHAPE)
    counts = Counts(daemon)

    def one(_):
        answer = api.post("/v1/sandboxes/create", {"image": "tiny", "resources": SHAPE})
        return api.box(answer.json["id"]) if answer.status == 201 else answer

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        warm = list(pool.map(one, range(4)))  # threads and pools as they are under load
        for box in warm:
            box.remove()
        wait_until(lambda: len(daemon.vms()) == 1, "the first ones ended")
        before = counts.take()
        made = list(pool.map(one, range(MOST)))
    boxes = [box for box in made if hasattr(box, "id")]
    refused = [answer for answer in made if not hasattr(answer, "id")]
    assert all(answer.status in (429, 503) for answer in refused), refused
    assert len(boxes) >= 4, refused
    yield daemon, boxes
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(answer.status == 200 for answer in pool.map(lambda box: box.delete(), boxes))
    wait_until(lambda: set(api.live()) == {keeper.id} and len(daemon.vms()) == 1, "all are gone")
    counts.settle(before)
    assert keeper.out("echo here") == "here\n"


def times(api, rounds):
    """How long the API takes, sorted; each call must succeed."""
    found = []
    for _ in range(rounds):
        for path in ("/healthz", "/v1/sandboxes/list", "/v1/keys"):
            begin = time.monotonic()
            assert api.get(path, timeout=30).status == 200
            found.append(time.monotonic() - begin)
    return sorted(found)


def cpu_seconds(pid):
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@pytest.mark.limit(240)
def test_j11_all_busy(crowd):
    """All of them use all that they may, processor and disk: the API answers, each can be looked at, all can be ended."""
    daemon, boxes = crowd
    api = daemon.api()
    quiet = times(api, 10)
    load = "while :; do dd if=/dev/zero of=/workspace/x bs=64k count=64 conv=fsync 2>/dev/null; i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; done"
    streams = [box.stream(load) for box in boxes]
    vms = [daemon.vm_of(box) for box in boxes]
    begin = {pid: cpu_seconds(pid) for pid in vms}
    wait_until(lambda: all(cpu_seconds(pid) > begin[pid] + 0.2 for pid in vms), "all of them are at work", 90)
    busy = times(api, 10)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda box: box.get()["status"], boxes))
    assert set(seen) == {"running"}, seen
    middle = len(quiet) // 2
    print(f"{len(boxes)} busy: the API's median {quiet[middle] * 1e3:.1f} ms when quiet, {busy[middle] * 1e3:.1f} ms when busy, at most {busy[-1] * 1e3:.0f} ms")
    for stream in streams:
        stream.close()


@pytest.mark.limit(240)
def test_o04_all_idle(crowd):
    """Nobody does anything: so does akirad, and each answers at once when it is asked."""
    daemon, boxes = crowd
    times(daemon.api(), 2)
    begin, since = cpu_seconds(daemon.pid), time.monotonic()
    wait_until(lambda: time.monotonic() - since > 5, "some seconds have passed", 20, 0.5)
    share = (cpu_seconds(daemon.pid) - begin) / (time.monotonic() - since)
    private = []
    for box in boxes:
        text = Path(f"/proc/{daemon.vm_of(box)}/smaps_rollup").read_text()
        private.append(sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) // 1024)
    print(f"{len(boxes)} idle: akirad uses {share * 100:.2f} % of a processor; a VM has {sum(private) / len(private):.0f} MiB of its own")
    assert share < 0.5, "akirad works although nobody asks for anything"
    assert max(private) < 128 + 150, private
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda box: box.out("echo here", timeout=60), boxes)) == {"here\n"}
