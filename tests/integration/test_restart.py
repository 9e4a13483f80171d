"""akirad ends, by SIGTERM and by kill -9, in the middle of things; afterwards the truth is told and nothing is left."""

import os
import signal
import threading
import time

import pytest

from harness.client import refused
from harness.daemon import descendants, is_running, name_of
from harness.leaks import Counts, links
from harness.wait import wait_until

REASONS = ("host_error", "node_lost", "timeout", "deleted")


@pytest.fixture(scope="module")
def worn():
    """One daemon that is killed again and again; its template stays, so that creates stay quick."""
    from harness.daemon import Daemon

    daemon = Daemon().start()
    yield daemon
    daemon.close()


@pytest.fixture
def up(worn):
    """The daemon, running, with nothing in it."""
    if not worn.alive:
        worn.start()
    yield worn
    if not worn.alive:
        worn.start()
    api = worn.api()
    for identifier in api.live():
        api.delete(f"/v1/sandboxes/{identifier}/delete")
    for identifier in api.snapshots():
        api.delete(f"/v1/snapshots/{identifier}")


def told(api, identifier, reasons=REASONS):
    """Usable, or terminated with a reason; which of both."""
    seen = wait_until(
        lambda: (row := api.get(f"/v1/sandboxes/{identifier}").json)["status"] not in ("creating", "stopping") and row,
        "its state is settled",
    )
    if seen["status"] in ("running", "paused"):
        assert api.box(identifier).out("echo usable") == "usable\n"
        return True
    assert seen["status"] in ("terminated", "error"), seen
    assert seen["termination"]["reason"] in reasons and seen["termination"]["message"], seen
    assert identifier not in api.live()
    return False


def own_links(daemon):
    """Names of this installation's network links: others run at the same time."""
    tag = daemon.events("launcher_ready")[-1]["tag"]
    return {link for link in links() if f"-{tag}-" in link}


def nothing_of_it_is_left(daemon, before):
    wait_until(lambda: len(daemon.vms()) <= len(daemon.api().live()), "no VM without a sandbox")
    # Up to eight network slots wait for the next sandboxes.
    wait_until(lambda: len(own_links(daemon)) <= max(before, 8), "no link is left")


@pytest.mark.limit(200)
def test_kill_9_with_sandboxes_running(up):
    api = up.api()
    before = len(own_links(up))
    boxes = [api.create(name=f"run{number}") for number in range(3)]
    paused = api.create(name="paused")
    paused.run("echo memory > /dev/shm/x 2>/dev/null || echo memory > /tmp/x")
    paused.pause()
    kept = boxes[0].snapshot()
    up.kill()
    begin = time.monotonic()
    up.start()
    assert time.monotonic() - begin < 60
    api = up.api()
    usable = [told(api, box.id) for box in boxes]
    assert len(set(usable)) == 1, "one policy for all"
    assert api.get(f"/v1/sandboxes/{paused.id}").json["status"] == "paused"
    assert api.box(paused.id).out("cat /dev/shm/x 2>/dev/null || cat /tmp/x") == "memory\n"
    assert api.snapshots()[kept["id"]]["status"] == "ready"
    api.restore(kept["id"]).remove()
    for identifier in list(api.live()):
        api.delete(f"/v1/sandboxes/{identifier}/delete")
    nothing_of_it_is_left(up, before)


@pytest.mark.limit(200)
def test_kill_9_leaves_nothing_on_the_host(up):
    api = up.api()
    box = api.create()
    counts = Counts(up)
    children = descendants(up.pid)
    up.kill()
    assert not [pid for pid in children if is_running(pid)]
    up.start()
    told(up.api(), box.id)
    for identifier in list(up.api().live()):
        up.api().delete(f"/v1/sandboxes/{identifier}/delete")
    wait_until(
        lambda: sum(1 for parent in counts.parents if parent.exists() for path in parent.rglob("cgroup.procs")) <= 2 * len(counts.parents),
        "its cgroups have gone",
    )
    left = [path for path in up.data.rglob("*") if box.id in path.name]
    assert not left, left


MIDDLE = {
    "execute": lambda api, box: box.execute("sleep 60", timeout=100),
    "stream": lambda api, box: box.stream("yes | head -c 2000000000").collect(),
    "upload": lambda api, box: box.upload("/workspace/x", os.urandom(1 << 20) * 60),
    "download": lambda api, box: box.download("/workspace/large"),
    "create": lambda api, box: api.post("/v1/sandboxes/create", {"image": "tiny", "resources": {"memory": 256}}),
    "snapshot": lambda api, box: api.post(box.path("snapshot"), {"name": "middle"}),
    "clone": lambda api, box: api.post(box.path("clone"), {"name": "middle"}),
    "pause": lambda api, box: api.post(box.path("pause")),
    "delete": lambda api, box: box.delete(),
}


