"""Snapshots and what is restored from them."""

import hashlib
import os
import re
import signal
import threading
import time

import pytest

from harness.client import refused
from harness.daemon import is_running
from harness.wait import wait_until


@pytest.fixture(scope="module")
def source(api):
    """A sandbox with files, and a snapshot of it."""
    box = api.create(name="source", env_vars={"FROM": "source"}, metadata={"m": "1"})
    box.put("/workspace/data", b"kept " * 1000)
    box.run("mkdir -p /opt/made && echo deep > /opt/made/file && ln -s file /opt/made/link && chmod 4711 /opt/made/file")
    box.snapshot_made = box.snapshot(name="base")
    yield box
    box.remove()
    api.delete(f"/v1/snapshots/{box.snapshot_made['id']}")


def test_the_answer_is_as_documented(source):
    made = source.snapshot_made
    assert re.fullmatch(r"snap_[0-9A-Za-z_-]{16,}", made["id"])
    assert made["name"] == "base" and made["consistency"] == "application"
    assert made["source_sandbox_id"] == source.id and made["source_sandbox_name"] == "source"
    assert made["created_at"].endswith("Z")


def test_it_is_listed(api, source):
    row = api.snapshots()[source.snapshot_made["id"]]
    assert row["name"] == "base" and row["status"] == "ready" and row["size"] > 0
    answer = api.get("/v1/snapshots/list", query={"page": 1, "page_size": 1})
    assert set(answer.json["pagination"]) == {"page", "page_size", "total_items", "total_pages"}


def test_the_source_runs_on(source):
    assert source.out("cat /opt/made/file") == "deep\n"
    source.put("/workspace/after", b"after")


def test_restore_brings_the_files_and_the_environment(api, source):
    with api.restore(source.snapshot_made["id"], name="copy") as box:
        assert box.created["name"] == "copy" and box.created["status"] == "running"
        assert box.created["cpu"] == source.created["cpu"] and box.created["memory"] == source.created["memory"]
        assert box.fetch("/workspace/data") == b"kept " * 1000
        assert box.out("stat -c %a /opt/made/file; readlink /opt/made/link; echo $FROM") == "4711\nfile\nsource\n"
        assert box.run("ls /workspace/after")["exit_code"] != 0
        assert box.id in (api.snapshots()[source.snapshot_made["id"]].get("depends_on") or [box.id])


def test_copies_are_independent(api, source):
    with api.restore(source.snapshot_made["id"]) as one, api.restore(source.snapshot_made["id"]) as other:
        one.put("/workspace/data", b"changed")
        assert other.fetch("/workspace/data") == b"kept " * 1000
        assert source.fetch("/workspace/data") == b"kept " * 1000


def test_restore_needs_a_name(api, source):
    refused(api.post(f"/v1/snapshots/{source.snapshot_made['id']}/restore", {}), 400, "invalid_request", "name")


def test_restore_with_other_resources(api, source):
    with api.restore(source.snapshot_made["id"], resources={"cpus": 2, "memory": 320, "storage": "2Gi"}) as box:
        assert (box.created["cpu"], box.created["memory"], box.created["storage"]) == (2, 320, 2)
        assert int(box.out("df -m --output=size / | tail -1")) > 1700
        assert box.fetch("/workspace/data") == b"kept " * 1000


@pytest.mark.parametrize("storage", ["0Gi", "500Mi", "-1Gi", "Gi", "1e9Gi", "1.5", 0, "99999999Gi", ""])
def test_bad_sizes(api, source, storage):
    answer = api.post(f"/v1/snapshots/{source.snapshot_made['id']}/restore", {"name": "x", "resources": {"storage": storage}})
    assert answer.status in (400, 429, 507), answer
    refused(answer, answer.status)


