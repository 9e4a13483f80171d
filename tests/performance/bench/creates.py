"""How long it takes until a sandbox is there."""

import concurrent.futures
import itertools
import time

from bench.bench import SHAPE
from bench.figures import percentile

SMALL = {"resources": {"cpus": 1, "memory": 128, "storage": 1}}
POOL = 4


def with_echo(bench, api):
    box = bench.create(api)
    box.out("echo x")
    return box


def remove(box):
    box.remove()


def from_template(bench):
    daemon = bench.daemon()
    api = daemon.api()
    bench.warm(daemon)
    bench.sample("create", "create to ready, pool empty", bench.count(100, 15), lambda: bench.create(api), remove)
    bench.sample("create", "create to the output of echo, pool empty", bench.count(60, 10), lambda: with_echo(bench, api), remove)
    bench.stop(daemon)


def from_pool(bench):
    from harness.wait import wait_until

    daemon = bench.daemon(pool={"size": POOL})
    api = daemon.api()
    bench.warm(daemon)

    def full(box=None):
        if box:
            box.remove()
        wait_until(lambda: len(daemon.vms()) >= POOL, "the pool is full", 120)

    full()
    bench.sample("create", "create to ready, from the pool", bench.count(60, 10), lambda: bench.create(api), full)
    bench.sample("create", "create to the output of echo, from the pool", bench.count(30, 5), lambda: with_echo(bench, api), full)
    bench.stop(daemon)


def group_create(bench):
    from_template(bench)
    from_pool(bench)


def create_until_admitted(api):
    """(milliseconds, status, how often it was told to come again later); the sandbox is deleted at once."""
    begin, waits = time.perf_counter(), 0
    while True:
        answer = api.post("/v1/sandboxes/create", {**SHAPE, **SMALL}, timeout=300)
        if answer.status != 503:
            break
        waits += 1
        time.sleep(min(1.0, float(answer.headers.get("retry-after", 1))))
    ms = (time.perf_counter() - begin) * 1000
    if answer.status == 201:
        api.delete(f"/v1/sandboxes/{answer.json['id']}/delete")
    return ms, answer.status, waits


def group_concurrency(bench):
    daemon = bench.daemon()
    api = daemon.api()
    bench.warm(daemon, **SMALL)
    total = bench.count(100, 20)
    for at_once in (1, 10, 100):
        if at_once > total:
            continue
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            done = list(pool.map(lambda _: create_until_admitted(api), range(total)))
        elapsed = time.perf_counter() - begin
        times = [ms for ms, status, _ in done if status == 201]
        bench.results.add(
            "concurrency", f"{total} creates, {at_once} at a time, 128 MiB", times, failed=total - len(times),
            told_to_wait=sum(waits for _, _, waits in done), per_second=round(len(times) / elapsed, 1),
        )
        for share in (50, 99) if times else ():
            bench.results.curve("create latency over concurrency", f"p{share}", at_once, percentile(times, share))
    bench.stop(daemon)


def group_cold(bench):
    """A shape that nobody asked for yet boots, and leaves its template; the next ones are restored from it."""
    daemon = bench.daemon()
    api = daemon.api()
    bench.warm(daemon)
    count = bench.count(6, 3)
    shapes = [{"resources": {"cpus": 1, "memory": 514 + 2 * number, "storage": 10}} for number in range(count)]
    new, known = iter(shapes), itertools.cycle(shapes)
    first = bench.sample("cold", "first create of a shape (cold boot)", count, lambda: bench.create(api, **next(new)), remove)
    again = bench.sample("cold", "create by restore, the same shapes", 4 * count, lambda: bench.create(api, **next(known)), remove)
    if first and again:
        bench.results.note(f"restore is {first['p50'] / again['p50']:.1f} times faster than a cold boot")
    bench.stop(daemon)
