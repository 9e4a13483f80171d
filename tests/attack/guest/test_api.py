"""Attacks on the API and on its organisations (groups J and L) that need a running akirad with real sandboxes."""

import concurrent.futures
import random
import socket
import time

import pytest

from harness.client import no_insides, refused
from harness.wait import wait_until


def organisation(api, name, **fields):
    """(its id, an Api with a key of all sandbox scopes)."""
    made = api.post("/v1/organisations", {"name": name, **fields})
    assert made.status == 201, made
    key = api.post("/v1/keys", {"name": "key", "organisation_id": made.json["id"], "scopes": ["sandboxes:read", "sandboxes:write"]})
    assert key.status == 201, key
    return made.json["id"], api.as_key(key.json["key"])


@pytest.mark.limit(200)
def test_j10_a_storm_of_creates(api):
    """One organisation asks for hundreds of sandboxes at once: it gets what its limit says, others get theirs."""
    _, greedy = organisation(api, "greedy", tier="pro", limits={"sandboxes": 2})
    _, modest = organisation(api, "modest", tier="pro")
    shape = {"image": "tiny", "resources": {"cpus": 1, "memory": 256, "storage": 1}}
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        storm = [pool.submit(greedy.post, "/v1/sandboxes/create", shape) for _ in range(120)]
        other = modest.post("/v1/sandboxes/create", shape)
        answers = [future.result() for future in storm]
    assert other.status == 201, other
    assert modest.box(other.json["id"]).out("echo fine") == "fine\n"
    made = [answer for answer in answers if answer.status == 201]
    assert 1 <= len(made) <= 2, [answer.status for answer in answers]
    for answer in answers:
        if answer.status != 201:
            refused(answer, 429)
            assert int(answer.headers["retry-after"]) >= 1
    assert len(greedy.live()) == len(made)
    for owner in (greedy, modest):
        assert owner.delete("/v1/sandboxes/delete-all").status == 200


SMUGGLED = "DELETE /v1/sandboxes/{id}/delete HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\n\r\n"
FRONTS = {
    "length beside chunks": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks beside length": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "coding in capitals": "Transfer-Encoding: CHUNKED\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "coding with a tab": "Transfer-Encoding:\tchunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two codings": "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "list of codings": "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding of no kind": "Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    "space before the colon": "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n",
    "two lengths": "Content-Length: 0\r\nContent-Length: 200\r\n\r\n",
    "list of lengths": "Content-Length: 0, 200\r\n\r\n",
    "length with a sign": "Content-Length: +0\r\n\r\n",
    "length in hex": "Content-Length: 0x0\r\n\r\n",
    "folded header": "X: a\r\n Content-Length: 5\r\nContent-Length: 0\r\nContent-Length: 6\r\n\r\n",
    "bare newline": "X: a\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n",
    "chunk extension": "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0;a=b\r\n\r\n",
    "chunk beyond 64 bits": "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
    "chunk with a sign": "Transfer-Encoding: chunked\r\n\r\n-1\r\n",
}


