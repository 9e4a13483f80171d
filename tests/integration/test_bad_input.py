"""Every field with wrong types, bounds, lengths and encodings; malformed JSON, multipart, ids and HTTP (L08, L10-L12, L17).

The rule for all: the documented status and code, the field's name in the message, never a 500, nothing of the inside.
"""

import json
import socket
import time
import uuid

import pytest

from harness.client import Api, multipart, no_insides, refused

WRONG = {
    "string": [1, 1.5, True, [], {}, ["x"]],
    "integer": ["1", 1.5, True, [], {}, -(2**63), 2**63, 1e300],
    "boolean": ["true", 1, 0, [], {}],
    "object": ["x", 1, True, [], [{}]],
    "array": ["x", 1, True, {}],
}

CREATE = [
    ("image", "string", ["", "x" * 300, "../x", "a b", "a\nb"]),
    ("name", "string", ["", "-x", ".x", "x" * 64, "a b", "a/b", "../x", "ü", "x\0", "x\n", "a%2fb", "'; drop table sandboxes; --"]),
    ("env_vars", "object", [{"": "x"}, {"1A": "x"}, {"A B": "x"}, {"A=B": "x"}, {"A": 1}, {"A": None}, {"A": {}}, {"A": "x" * 70000},
                            {f"V{i}": "x" for i in range(257)}, {"A": "a\0b"}]),
    ("metadata", "object", [{"a": 1}, {"a": {}}, {"a": "x" * 5000}, {f"k{i}": "v" for i in range(33)}, {"": "x"}]),
    ("resources", "object", [{"cpus": 0}, {"cpus": -1}, {"cpus": 10**9}, {"cpus": "1"}, {"cpus": 1.5}, {"memory": 0}, {"memory": 1},
                             {"memory": 2**40}, {"memory": "512"}, {"storage": 0}, {"storage": -1}, {"storage": 2**40},
                             {"storage": True}, {"disk": 1}, {"cpus": None, "x": 1}]),
    ("timeout_seconds", "integer", [0, -1, 2**40]),
    ("idle_timeout_seconds", "integer", [-1, 2**40]),
    ("on_idle", "string", ["", "sleep", "x" * 100]),
    ("wait_for_ready", "boolean", []),
    ("network", "object", [{"outbound": "maybe"}, {"outbound": 1}, {"allow": "x"}, {"allow": [1]}, {"allow": ["999.1.1.1/8"]},
                           {"allow": ["10.0.0.0/33"]}, {"deny": ["a b"]}, {"deny": ["-x.com"]}, {"allow": ["x" * 300]},
                           {"bandwidth_mbps": -1}, {"bandwidth_mbps": "1"}, {"bandwidth_mbps": 10**9}, {"inbound": "allow"},
                           {"allow": [f"h{i}.example.com" for i in range(5000)]}]),
]
EXECUTE = [
    ("command", "string", ["", "x" * 200_000, "a\0b"]),
    ("timeout", "integer", [0, -1, 301, 10**10]),
    ("working_dir", "string", ["x\0y", "/" + "x" * 5000]),
    ("env", "object", [{"": "x"}, {"A=B": "x"}, {"A": 1}, {"A": "x" * 70000}, {"A": "a\0"}]),
]


def cases(table, base):
    for field, kind, values in table:
        for value in [*WRONG[kind], *values]:
            yield pytest.param(field, {**base, field: value}, id=f"{field}={json.dumps(value)[:30]}")


def refused_or_bounded(answer, field):
    """400 (or a limit's own status) that names the field."""
    assert answer.status in (400, 413, 422, 429), answer
    refused(answer, answer.status)
    if answer.status in (400, 422):
        # What is no JSON for us (NUL, integers over 64 bits) is refused before there are fields.
        assert field.split(".")[0] in answer.message or answer.message.startswith("body: not valid JSON"), answer


@pytest.mark.parametrize("field, body", cases(CREATE, {"image": "tiny"}))
def test_create(api, field, body):
    refused_or_bounded(api.post("/v1/sandboxes/create", body), field)


@pytest.mark.parametrize("field, body", cases(EXECUTE, {"command": "true"}))
def test_execute(box, field, body):
    refused_or_bounded(box.api.post(box.path("execute"), body), field)


