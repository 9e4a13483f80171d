"""Idempotency-Key: once is once (L15)."""

import concurrent.futures
import http.client
import threading
import uuid

import pytest

from harness.client import refused
from harness.wait import wait_until

SMALL = {"image": "tiny", "resources": {"cpus": 1, "memory": 256, "storage": 1}}


def create(api, key, **fields):
    return api.post("/v1/sandboxes/create", {**SMALL, **fields}, headers={"Idempotency-Key": key})


def named(api, name):
    return [row for row in api.live().values() if row["name"] == name]


def test_again_gives_the_same(api):
    key, name = uuid.uuid4().hex, f"idem-{uuid.uuid4().hex[:8]}"
    first, second = create(api, key, name=name), create(api, key, name=name)
    assert first.status == second.status == 201
    assert first.json["id"] == second.json["id"] and len(named(api, name)) == 1
    api.box(first.json["id"]).remove()
    third = create(api, key, name=name)
    assert third.status == 201 and third.json["id"] == first.json["id"] and not named(api, name)


def test_many_at_once_make_one(api):
    key, name = uuid.uuid4().hex, f"idem-{uuid.uuid4().hex[:8]}"
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: create(api, key, name=name), range(12)))
    assert {answer.status for answer in answers} <= {201, 409}, answers
    assert len({answer.json["id"] for answer in answers if answer.status == 201}) == 1
    assert len(named(api, name)) == 1
    api.box(named(api, name)[0]["id"]).remove()


def test_another_body_is_a_conflict(api):
    key = uuid.uuid4().hex
    first = create(api, key, name="idem-a")
    answer = create(api, key, name="idem-b")
    refused(answer, 409, "conflict")
    assert answer.headers["x-should-retry"] == "false"
    api.box(first.json["id"]).remove()


def test_a_refused_call_may_be_repeated_rightly(api):
    key = uuid.uuid4().hex
    assert create(api, key, name="../bad").status == 400
    answer = create(api, key, name="idem-good")
    assert answer.status in (201, 409), answer
    if answer.status == 201:
        api.box(answer.json["id"]).remove()


def test_commands_run_once(box):
    key = uuid.uuid4().hex
    body = {"command": "echo x >> /tmp/idem; wc -l < /tmp/idem"}
    first = box.api.post(box.path("execute"), body, headers={"Idempotency-Key": key})
    second = box.api.post(box.path("execute"), body, headers={"Idempotency-Key": key})
    assert first.status == second.status == 200 and first.json["stdout"] == second.json["stdout"] == "1\n"
    assert box.out("wc -l < /tmp/idem") == "1\n"


def test_snapshots_are_made_once(box):
    key = uuid.uuid4().hex
    answers = [box.api.post(box.path("snapshot"), {"name": "idem"}, headers={"Idempotency-Key": key}) for _ in range(2)]
    assert answers[0].json["id"] == answers[1].json["id"]
    assert len([row for row in box.api.snapshots().values() if row["name"] == "idem"]) == 1
    box.api.forget_snapshot(answers[0].json["id"])


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 5000, "a b", "\x7f"])
def test_bad_keys(api, key):
    try:
        answer = create(api, key, name="idem-bad")
    except ValueError:
        return  # the client itself refuses to send it
    if answer.status == 201:
        assert key == "", "an empty key counts as none"
        api.box(answer.json["id"]).remove()
    else:
        refused(answer, answer.status)
        assert answer.status in (400, 431)


@pytest.mark.limit(200)
def test_across_a_crash(private):
    """kill -9 while it is made; the same call again makes no second one."""
    daemon = private().start()
    api = daemon.api()
    api.create(name="warm").remove()
    for wait in (0.01, 0.1, 0.4):
        key, name = uuid.uuid4().hex, f"crash-{uuid.uuid4().hex[:8]}"

        def call():
            try:
                create(api, key, name=name)
            except (OSError, http.client.HTTPException):
                pass

        thread = threading.Thread(target=call)
        thread.start()
        thread.join(wait)
        daemon.kill()
        thread.join()
        daemon.start()
        api = daemon.api()
        answer = create(api, key, name=name)
        assert answer.status in (201, 409), answer
        wait_until(lambda: len(named(api, name)) <= 1, "at most one is there", 10)
        again = create(api, key, name=name)
        if answer.status == 201:
            assert again.json["id"] == answer.json["id"]
