"""A thin client of the HTTP API. It hides nothing: tests see status, headers and bytes."""

import http.client
import json as jsonlib
import socket
import ssl
import time
import uuid
from urllib.parse import quote, urlencode

from harness import contract
from harness.wait import wait_until

TIMEOUT = 120
DEFAULT = object()


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body

    @property
    def json(self):
        return jsonlib.loads(self.body)

    @property
    def code(self):
        """The error's code, or None."""
        try:
            return self.json["error"]["code"]
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def message(self):
        try:
            return self.json["error"]["message"]
        except (ValueError, KeyError, TypeError):
            return ""

    def __repr__(self):
        return f"<{self.status} {self.body[:400]!r}>"


def multipart(parts, boundary=None):
    """(content type, body). parts: (name, bytes) or (name, bytes, file name)."""
    boundary = boundary or f"akira{uuid.uuid4().hex}"
    body = b""
    for part in parts:
        name, data = part[0], part[1]
        disposition = f'form-data; name="{name}"' + (f'; filename="{part[2]}"' if len(part) > 2 else "")
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n".encode()
        if len(part) > 2:
            body += b"Content-Type: application/octet-stream\r\n"
        body += b"\r\n" + data + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


class Api:
    """source: the address to call from (127.0.0.2, …), for tests that would be slowed down for their failures."""

    compared = True  # with the document; the metrics' listener is another server

    def __init__(self, host, port, key=None, tls=None, source=None):
        self.host, self.port, self.key, self.tls, self.source = host, port, key, tls, source

    def as_key(self, key):
        return Api(self.host, self.port, key, self.tls, self.source)

    def come_from(self, source):
        return Api(self.host, self.port, self.key, self.tls, source)

    def connect(self, timeout=TIMEOUT):
        plain = socket.create_connection((self.host, self.port), timeout, self.source and (self.source, 0))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.tls.wrap_socket(plain, server_hostname=self.host) if self.tls else plain

    def raw(self, data, timeout=30, half_close=False):
        """Sends bytes as they are; everything that came back until the server closed or fell silent."""
        with self.connect(timeout) as stream:
            try:
                stream.sendall(data)
                if half_close:
                    stream.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            received = b""
            try:
                while chunk := stream.recv(65536):
                    received += chunk
            except (socket.timeout, ConnectionError, ssl.SSLError):
                pass
            return received

    def open(self, method, path, json=DEFAULT, body=None, headers=None, query=None, key=DEFAULT, timeout=TIMEOUT):
        """Sends a request; (connection, response) with the body unread."""
        head = dict(headers or {})
        key = self.key if key is DEFAULT else key
        if key is not None and "x-api-key" not in {name.lower() for name in head}:
            head["x-api-key"] = key
        if json is not DEFAULT:
            body = jsonlib.dumps(json).encode()
            head.setdefault("content-type", "application/json")
        if query:
            path += "?" + urlencode(query)
        source = self.source and (self.source, 0)
        if self.tls:
            connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=timeout, context=self.tls, source_address=source
            )
        else:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout, source_address=source)
        try:
            try:
                connection.request(method, path, body=body, headers=head)
            except (BrokenPipeError, ConnectionResetError):
                pass  # a server may answer before it has read all, and close: the answer is what counts
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def request(self, method, path, **options):
        connection, response = self.open(method, path, **options)
        try:
            answer = Answer(response.status, response.getheaders(), response.read())
            if self.compared:
                contract.compare(method, path, answer)
            return answer
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, json=DEFAULT, **options):
        return self.request("POST", path, json={} if json is DEFAULT and "body" not in options else json, **options)

    def delete(self, path, **options):
        return self.request("DELETE", path, **options)

    # ---- what most tests do ----

    def create(self, expect=201, **fields):
        """A sandbox of the small shape; the answer must be as expected."""
        resources = {"cpus": 1, "memory": 256, "storage": 1}
        resources.update(fields.pop("resources", {}))
        answer = self.post("/v1/sandboxes/create", {"image": "tiny", "resources": resources, **fields})
        assert answer.status == expect, answer
        return Box(self, answer.json) if expect == 201 else answer

    def box(self, identifier):
        return Box(self, self.get(f"/v1/sandboxes/{identifier}").json)

    def live(self):
        """All live sandboxes of the organisation, by id."""
        found, page = {}, 1
        while True:
            answer = self.get("/v1/sandboxes/list", query={"page": page, "page_size": 100})
            assert answer.status == 200, answer
            found.update({row["id"]: row for row in answer.json["data"]})
            if page >= answer.json["pagination"]["total_pages"]:
                return found
            page += 1

    def snapshots(self):
        answer = self.get("/v1/snapshots/list", query={"page_size": 100})
        assert answer.status == 200, answer
        return {row["id"]: row for row in answer.json["data"]}

    def restore(self, snapshot, expect=201, **fields):
        answer = self.post(f"/v1/snapshots/{snapshot}/restore", {"name": "restored", **fields})
        assert answer.status == expect, answer
        return Box(self, answer.json) if expect == 201 else answer

    def forget_snapshot(self, snapshot):
        answer = self.delete(f"/v1/snapshots/{snapshot}")
        assert answer.status == 200, answer
        return answer.json


