"""Who may do what: every documented route against every kind of key (L01-L03, L05-L07, L21).

A route that stands in the document and not in SCOPES fails the test: whoever adds one says here what it needs.
"""

import datetime
import http.client
import json
import re
import sqlite3
import statistics
import threading
import time

import pytest

from conftest import LONG
from harness import contract
from harness.client import Api, multipart, refused
from harness.daemon import Daemon
from harness.wait import wait_until

READ, WRITE, KEYS, AUDIT, ADMIN = "sandboxes:read", "sandboxes:write", "keys:manage", "audit:read", "admin"
SCOPES = {
    "GET /healthz": None,
    "GET /openapi.yaml": None,
    "POST /v1/sandboxes/create": WRITE,
    "GET /v1/sandboxes/list": READ,
    "GET /v1/sandboxes/logs": READ,
    "DELETE /v1/sandboxes/delete-all": WRITE,
    "GET /v1/sandboxes/{id}": READ,
    "DELETE /v1/sandboxes/{id}/delete": WRITE,
    "POST /v1/sandboxes/{id}/execute": WRITE,
    "POST /v1/sandboxes/{id}/execute_async": WRITE,
    "POST /v1/sandboxes/{id}/upload": WRITE,
    "GET /v1/sandboxes/{id}/download": WRITE,
    "GET /v1/sandboxes/{id}/status": READ,
    "GET /v1/sandboxes/{id}/console": READ,
    "POST /v1/sandboxes/{id}/snapshot": WRITE,
    "POST /v1/sandboxes/{id}/clone": WRITE,
    "POST /v1/sandboxes/{id}/pause": WRITE,
    "POST /v1/sandboxes/{id}/resume": WRITE,
    "PUT /v1/sandboxes/{id}/timeout": WRITE,
    "PUT /v1/sandboxes/{id}/network": WRITE,
    "GET /v1/snapshots/list": READ,
    "DELETE /v1/snapshots/delete-all": WRITE,
    "DELETE /v1/snapshots/{id}": WRITE,
    "POST /v1/snapshots/{id}/restore": WRITE,
    "POST /v1/keys": KEYS,
    "GET /v1/keys": KEYS,
    "POST /v1/keys/{id}/rotate": KEYS,
    "DELETE /v1/keys/{id}": KEYS,
    "POST /v1/organisations": ADMIN,
    "GET /v1/organisations": ADMIN,
    "GET /v1/organisations/{id}": ADMIN,
    "PATCH /v1/organisations/{id}": ADMIN,
    "GET /v1/audit": AUDIT,
    "GET /v1/audit/verify": ADMIN,
    "GET /v1/usage": READ,
}


def entry(op):
    return re.sub(r"\{\w+\}", "{id}", op.name)


def routes():
    return contract.operations() if contract.FILE.exists() else []


def secured():
    return [op for op in routes() if SCOPES.get(entry(op))]


def unknown_id(op):
    for part, prefix in (("/snapshots/", "snap_"), ("/keys/", "key_"), ("/organisations/", "org_")):
        if part in op.path:
            return prefix + "0" * 22
    return "sbx_" + "0" * 22


def call(api, op, identifier=None, body=None):
    """A call that harms nothing: its body, where it takes one, has a field that no route knows."""
    options = {}
    if op.path.endswith("/upload"):
        kind, data = multipart([("path", b"/tmp/x"), ("file", b"x", "f")])
        options = {"body": data, "headers": {"content-type": kind}}
    elif op.method in ("POST", "PUT", "PATCH"):
        options = {"json": {"no_such_field": 1} if body is None else body}
    path = op.fill(identifier or unknown_id(op))
    if op.path.endswith("/download"):
        path += "?path=/etc/hostname"
    return api.request(op.method, path, **options)


# What each call of an id-bearing route needs to be a good one.
GOOD_BODIES = {"execute": {"command": "true"}, "execute_async": {"command": "true"}, "restore": {"name": "x"},
               "timeout": {"timeout_seconds": 60}, "network": {"outbound": "deny"}}


def good_body(op):
    return GOOD_BODIES.get(op.path.rsplit("/", 1)[-1], {})