@pytest.mark.parametrize("field, body", cases([entry for entry in EXECUTE if entry[0] != "timeout"], {"command": "true"}))
def test_execute_async(box, field, body):
    refused_or_bounded(box.api.post(box.path("execute_async"), body), field)


@pytest.mark.parametrize("path, body, field", [
    ("snapshot", {"name": 1}, "name"), ("snapshot", {"name": "../x"}, "name"), ("snapshot", {"quick": "yes"}, "quick"),
    ("snapshot", {"quikc": True}, "quikc"), ("clone", {"name": ""}, "name"), ("clone", {"snapshot_name": "a b"}, "snapshot_name"),
    ("clone", {"resources": {"storage": 1}}, "storage"), ("clone", {"env_varz": {}}, "env_varz"), ("pause", {"x": 1}, "x"),
    ("resume", {"x": 1}, "x"), ("resume", {"y": 1}, "y"),
])
def test_other_calls(box, path, body, field):
    refused(box.api.post(box.path(path), body), 400, "invalid_request", field)


@pytest.mark.parametrize("field", ["org_id", "owner", "role", "limits", "host_path", "id", "status", "created_at", "__proto__", "image "])
def test_l04_mass_assignment(api, field):
    refused(api.post("/v1/sandboxes/create", {"image": "tiny", field: "x"}), 400, "invalid_request", field)


@pytest.mark.parametrize("query", [
    {"page": 0}, {"page": -1}, {"page": "x"}, {"page": "1e3"}, {"page": 2**64}, {"page": ""}, {"page_size": 0}, {"page_size": 101},
    {"page_size": "10; drop"}, {"page_size": "0x10"}, {"page": "١"}, {"nosuch": 1},
])
def test_pages(api, query):
    for path in ("/v1/sandboxes/list", "/v1/snapshots/list"):
        refused(api.get(path, query=query), 400, "invalid_request", next(iter(query)))


IDS = ["x", "sbx_", "sbx_" + "0" * 22, "snap_" + "0" * 22, "sbx_" + "x" * 3000, "..", "%2e%2e", "%00", "sbx_%00", "a%2fb", "'or'1'='1",
       "sbx_%ff%fe", "*", "list%20", "%E2%80%AE", "sbx_1;ls", "%25", "-1", "sbx_%0d%0aX:y"]


@pytest.mark.parametrize("identifier", IDS)
@pytest.mark.parametrize("method, rest", [("GET", ""), ("DELETE", "/delete"), ("POST", "/execute"), ("GET", "/status"), ("GET", "/download?path=x")])
def test_ids(api, identifier, method, rest):
    options = {"json": {"command": "true"}} if method == "POST" else {}
    answer = api.request(method, f"/v1/sandboxes/{identifier}{rest}", **options)
    assert answer.status in (400, 404, 405, 414, 431), answer
    no_insides(answer.body)
    assert "x" not in answer.headers or answer.headers["x"] != "y"


JSONS = [
    b"", b"{", b"}", b"null", b"[]", b'"x"', b"1", b"{'a':1}", b'{"a":1,}', b'{"a":}', b'{"a" 1}', b"{}{}", b"{}x", b"\xff\xfe{\0}\0",
    b'{"name":"\xff"}', b'{"name":"\xc0\xaf"}', b'{"name":"\\ud800"}', b'{"name":"a\\u0000b"}', b'{"name":"\x01"}', b"{\"name\":\"a\nb\"}",
    b"NaN", b'{"timeout_seconds":NaN}', b'{"timeout_seconds":1e999}', b'{"timeout_seconds":-0}', b'{"timeout_seconds":18446744073709551616}',
    b'{"timeout_seconds":01}', b'{"timeout_seconds":1.0}', b"[" * 100_000, b'{"a":' * 100_000, b'{"name":"a","name":"b"}', b"\xef\xbb\xbf{}",
    b"/*c*/{}", b"{}//", b'{"":1}', b'{"__proto__":{}}', b"<x/>", b"a=b", b"true", b"\0", b'{"name":"' + b"x" * 500_000 + b'"}',
]


@pytest.mark.parametrize("number", range(len(JSONS)))
def test_l10_malformed_json(api, number):
    answer = api.post("/v1/sandboxes/create", body=JSONS[number], headers={"content-type": "application/json"})
    if JSONS[number] == b"" and answer.status in (201, 422):
        if answer.status == 201:
            api.box(answer.json["id"]).remove()
        return
    assert answer.status in (400, 413), answer
    refused(answer, answer.status)


