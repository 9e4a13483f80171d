"""A change and its record are one transaction: with one of them failing neither is there, and no crash parts them.

Each route that changes something stands in ROUTES below; a new one without a decision fails test_every_route_is_here.
"""

import contextlib
import http.client
import re
import sqlite3

import pytest

from conftest import LONG
from harness.daemon import ROOT, Daemon
from harness.wait import wait_until

# What a route's call changes: the action of the record whose write is to fail, and what the call then answers.
NOTHING = None
ROUTES = {
    "sandbox.create": 500,
    "sandbox.delete": 500,
    "sandbox.delete_all": 200,  # with the failure among its errors
    "sandbox.execute": 200,  # the command was run; it is not in the execution log
    "sandbox.execute_async": 200,
    "sandbox.upload": NOTHING,
    "sandbox.download": NOTHING,
    "sandbox.snapshot": 500,
    "sandbox.clone": 500,
    "sandbox.pause": 500,
    "sandbox.resume": 500,
    "sandbox.timeout": 500,
    "sandbox.network": 500,
    "snapshot.delete": 500,
    "snapshot.delete_all": 200,
    "snapshot.restore": 500,
    "key.create": 500,
    "key.rotate": 500,
    "key.revoke": 500,
    "org.create": 500,
    "org.update": 500,
}

# "fail" is the first passing of a record with that action. Each failed call has its own record, which passes too.
FAULTS = [
    "sandbox.create=fail",  # the first create, when it runs: passings 1 and 2
    "sandbox.admitted=fail:2",  # the second: passing 3
    "sandbox.create=fail:5",  # the third is well; the fourth does not wait
    "snapshot.admitted=fail:2",
    "sandbox.terminated=fail",  # tried again
    *(f"{action}=fail" for action, status in ROUTES.items() if status and action != "sandbox.create"),
]

TABLES = {
    "sandbox": "select * from sandbox where status < 4",
    "snapshot": "select * from snapshot where status < 3",
    "key": "select id, revoked_ms, expires_ms, rotated_to from key",
    "organisation": "select * from org",
    "exec": "select id from exec",
}


def rows(daemon, statement, *values):
    with contextlib.closing(sqlite3.connect(f"file:{daemon.data}/akira.db?mode=ro", uri=True, timeout=10)) as store:
        return sorted(store.execute(statement, values).fetchall())


def look(daemon, without=()):
    return {name: rows(daemon, statement) for name, statement in TABLES.items() if name not in without}


def records(daemon, answer, action):
    """(outcome, status) of the records of one call under one action."""
    statement = "select outcome, status from audit where request = ? and action = ?"
    return rows(daemon, statement, answer.headers["x-request-id"], action)


def test_every_route_is_here():
    text = (ROOT / "src/daemon/api/routes.c").read_text(encoding="utf-8")
    found = re.findall(r'\{ "[A-Z]+", "/[^"]*", \w+,([^"{}]*),\s*"([\w.]+)",', text)
    assert len(found) == len(re.findall(r'\{ "[A-Z]+",', text)) > 30, "the table of routes is not understood"
    assert {action for flags, action in found if "HTTP_MUTATES" in flags} == set(ROUTES)


@pytest.fixture(scope="module")
def failing():
    daemon = Daemon(environment={"AKIRA_FAULT": ",".join(f"audit-add/{fault}" for fault in FAULTS)}).start()
    yield daemon
    daemon.close()


class Trial:
    """Makes each call twice: first its record fails, then it does not."""

    def __init__(self, daemon):
        self.daemon, self.done = daemon, set()

    def fails(self, action, make, without=(), status=None):
        before = look(self.daemon, without)
        answer = make()
        assert answer.status == (status or ROUTES[action]), (action, answer)
        assert look(self.daemon, without) == before, f"{action} changed something without its record"
        left = "ok" if answer.status < 400 else "failed"
        wait_until(lambda: records(self.daemon, answer, action) == [(left, answer.status)], f"{action} is recorded once")
        return answer

    def works(self, action, make):
        before = look(self.daemon)
        answer = make()
        assert answer.status in (200, 201), (action, answer)
        assert records(self.daemon, answer, action) == [("ok", answer.status)], action
        assert look(self.daemon) != before, f"{action} changed nothing"
        self.done.add(action)
        return answer

    def both(self, action, make, without=()):
        self.fails(action, make, without)
        return self.works(action, make)


