"""What sandboxes that do nothing cost."""

import time

from bench.bench import MIB, SHAPE
from bench.machine import rollup

CURVE = "memory of idle sandboxes"


def fill(bench, api, boxes, count, memory):
    """Creates until there are count; False when the host takes no more."""
    while len(boxes) < count:
        answer = api.post("/v1/sandboxes/create", {**SHAPE, "resources": {"cpus": 1, "memory": memory, "storage": 10}}, timeout=300)
        if answer.status == 503:
            bench.results.note(f"no more than {len(boxes)} sandboxes of {memory} MiB are admitted on this machine")
            return False
        if answer.status != 201:
            raise RuntimeError(f"create answered {answer}")
        boxes.append(answer.json["id"])
    return True


def measure(bench, memory, counts):
    daemon = bench.daemon()
    api = daemon.api()
    bench.warm(daemon, resources={"cpus": 1, "memory": memory, "storage": 10})
    boxes, last, before = [], 0.0, 0
    for count in counts:
        if not fill(bench, api, boxes, count, memory):
            break
        time.sleep(2)  # idle, as the figure says
        figures = [rollup(pid) for pid in daemon.vms()]
        pss, private = (sum(column) for column in zip(*figures))
        what = f"of an idle sandbox of {memory} MiB, {count} running"
        bench.results.add("memory", f"Pss {what}", [f[0] for f in figures], "MiB", one_more=round((pss - last) / (count - before), 1))
        bench.results.add("memory", f"private {what}", [f[1] for f in figures], "MiB")
        bench.results.curve(CURVE, f"Pss, {memory} MiB each", count, pss)
        bench.results.curve(CURVE, f"private, {memory} MiB each", count, private)
        last, before = pss, count
    bench.results.add("memory", f"akirad itself (RSS), {len(boxes)} sandboxes", [daemon.memory() / MIB], "MiB")
    bench.stop(daemon)


def group_memory(bench):
    measure(bench, 512, (1, 10) if bench.quick else (1, 10, 20))
    if not bench.quick:
        measure(bench, 256, (1, 10, 50))  # 50 of 512 MiB are more than 24 GiB of memory hold
