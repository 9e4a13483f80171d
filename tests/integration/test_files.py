"""Upload and download."""

import concurrent.futures
import hashlib
import os
import socket

import pytest

from harness.client import multipart, refused
from harness.wait import wait_until


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 511, 65535, 65536, 65537, 262144, 1_000_000])
def test_round_trip(box, size):
    data = os.urandom(size)
    answer = box.put("/workspace/round", data)
    assert answer["path"] == "/workspace/round" and answer["size"] == size and answer["message"]
    assert box.out("sha256sum < /workspace/round").split()[0] == sha(data)
    assert box.fetch("/workspace/round") == data


@pytest.mark.limit(200)
def test_round_trip_of_100_megabytes(daemon, own):
    box = own()
    data = os.urandom(1 << 20) * 100
    before = daemon.memory()
    box.put("/workspace/large", data)
    assert box.out("sha256sum < /workspace/large", timeout=120).split()[0] == sha(data)
    received = box.fetch("/workspace/large")
    assert sha(received) == sha(data)
    # It moves through; it is not held.
    assert daemon.memory("VmHWM") - before < 300 << 20


@pytest.mark.long
def test_two_gigabytes_move_through_a_few_megabytes(daemon, api):
    with api.create(resources={"cpus": 2, "memory": 512, "storage": 4}) as box:
        before = daemon.memory()
        kind, whole = multipart([("path", b"/workspace/huge"), ("file", b"@@DATA@@", "huge")])
        head, foot = whole.split(b"@@DATA@@")
        block, total = os.urandom(1 << 20), 2048

        def body():
            yield head
            for _ in range(total):
                yield block
            yield foot

        length = str(len(head) + len(foot) + (total << 20))
        answer = api.post(box.path("upload"), body=body(), headers={"content-type": kind, "content-length": length}, timeout=1800)
        assert answer.status == 200 and answer.json["size"] == total << 20, answer
        assert daemon.memory("VmHWM") - before < 300 << 20


@pytest.mark.parametrize("data", [bytes(range(256)) * 9, b"--boundary\r\n\r\n--\r\n", b"\r\n", b"-", b"\0", b"\r\n--akira"])
def test_bytes_that_look_like_the_format(box, data):
    box.put("/tmp/odd", data)
    assert box.fetch("/tmp/odd") == data


@pytest.mark.parametrize("order", [("path", "file"), ("file", "path")])
def test_either_order(box, order):
    data = os.urandom(300_000)
    answer = box.upload("/tmp/order", data, order=order)
    assert answer.status == 200, answer
    assert box.fetch("/tmp/order") == data


@pytest.mark.parametrize("path", ["/tmp/with space", "/tmp/ünïcode 日本", "/tmp/quote'\"$(id)`;", "/tmp/%2e%2e", "/tmp/a+b&c=d#e?f", "/tmp/-dash", "/tmp/new\nline"])
def test_odd_names(box, path):
    box.put(path, b"odd")
    assert box.fetch(path) == b"odd"


def test_a_relative_path_begins_at_the_working_folder(box):
    box.put("relative.txt", b"here")
    assert box.out("cat /workspace/relative.txt") == "here"
    assert box.fetch("relative.txt") == b"here"


def test_parent_folders_are_made(box):
    box.put("/workspace/a/b/c/deep", b"x")
    assert box.out("cat /workspace/a/b/c/deep") == "x"


def test_overwriting_is_whole(box):
    box.put("/tmp/over", b"long " * 1000)
    box.put("/tmp/over", b"short")
    assert box.fetch("/tmp/over") == b"short"


def test_download_says_its_length_and_kind(box):
    box.put("/tmp/known", b"12345")
    answer = box.download("/tmp/known")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers.get("content-length") == "5" and answer.body == b"12345"


def test_download_of_what_is_not_there(box):
    refused(box.download("/no/such/file"), 404, "not_found")


