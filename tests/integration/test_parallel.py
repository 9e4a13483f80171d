"""Many at once, and random orders of calls (L16): only legal states, nothing lost."""

import concurrent.futures
import random

import pytest

from conftest import LONG
from harness.wait import wait_until


@pytest.mark.limit(240)
def test_ten_sandboxes_at_once(api):
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        boxes = list(pool.map(lambda number: api.create(name=f"ten{number}"), range(10)))
        try:
            live = api.live()
            assert all(live[box.id]["status"] == "running" for box in boxes)
            outs = list(pool.map(lambda pair: pair[1].out(f"echo {pair[0]} > me; cat me; hostname"), enumerate(boxes)))
            for number, out in enumerate(outs):
                assert out.split()[0] == str(number)
            assert len({out.split()[1] for out in outs}) == 10
        finally:
            list(pool.map(lambda box: box.remove(), boxes))
    wait_until(lambda: not {box.id for box in boxes} & set(api.live()), "all are gone")


LEGAL = {"creating", "running", "paused", "stopping", "terminated", "error"}


@pytest.mark.limit(300)
def test_random_orders(daemon, api):
    """Several clients do anything to a few sandboxes. No 500, no illegal state, no VM without a sandbox."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    boxes = [api.create(name=f"random{number}") for number in range(3)]
    problems = []

    def client(number):
        order = random.Random(seed + number)
        for _ in range(60 if LONG else 9):
            box = order.choice(boxes)
            what = order.choice(["execute", "execute", "pause", "resume", "get", "snapshot", "upload", "list", "delete"])
            if what == "delete" and order.random() > 0.2:
                what = "get"
            try:
                answer = {
                    "execute": lambda: box.execute("echo x", timeout=20),
                    "pause": lambda: api.post(box.path("pause")),
                    "resume": lambda: api.post(box.path("resume")),
                    "get": lambda: api.get(box.path()),
                    "snapshot": lambda: api.post(box.path("snapshot"), {"quick": True}),
                    "upload": lambda: box.upload("/tmp/x", b"x" * 10000),
                    "list": lambda: api.get("/v1/sandboxes/list"),
                    "delete": box.delete,
                }[what]()
            except OSError as error:
                problems.append((what, repr(error)))
                continue
            if answer.status not in (200, 201, 404, 409, 422, 429, 503):
                problems.append((what, repr(answer)))
            if what == "get" and answer.json["status"] not in LEGAL:
                problems.append((what, answer.json["status"]))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(client, range(4)))
    for box in boxes:
        box.remove()
    for row in api.snapshots().values():
        api.delete(f"/v1/snapshots/{row['id']}")
    assert not problems, problems
    wait_until(lambda: not {box.id for box in boxes} & set(api.live()), "all are gone")
    wait_until(lambda: len(daemon.vms()) <= len(api.live()), "no VM without a sandbox")