def test_l10_many_keys_and_large_bodies(daemon, api):
    before = daemon.memory()
    body = b"{" + b",".join(b'"k%d":1' % number for number in range(60_000)) + b"}"
    assert api.post("/v1/sandboxes/create", body=body, headers={"content-type": "application/json"}).status in (400, 413)
    try:
        answer = api.post("/v1/sandboxes/create", body=b'{"name":"' + b"x" * (20 << 20) + b'"}', headers={"content-type": "application/json"})
        refused(answer, 413)
    except OSError:
        pass  # closed while we were still sending, which a server may do
    assert daemon.memory() - before < 200 << 20


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_content_types(api, kind):
    answer = api.post("/v1/sandboxes/create", body=b"{\"image\":\"no-such\"}", headers={"content-type": kind})
    assert answer.status in (415, 400, 422), answer
    refused(answer, answer.status)


def part(name, data, extra=b"", file=None):
    disposition = b'Content-Disposition: form-data; name="%s"' % name + (b'; filename="%s"' % file if file else b"")
    return b"--B\r\n" + disposition + b"\r\n" + extra + b"\r\n" + data + b"\r\n"


MULTIPARTS = {
    "empty": b"", "only the end": b"--B--\r\n", "no end": part(b"path", b"/tmp/m") + part(b"file", b"x", file=b"f"),
    "no path": part(b"file", b"x", file=b"f") + b"--B--\r\n", "no file": part(b"path", b"/tmp/m") + b"--B--\r\n",
    "two paths": part(b"path", b"/tmp/m") * 2 + part(b"file", b"x", file=b"f") + b"--B--\r\n",
    "two files": part(b"path", b"/tmp/m") + part(b"file", b"x", file=b"f") * 2 + b"--B--\r\n",
    "another field": part(b"path", b"/tmp/m") + part(b"other", b"y") + part(b"file", b"x", file=b"f") + b"--B--\r\n",
    "empty path": part(b"path", b"") + part(b"file", b"x", file=b"f") + b"--B--\r\n",
    "nul in the path": part(b"path", b"/tmp/a\0b") + part(b"file", b"x", file=b"f") + b"--B--\r\n",
    "long path": part(b"path", b"/" + b"x" * 100_000) + part(b"file", b"x", file=b"f") + b"--B--\r\n",
    "no disposition": b"--B\r\n\r\nx\r\n--B--\r\n", "garbage headers": b"--B\r\n\xff\xfe\0\r\n\r\nx\r\n--B--\r\n",
    "a header without end": b"--B\r\nContent-Disposition: form-data; name=\"path", "another boundary": part(b"path", b"x").replace(b"--B", b"--C"),
    "ten thousand headers": b"--B\r\n" + b"X: y\r\n" * 10_000 + b"\r\nx\r\n--B--\r\n", "a long header": b"--B\r\nX: " + b"y" * 200_000 + b"\r\n\r\n--B--\r\n",
    "bare newlines": part(b"path", b"/tmp/m").replace(b"\r\n", b"\n") + b"--B--\n", "ten thousand parts": part(b"path", b"/x") * 10_000 + b"--B--\r\n",
    "file[0]": part(b"path", b"/tmp/m") + part(b"file[0]", b"65") + b"--B--\r\n",
}


@pytest.mark.parametrize("name", MULTIPARTS)
def test_malformed_multipart(box, name):
    answer = box.api.post(box.path("upload"), body=MULTIPARTS[name], headers={"content-type": "multipart/form-data; boundary=B"})
    assert answer.status in (400, 413, 422), answer
    refused(answer, answer.status)
    assert box.run("ls -A /tmp/m 2>/dev/null; find / -xdev -name '.akira*' -o -xdev -name '*.upload*' 2>/dev/null")["stdout"] == ""


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 300,
                                  "multipart/form-data; boundary=\"a", "multipart/mixed; boundary=B", "application/json"])
def test_bad_boundaries(box, kind):
    answer = box.api.post(box.path("upload"), body=MULTIPARTS["no end"] + b"--B--\r\n", headers={"content-type": kind})
    assert answer.status in (400, 415), answer
    refused(answer, answer.status)