@pytest.mark.parametrize("path", ["/tmp", "/dev/zero", "/dev/null", "/tmp/fifo", "/tmp/loop"])
def test_only_regular_files(box, path):
    box.run("mkfifo /tmp/fifo; ln -sfn /tmp/loop /tmp/loop; true")
    answer = box.download(path, timeout=60)
    assert answer.status in (400, 404, 422), answer
    refused(answer, answer.status)


def test_a_file_that_says_it_is_endless(box):
    """/proc files say that they are empty, or hold more than they say: what comes is bounded and ends."""
    answer = box.download("/proc/self/status", timeout=60)
    assert answer.status in (200, 400, 404, 422), answer


def test_upload_over_a_folder(box):
    box.run("mkdir -p /tmp/folder/x")
    answer = box.upload("/tmp/folder", b"x")
    assert 400 <= answer.status < 500, answer
    refused(answer, answer.status)
    assert box.out("ls /tmp/folder") == "x\n"


def test_upload_into_a_read_only_place(box):
    answer = box.upload("/proc/akira", b"x")
    assert 400 <= answer.status < 500, answer


def test_a_symlink_stays_in_the_sandbox(box):
    """Only the guest can be harmed, whatever it links to."""
    box.run("ln -sfn /etc/passwd /tmp/link")
    data = box.download("/tmp/link")
    if data.status == 200:
        assert data.body.decode() == box.out("cat /etc/passwd")


def test_a_full_disk_is_said(own):
    box = own(resources={"storage": 1})
    box.run("fallocate -l 800M /workspace/filler", timeout=120)
    answer = box.upload("/workspace/more", os.urandom(1 << 20) * 250)
    assert answer.status in (413, 422, 507), answer
    refused(answer, answer.status)
    assert "more" not in box.out("ls -A /workspace")
    box.run("rm /workspace/filler")
    box.put("/workspace/more", b"fits")


def test_a_client_that_leaves_an_upload_leaves_nothing(box):
    kind, body = multipart([("path", b"/workspace/half"), ("file", b"x" * 5_000_000, "half")])
    head = (
        f"POST {box.path('upload')} HTTP/1.1\r\nHost: x\r\nx-api-key: {box.api.key}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with box.api.connect() as stream:
        stream.sendall(head.encode() + body[: len(body) // 2])
    wait_until(lambda: box.out("find /workspace -name '*half*' -o -name '.*half*' | head").strip() == "", "nothing is left")


def test_a_client_that_leaves_a_download(box):
    box.run("head -c 20000000 /dev/urandom > /workspace/twenty", timeout=60)
    head = f"GET {box.path('download')}?path=/workspace/twenty HTTP/1.1\r\nHost: x\r\nx-api-key: {box.api.key}\r\n\r\n"
    for _ in range(3):
        with box.api.connect() as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stream.sendall(head.encode())
            assert stream.recv(1000)
    assert len(box.fetch("/workspace/twenty")) == 20_000_000


def test_decimal_parts_are_refused_with_advice(box):
    """Some clients send a bare buffer as file[0], file[1], …"""
    kind, body = multipart([("path", b"/tmp/x"), ("file[0]", b"104"), ("file[1]", b"105")])
    refused(box.api.post(box.path("upload"), body=body, headers={"content-type": kind}), 400, "invalid_request", "file")


def test_many_at_once(box):
    def one(number):
        data = os.urandom(200_000)
        box.put(f"/tmp/many{number}", data)
        return box.fetch(f"/tmp/many{number}") == data

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(16)))


def test_growing_while_it_is_read(box):
    """The length that was said first is what is sent, or the connection ends: never more than was said."""
    box.run("head -c 3000000 /dev/zero > /tmp/growing")
    with box.stream("for i in $(seq 60); do head -c 100000 /dev/zero >> /tmp/growing; sleep 0.01; done") as stream:
        answer = box.download("/tmp/growing")
        assert answer.status == 200
        assert "content-length" not in answer.headers or len(answer.body) == int(answer.headers["content-length"])
        stream.collect()
