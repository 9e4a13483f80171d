"""HELLO, broken frames, a new host, phases."""
import os
import struct

import pytest

from vm import *


def header(size, kind, channel, reserved, stream):
    return struct.pack("<IBBHI", size, kind, channel, reserved, stream)


def test_hello_again(vm):
    answer = vm.hello(keep=1)
    assert answer["version"] == 1 and answer["phase"] == 2 and answer["agent"].startswith(b"akira-init ")
    assert vm.run("echo on").stdout == "on\n"


BROKEN = {
    "type unknown": header(0, 15, 0, 0, 9001),
    "stream zero": header(0, PING, 0, 0, 0),
    "reserved not zero": header(0, PING, 0, 1, 9002),
    "channel of a request": header(0, PING, 1, 0, 9003),
    "too long": header(65537, PING, 0, 0, 9004),
    "answer from the host": header(0, RESULT, 0, 0, 9005),
    "field unknown": header(7, PING, 0, 0, 9006) + struct.pack("<HIB", 999, 1, 0),
    "field not of the message": header(7, PING, 0, 0, 9007) + struct.pack("<HIB", TAG["keep"], 1, 0),
    "field cut": header(6, SETUP, 0, 0, 9008) + struct.pack("<HI", TAG["fresh"], 1),
    "field missing": header(0, SETUP, 0, 0, 9009),
    "field of another size": header(8, SETUP, 0, 0, 9010) + struct.pack("<HIH", TAG["fresh"], 2, 0),
    "field size beyond": header(7, SETUP, 0, 0, 9011) + struct.pack("<HIB", TAG["fresh"], 0xffffffff, 0),
    "path with NUL": header(9, STAT, 0, 0, 9012) + struct.pack("<HI", TAG["path"], 3) + b"a\0b",
    "stream zero in HELLO only": header(0, HELLO, 0, 0, 5),
    "zeros": b"\0" * 65548,
    "ones": b"\xff" * 5000,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_frame_then_hello(vm, name):
    vm.raw(BROKEN[name])
    vm.frame(PING, 9999)  # dropped, as no HELLO came yet
    assert vm.hello()["phase"] == 2
    assert vm.run("echo on").stdout == "on\n"


def test_number_used_twice(vm):
    s = vm.start("sleep", "100")
    vm.frame(PING, s.id)
    vm.hello()
    assert vm.run("while pgrep -x sleep; do :; done").code == 0


def test_data_over_the_window(vm):
    s = vm.start("sleep", "100", stdin=1)
    for _ in range(8):
        vm.frame(DATA, s.id, b"x" * 65536)
    assert vm.hello()["phase"] == 2


def test_credit_over_the_bound(vm):
    s = vm.start("sleep", "100")
    vm.frame(CREDIT, s.id, struct.pack("<I", 0xffffffff))
    assert vm.hello()["phase"] == 2


def test_frames_of_an_ended_stream_are_ignored(vm):
    s = vm.start("true", stdin=1)
    s.exit()
    vm.frame(DATA, s.id, b"late")
    vm.frame(EOF, s.id)
    s.close()
    s.signal(9)
    vm.frame(CREDIT, s.id, struct.pack("<I", 5))
    assert vm.request(PING) == {}


def test_reserved_requests(vm):
    for kind, payload in ((OPEN_TCP, fields(port=80)), (OPEN_WATCH, fields(path="/tmp"))):
        with pytest.raises(AgentError) as e:
            vm.open(kind, payload).take(RESULT)
        assert e.value.code == 38


def test_keep_lets_commands_run_on(vm):
    s = vm.start("echo $$ >/tmp/kept; cat; echo end >/tmp/end; sleep 1000", stdin=1)
    assert vm.run("until [ -s /tmp/kept ]; do :; done").code == 0
    vm.hello(keep=1)
    assert vm.run("until [ -s /tmp/end ]; do :; done; kill -0 $(cat /tmp/kept)").code == 0
    vm.hello(keep=0)
    assert vm.run("while kill -0 $(cat /tmp/kept) 2>/dev/null; do :; done").code == 0
    assert s.id not in vm.streams


def test_hello_kills_what_was_left_behind(vm):
    vm.run("setsid sleep 4444 >/dev/null 2>&1 &")
    assert vm.run("pgrep -x sleep").code == 0
    vm.hello(keep=0)
    assert vm.run("while pgrep -x sleep; do :; done").code == 0


def test_hello_undoes_a_write(vm):
    vm.run("mkdir -p /tmp/undo")
    s = vm.open(OPEN_WRITE, fields(path="/tmp/undo/file"))
    s.take(OPENED)
    vm.hello(keep=1)
    assert vm.run("ls -A /tmp/undo").stdout == ""


def test_new_host(vm):
    s = vm.start("yes")
    s.auto_credit = False
    s.wait(lambda: s.out_window == 0, "full window")
    vm.raw(header(65536, DATA, 0, 0, s.id) + b"x" * 100)  # and dies in the middle of a frame
    vm.reconnect()
    vm.raw(b"\0" * 65548)  # the guest may not have noticed the change
    assert vm.hello()["phase"] == 2
    assert vm.run("echo on").stdout == "on\n"


def test_new_host_in_the_middle_of_a_frame(vm):
    """Even when the guest never learned that there was another host."""
    s = vm.start("cat", stdin=1)
    vm.raw(header(65536, DATA, 0, 0, s.id) + b"x" * 100)
    vm.raw(b"\0" * 65548)
    assert vm.hello()["phase"] == 2
    assert vm.run("echo on").stdout == "on\n"


def test_hello_in_data_is_data(vm):
    payload = fields(version=1, nonce=os.urandom(16), keep=0)
    hello = header(len(payload), HELLO, 0, 0, 0) + payload
    s = vm.start("wc -c", stdin=1)
    s.send(hello * 3)
    s.end()
    assert s.exit() == (0, 0) and int(s.output[0]) == 3 * len(hello)


def test_hello_forgets_slow_requests(own_vm):
    own_vm.hello()
    for _ in range(3):
        warm = own_vm.open(WARM)
        own_vm.hello()
        assert own_vm.request(SETUP, fresh=1) == {} if own_vm.hello()["phase"] == 0 else True
    own_vm.personalise()
    own_vm.open(FREEZE), own_vm.open(THAW)
    assert own_vm.hello()["phase"] == 2
    assert own_vm.run("echo x >/tmp/x; sync; echo on").stdout == "on\n"
    assert own_vm.request(PING) == {} and not warm.ended


def test_many_small_requests(vm):
    streams = []
    for _ in range(2000):
        vm.next_id += 1
        stream = vm.streams[vm.next_id] = Stream(vm, vm.next_id)
        streams.append(stream)
    vm.raw(b"".join(header(0, PING, 0, 0, s.id) for s in streams))
    for s in streams:
        assert s.take(RESULT) == {}


def test_output_that_nobody_takes(vm):
    """A host that does not read: the guest holds on and loses nothing."""
    streams = [vm.start("head -c 200000 /dev/zero") for _ in range(20)]
    # Nothing is read meanwhile: what the guest does is seen from what comes later.
    vm.raw(b"".join(header(0, PING, 0, 0, 700000 + i) for i in range(5000)))
    for s in streams:
        assert s.exit() == (0, 0) and len(s.output[0]) == 200000