@pytest.fixture(scope="module")
def world():
    """A daemon of its own with two organisations and one key of each kind."""
    daemon = Daemon().start()
    admin = daemon.api()
    keys = {}

    def make(name, scopes, **fields):
        answer = admin.post("/v1/keys", {"name": name, "scopes": scopes, **fields})
        assert answer.status == 201, answer
        return answer.json

    for scope in (READ, WRITE, KEYS, AUDIT, ADMIN):
        keys[scope] = make("only-" + scope.replace(":", "-"), [scope])["key"]
    revoked = make("revoked", [READ, WRITE])
    assert admin.delete(f"/v1/keys/{revoked['id']}").status == 200
    keys["revoked"] = revoked["key"]
    soon = (datetime.datetime.utcnow() + datetime.timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    keys["expired"] = make("expired", [READ, WRITE], expires_at=soon[:23] + "Z")["key"]
    other = admin.post("/v1/organisations", {"name": "other", "tier": "enterprise"})
    assert other.status == 201, other
    keys["other"] = make("others", [READ, WRITE, KEYS, AUDIT], organisation_id=other.json["id"])["key"]
    stopped = admin.post("/v1/organisations", {"name": "stopped", "tier": "enterprise"})
    keys["suspended"] = make("stopped-key", [READ, WRITE, KEYS, AUDIT], organisation_id=stopped.json["id"])["key"]
    answer = admin.request("PATCH", f"/v1/organisations/{stopped.json['id']}", json={"suspended": True})
    assert answer.status == 200, answer
    wait_until(lambda: admin.come_from("127.0.7.1").get("/v1/sandboxes/list", key=keys["expired"]).status == 401, "the key expired", 20, 0.5)

    class World:
        pass

    it = World()
    it.daemon, it.admin, it.keys, it.other = daemon, admin, keys, other.json["id"]
    it.make = make
    yield it
    daemon.close()


sources = iter(f"127.0.{64 + number // 250}.{1 + number % 250}" for number in range(40000))


def fresh(api):
    """From an address of its own, as bad keys slow an address down."""
    return api.come_from(next(sources))


def test_every_documented_route_has_an_entry_and_the_other_way_round():
    assert {entry(op) for op in routes()} == set(SCOPES)


@pytest.mark.parametrize("op", routes(), ids=repr)
def test_open_routes_are_documented_as_open(op):
    assert op.open == (SCOPES[entry(op)] is None)


BAD_KEYS = {
    "none": None, "empty": "", "short": "x", "prefix alone": "sk_live_", "wrong checksum": "sk_live_" + "A" * 33, "spaces": " " * 41,
    "long": "sk_live_" + "A" * 5000, "latin": "sk_live_\xff" + "A" * 32,
}


@pytest.mark.parametrize("op", secured(), ids=repr)
def test_l01_without_a_good_key(world, op):
    for name, key in BAD_KEYS.items():
        api = fresh(world.admin.as_key(key))
        refused(call(api, op), 401 if name != "long" or len(key) < 30000 else 431, "unauthorized")
    refused(call(fresh(world.admin.as_key(world.keys["revoked"])), op), 401, "unauthorized")
    refused(call(fresh(world.admin.as_key(world.keys["expired"])), op), 401, "unauthorized")
    refused(call(fresh(world.admin.as_key(world.keys["suspended"])), op), 403, "forbidden")


@pytest.mark.parametrize("op", secured(), ids=repr)
def test_l01_each_scope(world, op):
    needed = SCOPES[entry(op)]
    for scope in (READ, WRITE, KEYS, AUDIT, ADMIN):
        answer = call(world.admin.as_key(world.keys[scope]), op)
        if scope in (needed, ADMIN):
            assert answer.status not in (401, 403, 500), (scope, answer)
        else:
            refused(answer, 403, "forbidden")


def test_the_key_may_stand_in_the_query_and_is_in_no_log(world):
    answer = world.admin.get(f"/v1/sandboxes/list?api_key={world.admin.key}", key=None)
    assert answer.status == 200
    assert world.admin.key not in "\n".join(world.daemon.log_lines())


@pytest.fixture(scope="module")
def things(world):
    """Something of the first organisation for each kind of id."""
    box = world.admin.create(name="mine")
    snapshot = box.snapshot(name="mine")
    key = world.make("mine", [READ])
    yield {"sbx_": box.id, "snap_": snapshot["id"], "key_": key["id"]}
    box.remove()


def of_kind(things, op):
    return next((value for prefix, value in things.items() if unknown_id(op).startswith(prefix)), None)


@pytest.mark.parametrize("op", [op for op in secured() if op.has_id and SCOPES[entry(op)] != ADMIN], ids=repr)
def test_l02_what_is_anothers_looks_like_nothing(world, things, op):
    """404 with the same body as for an id that does not exist."""
    other = world.admin.as_key(world.keys["other"])
    theirs, nothing = call(other, op, of_kind(things, op), good_body(op)), call(other, op, None, good_body(op))
    refused(theirs, 404, "not_found")
    refused(nothing, 404, "not_found")
    bodies = [answer.body.decode().replace(identifier, "ID") for answer, identifier in ((theirs, of_kind(things, op)), (nothing, unknown_id(op)))]
    assert bodies[0] == bodies[1]
    assert set(theirs.headers) == set(nothing.headers)


def test_l02_and_takes_as_long(world, things):
    other = world.admin.as_key(world.keys["other"])

    def measure(identifier):
        begin = time.perf_counter()
        other.get(f"/v1/sandboxes/{identifier}")
        return time.perf_counter() - begin

    theirs, nothing = [], []
    for _ in range(60):
        theirs.append(measure(things["sbx_"]))
        nothing.append(measure("sbx_" + "0" * 22))
    # A query of the database more or a message's text would show as a constant; noise is milliseconds here.
    assert abs(statistics.median(theirs) - statistics.median(nothing)) < 0.01


def test_l03_lists_show_only_ones_own(world, things):
    other = world.admin.as_key(world.keys["other"])
    world.admin.box(things["sbx_"]).run("echo private")
    for path in ("/v1/sandboxes/list", "/v1/sandboxes/logs", "/v1/snapshots/list", "/v1/keys", "/v1/usage"):
        text = other.get(path).body.decode()
        for identifier in things.values():
            assert identifier not in text, path
    assert {row["organisation_id"] for row in other.get("/v1/audit").json["data"]} == {world.other}
    assert other.get("/v1/sandboxes/logs", query={"sandbox_id": things["sbx_"]}).status in (200, 404)
    assert things["sbx_"] not in other.get("/v1/sandboxes/logs", query={"sandbox_id": things["sbx_"]}).body.decode()
    for query in ({"organisation_id": "org_" + "0" * 22}, {"org": "x"}):
        assert other.get("/v1/keys", query=query).status in (400, 403, 404)


def test_l03_delete_all_takes_only_ones_own(world, things):
    other = world.admin.as_key(world.keys["other"])
    assert other.delete("/v1/sandboxes/delete-all").json["deleted_count"] == 0
    assert other.delete("/v1/snapshots/delete-all").json["deleted_count"] == 0
    assert world.admin.box(things["sbx_"]).get()["status"] == "running"


def test_l03_forged_cursors(world):
    for cursor in ("x", "1", "-1", "1.0", "9" * 30, "1." + "0" * 32, "%00", "1.'"):
        refused(world.admin.get("/v1/audit", query={"cursor": cursor}), 400, "invalid_request", "cursor")
    page = world.admin.get("/v1/audit", query={"limit": 1}).json
    cursor = page["next_cursor"]
    assert world.admin.get("/v1/audit", query={"limit": 1, "cursor": cursor}).status == 200
    refused(world.admin.get("/v1/audit", query={"cursor": cursor[:-1] + ("0" if cursor[-1] != "0" else "1")}), 400, mention="cursor")
    other = world.admin.as_key(world.keys["other"]).get("/v1/audit", query={"cursor": cursor})
    assert other.status == 400, "a cursor of another view is refused"


def test_l05_a_revoked_key_is_refused_at_once(world):
    made = world.make("to-revoke", [READ, WRITE])
    api = world.admin.as_key(made["key"])
    assert api.get("/v1/sandboxes/list").status == 200
    assert world.admin.delete(f"/v1/keys/{made['id']}").status == 200
    begin = time.monotonic()
    assert fresh(api).get("/v1/sandboxes/list").status == 401
    assert time.monotonic() - begin < 5


def test_l05_an_open_stream_ends_with_its_key(world, things):
    made = world.make("streaming", [READ, WRITE])
    box = world.admin.as_key(made["key"]).box(things["sbx_"])
    with box.stream("while :; do echo x; sleep 0.2; done") as stream:
        items = iter(stream)
        next(items)
        assert world.admin.delete(f"/v1/keys/{made['id']}").status == 200
        begin, rest = time.monotonic(), []
        for _, item in items:
            rest.append(item)
            assert time.monotonic() - begin < 15, "the stream goes on although its key was revoked"
    assert not any(item.get("exit_code") == 0 for item in rest)


def test_l05_revoke_against_create(world):
    """A create that begins after the revoke's answer never makes a sandbox (short form of the race)."""
    for _ in range(4):
        made = world.make("racing", [WRITE])
        api, after, stop = world.admin.as_key(made["key"]), [], threading.Event()
        revoked_at = []

        def creating():
            while not stop.is_set():
                began = time.monotonic()
                answer = fresh(api).post("/v1/sandboxes/create", {"image": "no-such-image"})
                if revoked_at and began > revoked_at[0]:
                    after.append(answer.status)
                    if len(after) > 5:
                        return

        threads = [threading.Thread(target=creating) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert world.admin.delete(f"/v1/keys/{made['id']}").status == 200
        revoked_at.append(time.monotonic())
        wait_until(lambda: len(after) > 3, "creates were tried after the revoke", 30)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(after) <= {401, 429}, after


@pytest.fixture
def one_vm(private):
    """A daemon with a user id for one VM, which runs: what else is admitted fails to start at once."""
    daemon = private({"log": {"level": "info"}, "user": {"vm_uid_count": 1}}).start()
    daemon.api().create(name="keeper")
    return daemon


def create_until_refused(api, key, go, told):
    """Creates over one connection until it is refused; how many were admitted is in the audit log."""
    connection = http.client.HTTPConnection(api.host, api.port, timeout=60, source_address=(next(sources), 0))
    body = json.dumps({"image": "tiny", "resources": {"cpus": 1, "memory": 256, "storage": 1}})
    connection.connect()
    go.wait()
    for _ in range(2000):
        connection.request("POST", "/v1/sandboxes/create", body, {"x-api-key": key, "content-type": "application/json"})
        response = connection.getresponse()
        response.read()
        told.append(response.status)
        if response.status == 401:
            break
    connection.close()


@pytest.mark.limit(180)
def test_l05_ten_thousand_revokes_against_creates(one_vm):
    """
    Two callers create, a third revokes their key: in the audit log nothing is admitted by a key after its revocation.
    100 rounds through the whole of akirad; 10,000 with AKIRA_TEST_LONG=1. 10,000 of admission alone are a unit test
    (tests/unit/daemon/sandbox/revoke.c).
    """
    admin, rounds, statuses = one_vm.api(), 10000 if LONG else 100, set()
    for number in range(rounds):
        made = admin.post("/v1/keys", {"name": "racing", "scopes": [WRITE]}).json
        go, told = threading.Barrier(3), []
        callers = [threading.Thread(target=create_until_refused, args=(admin, made["key"], go, told)) for _ in range(2)]
        for caller in callers:
            caller.start()
        go.wait()
        while len(told) < number % 3 and any(caller.is_alive() for caller in callers):
            time.sleep(0)
        assert admin.delete(f"/v1/keys/{made['id']}").status == 200
        for caller in callers:
            caller.join()
        assert told.count(401) == 2, told
        statuses |= set(told)
    assert statuses <= {401, 500, 503}, statuses
    revoked, admitted, late = {}, 0, []
    with sqlite3.connect(f"file:{one_vm.data}/akira.db?mode=ro", uri=True, timeout=30) as database:
        for seq, action, key, target in database.execute("SELECT seq, action, key, target FROM audit ORDER BY seq"):
            if action == "key.revoke":
                revoked[target] = seq
            elif action == "sandbox.admitted":
                admitted += 1
                late += [(seq, key, target)] if key in revoked else []
    assert not late, late
    print(f"{len(revoked)} keys revoked, {admitted} sandboxes admitted, none after its key's revocation")
    assert len(revoked) == rounds and admitted > rounds / 3
    assert admin.get("/v1/audit/verify").json["valid"] is True
    wait_until(lambda: [row["name"] for row in admin.live().values()] == ["keeper"], "what was admitted has ended")


def test_l05_rotation_with_grace(world):
    made = world.make("rotating", [READ])
    answer = world.admin.post(f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 3})
    assert answer.status == 201 and answer.json["key"] != made["key"], answer
    old, new = fresh(world.admin.as_key(made["key"])), fresh(world.admin.as_key(answer.json["key"]))
    assert old.get("/v1/sandboxes/list").status == 200 and new.get("/v1/sandboxes/list").status == 200
    wait_until(lambda: fresh(old).get("/v1/sandboxes/list").status == 401, "the grace is over", 20, 0.3)
    assert new.get("/v1/sandboxes/list").status == 200
    assert answer.json["scopes"] == made["scopes"]


def test_l06_keys_are_stored_only_as_hashes(world):
    made = world.make("stored", [READ])
    assert re.fullmatch(r"sk_live_[0-9A-Za-z]{33}", made["key"])
    world.admin.as_key(made["key"]).get("/v1/sandboxes/list")
    secret = made["key"][len("sk_live_") + 6 :].encode()
    for path in world.daemon.root.rglob("*"):
        if path.is_file() and path.stat().st_size < 100 << 20:
            assert secret not in path.read_bytes(), path
    listed = world.admin.get("/v1/keys", query={"page_size": 100}).body
    assert secret not in listed and made["prefix"].encode() in listed
    assert made["key"].startswith(made["prefix"]) and len(made["prefix"]) <= 20


def test_l07_an_address_that_guesses_is_slowed(world):
    api = world.admin.come_from("127.0.8.1")
    answers = [api.get("/v1/sandboxes/list", key=f"sk_live_{number:033d}") for number in range(60)]
    statuses = [answer.status for answer in answers]
    assert statuses[0] == 401 and 429 in statuses, statuses
    slowed = answers[statuses.index(429)]
    refused(slowed, 429, "rate_limited")
    assert int(slowed.headers["retry-after"]) > 0
    for header in ({"X-Forwarded-For": "1.2.3.4"}, {"Forwarded": "for=1.2.3.4"}, {"X-Real-IP": "1.2.3.4"}):
        assert api.get("/v1/sandboxes/list", key="sk_live_x", headers=header).status == 429
    assert world.admin.get("/v1/sandboxes/list").status == 200, "others are not slowed"


def test_l07_the_rate_of_a_tier(world):
    org = world.admin.post("/v1/organisations", {"name": "slow", "tier": "enterprise", "limits": {"requests_per_minute": 10}})
    assert org.status == 201, org
    made = world.make("slow", [READ, WRITE], organisation_id=org.json["id"])
    api = world.admin.as_key(made["key"])
    answers = [api.get("/v1/sandboxes/list") for _ in range(16)]
    statuses = [answer.status for answer in answers]
    assert statuses[:10] == [200] * 10 and 429 in statuses[10:], statuses
    for name in ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"):
        assert name in answers[0].headers
    assert answers[0].headers["ratelimit-limit"] == "10"
    limited = next(answer for answer in answers if answer.status == 429)
    refused(limited, 429, "rate_limited")
    assert int(limited.headers["retry-after"]) > 0
    for path in ("/v1/sandboxes/list?api_key=" + made["key"], "/v1/sandboxes/list?x=1"):
        assert api.get(path).status in (429, 400)


def test_the_count_of_sandboxes_of_an_organisation(world):
    org = world.admin.post("/v1/organisations", {"name": "few", "tier": "enterprise", "limits": {"sandboxes": 1, "memory_mib": 1024, "snapshots": 1}})
    made = world.make("few", [READ, WRITE], organisation_id=org.json["id"])
    api = world.admin.as_key(made["key"])
    with api.create() as box:
        refused(api.create(expect=429), 429, "quota_exceeded")
        box.snapshot()
        refused(api.post(box.path("snapshot"), {}), 429, "quota_exceeded")
        refused(api.post(box.path("clone"), {}), 429, "quota_exceeded")
    wait_until(lambda: not api.live(), "it is gone")
    answer = api.post("/v1/sandboxes/create", {"image": "tiny", "resources": {"memory": 2048}})
    assert answer.status in (400, 429) and "memory" in answer.message, answer
    with api.create():
        pass
    api.delete("/v1/snapshots/delete-all")


def test_the_count_of_commands_at_once(world):
    """Over the bound of an organisation: 429, and the sandbox serves on."""
    import concurrent.futures

    org = world.admin.post("/v1/organisations", {"name": "calm", "tier": "enterprise", "limits": {"executions": 3}})
    made = world.make("calm", [READ, WRITE], organisation_id=org.json["id"])
    with world.admin.as_key(made["key"]).create() as box:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: box.execute("sleep 3", timeout=30), range(8)))
        assert sorted({answer.status for answer in answers}) == [200, 429], answers
        assert sum(answer.status == 200 for answer in answers) == 3
        for answer in answers:
            if answer.status == 429:
                refused(answer, 429, "quota_exceeded")
        assert box.out("echo on") == "on\n"


