"""A small server that speaks as much of the API as the client's tests need, and records what it was asked."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KEY = "sk_live_test"


def parse_multipart(body, content_type):
    boundary = re.search("boundary=(.*)", content_type).group(1).encode()
    parts = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, data = part[2:-2].split(b"\r\n\r\n", 1)
        parts[re.search(rb'name="([^"]*)"', head).group(1).decode()] = data
    return parts


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status, value, headers=()):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("x-request-id", "req_test")
        for name, text in headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self):
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def records(self, *records):
        self.begin_stream()
        for record in records:
            self.chunk(json.dumps(record).encode() + b"\n")
        self.chunk(b"")

    def gone(self, seconds=20):
        """True when the client closes its connection within the bound."""
        self.connection.settimeout(seconds)
        try:
            return self.connection.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def handle_any(self):
        url = urlsplit(self.path)
        body = self.read_body()
        content_type = self.headers.get("content-type", "")
        seen = {
            "method": self.command,
            "path": url.path,
            "query": parse_qs(url.query),
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": None,
        }
        if content_type.startswith("multipart/"):
            seen["parts"] = parse_multipart(body, content_type)
        elif body:
            seen["body"] = json.loads(body)
        with self.server.lock:
            self.server.seen.append(seen)
        if self.headers.get("x-api-key") != KEY:
            self.answer(401, {"error": {"code": "unauthorized", "message": "no such key"}})
            return
        for (method, pattern), action in self.server.routes.items():
            if method == self.command and re.fullmatch(pattern, url.path):
                action(self, seen)
                return
        self.answer(404, {"error": {"code": "not_found", "message": f"no route {url.path}"}})

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = handle_any


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.seen = []
        self.routes = {}
        self.route("POST", "/v1/sandboxes/create", lambda h, _: h.answer(201, {"id": "sbx_one", "status": "running"}))
        self.route("DELETE", "/v1/sandboxes/[^/]+/delete", lambda h, _: h.answer(200, {"id": "sbx_one", "message": "gone"}))
        self.route("POST", "/v1/sandboxes/[^/]+/upload", lambda h, _: h.answer(200, {"message": "ok", "path": "x", "size": 1}))

    def route(self, method, pattern, action):
        self.routes[(method, pattern)] = action

    def output(self, *records):
        self.route("POST", "/v1/sandboxes/[^/]+/execute_async", lambda h, _: h.records(*records))

    def asked(self, method, path):
        with self.lock:
            return [s for s in self.seen if s["method"] == method and re.fullmatch(path, s["path"])]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"
