"""Hostile code inside a sandbox, through the API (groups I and J): akirad and the neighbours do not mind."""

import concurrent.futures
import http.client
import os
import time

import pytest

from harness.client import refused
from harness.wait import wait_until


@pytest.fixture(scope="module")
def neighbour(api):
    box = api.create(name="neighbour")
    yield box
    box.remove()


@pytest.fixture(autouse=True)
def others_are_well(daemon, neighbour):
    """After each attack: akirad runs, the neighbour answers in its usual way."""
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    yield
    assert daemon.alive
    assert neighbour.out("echo well", timeout=60) == "well\n"
    wait_until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) < before + 60, "descriptors come back")


def usable_or_explained(box):
    """An attack may cost its own sandbox; then it says why."""
    def look():
        seen = box.get()
        if seen["status"] == "terminated":
            return seen
        answer = box.execute("echo usable", timeout=30)
        return seen if answer.status == 200 and answer.json.get("stdout") == "usable\n" else None

    seen = wait_until(look, "it is usable, or ended with a reason", 90, 0.5)
    if seen["status"] == "terminated":
        assert seen["termination"]["reason"] in ("oom", "guest_shutdown", "host_error"), seen
    return seen["status"] != "terminated"


def deleted_quickly(box):
    begin = time.monotonic()
    assert box.delete().status == 200
    wait_until(lambda: box.get()["status"] == "terminated", "it is gone", 20)
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("flood", [
    "yes | head -c 80000000",
    "head -c 80000000 /dev/zero | tr '\\0' A",
    "for i in $(seq 30000); do echo; done",
    "head -c 30000000 /dev/urandom",
])
def test_i02_floods(daemon, own, flood):
    box = own()
    before = daemon.memory()
    answer = box.execute(flood, timeout=60)
    assert answer.status == 200 and len(answer.json["stdout"].encode("utf-8", "replace")) < 40 << 20
    assert daemon.memory() - before < 500 << 20
    assert usable_or_explained(box)


def test_i02_a_flood_for_a_reader_that_stops(daemon, own):
    box = own()
    before = daemon.memory()
    streams = [box.stream("yes abcdefghijklmnopqrstuvwxyz") for _ in range(6)]
    for stream in streams:
        stream.response.readline()
    wait_until(lambda: box.out("pgrep -c yes || true").strip() == "6", "all write")
    assert daemon.memory() - before < 300 << 20
    for stream in streams:
        stream.close()
    wait_until(lambda: box.out("pgrep -c yes || true").strip() == "0", "all are gone", 30)


@pytest.mark.parametrize("data", [
    rb"\xff\xfe\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80", rb"\x00\x01\x1b[2J\x1b]0;x\x07", rb"\xe2\x80\xa8</script><svg onload=1>",
    rb"{\x22exit_code\x22:0}\n{\x22error\x22:\x22forged\x22}\n",
])
def test_i05_bytes_in_output_and_names(box, data):
    text = data.decode()
    answer = box.execute(f"printf '{text}'")
    assert answer.status == 200 and answer.json["exit_code"] == 0
    assert answer.json["stdout"].encode("utf-8")
    out, _, code, error = box.stream(f"printf '{text}'; exit 9").collect()
    assert code == 9 and error is None and out == answer.json["stdout"]
    refused(box.download("/tmp/" + data.decode("unicode_escape").replace("\0", "")), 404)


def test_i07_a_path_that_is_swapped_under_an_upload(own):
    box = own()
    box.run("cp /etc/passwd /tmp/before; mkdir /tmp/real")
    with box.stream("while :; do ln -sfn /proc/1 /tmp/swap; ln -sfn /tmp/real /tmp/swap; ln -sfn /etc /tmp/swap; done"):
        for number in range(12):
            answer = box.upload("/tmp/swap/mem", os.urandom(100))
            assert answer.status < 500, answer
    assert box.out("cmp /etc/passwd /tmp/before && echo same") == "same\n"
    assert usable_or_explained(box)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/random", "/proc/kcore", "/proc/kmsg", "/proc/self/mem", "/tmp/pipe", "/dev/tty",
                                  "/proc/self/fd/0", "/sys/kernel/uevent_seqnum", "/proc/self/root/proc/self/root/etc/hostname"])