def test_quick_is_crash_consistent(own):
    box = own()
    box.run("echo synced > /workspace/a; sync; echo maybe > /workspace/b")
    made = box.snapshot(quick=True)
    try:
        assert made["consistency"] == "crash"
        with box.api.restore(made["id"]) as copy:
            assert copy.out("cat /workspace/a") == "synced\n"
    finally:
        box.api.forget_snapshot(made["id"])


def test_a_snapshot_under_load_is_whole(own):
    """Writers run on before and after; each file that is there is complete."""
    box = own()
    writer = "i=0; while :; do i=$((i+1)); head -c 100000 /dev/urandom > t; sha256sum t | cut -d' ' -f1 > s; sync t s; mv t f$((i % 20)); mv s f$((i % 20)).sum; done"
    with box.stream(f"cd /workspace && {writer}"):
        wait_until(lambda: int(box.out("ls /workspace | wc -l")) > 10, "there are files")
        made = box.snapshot()
        assert box.out("echo thawed > /workspace/thawed; cat /workspace/thawed") == "thawed\n"
    try:
        with box.api.restore(made["id"]) as copy:
            assert int(copy.out("ls /workspace | wc -l")) > 5
            assert copy.out("mount | grep -c ' / '") and copy.run("touch /workspace/works")["exit_code"] == 0
    finally:
        box.api.forget_snapshot(made["id"])


def test_a_snapshot_survives_its_source(own):
    box = own()
    box.put("/workspace/x", b"survives")
    made = box.snapshot()
    box.remove()
    try:
        with box.api.restore(made["id"]) as copy:
            assert copy.fetch("/workspace/x") == b"survives"
    finally:
        box.api.forget_snapshot(made["id"])


def test_delete_with_a_snapshot(own):
    box = own()
    box.put("/workspace/x", b"last")
    answer = box.delete(create_snapshot=True, snapshot_name="last-state")
    assert answer.status == 200, answer
    assert answer.json["snapshot_created"] is True and answer.json["snapshot_name"] == "last-state"
    found = [row for row in box.api.snapshots().values() if row["name"] == "last-state"]
    assert len(found) == 1
    wait_until(lambda: box.api.snapshots()[found[0]["id"]]["status"] == "ready", "it is ready")
    with box.api.restore(found[0]["id"]) as copy:
        assert copy.fetch("/workspace/x") == b"last"
    box.api.forget_snapshot(found[0]["id"])


def test_deleting_is_deferred(api, own):
    made = own().snapshot(name="short")
    answer = api.forget_snapshot(made["id"])
    assert answer["name"] == "short" and answer["deferred"] is True and answer["message"]
    wait_until(lambda: made["id"] not in api.snapshots(), "it has gone")
    refused(api.post(f"/v1/snapshots/{made['id']}/restore", {"name": "x"}), 404, "not_found")


def test_deleted_while_copies_run(api, own):
    """G22: they keep running, and the space is freed in the end."""
    box = own()
    box.put("/workspace/x", os.urandom(3_000_000))
    made = box.snapshot()
    with api.restore(made["id"]) as copy:
        api.forget_snapshot(made["id"])
        assert copy.out("sha256sum /workspace/x") == box.out("sha256sum /workspace/x")
        row = api.snapshots().get(made["id"])
        assert row is None or row["status"] == "pending_deletion"
    wait_until(lambda: made["id"] not in api.snapshots(), "it has gone")


def test_unknown_snapshots(api):
    refused(api.delete("/v1/snapshots/snap_0000000000000000000000"), 404, "not_found")
    refused(api.post("/v1/snapshots/snap_0000000000000000000000/restore", {"name": "x"}), 404, "not_found")