def create(api, **fields):
    return api.post("/v1/sandboxes/create", {"image": "tiny", "resources": {"cpus": 1, "memory": 256, "storage": 1}, **fields})


def sandboxes_and_snapshots(trial, api):
    trial.fails("sandbox.create", lambda: create(api))
    trial.fails("sandbox.create", lambda: create(api))
    box = api.box(trial.works("sandbox.create", lambda: create(api)).json["id"])
    trial.fails("sandbox.create", lambda: create(api, wait_for_ready=False))
    assert list(api.live()) == [box.id]
    early = trial.works("sandbox.create", lambda: create(api, wait_for_ready=False))
    assert records(trial.daemon, early, "sandbox.admitted") == [("ok", 0)]
    statement = "select key from audit where action = 'sandbox.started' and target = ?"
    wait_until(lambda: rows(trial.daemon, statement, early.json["id"]) == [("",)], "its start is recorded")

    trial.both("sandbox.timeout", lambda: api.request("PUT", box.path("timeout"), json={"timeout_seconds": 900}))
    trial.both("sandbox.network", lambda: api.request("PUT", box.path("network"), json={"outbound": "deny"}))
    trial.both("sandbox.execute", lambda: box.execute("echo x >> /workspace/x"))
    trial.both("sandbox.execute_async", lambda: api.post(box.path("execute_async"), {"command": "echo x >> /workspace/x"}))

    trial.both("sandbox.pause", lambda: api.post(box.path("pause")))
    assert box.status == "paused"
    trial.fails("sandbox.resume", lambda: api.post(box.path("resume")))
    assert box.status == "paused"
    trial.works("sandbox.resume", lambda: api.post(box.path("resume")))
    assert box.out("cat /workspace/x") == "x\n" * 4

    trial.fails("sandbox.snapshot", lambda: api.post(box.path("snapshot"), {}))
    trial.fails("sandbox.snapshot", lambda: api.post(box.path("snapshot"), {}))
    made = trial.works("sandbox.snapshot", lambda: api.post(box.path("snapshot"), {})).json["id"]
    # What it went by stays, with a record of its own.
    trial.both("sandbox.clone", lambda: api.post(box.path("clone")), without=("snapshot",))
    trial.both("snapshot.restore", lambda: api.post(f"/v1/snapshots/{made}/restore", {"name": "again"}))
    trial.both("snapshot.delete", lambda: api.delete(f"/v1/snapshots/{made}"))
    for left in [row["id"] for row in api.snapshots().values() if row["status"] == "ready"][1:]:
        api.forget_snapshot(left)
    assert len(trial.fails("snapshot.delete_all", lambda: api.delete("/v1/snapshots/delete-all")).json["errors"]) == 1
    trial.works("snapshot.delete_all", lambda: api.delete("/v1/snapshots/delete-all"))

    trial.both("sandbox.delete", box.delete)
    for left in list(api.live())[1:]:
        api.box(left).remove()
    assert len(trial.fails("sandbox.delete_all", lambda: api.delete("/v1/sandboxes/delete-all")).json["errors"]) == 1
    trial.works("sandbox.delete_all", lambda: api.delete("/v1/sandboxes/delete-all"))
    assert not api.live()


def keys_and_organisations(trial, api):
    wish = {"name": "one", "scopes": ["sandboxes:read"]}
    key = trial.both("key.create", lambda: api.post("/v1/keys", wish)).json["id"]
    key = trial.both("key.rotate", lambda: api.post(f"/v1/keys/{key}/rotate")).json["id"]
    trial.both("key.revoke", lambda: api.delete(f"/v1/keys/{key}"))
    org = trial.both("org.create", lambda: api.post("/v1/organisations", {"name": "other"})).json["id"]
    trial.both("org.update", lambda: api.request("PATCH", f"/v1/organisations/{org}", json={"log_output": False}))


