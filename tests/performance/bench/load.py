"""Many requests, many connections, and what the audit log costs."""

import itertools
import json
import re
import resource
import signal
import subprocess
import threading

from bench.bench import MIB
from bench.figures import timed
from bench.machine import output

WRONG_KEY = "sk_live_" + "A" * 33
IDLE = 10000
SLOW = 1000
MANY = {"server": {"connections_max": 16384, "per_address_max": 256}}


def wrk(bench, daemon, what, path, key, seconds, connections=16):
    """wrk's own percentiles; it gives no maximum. akirad's memory before and after."""
    before = daemon.memory()
    text = output("wrk", "-t2", f"-c{connections}", f"-d{seconds}", "--latency", "-H", f"x-api-key: {key}", f"http://127.0.0.1:{daemon.port}{path}")
    rate, total = re.search(r"Requests/sec:\s+([\d.]+)", text), re.search(r"(\d+) requests in", text)
    units = {"us": 0.001, "ms": 1, "s": 1000}
    spread = {int(share): float(value) * units[unit] for share, value, unit in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s)$", text, re.M)}
    if not rate or not total or 99 not in spread:
        bench.results.note(f"{what}: wrk gave no figures: {text[-200:]!r}")
        return
    bench.results.row(
        "load", what, {"p50": spread[50], "p99": spread[99]}, "ms", int(total.group(1)), per_second=round(float(rate.group(1))),
        memory_mib=f"{before / MIB:.1f} to {daemon.memory() / MIB:.1f}",
    )


def add_rows(daemon, count):
    """A thousand sandboxes in the table without a thousand VMs: copies of one row, made beside akirad."""
    database = daemon.data / "akira.db"
    columns = output("sqlite3", database, "select name from pragma_table_info('sandbox')").split()
    values = ", ".join("'sbx_bench' || printf('%019d', n)" if name == "id" else name for name in columns)
    subprocess.run(
        ["sqlite3", "-cmd", ".timeout 10000", database,
         f"with recursive c(n) as (select 1 union all select n + 1 from c where n < {count}) "
         f"insert into sandbox ({', '.join(columns)}) select {values} from c, (select * from sandbox limit 1)"],
        capture_output=True, check=True,
    )


class Background:
    """Repeats work in threads of its own until it is left."""

    def __init__(self, threads, work):
        self.stop, self.done, self.failed = False, 0, 0
        self.threads = [threading.Thread(target=self.loop, args=(work,)) for _ in range(threads)]

    def loop(self, work):
        while not self.stop:
            try:
                work()
                self.done += 1
            except (AssertionError, OSError):
                self.failed += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop = True
        for thread in self.threads:
            thread.join()


def mixed(bench, daemon, api, box, seconds):
    """Lists under load while others get, run commands, and come with a wrong key."""
    turns = itertools.cycle((
        lambda: api.get(box.path()), lambda: box.execute("true"), lambda: api.get("/v1/sandboxes/list", key=WRONG_KEY),
        lambda: api.get("/v1/audit"),
    ))
    with Background(4, lambda: next(turns)()) as others:
        wrk(bench, daemon, "list of 20 rows in a mix, 8 connections", "/v1/sandboxes/list", api.key, seconds, 8)
    bench.results.note(f"beside it in the mix: {others.done} other calls, {others.failed} failed")


def requests(bench):
    daemon = bench.daemon()
    api = daemon.api()
    box = bench.create(api)
    seconds = bench.count(10, 3)
    wrk(bench, daemon, "healthz, 16 connections", "/healthz", "none", seconds)
    wrk(bench, daemon, "list of 1 row, 16 connections", "/v1/sandboxes/list", api.key, seconds)
    add_rows(daemon, 1000)
    rows = api.get("/v1/sandboxes/list").json["pagination"]["total_items"]
    wrk(bench, daemon, f"list of {rows} rows, 20 a page, 16 connections", "/v1/sandboxes/list", api.key, seconds)
    wrk(bench, daemon, f"list of {rows} rows, 100 a page, 16 connections", "/v1/sandboxes/list?page_size=100", api.key, seconds)
    mixed(bench, daemon, api, box, seconds)
    wrk(bench, daemon, "a wrong key, 16 connections", "/v1/sandboxes/list", WRONG_KEY, seconds)
    # Its table holds rows that are not true.
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    bench.stop(daemon)


def connect(api, count, bytes_sent):
    """count connections from as many addresses as it takes, each having sent so much of a request."""
    made = []
    for number in range(count):
        stream = api.come_from(f"127.1.{number // 200 % 200}.{1 + number % 200}").connect(5)
        if bytes_sent:
            stream.sendall(bytes_sent)
        made.append(stream)
    return made


def beside(bench, daemon, api, box, quiet, what, count, bytes_sent):
    before, streams = daemon.memory(), []
    try:
        ms, streams = timed(lambda: connect(api, count, bytes_sent))
        held = (daemon.memory() - before) / MIB
        row = bench.sample("load", f"get, beside {count:,} {what}", bench.count(300, 100), lambda: api.get(box.path()))
        still = re.search(r"^akira_connections_open (\d+)", daemon.metrics().get("/metrics").body.decode(), re.M).group(1)
    finally:
        for stream in streams:
            stream.close()
    if row and quiet:
        bench.results.note(f"{what}: p99 {row['p99'] / quiet['p99']:.1f} times the quiet one; {still} were open at the end")
    bench.results.note(f"{what}: opened in {ms / 1000:.1f} s, {held:.0f} MiB more of akirad's memory")


def connections(bench):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * IDLE)), hard))
    daemon = bench.daemon(**MANY)
    api = daemon.api()
    box = bench.create(api)
    quiet = bench.sample("load", "get, quiet", bench.count(300, 100), lambda: api.get(box.path()))
    beside(bench, daemon, api, box, quiet, "idle connections", bench.count(IDLE, 2000), b"")
    beside(bench, daemon, api, box, quiet, "half-sent requests", bench.count(SLOW, 300), b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    bench.stop(daemon)


def audit_cost(bench, build):
    """The transaction of a create, with and without its record, on the disk that akirad's data is on."""
    program = build / "tests/performance/audit-cost"
    subprocess.run(["ninja", "-C", build, "tests/performance/audit-cost"], check=True, capture_output=True)
    times = json.loads(output(program, "/var/tmp", str(bench.count(1000, 200))))
    without, with_record = (bench.results.add("audit", f"transaction of a create, {name}", times[name]) for name in ("no record", "with its record"))
    bench.results.note(f"the audit record adds {(with_record['p50'] - without['p50']) * 1000:.0f} µs (p50)")


def group_load(bench):
    requests(bench)
    connections(bench)


def group_audit(bench):
    from harness.daemon import BUILD

    audit_cost(bench, BUILD)