def test_i08_files_that_are_no_files(box, path):
    box.run("mkfifo -m 666 /tmp/pipe; true")
    begin = time.monotonic()
    try:
        answer = box.download(path, timeout=60)
        assert answer.status in (200, 400, 403, 404, 422), answer
        assert len(answer.body) < 1 << 20
    except http.client.IncompleteRead:
        pass  # it held less than it said: the connection is broken off, so that nobody takes it for whole
    assert time.monotonic() - begin < 40


def test_i08_a_file_of_an_exabyte(own):
    """Claims 2^60 bytes: the client takes what it wants and leaves; nothing is held for it."""
    box = own()
    if box.run("truncate -s 8E /tmp/huge || truncate -s 15T /tmp/huge")["exit_code"] != 0:
        box.run("truncate -s 900M /tmp/huge")
    connection, response = box.api.open("GET", box.path("download") + "?path=/tmp/huge")
    if response.status == 200:
        assert response.read(1 << 20) == bytes(1 << 20)
    response.close()
    connection.close()
    assert usable_or_explained(box)


@pytest.mark.limit(240)
def test_i10_a_fork_bomb(own):
    box = own()
    answer = box.execute("bomb() { bomb | bomb & }; bomb; sleep 5", timeout=8)
    assert answer.status in (200, 429, 503), answer
    usable_or_explained(box)
    deleted_quickly(box)


def test_i10_a_bomb_under_way_does_not_delay_the_end(own):
    box = own()
    stream = box.stream("bomb() { bomb | bomb & bomb; }; bomb")
    for _ in range(3):
        if box.execute("true", timeout=5).status != 200:
            break
    deleted_quickly(box)
    stream.close()


def test_i11_killing_everything(own):
    box = own()
    answer = box.execute("kill -9 -1; kill -9 1; kill -STOP 1; kill -STOP -1", timeout=10)
    assert answer.status in (200, 409), answer
    usable_or_explained(box)
    deleted_quickly(box)


def test_i12_the_agents_channel_is_out_of_reach(box):
    """No device of the channel in the sandbox, none to be made, and the agent's memory is not to be had."""
    found = box.out("ls -d /dev/vport* /dev/virtio-ports /dev/hvc* 2>/dev/null; true")
    assert found == "", found
    probe = r"""
import os, stat
opened = []
for major in range(200, 260):
    for minor in range(0, 8):
        try:
            os.mknod("/tmp/node", stat.S_IFCHR | 0o666, os.makedev(major, minor))
            with open("/tmp/node", "rb+", buffering=0) as node: opened.append((major, minor))
        except OSError: pass
        finally:
            try: os.unlink("/tmp/node")
            except OSError: pass
print(opened)
"""
    box.put("/tmp/probe.py", probe.encode())
    assert box.out("python3 /tmp/probe.py", timeout=60) == "[]\n"
    for path in ("/proc/1/mem", "/proc/1/environ", "/proc/1/root", "/proc/kcore", "/dev/mem", "/dev/vda", "/dev/vdb"):
        box.run(f"head -c 1 {path} 2>&1")
    assert box.run("head -c 1 /dev/mem")["exit_code"] != 0


def test_i12_the_disks_cannot_be_written_past_the_file_system(own):
    box = own()
    box.run("for d in /dev/vda /dev/vdb; do head -c 1000000 /dev/zero > $d; dd if=/dev/zero of=$d bs=1M count=1; done 2>/dev/null; true")
    assert usable_or_explained(box)