@pytest.mark.limit(400)
def test_no_change_without_its_record(failing):
    """One daemon for all of them, since each record fails but once."""
    api, trial = failing.api(), Trial(failing)
    sandboxes_and_snapshots(trial, api)
    keys_and_organisations(trial, api)
    assert trial.done == {action for action, status in ROUTES.items() if status}

    def terminations():
        statement = "select target from audit where action = 'sandbox.terminated' and key = '' and request = ''"
        return rows(failing, statement) == rows(failing, "select id from sandbox where status = 4")

    assert terminations(), "each end has one record"
    admitted = rows(failing, "select target from audit where action = 'snapshot.admitted'")
    wait_until(lambda: rows(failing, "select target from audit where action = 'snapshot.removed'") == admitted, "all are removed")
    assert api.get("/v1/audit/verify").json["valid"] is True
    assert failing.stop() == 0


def test_what_akirad_does_by_itself_is_recorded_without_a_key(api, own, daemon):
    box = own(name="idles", idle_timeout_seconds=1, on_idle="pause")
    wait_until(lambda: box.status == "paused", "it is paused", 60)
    answer = box.execute("true")
    assert answer.status == 200, answer
    short = own(name="short", timeout_seconds=1)
    wait_until(lambda: short.status == "terminated", "its time is over", 60)
    statement = "select key, detail from audit where target = ? and action = ? and request = ''"
    assert rows(daemon, statement, box.id, "sandbox.pause")[0] == ("", "reason=idle")
    assert rows(daemon, statement, short.id, "sandbox.terminated") == [("", "reason=timeout")]
    # The resume is the command's.
    assert records(daemon, answer, "sandbox.resume") == [("ok", 0)]
    assert records(daemon, answer, "sandbox.execute") == [("ok", 200)]


# ---- crashes ----


def put_network(box):
    box.api.request("PUT", box.path("network"), json={"outbound": "deny"})


def delete_snapshot(box):
    box.api.delete(f"/v1/snapshots/{box.snapshot(name='crash')['id']}")


CRASHES = {
    "sandbox.network": (put_network, "select id from sandbox where network like '%deny%'"),
    "sandbox.pause": (lambda box: box.api.post(box.path("pause")), "select id from sandbox where status = 2"),
    "sandbox.snapshot": (lambda box: box.api.post(box.path("snapshot"), {}), "select source from snapshot where status = 1"),
    "snapshot.delete": (delete_snapshot, "select source from snapshot where status = 3"),
    "sandbox.delete": (lambda box: box.delete(), "select id from sandbox where reason = 'deleted' and status = 3"),
}
BEFORE = CRASHES if LONG else ["sandbox.network", "snapshot.delete"]


@pytest.mark.limit(240)
@pytest.mark.parametrize("place, action", [("recorded", a) for a in CRASHES] + [("audit-add", a) for a in BEFORE])
def test_a_crash_parts_no_change_from_its_record(prepared, place, action):
    """Killed just after the commit both are there; killed within the transaction neither is."""
    make, changed = CRASHES[action]
    prepared.environment = {"AKIRA_FAULT": f"{place}/{action}=kill"}
    try:
        prepared.start()
        box = prepared.api().create()
        with pytest.raises((OSError, http.client.HTTPException)):
            make(box)
    finally:
        prepared.environment = {}
    prepared.process.wait(30)
    prepared.kill()
    done = place == "recorded"
    targets = {box.id, *(row[0] for row in rows(prepared, "select id from snapshot where source = ?", box.id))}
    found = rows(prepared, "select target from audit where action = ? and outcome = 'ok' and status <> 0", action)
    assert len([row for row in found if row[0] in targets]) == done
    assert ((box.id,) in rows(prepared, changed)) == done

    prepared.start()
    api = prepared.api()
    assert api.get("/v1/audit/verify").json["valid"] is True
    expected = {"sandbox.pause": "paused"}.get(action, "terminated")
    assert api.get(box.path()).json["status"] == expected
    if action == "sandbox.delete" and done:
        assert api.get(box.path()).json["termination"]["reason"] == "deleted"
    if action == "snapshot.delete" and done:
        wait_until(lambda: not api.snapshots(), "it is removed after all")
    api.box(box.id).remove()
    for snapshot in api.snapshots():
        api.forget_snapshot(snapshot)
    assert prepared.stop() == 0