@pytest.mark.limit(200)
@pytest.mark.parametrize("what", MIDDLE)
def test_kill_9_in_the_middle(up, what):
    """The client sees its connection end; afterwards every sandbox and snapshot is whole or gone, and says so."""
    import http.client

    api = up.api()
    box = api.create(name="middle-source")
    if what in ("download", "snapshot", "clone"):
        box.run("head -c 60000000 /dev/urandom > /workspace/large; sync", timeout=60)
    ended = []

    def call():
        try:
            ended.append(MIDDLE[what](api, box))
        except (OSError, http.client.HTTPException, ValueError) as error:
            ended.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    if what in ("execute", "stream"):
        name = "sleep" if what == "execute" else "yes"
        wait_until(lambda: box.out(f"pgrep -c {name} || true").strip() != "0", "it runs")
    else:
        thread.join(0.08)
    up.kill()
    thread.join(60)
    assert ended, "the client hangs although the server is gone"
    up.start()
    api = up.api()
    told(api, box.id)
    for identifier in list(api.live()):
        told(api, identifier)
    for row in api.snapshots().values():
        assert row["status"] in ("ready", "error"), row
        if row["status"] == "ready":
            api.restore(row["id"]).remove()
    with api.create(name="after") as after:
        assert after.out("echo ok") == "ok\n"
    assert_chain(up)


def assert_chain(daemon):
    answer = daemon.api().get("/v1/audit/verify")
    assert answer.status == 200 and answer.json["valid"] is True, answer


@pytest.mark.limit(120)
def test_sigterm_ends_cleanly(up):
    api = up.api()
    running = api.create(name="running")
    paused = api.create(name="paused")
    paused.pause()
    children = descendants(up.pid)
    begin = time.monotonic()
    assert up.stop() == 0
    assert time.monotonic() - begin < 45
    assert not [pid for pid in children if is_running(pid)]
    up.start()
    api = up.api()
    told(api, running.id, ("host_error", "node_lost"))
    assert api.get(f"/v1/sandboxes/{paused.id}").json["status"] == "paused"
    assert api.box(paused.id).out("echo back") == "back\n"


@pytest.mark.limit(120)
def test_sigterm_with_a_command_under_way(up):
    box = up.api().create()
    stream = box.stream("echo begin; sleep 300")
    next(iter(stream))
    assert up.stop() == 0
    rest = list(stream)
    assert all("exit_code" not in item or item["exit_code"] != 0 for _, item in rest)


def test_two_signals_do_not_hurt(up):
    up.api().create()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        try:
            os.kill(up.pid, number)
        except ProcessLookupError:
            break
    assert up.stop() == 0


@pytest.mark.limit(120)
def test_n02_the_launcher_is_killed(up):
    """akirad cannot go on without it: it ends with an error, and the next start tells the truth."""
    api = up.api()
    box = api.create()
    launchers = [pid for pid in descendants(up.pid) if name_of(pid) == "akira-launch"]
    assert launchers
    os.kill(launchers[0], signal.SIGKILL)
    wait_until(lambda: not up.alive, "akirad ends", 60)
    assert up.process.returncode != 0
    up.start()
    told(up.api(), box.id)


@pytest.mark.limit(120)
def test_n16_a_vm_that_is_stopped(up):
    """SIGSTOP for the VM process: the API goes on, commands end in time, and a delete works."""
    api = up.api()
    box, other = api.create(), api.create()
    pid = up.vm_of(box)
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    answer = box.execute("echo x", timeout=3)
    assert answer.status in (200, 409, 503, 504, 500), answer
    assert time.monotonic() - begin < 60
    assert other.out("echo fine") == "fine\n"
    assert box.delete().status == 200
    wait_until(lambda: not is_running(pid), "its process is gone", 30)


def test_n14_two_daemons_on_one_folder(up, private):
    second = private(data_dir=up.data)
    second.spawn()
    assert second.process.wait(30) != 0
    assert up.alive and up.api().get("/healthz", key=None).status == 200


@pytest.mark.limit(120)
def test_ids_are_not_used_again(up):
    api = up.api()
    before = api.create()
    before.remove()
    up.kill()
    up.start()
    other = before.id[:-1] + ("y" if before.id.endswith("x") else "x")
    refused(up.api().delete(f"/v1/sandboxes/{other}/delete"), 404, "not_found")
    assert up.api().create().id != before.id


@pytest.mark.limit(120)
def test_keys_and_limits_stay(up):
    key = up.key
    up.kill()
    up.start()
    assert up.key == key and up.api(key).get("/v1/sandboxes/list").status == 200
