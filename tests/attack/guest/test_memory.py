"""Every allocation of akirad and akira-launch fails once (N10): at the start, in each kind of call, while a VM is made.

alloc.c of tests/fault is preloaded; a file that both sides map says which allocation fails. What is asked must be
answered, with success or an error, or the program ends with a message: it never crashes, hangs or keeps half of
something. AKIRA_TEST_LONG=1 takes every number, else some of them.
"""

import http.client
import json
import mmap
import os
import random
import shutil
import subprocess
import time

import pytest


from harness.daemon import ROOT
from harness.leaks import Counts
from harness.wait import wait_until

LONG = bool(os.environ.get("AKIRA_TEST_LONG"))
FIELDS = ("count", "fail_at", "burst", "failed", "live")
SIZE = 64  # of one struct alloc_control


class Control:
    """One program's half of the file."""

    def __init__(self, path, place):
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 2 * SIZE)
        self.at = place * SIZE

    def __getattr__(self, name):
        offset = self.at + 8 * FIELDS.index(name)
        return int.from_bytes(self.map[offset : offset + 8], "little", signed=True)

    def set(self, name, value):
        offset = self.at + 8 * FIELDS.index(name)
        self.map[offset : offset + 8] = value.to_bytes(8, "little", signed=True)

    def fail(self, number, burst=0):
        """The number-th allocation from now on."""
        self.set("failed", 0)
        self.set("burst", burst)
        self.set("fail_at", self.count + number)

    def stop(self):
        self.set("fail_at", 0)


