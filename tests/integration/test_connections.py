"""Connections without number: 10,000 attempts from many addresses, and clients that send a byte now and then (L09)."""

import http.client
import os
import resource
import selectors
import socket
import time

import pytest

from harness.leaks import Counts
from harness.wait import wait_until

ATTEMPTS = 10000
ADDRESSES = 100
BEFORE = b"GET /v1/sandboxes/list HTTP/1.1\r\nHost: x\r\nX-Slow: "
TOTAL, EACH = 512, 64


@pytest.fixture
def descriptors():
    """Room for the test's own ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, ATTEMPTS + 4000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Connections that are opened and kept, from a hundred addresses in turn; none of them ever sends a whole request."""

    def __init__(self, port):
        self.port, self.kept, self.opened, self.refused = port, [], 0, 0

    def open(self, number):
        stream = socket.socket()
        try:
            stream.bind((f"127.0.20.{1 + number % ADDRESSES}", 0))
            stream.settimeout(10)
            stream.connect(("127.0.0.1", self.port))
            if number % 3:
                stream.sendall(BEFORE[: number % len(BEFORE)])
            self.kept.append(stream)
            self.opened += 1
        except OSError:
            self.refused += 1
            stream.close()

    def drip(self):
        """A byte more on each that is still open."""
        for stream in self.kept:
            try:
                stream.send(b"a", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass

    def alive(self):
        """How many the server has not closed."""
        closed, chosen = 0, selectors.DefaultSelector()
        for stream in self.kept:
            chosen.register(stream, selectors.EVENT_READ)
        for key, _ in chosen.select(0):
            try:
                closed += key.fileobj.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
            except BlockingIOError:
                pass
            except OSError:
                closed += 1
        chosen.close()
        return len(self.kept) - closed

    def close(self):
        for stream in self.kept:
            stream.close()
        self.kept = []


def served(daemon):
    """Connections that akirad has, by its descriptors."""
    count = 0
    for name in os.listdir(f"/proc/{daemon.pid}/fd"):
        try:
            count += os.readlink(f"/proc/{daemon.pid}/fd/{name}").startswith("socket:")
        except OSError:
            pass
    return count


def settled(daemon):
    """The same after akirad has made its network slots ready, each of which has sockets of its own."""
    seen = []

    def still():
        seen.append(served(daemon))
        return len(seen) > 10 and len(set(seen[-10:])) == 1 and seen

    return wait_until(still, "its sockets are made", 60, every=0.2)[-1]


@pytest.mark.limit(150)
def test_l09_ten_thousand_connections(private, descriptors):
    """
    Each address has its bound, all together have theirs; who comes anew with a whole request is answered all the while,
    as is who keeps a connection; memory is bounded; and every descriptor comes back.
    """
    daemon = private({"server": {"connections_max": TOTAL, "per_address_max": EACH}}).start()
    api = daemon.api()
    assert api.get("/v1/keys").status == 200
    counts, memory = Counts(daemon), daemon.memory()
    sockets = settled(daemon)
    before = counts.take()
    crowd, answered, most = Crowd(daemon.port), 0, 0
    keeper = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    try:
        for number in range(ATTEMPTS):
            crowd.open(number)
            if number % 100 == 0:
                assert api.come_from("127.0.21.1").get("/v1/sandboxes/list").status == 200
                keeper.request("GET", "/v1/keys", headers={"x-api-key": api.key})
                response = keeper.getresponse()
                assert response.status == 200 and response.read()
                answered += 1
            if number % 500 == 0:
                crowd.drip()
                most = max(most, served(daemon) - sockets)
        assert daemon.alive
        # libmicrohttpd's descriptor, and where a request was begun the watch's.
        assert TOTAL / 2 < most <= 2 * (TOTAL + 640), most
        assert crowd.alive() <= TOTAL + 640
        assert daemon.memory() - memory < 400 << 20
        begin = time.monotonic()
        assert api.come_from("127.0.21.2").get("/healthz", key=None).status == 200
        print(f"{crowd.opened} connected, {crowd.refused} refused, {crowd.alive()} open; {answered} answered twice; "
              f"at most {most} sockets, {(daemon.memory() - memory) >> 20} MiB more; healthz {time.monotonic() - begin:.3f} s")
    finally:
        crowd.close()
        keeper.close()
    wait_until(lambda: served(daemon) <= sockets, "every descriptor is back", 60)
    counts.settle(before)


def test_l09_one_address_has_its_bound(private, descriptors):
    """What it opens beyond is closed at once, and costs nobody else his connection."""
    daemon = private({"server": {"connections_max": TOTAL, "per_address_max": EACH}}).start()
    api = daemon.api()
    crowd, others = Crowd(daemon.port), []
    try:
        for number in range(20):
            others.append(api.come_from(f"127.0.22.{number + 1}").connect(30))
        for _ in range(400):
            crowd.open(0)
        wait_until(lambda: crowd.alive() <= EACH, "the others are closed", 20)
        assert api.get("/v1/sandboxes/list").status == 200
        for stream in others:
            stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert stream.recv(100).startswith(b"HTTP/1.1 200")
    finally:
        crowd.close()
        for stream in others:
            stream.close()