def test_g09_restoring_what_is_anothers(world, things):
    other = world.admin.as_key(world.keys["other"])
    refused(other.post(f"/v1/snapshots/{things['snap_']}/restore", {"name": "stolen"}), 404, "not_found")


def test_l21_a_key_grants_no_more_than_it_has(world):
    manager = world.admin.as_key(world.keys[KEYS])
    for scopes in ([ADMIN], [KEYS, WRITE], [READ], [AUDIT]):
        refused(manager.post("/v1/keys", {"name": "wider", "scopes": scopes}), 403, "forbidden")
    assert manager.post("/v1/keys", {"name": "same", "scopes": [KEYS]}).status == 201
    mine = [row for row in manager.get("/v1/keys", query={"page_size": 100}).json["data"] if ADMIN in row["scopes"]]
    assert mine
    assert manager.post(f"/v1/keys/{mine[0]['id']}/rotate", {}).status in (403, 404)
    other = world.admin.as_key(world.keys["other"])
    first = world.admin.get("/v1/organisations").json["data"][0]["id"]
    answer = other.post("/v1/keys", {"name": "x", "scopes": [READ], "organisation_id": first})
    assert answer.status in (403, 404), answer


def test_suspending_stops_what_runs(world):
    org = world.admin.post("/v1/organisations", {"name": "to-suspend", "tier": "enterprise"})
    made = world.make("to-suspend", [READ, WRITE], organisation_id=org.json["id"])
    api = world.admin.as_key(made["key"])
    api.create()
    before = len(world.daemon.vms())
    answer = world.admin.request("PATCH", f"/v1/organisations/{org.json['id']}", json={"suspended": True, "running": "stop"})
    assert answer.status == 200 and answer.json["suspended"] is True, answer
    refused(fresh(api).get("/v1/sandboxes/list"), 403, "forbidden")
    wait_until(lambda: len(world.daemon.vms()) < before, "its VM was stopped", 30)
    assert world.admin.request("PATCH", f"/v1/organisations/{org.json['id']}", json={"suspended": False}).status == 200
    wait_until(lambda: api.get("/v1/sandboxes/list").status == 200, "it may call again", 20)


