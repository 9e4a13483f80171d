"""What happens to the host around akirad (groups N and O): killed parts, a jumping clock, limits, and what is left."""

import datetime
import http.client
import os
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import time
from pathlib import Path

import pytest

from harness.client import refused
from harness.daemon import Daemon, descendants, is_running, name_of
from harness.leaks import Counts
from harness.wait import wait_until


@pytest.fixture(scope="module")
def quiet():
    """A daemon of its own without a pool, with a sandbox that stays, so that its cgroups can be found."""
    daemon = Daemon().start()
    api = daemon.api()
    keeper = api.create(name="keeper")
    yield daemon, api, keeper
    daemon.close()


@pytest.mark.limit(120)
def test_c07_disk_and_memory_files_are_cut_under_the_vm(private):
    """What root does to the files by mistake: the sandboxes on them fail or end, akirad goes on and the next one works."""
    daemon = private().start()
    api = daemon.api()
    cut, neighbour = api.create(), api.create()
    os.truncate(daemon.data / "scratch" / cut.id, 4096)
    cut.execute("cat /workspace/* > /dev/null; head -c 1000000 /dev/zero > /workspace/x; sync", timeout=10)
    assert daemon.alive and neighbour.out("echo fine") == "fine\n"
    assert cut.delete().status == 200
    rams = list((daemon.data / "templates").glob("*/ram"))
    assert rams
    for ram in rams:
        os.truncate(ram, 4096)  # every VM maps it: its pages are gone, and touching them is SIGBUS
    neighbour.execute("python3 -c 'x = bytearray(50 << 20)'; cat /usr/bin/* > /dev/null", timeout=10)
    assert daemon.alive
    assert neighbour.delete().status in (200, 409)
    wait_until(lambda: neighbour.get()["status"] == "terminated", "it ended", 20)
    with api.create() as again:
        assert again.out("echo new") == "new\n"


@pytest.mark.limit(120)
def test_j03_disk_bandwidth_is_held(private):
    """limits.io_mib_per_s: eight megabytes at one a second take at least six seconds after the first second's burst."""
    api = private({"limits": {"io_mib_per_s": 1}}).start().api()
    with api.create(resources={"cpus": 4}) as box:
        write = "dd if=/dev/zero of=/workspace/x bs=64K count=128 oflag=direct 2>&1"
        begin = time.monotonic()
        assert box.execute(write, timeout=60).json["exit_code"] == 0
        assert time.monotonic() - begin > 5, "it wrote faster than it may"
        assert box.out("echo fine") == "fine\n"


@pytest.mark.limit(120)
def test_n02_vm_processes_killed_at_any_moment(quiet):
    """Killed while a command, an upload or nothing runs: told truthfully, its neighbours and the daemon go on."""
    daemon, api, keeper = quiet
    for number in range(5):
        box = api.create()
        pid = daemon.vm_of(box)
        stream = box.stream("while :; do echo x; done") if number % 2 else None
        if stream:
            stream.response.readline()
        os.kill(pid, signal.SIGKILL)
        begin = time.monotonic()
        wait_until(lambda: box.get()["status"] == "terminated", "it is told", 20)
        assert time.monotonic() - begin < 10
        assert box.get()["termination"]["reason"] == "host_error"
        if stream:
            _, _, code, error = stream.collect()
            assert code is None or code != 0 or error
        refused(box.execute("true"), 409)
    assert keeper.out("echo here") == "here\n"


@pytest.mark.limit(200)
def test_n06_a_guest_writes_while_the_hosts_disk_is_full(private, tmp_path):
    """Its own writes may fail; it is not stopped for good, loses nothing that was synced, and goes on when there is space."""
    from test_storage import Volume

    os.chmod(tmp_path, 0o755)
    for folder in (tmp_path.parent, tmp_path.parent.parent):
        os.chmod(folder, 0o755)
    volume = Volume("ext4", 1400, tmp_path)
    daemon = private({"limits": {"disk_reserve_mib": 64}}, data_dir=volume.point / "data")
    try:
        daemon.start()
        api = daemon.api()
        box, other = api.create(), api.create()
        box.run("echo synced > /workspace/kept; sync")
        filler = volume.point / "filler"
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, volume.free() - (4 << 20)))
        box.execute("head -c 200000000 /dev/urandom > /workspace/large; sync", timeout=6)
        assert daemon.alive
        assert api.get("/healthz", key=None).status in (200, 503)
        filler.unlink()

        def usable():
            answer = box.execute("cat /workspace/kept", timeout=10)
            return answer.json if answer.status == 200 and answer.json.get("stdout") == "synced\n" else None

        wait_until(usable, "it goes on when there is space again", 60, 0.5)
        assert other.out("echo x > /workspace/x; cat /workspace/x", timeout=60) == "x\n"
    finally:
        daemon.close()
        volume.close()