@pytest.mark.parametrize("when", ["1970-01-02", "2100-01-01"])
def test_i16_a_wrong_clock(own, when):
    box = own(timeout_seconds=600)
    box.run(f"date -s {when}; hwclock -w; true")
    seen = box.get()
    assert seen["status"] == "running" and seen["expires_at"].startswith("20")
    assert usable_or_explained(box)


def test_i17_a_thousand_commands_at_once(own):
    box = own()
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: box.execute("true", timeout=60), range(192)))
    assert {answer.status for answer in answers} <= {200, 429, 503}
    assert usable_or_explained(box)


@pytest.mark.limit(240)
def test_j02_memory(own):
    """Its own kernel ends it, or the whole VM ends with the truth; the host does not swap or kill others."""
    box = own()
    box.put("/tmp/hog.py", b"x = []\nwhile True: x.append(bytearray(1 << 20))\n")
    answer = box.execute("python3 /tmp/hog.py", timeout=60)
    assert answer.status == 200 and answer.json["exit_code"] != 0, answer
    usable_or_explained(box)


@pytest.mark.limit(240)
def test_j03_disk_and_inodes(own):
    box = own(resources={"storage": 1})
    result = box.execute("fallocate -l 600M /workspace/first; head -c 1000000000 /dev/zero > /workspace/fill", timeout=120).json
    assert result["exit_code"] != 0 and ("space" in result["stderr"] or result["status"] == "timeout"), result
    assert box.out("rm -f /workspace/fill /workspace/first; echo freed") == "freed\n"
    box.put("/tmp/files.py", b"import os\nos.makedirs('/workspace/n', exist_ok=True)\ni = 0\ntry:\n  while i < 6000:\n    open(f'/workspace/n/{i}', 'w').close(); i += 1\nexcept OSError as e: print(e)\nprint(i > 1000)\n")
    box.execute("python3 /tmp/files.py", timeout=60)
    assert usable_or_explained(box)


@pytest.mark.parametrize("bomb", [
    "import threading, time\nwhile True:\n  threading.Thread(target=time.sleep, args=(9,)).start()\n",
    "import os\nf = []\nwhile True: f.append(os.open('/etc/hostname', 0))\n",
    "import os\nf = []\nwhile True: f += os.pipe()\n",
    "import socket\nf = []\nwhile True: f += socket.socketpair()\n",
    "while True:\n  with open('/dev/shm/x', 'ab') as f: f.write(bytes(1 << 20))\n",
    "while True:\n  with open('/tmp/x', 'ab') as f: f.write(bytes(1 << 20))\n",
], ids=["threads", "files", "pipes", "sockets", "shm", "tmp"])
@pytest.mark.limit(200)
def test_j04_bombs(own, bomb):
    box = own()
    box.put("/tmp/bomb.py", bomb.encode())
    assert box.execute("timeout 8 python3 /tmp/bomb.py; rm -f /dev/shm/x /tmp/x", timeout=40).status in (200, 409)
    usable_or_explained(box)
    deleted_quickly(box)


def test_j12_a_storm_on_the_console(daemon, own):
    """Kernel messages and the serial line are bounded, on disk and in memory."""
    box = own()
    memory, size = daemon.memory(), daemon.log.stat().st_size
    box.execute("for f in /dev/kmsg /dev/console /dev/ttyS0 /dev/hvc0; do (timeout 4 yes > $f) 2>/dev/null & done; wait", timeout=20)
    assert daemon.memory() - memory < 200 << 20
    assert daemon.log.stat().st_size - size < 4 << 20
    assert usable_or_explained(box)


def test_a_busy_sandbox_leaves_the_api_alone(api, own):
    box = own()
    with box.stream("while :; do :; done"):
        times = []
        for _ in range(20):
            begin = time.monotonic()
            assert api.get("/v1/sandboxes/list").status == 200
            times.append(time.monotonic() - begin)
    assert sorted(times)[len(times) // 2] < 2