@pytest.mark.parametrize("body, field", [
    ({}, "name"), ({"name": "x"}, "scopes"), ({"name": "x", "scopes": []}, "scopes"), ({"name": "x", "scopes": ["root"]}, "scopes"),
    ({"name": "x", "scopes": "admin"}, "scopes"), ({"name": "../", "scopes": [READ]}, "name"), ({"name": "x", "scopes": [READ], "key": "y"}, "key"),
    ({"name": "x", "scopes": [READ], "expires_at": "yesterday"}, "expires_at"), ({"name": "x", "scopes": [READ], "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
])
def test_bad_keys(world, body, field):
    refused(world.admin.post("/v1/keys", body), 400, "invalid_request", field)


@pytest.mark.parametrize("body, field", [
    ({}, "name"), ({"name": "x", "tier": "gold"}, "tier"), ({"name": "x", "limits": {"sandboxes": -2}}, "limits.sandboxes"),
    ({"name": "x", "limits": {"sandboxs": 1}}, "sandboxs"), ({"name": 1}, "name"), ({"name": "x", "id": "org_x"}, "id"),
])
def test_bad_organisations(world, body, field):
    refused(world.admin.post("/v1/organisations", body), 400, "invalid_request", field)


def test_keys_answer_what_was_asked(world):
    later = "2099-01-31T12:00:00.000Z"
    made = world.make("asked", [READ, AUDIT], expires_at=later)
    assert made["name"] == "asked" and set(made["scopes"]) == {READ, AUDIT} and made["expires_at"] == later
    rows = {row["id"]: row for row in world.admin.get("/v1/keys", query={"page_size": 100}).json["data"]}
    assert made["id"] in rows and "key" not in rows[made["id"]]
    assert json.dumps(rows).count("sk_live_") == len(rows)


def test_health_needs_no_key_and_says_little(world):
    answer = Api("127.0.0.1", world.daemon.port).get("/healthz")
    assert answer.status == 200
    for word in (str(world.daemon.data), "sbx_", "org_", "sk_live"):
        assert word not in answer.body.decode()