@pytest.mark.limit(400)
def test_a_chain_of_snapshots_and_restores(api):
    """snapshot → restore, again and again, with all hashes checked at the end of it."""
    depth = 20
    box, hashes, kept = api.create(name="chain0"), {}, []
    try:
        for step in range(depth):
            data = os.urandom(200_000)
            hashes[f"/workspace/step{step}"] = hashlib.sha256(data).hexdigest()
            box.put(f"/workspace/step{step}", data)
            made = box.snapshot(name=f"chain{step}")
            kept.append(made["id"])
            box.remove()
            box = api.restore(made["id"], name=f"chain{step + 1}")
        for path, digest in hashes.items():
            assert box.out(f"sha256sum < {path}").split()[0] == digest, path
    finally:
        box.remove()
        for identifier in kept:
            api.delete(f"/v1/snapshots/{identifier}")


@pytest.mark.limit(300)
def test_after_a_killed_vm_the_last_snapshot_is_whole(daemon, own):
    """Writes and fsync, then kill -9 of the VM, then the last snapshot."""
    box = own()
    box.run("cd /workspace && for i in $(seq 50); do echo line$i >> journal; done; sync journal")
    made = box.snapshot()
    box.run("cd /workspace && for i in $(seq 51 100); do echo line$i >> journal; done; sync journal")
    os.kill(daemon.vm_of(box), signal.SIGKILL)
    wait_until(lambda: box.get()["status"] in ("terminated", "error"), "its end is noticed")
    try:
        with box.api.restore(made["id"]) as copy:
            assert copy.out("cat /workspace/journal") == "".join(f"line{number}\n" for number in range(1, 51))
    finally:
        box.api.forget_snapshot(made["id"])


@pytest.mark.limit(240)
def test_a_vm_that_is_killed_while_it_is_frozen(daemon, own):
    """The snapshot ends one way or the other; nothing hangs and nothing is left as `creating`."""
    box = own()
    box.run("head -c 50000000 /dev/urandom > /workspace/big; sync", timeout=60)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(box.api.post(box.path("snapshot"), {"name": "torn"})))
    pid = daemon.vm_of(box)
    thread.start()
    os.kill(pid, signal.SIGKILL)
    thread.join(60)
    assert answers and not is_running(pid)
    wait_until(
        lambda: all(row["status"] != "creating" for row in box.api.snapshots().values() if row["name"] == "torn"),
        "the snapshot's state is settled",
    )
    for row in box.api.snapshots().values():
        if row["name"] == "torn":
            if row["status"] == "ready":
                box.api.restore(row["id"]).remove()
            box.api.forget_snapshot(row["id"])


def test_one_after_the_other_while_others_run(own):
    """Several snapshots of one sandbox at once: each is whole or refused with a conflict."""
    box = own()
    box.put("/workspace/x", b"x" * 1000)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(box.api.post(box.path("snapshot"), {}))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {200, 201, 409}, answers
    assert any(answer.status in (200, 201) for answer in answers)
    for answer in answers:
        if answer.status in (200, 201):
            box.api.forget_snapshot(answer.json["id"])


def test_the_size_is_what_is_on_disk(own):
    box = own()
    small = box.snapshot()
    box.run("head -c 60000000 /dev/urandom > /workspace/sixty; sync", timeout=60)
    large = box.snapshot()
    rows = box.api.snapshots()
    assert rows[large["id"]]["size"] - rows[small["id"]]["size"] > 50_000_000
    assert rows[small["id"]]["size"] < 300_000_000
    for made in (small, large):
        box.api.forget_snapshot(made["id"])


def test_the_clock_is_right_after_a_restore(api, source):
    with api.restore(source.snapshot_made["id"]) as box:
        begin = time.time()
        guest = float(box.out("date +%s.%N"))
        assert begin - 1 <= guest <= time.time() + 1


def test_delete_all_snapshots(private):
    daemon = private().start()
    api = daemon.api()
    box = api.create()
    made = {box.snapshot(name=f"s{number}")["id"] for number in range(3)}
    answer = api.delete("/v1/snapshots/delete-all")
    assert answer.status == 200 and set(answer.json["deleted_ids"]) == made and answer.json["deleted_count"] == 3, answer
    wait_until(lambda: not api.snapshots(), "none is left")
