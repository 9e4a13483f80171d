"""The scratch disk, and what PERSONALISE, METRICS and SHUTDOWN do."""
import os
import subprocess
import time

import pytest

from vm import *


def test_sync(vm):
    vm.run("head -c 3000000 /dev/urandom >/tmp/data")
    slow = vm.open(SYNC)
    assert vm.request(PING) == {}
    assert slow.take(RESULT) == {}


def test_freeze_and_thaw(vm):
    vm.run("sync; echo before >/tmp/frozen")
    vm.request(SYNC)
    open_write = vm.open(OPEN_WRITE, fields(path="/tmp/during"))
    open_write.take(OPENED)
    vm.request(FREEZE)
    vm.request(FREEZE)
    # What does not write goes on ...
    assert vm.run("cat /tmp/frozen").stdout == "before\n"
    assert vm.read("/tmp/frozen")[0] == b"before\n"
    assert vm.request(METRICS)["disk_used"] > 0
    # ... and what does waits, or is refused.
    writer = vm.start("echo after >/tmp/frozen; cat /tmp/frozen")
    open_write.send(b"x" * 100000)
    open_write.end()
    for request in (lambda: vm.write("/tmp/refused", b"x"), vm.personalise, lambda: vm.request(GROW)):
        with pytest.raises(AgentError) as e:
            request()
        assert e.value.code == 16
    assert not writer.ended and not open_write.ended
    assert vm.request(PING) == {}
    vm.request(THAW)
    assert writer.exit() == (0, 0) and writer.output[0] == b"after\n"
    assert open_write.take(RESULT)["size"] == 100000
    vm.request(THAW)


def test_thaw_right_after_freeze(vm):
    vm.run("head -c 8000000 /dev/urandom >/tmp/data")
    freeze, thaw = vm.open(FREEZE), vm.open(THAW)
    assert thaw.take(RESULT) == {}
    try:
        freeze.take(RESULT)
    except AgentError as e:
        assert e.code == 125
    assert vm.run("echo x >/tmp/thawed").code == 0


def test_hello_thaws(vm):
    vm.request(FREEZE)
    vm.hello(keep=1)
    assert vm.run("echo x >/tmp/thawed").code == 0


def test_frozen_image_is_consistent(vm):
    vm.write("/tmp/in-the-snapshot", b"content")
    vm.request(SYNC)
    vm.request(FREEZE)
    copy = vm.dir / "copy"
    subprocess.run(["cp", "--sparse=always", vm.scratch, copy], check=True)
    vm.request(THAW)
    subprocess.run(["/sbin/e2fsck", "-fn", copy], check=True, stdout=subprocess.DEVNULL)
    dump = subprocess.run(["/sbin/debugfs", "-R", "cat /upper/tmp/in-the-snapshot", copy], check=True,
                          capture_output=True)
    assert dump.stdout == b"content"


def test_grow(vm):
    before = vm.request(METRICS)["disk_total"]
    vm.qmp("block_resize", device="scratch", size=512 << 20)
    vm.request(GROW)
    after = vm.request(METRICS)["disk_total"]
    assert after > before + (200 << 20)
    assert vm.run("head -c 300M /dev/zero >/tmp/big && stat -c %s /tmp/big && rm /tmp/big").stdout == f"{300 << 20}\n"


def test_deleted_data_leaves_the_host(vm):
    vm.run("head -c 50M /dev/urandom >/tmp/big; sync")
    full = os.stat(vm.scratch).st_blocks
    vm.run("rm /tmp/big; sync")
    until(lambda: vm.request(SYNC) == {} and os.stat(vm.scratch).st_blocks < full - 2 * 40 * 1024)


def test_personalise_again(vm):
    s = vm.start("echo ready; read -r line; echo $line; hostname; date +%s", stdin=1)
    s.wait_output("ready")
    vm.hello(keep=1)
    vm.run("echo 10.1.1.1 mine >>/etc/hosts")
    vm.personalise(hostname="other", machine_id=b"\xab" * 16, boot_id=b"\xcd" * 16, wall_ms=2000000000000,
                   workdir="/srv/new/dir", env=["PATH=/bin:/usr/bin", "ONE=1"], dns=0x01020304)
    r = vm.run("hostname; cat /etc/hostname /etc/machine-id /proc/sys/kernel/random/boot_id /etc/resolv.conf; pwd; "
               "date +%s; env | grep -E '^(ONE|HOME|LANG)='")
    lines = r.stdout.split("\n")
    assert lines[:6] == ["other", "other", "ab" * 16, "cdcdcdcd-cdcd-cdcd-cdcd-cdcdcdcdcdcd", "nameserver 1.2.3.4",
                         "/srv/new/dir"]
    assert 2000000000 <= int(lines[6]) < 2000000060
    assert lines[7:] == ["ONE=1", ""]
    hosts = vm.run("cat /etc/hosts").stdout
    assert hosts.count("127.0.1.1") == 1 and "other" in hosts and "10.1.1.1 mine" in hosts and "localhost" in hosts
    vm.personalise()


def test_entropy_is_taken(vm):
    draw = "head -c 16 /dev/urandom | od -An -tx1"
    vm.personalise()
    one = vm.run(draw).stdout
    vm.personalise()
    assert vm.run(draw).stdout != one


def test_network(vm):
    vm.personalise(address=0x0a00020f, prefix=24, gateway=0x0a000202, mtu=1400, dns=0x0a000203)
    if vm.run("command -v ip").code:
        r = vm.run("cat /proc/net/route /proc/net/fib_trie /sys/class/net/eth0/mtu")
        assert "0202000A" in r.stdout and "10.0.2.15" in r.stdout and "1400" in r.stdout
    else:
        r = vm.run("ip -o addr; ip route; cat /sys/class/net/eth0/mtu")
        assert "10.0.2.15/24" in r.stdout and "default via 10.0.2.2" in r.stdout and r.stdout.endswith("1400\n")
        assert "inet6" not in r.stdout
    vm.personalise()
    assert "0202000A" not in vm.run("cat /proc/net/route").stdout


def test_bad_personalise(vm):
    with pytest.raises(AgentError) as e:
        vm.personalise(workdir="relative")
    assert e.value.code == 22
    with pytest.raises(AgentError) as e:
        vm.personalise(workdir="/etc/hostname/x")
    assert e.value.code == 20
    vm.personalise()


def test_metrics(vm):
    before = vm.request(METRICS)
    assert set(before) == {"cpu_us", "mem_total", "mem_used", "disk_total", "disk_used", "procs"}
    s = vm.start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 30M /dev/urandom >/dev/shm/m; echo done; sleep 100")
    s.wait_output("done")
    after = vm.request(METRICS)
    s.close()
    s.exit()
    vm.run("rm /dev/shm/m")
    assert after["cpu_us"] > before["cpu_us"] + 1000
    assert after["mem_used"] > before["mem_used"] + (20 << 20)
    assert after["procs"] > before["procs"]
    assert before["mem_total"] < 512 << 20


def test_shutdown_keeps_what_was_written(own_vm):
    own_vm.boot()
    own_vm.run("echo kept >/tmp/kept; (setsid sleep 1000 &)")
    assert own_vm.request(SHUTDOWN) == {}
    assert own_vm.process.wait(30) == 0
    dump = subprocess.run(["/sbin/debugfs", "-R", "cat /upper/tmp/kept", own_vm.scratch], check=True, capture_output=True)
    assert dump.stdout == b"kept\n"
    subprocess.run(["/sbin/e2fsck", "-fn", own_vm.scratch], check=True, stdout=subprocess.DEVNULL)
