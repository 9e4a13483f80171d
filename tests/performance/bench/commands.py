"""Commands and files in a warm sandbox."""

import concurrent.futures
import os

from bench.bench import MIB
from bench.figures import timed



def group_execute(bench):
    daemon = bench.daemon()
    box = bench.create(daemon.api())
    for command, full in (("true", 300), ("echo x", 100), ("python3 -c 'print(1)'", 60)):
        for _ in range(5):
            box.run(command)
        bench.sample("execute", f"{command} in a warm sandbox", bench.count(full, full // 5), lambda c=command: box.run(c))

    def stream():
        with box.stream("echo x") as lines:
            next(iter(lines))
            return lines

    bench.sample("execute", "execute_async to the first output", bench.count(40, 10), stream)
    total = bench.count(200, 60)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        ms, _ = timed(lambda: list(pool.map(lambda _: box.run("true"), range(total))))
    bench.results.note(f"true, 20 at a time in one sandbox: {total / ms * 1000:.0f} a second")
    bench.stop(daemon)


def group_files(bench):
    daemon = bench.daemon()
    box = bench.create(daemon.api())
    data = os.urandom(MIB) * bench.count(200, 50)
    before, size = daemon.memory(), len(data) // MIB
    for what, work in (("upload", lambda: box.put("/workspace/x", data)), ("download", lambda: box.fetch("/workspace/x"))):
        row = bench.sample("files", f"{what} of {size} MiB", bench.count(8, 3), work)
        if row:
            bench.results.note(f"{what}: {size / row['p50'] * 1000:.0f} MiB a second (p50)")
    bench.results.note(f"akirad grew by {(daemon.memory('VmHWM') - before) / MIB:.1f} MiB at most")
    bench.sample("files", "upload of 1 byte", bench.count(100, 15), lambda: box.put("/workspace/s", b"x"))
    bench.sample("files", "download of 1 byte", bench.count(100, 15), lambda: box.fetch("/workspace/s"))
    bench.stop(daemon)