@pytest.fixture
def failing(private, tmp_path):
    """A daemon that is not started yet, with its control; and its launcher's."""
    assert shutil.which("gcc"), "gcc is in tools/packages.txt"
    library, control = tmp_path / "alloc.so", tmp_path / "alloc"
    folder = ROOT / "tests/fault"
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-O1", "-o", library, folder / "alloc.c"], check=True)
    control.write_bytes(bytes(2 * SIZE))
    control.chmod(0o666)
    for path in (library, tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    daemon = private({"log": {"level": "info"}}, {"LD_PRELOAD": str(library), "AKIRA_FAIL_ALLOC": str(control)})
    common = daemon.child_environment()
    # What leaks is counted by the library: LeakSanitizer cannot look past it.
    daemon.environment["ASAN_OPTIONS"] = common["ASAN_OPTIONS"] + ":verify_asan_link_order=0:detect_leaks=0"
    return daemon, Control(control, 0), Control(control, 1)


def numbers(most, few):
    """Which allocations fail: all, or the first ones and some of the others."""
    if LONG:
        return range(1, most + 1)
    chosen = set(range(1, min(8, most) + 1)) | {most * k // few for k in range(1, few)}
    return sorted(number for number in chosen if number >= 1)


def ended_well(daemon, begin):
    """It ended by itself, not by a signal, and said why."""
    code = daemon.process.returncode
    said = "\n".join(daemon.log_lines(begin))
    assert code in (1, 2), f"ended with {code}\n{said[-3000:]}"
    assert said.strip(), f"ended with {code} and no word"


@pytest.mark.limit(240)
def test_n10_at_the_start(failing):
    daemon, control, launcher = failing
    daemon.start()
    needed = control.count
    made = daemon.api().get("/v1/keys").json["data"]
    assert daemon.stop() == 0
    assert needed > 100
    started = 0
    for number in numbers(needed, 10):
        begin = daemon.log.stat().st_size
        control.fail(number)
        daemon.spawn()
        wait_until(lambda b=begin: daemon.process.poll() is not None or daemon.events("ready", b), f"start with {number}", 60)
        control.stop()
        if daemon.process.poll() is not None:
            ended_well(daemon, begin)
            continue
        started += 1
        assert daemon.api().get("/v1/keys").json["data"][0]["id"] == made[0]["id"]
        assert daemon.stop() == 0, number
    daemon.start()
    assert daemon.api().get("/v1/audit/verify").json["valid"] is True
    assert [row["id"] for row in daemon.api().get("/v1/keys").json["data"]] == [row["id"] for row in made]


def once(api, method, path, **options):
    """The answer; None when the connection gave none."""
    try:
        return api.request(method, path, timeout=30, **options)
    except (OSError, http.client.HTTPException):
        return None


CALLS = {
    "health": ("GET", "/healthz", {"key": None}, 200),
    "list": ("GET", "/v1/sandboxes/list?page_size=20", {}, 200),
    "keys": ("GET", "/v1/keys", {}, 200),
    "audit": ("GET", "/v1/audit?limit=20", {}, 200),
    "verify": ("GET", "/v1/audit/verify", {}, 200),
    "usage": ("GET", "/v1/usage", {}, 200),
    "openapi": ("GET", "/openapi.yaml", {"key": None}, 200),
    "bad key": ("GET", "/v1/keys", {"key": "sk_live_" + "0" * 33}, 401),
    "bad body": ("POST", "/v1/sandboxes/create", {"json": {"image": "tiny", "resources": {"cpus": "many"}}}, 400),
    "no image": ("POST", "/v1/sandboxes/create", {"json": {"image": "none", "metadata": {"a": "b"}, "env_vars": {"A": "b"}}}, 422),
    "new key": ("POST", "/v1/keys", {"json": {"name": "made", "scopes": ["sandboxes:read"]}}, 201),
    "new organisation": ("POST", "/v1/organisations", {"json": {"name": "made", "tier": "pro"}}, 201),
}


def call_all(daemon, control, fail):
    """Each call as often as it allocates (or a third of it), with that allocation failing or not; how many failed."""
    api, failed = daemon.api(), 0
    for index, (name, (method, path, options, status)) in enumerate(CALLS.items()):
        first = api.come_from(f"127.0.9.{index + 1}").request(method, path, **options)
        assert status == first.status, (name, first)
        before = control.count
        api.come_from(f"127.0.9.{index + 1}").request(method, path, **options)
        for number in range(1, max(20, control.count - before + 10) + 1, 1 if LONG else 3):
            where = api.come_from(f"127.1.{index}.{number % 50 + 1}")
            control.set("failed", 0)
            if fail:
                control.fail(number)
            answer = once(where, method, path, **options)
            control.stop()
            failed += control.failed
            assert daemon.alive, f"{name}: died of number {number} with {daemon.process.returncode}\n{daemon.tail()}"
            if answer is not None and answer.status != first.status:
                # jansson calls a text bad when it has no memory to read it.
                bad = answer.status == 400 and "not valid JSON" in answer.message
                assert fail and (bad or answer.status in (431, 500, 503)), (name, number, answer)
            if answer is not None and answer.body and "json" in answer.headers.get("content-type", ""):
                json.loads(answer.body)
        again = api.come_from(f"127.0.9.{index + 101}").request(method, path, **options)
        assert again.status == first.status, (name, again)
    return failed


@pytest.mark.limit(240)
def test_n10_in_each_call(failing):
    """Answered as ever, or with an error, or not at all; the next time as ever; and no failure leaves something behind."""
    daemon, control, _ = failing
    daemon.start()
    call_all(daemon, control, False)  # what is remembered of each address and key
    live = control.live
    failed = call_all(daemon, control, True)
    kept = control.live - live
    assert failed > 500
    print(f"{failed} allocations failed, {kept} more are kept")
    assert kept < failed / 4, f"{kept} more are kept after {failed} failures"
    verified = daemon.api().get("/v1/audit/verify").json
    assert verified["valid"] is True, verified


@pytest.mark.limit(300)
@pytest.mark.parametrize("program", ["akirad", "akira-launch"])
def test_n10_while_a_sandbox_is_made_used_and_removed(failing, program):
    daemon, *controls = failing
    control = controls[program == "akira-launch"]
    daemon.start()
    api = daemon.api()

    def cycle():
        """None: all went well; else what did not."""
        answer = once(api, "POST", "/v1/sandboxes/create", json=SHAPE)
        if answer is None or answer.status != 201:
            return answer or "no answer"
        box = api.box(answer.json["id"]) if control.fail_at == 0 else None
        path = f"/v1/sandboxes/{answer.json['id']}"
        answers = [once(api, "POST", path + "/execute", json={"command": "echo $A; echo x > /workspace/x"}), once(api, "GET", path), once(api, "DELETE", path + "/delete")]
        if box is None and answers[0] is not None and answers[0].status == 200 and answers[0].json["status"] == "completed":
            assert answers[0].json["stdout"] == "b\n", "without its environment"
        return next((a or "no answer" for a in answers if a is None or a.status != 200), None)

    keeper = api.create()
    counts = Counts(daemon)
    assert cycle() is None and cycle() is None
    before, kept = control.count, counts.take()
    assert cycle() is None
    needed = control.count - before
    dice, hit, broken = random.Random(10), 0, 0
    chosen = range(1, needed + 1) if LONG else sorted(dice.sample(range(1, needed + 1), min(needed, 10)))
    for number in chosen:
        control.fail(number)
        result = cycle()
        hit += control.failed
        control.stop()
        broken += result is not None
        if not daemon.alive:  # a launcher that ended takes akirad with it, with a message
            assert daemon.process.returncode in (0, 1), f"number {number}: {daemon.process.returncode}\n{daemon.tail()}"
            daemon.start()
        wait_until(lambda: settled(api, keeper), f"after number {number} only the keeper is left", 60)
    print(f"{program}: {needed} allocations in a cycle; {len(chosen)} tried, {hit} failed, {broken} cycles with an error")
    assert hit > 0
    wait_until(lambda: cycle() is None, "it works as ever", 60)
    counts.daemon = daemon
    counts.settle(kept)
    assert api.get("/v1/audit/verify").json["valid"] is True


SHAPE = {"image": "tiny", "resources": {"cpus": 1, "memory": 256, "storage": 1}, "env_vars": {"A": "b"}, "metadata": {"c": "d"}}


def settled(api, keeper):
    """What a failed delete left is deleted again, as a client would."""
    live = api.live()
    for identifier in live:
        if identifier != keeper.id:
            once(api, "DELETE", f"/v1/sandboxes/{identifier}/delete")
    return set(live) <= {keeper.id}


def test_n10_the_library_makes_allocations_fail(failing):
    """Else the tests above test nothing."""
    daemon, control, launcher = failing
    daemon.start()
    assert control.count > 100 and launcher.count > 0
    control.fail(1, burst=1 << 40)
    begin = time.monotonic()
    assert once(daemon.api().come_from("127.0.9.99"), "GET", "/v1/keys") is None or control.failed > 0
    assert control.failed > 0 and time.monotonic() - begin < 60
    control.stop()
    assert os.path.exists(f"/proc/{daemon.pid}")
    assert daemon.api().get("/v1/keys").status == 200
