"""Pause and resume with memory."""

import json
import threading
import time

import pytest

from harness.client import refused
from harness.wait import wait_until

COUNTER = """
import time, os, socket
held = open("/workspace/held", "w")
n = 0
while True:
    n += 1
    held.seek(0); held.write(f"{n} {os.getpid()} {time.monotonic()}\\n"); held.flush()
    time.sleep(0.05)
"""


def counter(box):
    fields = box.out("cat /workspace/held 2>/dev/null || true").split()
    return (int(fields[0]), int(fields[1])) if len(fields) == 3 else None


@pytest.fixture
def counting(own):
    box = own()
    box.put("/workspace/counter.py", COUNTER.encode())
    box.run("nohup python3 /workspace/counter.py >/dev/null 2>&1 &")
    wait_until(lambda: counter(box), "it counts")
    return box


def test_processes_and_open_files_go_on(daemon, counting):
    box = counting
    first, pid = wait_until(lambda: counter(box), "it counts")
    before = len(daemon.vms())
    answer = box.pause()
    assert answer["status"] == "paused" and box.get()["status"] == "paused"
    wait_until(lambda: len(daemon.vms()) == before - 1, "no process is held for it")
    assert box.id in box.api.live()
    answer = box.resume()
    assert answer["status"] == "running"
    wait_until(lambda: (counter(box) or (0, 0))[0] > first, "it counts on")
    assert counter(box)[1] == pid


def test_any_call_resumes(counting):
    box = counting
    first, pid = counter(box)
    box.pause()
    assert box.out("echo woken") == "woken\n"
    assert box.get()["status"] == "running"
    wait_until(lambda: (counter(box) or (0, 0))[0] > first and counter(box)[1] == pid, "it counts on")


@pytest.mark.parametrize("call", ["upload", "download", "stream", "snapshot", "clone"])
def test_each_kind_of_call_resumes(own, call):
    box = own()
    box.put("/workspace/x", b"x")
    box.pause()
    if call == "upload":
        box.put("/workspace/y", b"y")
    elif call == "download":
        assert box.fetch("/workspace/x") == b"x"
    elif call == "stream":
        assert box.stream("echo s").collect()[0] == "s\n"
    elif call == "snapshot":
        box.api.forget_snapshot(box.snapshot()["id"])
    else:
        copy, snapshot = box.clone()
        assert copy.fetch("/workspace/x") == b"x"
        copy.remove()
        box.api.forget_snapshot(snapshot["id"])
    assert box.fetch("/workspace/x") == b"x"


def test_reading_about_it_does_not_resume(own):
    box = own()
    box.pause()
    box.get()
    box.api.live()
    box.api.get("/v1/sandboxes/logs", query={"sandbox_id": box.id})
    assert box.get()["status"] == "paused"


def test_the_clock_is_right_afterwards(own):
    box = own()
    box.run("nohup python3 -c 'import time\nlast=0\nwhile True:\n m=time.monotonic()\n assert m>=last\n last=m' >/tmp/mono 2>&1 &")
    box.pause()
    time.sleep(3)  # the pause itself must be long for its effect on the clock to be seen
    begin = time.time()
    guest = float(box.out("date +%s.%N"))
    assert begin - 0.5 <= guest <= time.time() + 0.5
    assert box.out("cat /tmp/mono; pgrep -c python3").strip() == "1"


def test_connections_inside_the_guest(own):
    """A connection over the guest's own loopback survives."""
    box = own()
    box.put("/workspace/pair.py", b"""
import socket, threading, time
server = socket.create_server(("127.0.0.1", 9123))
def echo():
    peer, _ = server.accept()
    while data := peer.recv(100): peer.sendall(data)
threading.Thread(target=echo, daemon=True).start()
client = socket.create_connection(("127.0.0.1", 9123))
n = 0
while True:
    n += 1
    client.sendall(str(n).encode()); assert client.recv(100) == str(n).encode()
    open("/workspace/pair", "w").write(str(n)); time.sleep(0.05)
""")
    box.run("nohup python3 /workspace/pair.py >/workspace/pair.log 2>&1 &")
    read = lambda: int(box.out("cat /workspace/pair 2>/dev/null || true").strip() or 0)  # noqa: E731
    first = wait_until(read, "it talks")
    box.pause()
    box.resume()
    wait_until(lambda: read() > first + 3, "it talks on")
    assert box.out("cat /workspace/pair.log") == ""