class Box:
    """One sandbox."""

    def __init__(self, api, created):
        self.api, self.created, self.id = api, created, created["id"]

    def path(self, rest=""):
        return f"/v1/sandboxes/{self.id}" + (f"/{rest}" if rest else "")

    def get(self):
        answer = self.api.get(self.path())
        assert answer.status == 200, answer
        return answer.json

    @property
    def status(self):
        return self.get()["status"]

    def execute(self, command, **fields):
        return self.api.post(self.path("execute"), {"command": command, **fields})

    def run(self, command, **fields):
        """Runs a command that must complete; its answer."""
        answer = self.execute(command, **fields)
        assert answer.status == 200, answer
        assert answer.json["status"] == "completed", answer
        return answer.json

    def out(self, command, **fields):
        """The output of a command that must succeed."""
        result = self.run(command, **fields)
        assert result["exit_code"] == 0, result
        return result["stdout"]

    def stream(self, command, **fields):
        return Stream(self, command, fields)

    def upload(self, path, data, name="file.bin", order=("path", "file"), headers=None):
        parts = {"path": ("path", path.encode()), "file": ("file", data, name)}
        kind, body = multipart([parts[which] for which in order])
        return self.api.post(self.path("upload"), body=body, headers={"content-type": kind, **(headers or {})})

    def put(self, path, data):
        answer = self.upload(path, data)
        assert answer.status == 200, answer
        return answer.json

    def download(self, path, **options):
        return self.api.get(self.path("download") + "?path=" + quote(path, safe=""), **options)

    def fetch(self, path):
        answer = self.download(path)
        assert answer.status == 200, answer
        return answer.body

    def snapshot(self, **fields):
        """A finished snapshot's answer."""
        answer = self.api.post(self.path("snapshot"), fields)
        assert answer.status in (200, 201), answer
        snapshot = answer.json
        if snapshot["status"] == "creating":
            wait_until(
                lambda: self.api.snapshots()[snapshot["id"]]["status"] != "creating", "the snapshot is ready", 120
            )
            snapshot["status"] = self.api.snapshots()[snapshot["id"]]["status"]
        assert snapshot["status"] == "ready", snapshot
        return snapshot

    def clone(self, **fields):
        """(the new sandbox, the snapshot in between)."""
        answer = self.api.post(self.path("clone"), fields)
        assert answer.status in (200, 201), answer
        return Box(self.api, answer.json["sandbox"]), answer.json["snapshot"]

    def pause(self):
        answer = self.api.post(self.path("pause"))
        assert answer.status == 200, answer
        return answer.json

    def resume(self):
        answer = self.api.post(self.path("resume"))
        assert answer.status == 200, answer
        return answer.json

    def delete(self, **fields):
        options = {"json": fields} if fields else {}
        return self.api.delete(self.path("delete"), **options)

    def remove(self):
        answer = self.delete()
        assert answer.status in (200, 404, 409), answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()


class Stream:
    """An execute_async: iterate over (seconds since the request, object)."""

    def __init__(self, box, command, fields, timeout=TIMEOUT):
        self.begin = time.monotonic()
        self.connection, self.response = box.api.open(
            "POST", box.path("execute_async"), json={"command": command, **fields}, timeout=timeout
        )
        self.status = self.response.status
        self.headers = {name.lower(): value for name, value in self.response.getheaders()}

    def lines(self):
        while line := self.response.readline():
            yield time.monotonic() - self.begin, line

    def __iter__(self):
        for when, line in self.lines():
            yield when, jsonlib.loads(line)

    def collect(self):
        """(stdout, stderr, exit code or None, error or None) of the whole stream."""
        out, err, code, error = [], [], None, None
        for _, item in self:
            out.append(item.get("stdout", ""))
            err.append(item.get("stderr", ""))
            code = item.get("exit_code", code)
            error = item.get("error", error)
        self.close()
        return "".join(out), "".join(err), code, error

    def close(self):
        # The response holds the socket's file; both must go for the peer to see the end.
        self.response.close()
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def refused(answer, status, code=None, mention=None):
    """Asserts an error as the contract has it: status, code, a message, and nothing of the host's insides."""
    assert answer.status == status, answer
    body = answer.json
    assert set(body) == {"error"} and {"code", "message"} <= set(body["error"]), answer
    assert isinstance(body["error"]["message"], str) and body["error"]["message"], answer
    assert answer.headers.get("content-type", "").startswith("application/json"), answer.headers
    assert answer.headers.get("x-request-id", "").startswith("req_"), answer.headers
    if code:
        assert body["error"]["code"] == code, answer
    if mention:
        assert mention.lower() in body["error"]["message"].lower(), answer
    no_insides(answer.body)
    return answer


INSIDES = (b"/src/", b".c:", b"sqlite", b"errno", b"/var/", b"/run/", b"/proc/", b"qemu", b"akira.db", b"(null)", b"0x7f")


def no_insides(body):
    for word in INSIDES:
        assert word not in body.lower(), (word, body)