def test_n08_the_kernel_takes_vms_first(quiet):
    """When the host's memory runs out, the VM processes are to go before akirad and its launcher."""
    daemon, _, keeper = quiet

    def score(pid):
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    launchers = [pid for pid in descendants(daemon.pid) if name_of(pid).startswith("akira-launch")]
    assert launchers
    for pid in (daemon.pid, *launchers):
        assert score(daemon.vm_of(keeper)) > score(pid)


@pytest.mark.limit(120)
def test_n09_descriptors_run_out(private):
    """akirad at its limit of open files: a create fails cleanly, what runs goes on, and it recovers."""
    daemon = private().start()
    api = daemon.api()
    box = api.create()
    have = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    try:
        before, most = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (have + 4, most))
    except PermissionError:
        pytest.skip("needs CAP_SYS_RESOURCE to take another process's descriptors away")
    try:
        answer = api.post("/v1/sandboxes/create", {"image": "tiny", "resources": {"memory": 256, "storage": 1}})
        assert answer.status in (500, 503), answer
    except (OSError, http.client.HTTPException):
        pass  # no descriptor for the connection either
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (before, most))
    assert daemon.alive
    wait_until(lambda: answers(api), "it answers again", 60)
    assert box.out("echo here") == "here\n"
    again = api.create()
    assert again.out("echo new") == "new\n"


def answers(api):
    try:
        return api.get("/healthz", key=None, timeout=5).status == 200
    except OSError:
        return False


@pytest.mark.limit(180)
def test_n11_the_wall_clock_jumps(private, tmp_path):
    """An hour on, a day back: lifetimes, commands, keys and the audit chain do not care; nobody is billed for it."""
    assert shutil.which("gcc"), "gcc is in tools/packages.txt"
    library, clock = tmp_path / "clock.so", tmp_path / "clock"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    clock.write_bytes(struct.pack("l", 0))
    for path in (clock, library, tmp_path, tmp_path.parent, tmp_path.parent.parent):
        os.chmod(path, 0o755)

    daemon = private(environment={"LD_PRELOAD": str(library), "AKIRA_TEST_CLOCK": str(clock)})
    sanitizers = daemon.child_environment()
    daemon.environment["ASAN_OPTIONS"] = sanitizers["ASAN_OPTIONS"] + ":verify_asan_link_order=0:detect_leaks=0"
    daemon.start()
    api = daemon.api()

    def jump(seconds):
        with open(clock, "r+b") as file:
            file.write(struct.pack("l", seconds))

    stays, short = api.create(timeout_seconds=3000), api.create(timeout_seconds=600)
    assert api.request("PUT", short.path("timeout"), json={"timeout_seconds": 12}).status == 200
    begin = time.monotonic()
    jump(7200)
    assert stays.out("echo on") == "on\n"
    answer = stays.execute("sleep 30", timeout=2)
    assert answer.json["status"] == "timeout", answer
    assert datetime.datetime.fromisoformat(answer.json["created_at"][:19]) > datetime.datetime.utcnow() + datetime.timedelta(hours=1), "no jump"
    assert short.get()["status"] == "running", "an hour by the wall is no lifetime"
    jump(-86400)
    assert stays.out("echo back") == "back\n"
    wait_until(lambda: short.get()["status"] == "terminated", "its own 12 s are over", 40)
    assert time.monotonic() - begin > 11
    assert short.get()["termination"]["reason"] == "timeout"
    jump(0)
    assert stays.get()["status"] == "running"
    assert api.get("/v1/audit/verify").json["valid"] is True
    booked = sum(row["sandbox_seconds"] for row in api.get("/v1/usage", query={"from": "2020-01-01"}).json["data"])
    assert booked < 2000, booked


@pytest.mark.limit(120)
def test_n12_a_bad_reload_keeps_what_was(quiet):
    """SIGHUP, again and again, in the middle of calls: nothing ends."""
    daemon, api, keeper = quiet
    with keeper.stream("for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done") as stream:
        for _ in range(10):
            os.kill(daemon.pid, signal.SIGHUP)
        out, _, code, error = stream.collect()
    assert (out, code, error) == ("1\n2\n3\n4\n5\n6\n", 0, None)
    assert daemon.alive and answers(api)


