"""The audit log: one record of each call that changes something, whole and without secrets (L20)."""

import os
import subprocess
import uuid
from pathlib import Path

import pytest

from harness import slot
from harness.client import multipart
from harness.daemon import Daemon, descendants
from harness.wait import wait_until


def records(api, **query):
    answer = api.get("/v1/audit", query={"limit": 100, **query})
    assert answer.status == 200, answer
    return answer.json["data"]


def record_of(api, answer):
    identifier = answer.headers["x-request-id"]

    def look():
        # Steps on its way (snapshot.admitted) have no status.
        return [row for row in records(api) if row["request_id"] == identifier and row["status"]]

    found = wait_until(look, f"{identifier} is in the log", 15)
    assert len(found) == 1, found
    return found[0]


def verified(api):
    answer = api.get("/v1/audit/verify")
    assert answer.status == 200, answer
    return answer.json


def test_each_mutating_call_has_one_record(api, own):
    box = own(name="audited")
    created = [row for row in records(api, action="sandbox.create") if row["target"] == box.id]
    assert len(created) == 1 and created[0]["outcome"] == "ok" and created[0]["status"] == 201
    kind, body = multipart([("path", b"/tmp/x"), ("file", b"x", "f")])
    calls = {
        "sandbox.execute": lambda: box.execute("true"),
        "sandbox.upload": lambda: api.post(box.path("upload"), body=body, headers={"content-type": kind}),
        "sandbox.snapshot": lambda: api.post(box.path("snapshot"), {"name": "audited"}),
        "sandbox.pause": lambda: api.post(box.path("pause")),
        "sandbox.resume": lambda: api.post(box.path("resume")),
        "sandbox.timeout": lambda: api.request("PUT", box.path("timeout"), json={"timeout_seconds": 100}),
        "sandbox.network": lambda: api.request("PUT", box.path("network"), json={"outbound": "deny"}),
        "sandbox.delete": box.delete,
    }
    for action, make in calls.items():
        answer = make()
        assert answer.status in (200, 201), (action, answer)
        row = record_of(api, answer)
        assert row["action"] == action and row["outcome"] == "ok" and row["status"] == answer.status, row
        assert row["target"] in (box.id, answer.json.get("id")), row
        assert row["address"] == "127.0.0.1" and row["key_id"].startswith("key_"), row
    for snapshot in api.snapshots().values():
        answer = api.delete(f"/v1/snapshots/{snapshot['id']}")
        assert record_of(api, answer)["action"] == "snapshot.delete"


def test_failures_and_refusals_are_recorded(api, box):
    row = record_of(api, api.post("/v1/sandboxes/create", {"image": "no-such"}))
    assert row["outcome"] == "failed" and row["status"] == 422
    row = record_of(api, api.post(box.path("execute"), {}))
    assert row["outcome"] == "failed" and row["status"] == 400
    made = api.post("/v1/keys", {"name": "reader", "scopes": ["sandboxes:read"]}).json
    row = record_of(api, api.as_key(made["key"]).post("/v1/sandboxes/create", {}))
    assert row["outcome"] == "refused" and row["status"] == 403 and row["key_id"] == made["id"]


def test_reading_leaves_no_record(api, box):
    answer = api.get("/v1/sandboxes/list")
    box.get()
    assert answer.headers["x-request-id"] not in [row["request_id"] for row in records(api)]


def test_newest_first_and_pages_by_cursor(api, box):
    for _ in range(4):
        box.run("true")
    first = api.get("/v1/audit", query={"limit": 2}).json
    second = api.get("/v1/audit", query={"limit": 2, "cursor": first["next_cursor"]}).json
    numbers = [row["seq"] for row in first["data"] + second["data"]]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) == 4
    assert numbers == list(range(numbers[0], numbers[0] - 4, -1))


def test_filters(api, box):
    box.run("true")
    assert {row["action"] for row in records(api, action="sandbox.execute")} == {"sandbox.execute"}
    assert {row["target"] for row in records(api, target=box.id)} == {box.id}
    assert {row["outcome"] for row in records(api, outcome="failed")} <= {"failed"}


def test_the_chain_is_whole(api, box):
    box.run("true")
    assert verified(api)["valid"] is True