@pytest.mark.parametrize("name", FRONTS)
def test_l08_smuggling(daemon, box, name):
    """A front that two readers could end in two places, with a delete behind it: refused and closed, nothing is deleted."""
    front = f"POST /v1/sandboxes/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{FRONTS[name]}"
    behind = SMUGGLED.format(id=box.id, key=box.api.key)
    received = box.api.raw((front + behind).encode(), timeout=4, half_close=True)
    statuses = [int(line.split()[1]) for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    assert all(400 <= status < 500 for status in statuses), received[:600]
    no_insides(received)
    assert daemon.alive and box.status == "running", "the request behind it was carried out"


ACTIONS = ("execute", "pause", "resume", "snapshot", "timeout", "get")
# From the contract: what may be seen from outside, and what may follow what.
STATES = {"creating", "running", "paused", "stopping", "terminated"}


def act(box, action, made):
    if action == "execute":
        return box.execute("true", timeout=60)
    if action == "timeout":
        return box.api.request("PUT", box.path("timeout"), json={"timeout_seconds": 600})
    if action == "get":
        return box.api.get(box.path())
    answer = box.api.post(box.path(action))
    if action == "snapshot" and answer.status == 201:
        made.append(answer.json["id"])
    return answer


@pytest.mark.limit(240)
@pytest.mark.parametrize("seed", [11, 12])
def test_l16_random_interleaving(api, own, seed):
    """Three callers do what they like with two sandboxes: only documented answers, only legal states, no orphan."""
    boxes, made, seen = [own(), own()], [], set()

    def caller(number):
        dice = random.Random(seed * 100 + number)
        for _ in range(8):
            box = dice.choice(boxes)
            answer = act(box, dice.choice(ACTIONS), made)
            assert answer.status in (200, 201, 409), answer
            seen.add(box.get()["status"])

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(caller, number) for number in range(3)]:
            future.result()
    assert seen <= STATES, seen
    ends = [box.delete().status for box in boxes]
    assert set(ends) == {200}
    for box in boxes:
        seen = box.get()
        assert seen["status"] == "terminated" and seen["termination"]["reason"] == "deleted", seen
        refused(box.execute("true"), 409)
        refused(box.delete(), 409) if box.delete().status == 409 else None
    for identifier in made:
        api.forget_snapshot(identifier)


def test_l24_nothing_of_the_inside_is_told(daemon, api):
    """Errors hold no path, no query and no version; there is no debug route; figures are on their own listener alone."""
    for path in ("/", "/debug", "/debug/pprof", "/metrics", "/server-status", "/.git/config", "/v1", "/v1/", "/admin", "/v1/../etc/passwd"):
        answer = api.get(path)
        assert answer.status in (400, 404), (path, answer)
        no_insides(answer.body)
    raw = api.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", timeout=5).lower()
    assert b"\r\nserver:" not in raw and b"x-powered-by" not in raw
    figures = api.as_key(None)
    figures.port = daemon.metrics_port
    assert figures.get("/v1/sandboxes/list").status == 404


def test_l25_listeners_and_files_are_closed_to_others(daemon):
    """No listener on more than the address that was set, and nothing in the data folder that others may read."""
    for port in (daemon.port, daemon.metrics_port):
        with pytest.raises(OSError):
            socket.create_connection(("127.9.9.9", port), 2).close()
    assert daemon.data.stat().st_mode & 0o077 == 0
    for name in ("akira.db", "akira.secret", "credentials"):
        assert (daemon.data / name).stat().st_mode & 0o077 == 0, name


@pytest.mark.limit(120)
def test_l26_no_key_inside(daemon, api, own):
    """A sandbox holds no key with which it could make more of them, and cannot reach the API."""
    box = own()
    everything = box.out("env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; grep -rs sk_live_ /etc /root /run /tmp /workspace; true", timeout=60)
    assert "sk_live_" not in everything
    source = f"""
import socket
for host in ("10.0.2.1", "127.0.0.1", "{socket.gethostbyname('localhost')}"):
    try:
        socket.create_connection((host, {daemon.port}), 2); print("reached", host)
    except OSError:
        pass
"""
    box.put("/tmp/reach.py", source.encode())
    assert box.out("python3 /tmp/reach.py", timeout=60) == ""


def test_l27_an_id_is_never_another_sandbox(api, own):
    """Nearly the id, the id of one that is gone, the id in other letters: never somebody else's sandbox."""
    box = own()
    gone = own()
    gone.remove()
    wait_until(lambda: gone.get()["status"] == "terminated", "it is gone")
    for identifier in (box.id.upper(), box.id.lower(), box.id[:-1], box.id + "0", box.id.replace("sbx_", "snap_"), box.id + "%00", box.id + "."):
        if identifier != box.id:
            answer = api.post(f"/v1/sandboxes/{identifier}/execute", {"command": "true"})
            assert answer.status in (400, 404), (identifier, answer)
    refused(gone.execute("true"), 409)
    begin = time.monotonic()
    assert box.out("echo mine") == "mine\n"
    assert time.monotonic() - begin < 60