@pytest.mark.limit(120)
def test_n18_deletes_during_the_start(quiet):
    """Deleted at any moment of their start: all end, with their reason, and no VM is left."""
    daemon, api, _ = quiet
    made = []
    for number in range(8):
        answer = api.post("/v1/sandboxes/create", {"image": "tiny", "wait_for_ready": False, "resources": {"memory": 256, "storage": 1}})
        assert answer.status == 201, answer
        made.append(answer.json["id"])
        wait_until(lambda begin=time.monotonic(), n=number: time.monotonic() - begin >= n * 0.02, "a moment", 5, 0.005)
        assert api.delete(f"/v1/sandboxes/{made[-1]}/delete").status in (200, 409)
    for identifier in made:
        row = wait_until(lambda i=identifier: (r := api.get(f"/v1/sandboxes/{i}").json)["status"] == "terminated" and r, "it ended", 30)
        assert row["termination"]["reason"] in ("deleted", "host_error"), row
    wait_until(lambda: len(daemon.vms()) == len(api.live()), "no VM without a sandbox", 30)


# ---- O: nothing is left ----


def rows(daemon):
    """Rows that must not grow: what is not history."""
    database = sqlite3.connect(f"file:{daemon.data}/akira.db?mode=ro", uri=True, timeout=10)
    try:
        live = database.execute("SELECT count(*) FROM sandbox WHERE status < 4").fetchone()[0]
        return {"live rows": live, "snapshot rows": database.execute("SELECT count(*) FROM snapshot").fetchone()[0]}
    finally:
        database.close()


@pytest.mark.limit(200)
def test_o01_twenty_cycles(quiet):
    """Twenty times create, execute, delete, four at a time: every count is afterwards what it was before."""
    import concurrent.futures

    daemon, api, keeper = quiet
    counts = Counts(daemon)
    assert counts.parents, "the cgroups of a running VM were not found"

    def cycle(_):
        with api.create() as box:
            assert box.out("echo x") == "x\n"

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(cycle, range(4)))  # pools fill, templates are made, threads start
        before = steady(counts)
        kept = rows(daemon)
        list(pool.map(cycle, range(20)))
    counts.settle(before)
    assert rows(daemon) == kept
    assert keeper.out("echo here") == "here\n"


def steady(counts):
    """The counts once they no longer change."""
    last = {"taken": counts.take(), "since": time.monotonic()}

    def same():
        now = counts.take()
        if now != last["taken"]:
            last["taken"], last["since"] = now, time.monotonic()
        return time.monotonic() - last["since"] > 1.5

    wait_until(same, "the counts stand still", 60, 0.2)
    return last["taken"]


@pytest.mark.limit(200)
def test_o02_failed_calls_leave_nothing(quiet):
    """Creates that are refused at each stage, keys made and revoked, streams opened and dropped."""
    daemon, api, _ = quiet
    counts = Counts(daemon)

    def round_trip():
        api.create(expect=422, image="none")
        api.create(expect=400, name="../x")
        assert api.post("/v1/snapshots/snap_000000000000000000000000/restore", {"name": "x"}).status == 404
        key = api.post("/v1/keys", {"name": "short", "scopes": ["sandboxes:read"]}).json
        assert api.delete(f"/v1/keys/{key['id']}").status == 200
        with api.create() as box:
            stream = box.stream("yes")
            stream.response.readline()
            stream.close()
            assert box.execute("sleep 60", timeout=1).json["status"] == "timeout"

    round_trip()
    before = steady(counts)
    for _ in range(4):
        round_trip()
    counts.settle(before)


@pytest.mark.limit(120)
def test_o06_what_is_used_again_is_clean(quiet):
    """The next sandbox may get the slot, address and user id of the last: it finds nothing of it, and is not it."""
    daemon, api, _ = quiet
    first = api.create(env_vars={"CANARY": "canary-of-the-first"})
    first.run("echo canary-of-the-first > /workspace/x; echo canary-of-the-first > /dev/shm/x; sync")
    pid = daemon.vm_of(first)
    first.remove()
    wait_until(lambda: not is_running(pid), "it ended", 20)
    for _ in range(3):
        with api.create() as second:
            assert second.id != first.id
            told = second.out("env; ls -A /workspace /tmp /dev/shm; cat /proc/net/arp; cat /etc/hosts; hostname; cat /workspace/x /dev/shm/x 2>/dev/null; true")
            assert "canary-of-the-first" not in told
            refused(first.execute("true"), 409)
            refused(first.download("/workspace/x"), 409)