@pytest.mark.limit(240)
@pytest.mark.parametrize("harm, statement", [
    ("altered", "update audit set outcome = 'ok', target = 'x' where {seq} = 3"),
    ("removed", "delete from audit where {seq} = 3"),
    ("removed at the end", "delete from audit where {seq} = (select max({seq}) from audit)"),
])
def test_what_was_changed_is_named(private, harm, statement):
    daemon = private().start()
    api = daemon.api()
    for number in range(5):
        assert api.post("/v1/keys", {"name": f"k{number}", "scopes": ["sandboxes:read"]}).status == 201
    assert verified(api)["valid"] is True
    assert daemon.stop() == 0
    database = daemon.data / "akira.db"
    columns = subprocess.run(["sqlite3", database, "select name from pragma_table_info('audit')"], capture_output=True, check=True).stdout.decode().split()
    seq = "seq" if "seq" in columns else columns[0]
    # Who can write to the file can drop its triggers too.
    triggers = subprocess.run(["sqlite3", database, "select name from sqlite_master where type = 'trigger'"], capture_output=True, check=True).stdout.decode().split()
    script = "".join(f"drop trigger {name};" for name in triggers) + statement.format(seq=seq) + ";"
    done = subprocess.run(["sqlite3", database, script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    daemon.start()
    result = verified(daemon.api())
    assert result["valid"] is False, harm
    if harm != "removed at the end":
        assert result["first_bad_seq"] in (3, 4), result


def test_secrets_are_nowhere(private):
    """Canaries in each place where a tenant may put a secret, looked for in all that akirad leaves behind."""
    daemon: Daemon = private().start()
    api = daemon.api()
    canary = {name: f"CANARY{name}{uuid.uuid4().hex}" for name in ("env", "callenv", "upload", "stdout", "query", "metadata", "badkey")}
    box = api.create(env_vars={"SECRET": canary["env"]})
    box.run("echo $SECRET >/dev/null", env={"SECRET2": canary["callenv"]})
    box.put("/workspace/secret", canary["upload"].encode() * 100)
    api.come_from("127.0.9.9").get("/v1/sandboxes/list", key=canary["badkey"])
    api.come_from("127.0.9.9").get(f"/v1/sandboxes/list?api_key={canary['query']}", key=None)
    api.post("/v1/sandboxes/create", {"image": "tiny", "env_vars": {"A": canary["env"], "B": 1}})
    api.create(expect=422, image="none", env_vars={"A": canary["env"]})

    def found_in(data):
        return [name for name in ("env", "callenv", "query", "badkey", "upload") if canary[name].encode() in data]

    for pid in [daemon.pid, *descendants(daemon.pid)]:
        for name in ("cmdline", "environ"):
            try:
                assert not found_in(Path(f"/proc/{pid}/{name}").read_bytes()), (pid, name)
            except OSError:
                pass
    assert not found_in("\n".join(daemon.log_lines()).encode())
    for row in records(api):
        assert not found_in(repr(row).encode()), row
    box.remove()
    assert daemon.stop() == 0
    for path in daemon.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes() if path.stat().st_size < 1 << 30 else b""
            assert not found_in(data), path
            assert daemon.key.encode() not in data or path.name == "credentials", path


def test_forged_lines_do_not_get_in(api, daemon):
    name = "a\nsandbox.create ok"
    api.post("/v1/sandboxes/create", {"image": "tiny", "name": name})
    api.get("/v1/sandboxes/list", headers={"user-agent": 'x" event="forged'})
    assert all("forged" not in row["action"] for row in records(api))
    assert not daemon.events("forged")


def test_two_daemons_have_two_chains(private):
    """The hash is keyed by the installation: rows of another do not pass for ours."""
    first, second = private().start(), private().start()
    for daemon in (first, second):
        daemon.api().post("/v1/keys", {"name": "x", "scopes": ["sandboxes:read"]})
        assert daemon.stop() == 0
    os.replace(second.data / "akira.secret", first.data / "akira.secret")
    first.spawn()
    if wait_for_end(first):
        # The key's hash does not fit either, so nobody gets in; the host can still verify.
        answer = first.api().come_from("127.0.9.8").get("/v1/audit/verify")
        assert answer.status == 401 or answer.json["valid"] is False, answer


def wait_for_end(daemon):
    """True if it runs (answers), False if it ended."""
    def look():
        if not daemon.alive:
            return "ended"
        try:
            return "runs" if daemon.api().get("/healthz", key=None).status else None
        except OSError:
            return None

    return wait_until(look, "it runs or ends", 60) == "runs"


def test_restored_rules_are_recorded(daemon, api, own):
    """K17: somebody on the host flushes the rules of a sandbox's network; they are restored, and it is told."""
    box = own()
    with slot.namespace(daemon, box) as namespace:
        flush = ["nft", "flush", "ruleset"]
        subprocess.run(flush, check=True, preexec_fn=lambda: slot.enter(namespace))

        def told():
            box.get()
            return [row for row in records(api, target=box.id) if row["action"] == "network.rules_restored"]

        row = wait_until(told, "the change is in the log", 30)[0]
        assert not row["key_id"] and row["outcome"] == "ok"
        listed = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, preexec_fn=lambda: slot.enter(namespace))
    assert b"drop" in listed.stdout
    assert len(told()) == 1 and verified(api)