@pytest.mark.parametrize("path", ["", "/tmp/" + "x" * 300, "/" + "y/" * 3000 + "z", "/tmp/", "/", ".", "..", "/dev/null/x"])
def test_l11_paths_of_uploads(box, path):
    kind, body = multipart([("path", path.encode()), ("file", b"x", "f")])
    answer = box.api.post(box.path("upload"), body=body, headers={"content-type": kind})
    assert answer.status in (400, 404, 422), answer
    refused(answer, answer.status)


def test_downloads_without_or_with_odd_paths(box):
    refused(box.api.get(box.path("download")), 400, "invalid_request", "path")
    for query in ("path=", "path=%00", "path=a&path=b", "path=%", "path=%zz", "path=" + "x" * 20000, "pfad=x"):
        answer = box.api.get(box.path("download") + "?" + query)
        assert answer.status in (400, 404, 414, 431), (query, answer)
    for path in ("../../../../etc/hostname", "/../../etc/hostname"):
        answer = box.download(path)
        assert answer.status in (200, 400, 404)
        if answer.status == 200:
            with open("/etc/hostname", "rb") as file:
                assert answer.body != file.read() or answer.body == box.fetch("/etc/hostname")


INJECTIONS = ["' OR '1'='1", "'; DROP TABLE sandboxes; --", "$(touch /tmp/pwned)", "`id`", "| id", "%s%s%s%n", "\r\nX-Injected: 1",
              "\n{\"event\":\"forged\"}", "<script>alert(1)</script>", "${jndi:ldap://x}", "{{7*7}}", "../../../etc/passwd", "\u202e", "\x1b[2J"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_l12_injections_are_inert(daemon, api, text):
    answers = [
        api.post("/v1/sandboxes/create", {"image": "tiny", "name": text}),
        api.post("/v1/sandboxes/create", {"image": text}),
        api.get("/v1/sandboxes/logs", query={"sandbox_id": text}),
        api.get("/v1/sandboxes/list", query={"page": text}),
        api.get("/v1/audit", query={"action": text}),
        api.get("/v1/sandboxes/list", headers={"user-agent": text.replace("\r", "").replace("\n", "").encode("utf-8")}),
    ]
    for answer in answers:
        assert answer.status in (200, 400, 404, 422), answer
        assert "x-injected" not in answer.headers
    assert not daemon.events("forged")
    assert api.get("/v1/sandboxes/list").status == 200


HEAD = b"Host: x\r\nx-api-key: %KEY%\r\n"
BODY = b'{"image":"no-such-image"}'
RAW = {
    "garbage": b"\x00\xff\xfe\r\n\r\n", "no version": b"GET /v1/sandboxes/list\r\n\r\n", "http 0.9": b"GET /\r\n", "bad version": b"GET / HTTP/9.9\r\n" + HEAD + b"\r\n",
    "bad method": b"G\x01T / HTTP/1.1\r\n" + HEAD + b"\r\n", "space in the target": b"GET /a b HTTP/1.1\r\n" + HEAD + b"\r\n",
    "absolute": b"GET http://evil/v1/sandboxes/list HTTP/1.1\r\n" + HEAD + b"\r\n", "long target": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "long header": b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n", "many headers": b"GET / HTTP/1.1\r\n" + HEAD + b"X: y\r\n" * 20_000 + b"\r\n",
    "nul in a header": b"GET /healthz HTTP/1.1\r\n" + HEAD + b"X: a\0b\r\n\r\n", "folded": b"GET /healthz HTTP/1.1\r\n" + HEAD + b"X: a\r\n b\r\n\r\n",
    "space before the colon": b"GET /healthz HTTP/1.1\r\n" + HEAD + b"X : a\r\n\r\n", "no colon": b"GET /healthz HTTP/1.1\r\n" + HEAD + b"nonsense\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n", "two hosts": b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "negative length": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
    "plus length": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Content-Length: +5\r\n\r\n" + BODY,
    "hex length": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Content-Length: 0x10\r\n\r\n" + BODY,
    "huge length": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Content-Type: application/json\r\nContent-Length: 99999999999999999999999\r\n\r\n" + BODY,
    "two lengths": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY,
    "length and chunks": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
    "odd encoding": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunk overflow": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx\r\n0\r\n\r\n",
    "chunk of nothing": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "expect nonsense": b"POST /v1/sandboxes/create HTTP/1.1\r\n" + HEAD + b"Expect: 999-magic\r\nContent-Length: 2\r\n\r\n{}",
    "http2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "upgrade h2c": b"GET /healthz HTTP/1.1\r\n" + HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    "tls to plain": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200,
}


@pytest.mark.parametrize("name", RAW)
def test_l08_malformed_http(daemon, api, name):
    """4xx or a closed connection, never two answers for one request out of step, never a 500."""
    received = api.raw(RAW[name].replace(b"%KEY%", api.key.encode()), timeout=4, half_close=True)
    lines = [line for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.")]
    for line in lines:
        status = int(line.split()[1])
        assert status < 500 or status in (501, 505), received[:500]
    assert len(lines) <= 2 and b"smuggled" not in received
    if b"HTTP/1.1 200" not in received:
        no_insides(received)
    assert daemon.alive and api.get("/healthz", key=None).status == 200


def test_pipelined_requests_stay_in_step(api):
    one = b"GET /v1/sandboxes/sbx_%d HTTP/1.1\r\nHost: x\r\nx-api-key: " + api.key.encode() + b"\r\n%s\r\n"
    received = api.raw(one % (1, b"") + one % (2, b"") + one % (3, b"Connection: close\r\n"), timeout=20)
    assert received.count(b"HTTP/1.1 404") in (1, 2, 3), received


def test_l09_slow_clients_do_not_hold_the_others(daemon, api):
    """A hundred that send a header a byte at a time, or nothing at all: others are answered at once."""
    idle = []
    try:
        for number in range(100):
            stream = Api("127.0.0.1", daemon.port, source=f"127.0.5.{1 + number % 200}").connect(10)
            stream.sendall(b"GET /v1/sandboxes/list HTTP/1.1\r\nHost:"[: 1 + number % 30])
            idle.append(stream)
        for _ in range(5):
            begin = time.monotonic()
            assert api.get("/v1/sandboxes/list").status == 200
            assert time.monotonic() - begin < 10
    finally:
        for stream in idle:
            stream.close()


def test_more_connections_than_one_address_may_have(daemon, api):
    other = Api("127.0.0.1", daemon.port, api.key, source="127.0.6.1")
    held = []
    try:
        for _ in range(300):
            try:
                held.append(other.connect(5))
            except OSError:
                break
        assert api.get("/v1/sandboxes/list").status == 200
    finally:
        for stream in held:
            stream.close()


def test_a_body_that_never_comes(daemon, api):
    with api.connect(10) as stream:
        stream.sendall(b"POST /v1/sandboxes/create HTTP/1.1\r\nHost: x\r\nx-api-key: " + api.key.encode() + b"\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        assert api.get("/v1/sandboxes/list").status == 200
        stream.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 2" not in stream.recv(1000)


def test_ids_of_requests_are_fresh(api):
    found = {api.get("/healthz", key=None).headers["x-request-id"] for _ in range(20)}
    assert len(found) == 20
    given = f"req_{uuid.uuid4().hex}"
    assert api.get("/healthz", key=None, headers={"x-request-id": given}).headers["x-request-id"] != given


def test_browsers_get_nothing(api):
    """CORS stays closed, and answers cannot be framed or sniffed."""
    answer = api.get("/v1/sandboxes/list", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers.get("x-content-type-options") == "nosniff"
    preflight = api.request("OPTIONS", "/v1/sandboxes/list", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"})
    assert "access-control-allow-origin" not in preflight.headers


@pytest.mark.parametrize("body, field", [
    ({}, "timeout_seconds"), ({"timeout_seconds": 0}, "timeout_seconds"), ({"timeout_seconds": "x"}, "timeout_seconds"),
    ({"timeout_seconds": 2**40}, "timeout_seconds"), ({"timeout_seconds": 60, "more": 1}, "more"),
])
def test_new_lifetimes(box, body, field):
    refused(box.api.request("PUT", box.path("timeout"), json=body), 400, "invalid_request", field)


@pytest.mark.parametrize("body, field", [
    ({"outbound": "perhaps"}, "outbound"), ({"outbound": 1}, "outbound"), ({"allow": "x"}, "allow"), ({"deny": [{}]}, "deny"),
    ({"bandwidth_mbps": -1}, "bandwidth_mbps"), ({"inbound": "allow"}, "inbound"),
])
def test_new_networks(box, body, field):
    refused(box.api.request("PUT", box.path("network"), json=body), 400, "invalid_request", field)
