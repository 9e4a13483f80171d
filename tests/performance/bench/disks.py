"""Snapshots, restores, clones; pause and resume."""

import re
import time
from pathlib import Path

from bench.figures import FAILURES, timed

BEAT = Path(__file__).with_name("beat.py")
FROZEN = "guest frozen in a quick snapshot"
IDLE = "guest's longest pause with nothing going on"


def held_up(box, work):
    """(milliseconds for which the guest could not write while work() ran, what work gave)."""
    box.run("rm -f /workspace/stop")
    with box.stream("python3 /workspace/beat.py") as stream:
        items = iter(stream)
        while "begin" not in next(items)[1].get("stdout", ""):
            pass
        result = work()
        box.run("touch /workspace/stop")
        text = "".join(item.get("stdout", "") for _, item in items)
    return float(re.search(r"worst ([\d.]+)", text).group(1)), result


class Round:
    """One of each, with a sandbox of a quarter of a CPU and one of a whole."""

    def __init__(self, api, box, whole):
        self.api, self.box, self.whole = api, box, whole
        self.times = {name: [] for name in ("snapshot", "quick snapshot", FROZEN, IDLE, "restore", "clone")}
        self.made = []

    def take(self, name, work):
        ms, result = timed(work)
        self.times[name].append(ms)
        return result

    def run(self):
        # A quarter of a CPU stands still by itself for up to 300 ms: that is looked at with a whole one.
        self.times[IDLE].append(held_up(self.whole, lambda: time.sleep(0.25))[0])
        stood, seen = held_up(self.whole, lambda: self.whole.snapshot(quick=True))
        self.times[FROZEN].append(stood)
        self.made.append(seen)
        snapshot = self.take("snapshot", self.box.snapshot)
        self.made.append(snapshot)
        self.made.append(self.take("quick snapshot", lambda: self.box.snapshot(quick=True)))
        self.take("restore", lambda: self.api.restore(snapshot["id"])).remove()
        copy, between = self.take("clone", self.box.clone)
        self.made.append(between)
        copy.remove()

    def clean(self):
        for made in self.made:
            self.api.forget_snapshot(made["id"])
        self.made.clear()


def with_data(bench, api, mib):
    boxes = [bench.create(api), bench.create(api, resources={"cpus": 4})]
    for box in boxes:
        box.put("/workspace/beat.py", BEAT.read_bytes())
        box.run(f"head -c {mib * 1000000} /dev/urandom > /workspace/data; sync", timeout=300)
    return boxes


def measure(bench, api, mib):
    box, whole = with_data(bench, api, mib)
    bench.warm_restore(api, box)
    turn, failed = Round(api, box, whole), 0
    for _ in range(bench.count(6 if mib == 1000 else 20, 3)):
        try:
            turn.run()
        except FAILURES as error:
            failed += 1
            bench.results.note(f"{mib} MB: {str(error)[:200]}")
        turn.clean()
    for name, values in turn.times.items():
        row = bench.results.add("snapshot", f"{name}, {mib} MB written", values, failed=failed)
        if row and name != IDLE:
            bench.results.curve("snapshots over data", "guest frozen (quick)" if name == FROZEN else name, mib, row["p50"])
    box.remove()
    whole.remove()


def group_snapshot(bench):
    daemon = bench.daemon()
    for mib in (10, 100) if bench.quick else (10, 100, 1000):
        measure(bench, daemon.api(), mib)
    bench.stop(daemon)


def group_pause(bench):
    daemon = bench.daemon()
    box = bench.create(daemon.api())
    box.run("true")
    count = bench.count(20, 5)
    bench.sample("pause", "pause", count, box.pause, lambda _: box.resume())
    box.pause()
    bench.sample("pause", "resume", count, box.resume, lambda _: box.pause())
    bench.sample("pause", "true in a paused sandbox", count, lambda: box.run("true"), lambda _: box.pause())
    bench.stop(daemon)