def test_twice_is_a_conflict_or_nothing(own):
    box = own()
    box.pause()
    again = box.api.post(box.path("pause"))
    assert again.status in (200, 409), again
    box.resume()
    again = box.api.post(box.path("resume"))
    assert again.status in (200, 409), again
    assert box.out("echo ok") == "ok\n"


def test_deleting_a_paused_one(daemon, own):
    box = own()
    box.pause()
    assert box.delete().status == 200
    wait_until(lambda: box.get()["status"] == "terminated", "it is terminated")
    left = [str(path) for path in daemon.data.rglob("*") if box.id in str(path)]
    wait_until(lambda: not [p for p in daemon.data.rglob("*") if box.id in str(p)], f"its files have gone ({left})")


def test_idle_pauses(own):
    box = own(idle_timeout_seconds=2, on_idle="pause")
    box.run("echo memory > /dev/shm/x || echo memory > /tmp/x")
    wait_until(lambda: box.api.live()[box.id]["status"] == "paused", "it was paused for idleness", 60, 0.3)
    assert box.out("cat /dev/shm/x 2>/dev/null || cat /tmp/x") == "memory\n"


def test_a_lifetime_stands_still_while_paused(own):
    """Who pauses keeps: a paused one waits as long as it takes, and then has the time it had left."""
    box = own(timeout_seconds=6)
    box.pause()
    assert box.get()["expires_at"] is None
    paused = time.monotonic()
    wait_until(lambda: time.monotonic() > paused + 7, "more than its lifetime has gone by", 20)
    assert box.get()["status"] == "paused"
    box.resume()
    wait_until(lambda: box.get()["status"] == "terminated", "the rest of its time is over", 40, 0.3)
    assert box.get()["termination"]["reason"] == "timeout"


def test_a_command_under_way(own):
    """Paused under a running command: the call is answered, one way or the other, and never hangs."""
    box = own()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(box.execute("sleep 3; echo end", timeout=60)))
    thread.start()
    wait_until(lambda: box.out("pgrep -c sleep || true").strip() != "0", "it runs")
    answer = box.api.post(box.path("pause"))
    assert answer.status in (200, 409), answer
    thread.join(90)
    assert answers, "the call hangs"
    assert answers[0].status in (200, 409), answers[0]
    assert box.out("echo ok") == "ok\n"


def test_memory_is_given_back(daemon, own):
    box = own()
    pid = daemon.vm_of(box)
    box.pause()
    wait_until(lambda: pid not in daemon.vms(), "its process has ended")
    assert box.out("echo back") == "back\n"


def test_again_and_again(counting):
    for _ in range(4):
        first = wait_until(lambda: counter(counting), "it counts")[0]
        counting.pause()
        counting.resume()
        wait_until(lambda: (counter(counting) or (0, 0))[0] > first, "it counts on")


def test_pause_of_what_is_not_there(api):
    for call in ("pause", "resume"):
        refused(api.post(f"/v1/sandboxes/sbx_0000000000000000000000/{call}"), 404, "not_found")


def test_pause_and_resume_race(own):
    """From several sides at once: legal states alone, and it runs in the end."""
    box = own()
    answers = []

    def call(which):
        answers.append(box.api.post(box.path(which)))

    threads = [threading.Thread(target=call, args=(which,)) for which in ("pause", "resume") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {200, 409}, [json.dumps(repr(answer)) for answer in answers]
    assert box.out("echo ok") == "ok\n"
