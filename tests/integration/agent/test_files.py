"""Files: OPEN_READ, OPEN_WRITE, STAT."""
import hashlib
import os

import pytest

from vm import *


def code_of(call, *args, **named):
    with pytest.raises(AgentError) as e:
        call(*args, **named)
    return e.value.code


def test_write_and_read(vm):
    data = os.urandom(3000000)
    assert vm.write("/tmp/one/two/file", data) == len(data)
    got, info = vm.read("/tmp/one/two/file")
    assert got == data and info["size"] == len(data) and info["mode"] == 0o644
    assert vm.run("sha256sum", "/tmp/one/two/file").stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_empty_file(vm):
    assert vm.write("/tmp/empty", b"") == 0
    assert vm.read("/tmp/empty")[0] == b""


def test_relative_to_workdir(vm):
    vm.write("rel/file", b"here")
    assert vm.run("cat", "/workspace/rel/file").stdout == "here"
    assert vm.read("rel/file")[0] == b"here"


def test_mode(vm):
    vm.write("/tmp/script", b"#!/bin/sh\necho ran\n", mode=0o755)
    assert vm.run("/tmp/script", shell=0).stdout == "ran\n"
    assert vm.request(STAT, path="/tmp/script")["mode"] == 0o755
    vm.write("/tmp/script", b"#!/bin/sh\necho again\n")
    assert vm.run("/tmp/script", shell=0).stdout == "again\n"


def test_owner_stays(vm):
    vm.run("echo x >/tmp/owned; chown 1000:1001 /tmp/owned; chmod 640 /tmp/owned")
    vm.write("/tmp/owned", b"new")
    assert vm.run("stat -c '%u %g %a' /tmp/owned; cat /tmp/owned").stdout == "1000 1001 640\nnew"


def test_replacement_is_atomic(vm):
    vm.write("/tmp/atomic", b"old")
    s = vm.open(OPEN_WRITE, fields(path="/tmp/atomic"))
    s.take(OPENED)
    s.send(b"new" * 100000)
    vm.request(PING)
    assert vm.run("cat", "/tmp/atomic").stdout == "old"
    s.end()
    s.take(RESULT)
    assert vm.run("head -c 6 /tmp/atomic").stdout == "newnew"


def test_closed_write_leaves_nothing(vm):
    vm.run("mkdir /tmp/closed")
    s = vm.open(OPEN_WRITE, fields(path="/tmp/closed/file"))
    s.take(OPENED)
    s.send(b"half")
    s.close()
    with pytest.raises(AgentError) as e:
        s.take(RESULT)
    assert e.value.code == 125
    assert vm.run("ls -A /tmp/closed").stdout == ""


def test_closed_read_ends(vm):
    vm.run("truncate -s 1G /tmp/sparse")
    s = vm.open(OPEN_READ, fields(path="/tmp/sparse"))
    assert s.take(OPENED)["size"] == 1 << 30
    s.close()
    with pytest.raises(AgentError) as e:
        s.take(RESULT)
    assert e.value.code == 125


def test_read_keeps_within_window(vm):
    vm.run("truncate -s 2M /tmp/two")
    s = vm.open(OPEN_READ, fields(path="/tmp/two"))
    s.auto_credit = False
    s.wait(lambda: s.out_window == 0, "full window")
    vm.request(PING)
    assert len(s.output[0]) == WINDOW and not s.eof
    s.auto_credit = True
    s.credit(WINDOW)
    s.wait(lambda: s.eof, "end")
    assert len(s.output[0]) == 2 << 20


@pytest.mark.parametrize("path,code", [
    ("/no/such", 2), ("/tmp", 21), ("/dev/null", 22), ("/etc/passwd/x", 20), ("/" + "x" * 300, 36)])
def test_read_errors(vm, path, code):
    assert code_of(vm.read, path) == code


@pytest.mark.parametrize("path,code", [
    ("/tmp", 21), ("/tmp/", 21), ("/etc/passwd/x", 20), ("/proc/new", 2), ("/sys/new", 30), ("/dev/null", 22),
    ("/tmp/..", 21), ("/" + "x" * 300, 36)])
def test_write_errors(vm, path, code):
    assert code_of(vm.write, path, b"x") == code


def test_fifo_is_refused_at_once(vm):
    vm.run("rm -f /tmp/fifo; mkfifo /tmp/fifo")
    assert code_of(vm.read, "/tmp/fifo") == 22
    assert code_of(vm.write, "/tmp/fifo", b"x") == 22


def test_links_stay_inside(vm):
    vm.run("ln -sfn / /tmp/root; ln -sfn ../../../../../../.. /tmp/up; ln -sfn /proc/1/root /tmp/magic")
    assert vm.read("/tmp/root/etc/hostname")[0] == b"box\n"
    assert vm.read("/tmp/up/etc/hostname")[0] == b"box\n"
    assert vm.read("../../../../etc/hostname")[0] == b"box\n"
    assert code_of(vm.read, "/tmp/magic/etc/hostname") in (13, 40)
    # What only the agent's own root has.
    for path in ("/init", "/base/etc/hostname", "/scratch/upper/etc/hostname", "/tmp/up/init", "/dev/vda", "/dev/vport0p1"):
        assert code_of(vm.read, path) == 2


def test_link_at_the_end_is_replaced(vm):
    vm.run("echo target >/tmp/target; ln -sfn /tmp/target /tmp/link")
    vm.write("/tmp/link", b"file")
    assert vm.run("cat /tmp/target; cat /tmp/link; test -h /tmp/link").code == 1


def test_link_loop(vm):
    vm.run("ln -sfn loop /tmp/loop")
    assert code_of(vm.read, "/tmp/loop") == 40


def test_mounts_of_the_sandbox_are_seen(vm):
    vm.run("echo shm >/dev/shm/file; echo run >/run/file")
    assert vm.read("/dev/shm/file")[0] == b"shm\n"
    vm.write("/run/sub/file", b"written")
    assert vm.run("cat", "/run/sub/file").stdout == "written"
    assert b"MemTotal" in vm.read("/proc/meminfo")[0]


def test_full_disk(vm):
    s = vm.open(OPEN_WRITE, fields(path="/tmp/full/file"))
    s.take(OPENED)
    chunk = b"x" * 1000000
    for _ in range(400):
        s.send(chunk)
        if s.ended:
            break
    if not s.ended:
        s.end()
    with pytest.raises(AgentError) as e:
        s.take(RESULT)
    assert e.value.code == 28
    assert vm.run("ls -A /tmp/full").stdout == ""
    assert vm.write("/tmp/full/small", b"fits") == 4


def test_many_at_once(vm):
    streams = []
    for i in range(40):
        s = vm.open(OPEN_WRITE, fields(path=f"/tmp/many/{i}"))
        streams.append(s)
    for i, s in enumerate(streams):
        s.take(OPENED)
        s.send(bytes([i]) * 1000)
        s.end()
    for s in streams:
        s.take(RESULT)
    assert vm.run("ls /tmp/many | wc -l").stdout == "40\n"


def test_stat(vm):
    vm.run("printf abc >/tmp/s; touch -d @1000000000.5 /tmp/s")
    assert vm.request(STAT, path="/tmp/s") == {"size": 3, "mode": 0o644, "mtime_ms": 1000000000500}
    assert code_of(vm.request, STAT, path="/tmp") == 21
