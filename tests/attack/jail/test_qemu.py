"""QEMU itself in the jail, under the filters of both stages: what the engine does to a VM must work there."""
import glob
import hashlib
import json
import os

import pytest

from jail import MIB, USER, Jail, until
from test_h_escape import status

QEMU = "/usr/bin/qemu-system-x86_64"
pytestmark = pytest.mark.skipif(not os.path.exists(QEMU), reason="no QEMU here")
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Qemu:
    def __init__(self, jail, vm):
        self.jail, self.vm, self.text = jail, vm, ""
        assert "QMP" in self.line()
        self.do("qmp_capabilities")

    def line(self):
        while "\n" not in self.text:
            got = self.jail.read(self.vm, 0, 10000)
            assert got, f"QEMU went away:\n{self.jail.log_text()[-2000:]}"
            self.text += got
        line, self.text = self.text.split("\n", 1)
        return line

    def do(self, command, path=None, **arguments):
        message = {"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
        extra = [path] if path else []
        self.jail.command("send", self.vm, 0, json.dumps(message).encode().hex(), *extra)
        while True:
            answer = json.loads(self.line())
            assert "error" not in answer, (command, answer)
            if "return" in answer:
                return answer["return"]


def arguments(share, incoming):
    return ["-M", "microvm,memory-backend=ram,acpi=off", "-accel", "tcg,thread=multi,tb-size=32", "-m", "64", "-smp", "2",
            "-nodefaults", "-no-user-config", "-display", "none", "-sandbox", SANDBOX,
            "-object", f"memory-backend-file,id=ram,size=64M,mem-path=/vm/ram,share={share}",
            "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
            "-device", "virtio-serial-device", "-chardev", "socket,id=agent,fd=4",
            "-device", "virtserialport,chardev=agent,name=akira",
            "-blockdev", "driver=file,node-name=file,filename=/vm/scratch,discard=unmap,aio=threads",
            "-blockdev", "driver=raw,node-name=scratch,file=file,discard=unmap",
            "-device", "virtio-blk-device,drive=scratch",
            "-netdev", "tap,id=net,fd=5,vhost=off", "-device", "virtio-net-device,netdev=net",
            "-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-device,rng=random",
            ] + (["-incoming", "defer"] if incoming else [])


def start(jail, share, incoming, ram, slot):
    scratch = jail.file("scratch", 64 * MIB)
    mode = "w" if share == "on" else "r"
    vm, pid = jail.start(*arguments(share, incoming), fds=2, files=f"{mode}:ram:{ram},w:scratch:{scratch}", memory=512 * MIB,
                         slot=slot)
    return vm, pid, scratch


def check_jail(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        s = status(pid, task)
        assert s["Seccomp"].strip() == "2" and int(s["Seccomp_filters"]) >= 5, "two stages of two, and QEMU's own"
        assert int(s["CapPrm"], 16) == 0 and s["NoNewPrivs"].strip() == "1"
    kinds = {os.readlink(f) for f in glob.glob(f"/proc/{pid}/fd/*")}
    assert all(k.startswith(("socket:", "pipe:", "anon_inode:", "/dev/null", "/vm/", "/dev/urandom", "/dev/net/tun"))
               for k in kinds), kinds


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def migrated(qemu):
    def done():
        status_ = qemu.do("query-migrate").get("status")
        assert status_ not in ("failed", "cancelled")
        return status_ == "completed"
    until(done, 20, "the migration ends")


@pytest.fixture(scope="module")
def qemu_jail():
    with Jail(program=QEMU) as one:
        yield one


def test_template_restore_backup(qemu_jail):
    jail = qemu_jail
    ram, state = jail.file("ram", 64 * MIB), jail.base + "/state"
    capability = [{"capability": "x-ignore-shared", "state": True}]
    jail.command("net", "make", 7)

    vm, pid, _ = start(jail, "on", False, ram, 7)
    q = Qemu(jail, vm)
    check_jail(pid)
    q.do("stop")
    q.do("migrate-set-capabilities", capabilities=capability)
    q.do("getfd", path=state, fdname="state")
    q.do("migrate", uri="fd:state")
    migrated(q)
    q.do("quit")
    assert jail.wait(vm)[:2] == (0, 0)
    assert os.path.getsize(state) > 1000 and os.stat(ram).st_uid == USER
    before = digest(ram)

    vm, pid, scratch = start(jail, "off", True, ram, 7)
    q = Qemu(jail, vm)
    q.do("migrate-set-capabilities", capabilities=capability)
    q.do("getfd", path=state, fdname="state")
    q.do("migrate-incoming", uri="fd:state")
    until(lambda: q.do("query-status")["status"] != "inmigrate", 20, "the state is loaded")
    os.truncate(scratch, 128 * MIB)
    q.do("block_resize", node_name="scratch", size=128 * MIB)
    q.do("cont")
    assert q.do("query-status")["status"] == "running"
    check_jail(pid)

    copy = jail.base + "/copy"
    open(copy, "wb").truncate(128 * MIB)
    q.do("add-fd", path=copy, fdset_id=1)
    q.do("blockdev-add", driver="file", node_name="backup", filename="/dev/fdset/1")
    q.do("blockdev-backup", job_id="backup", device="scratch", target="backup", sync="full", auto_dismiss=False)
    until(lambda: q.do("query-jobs")[0]["status"] == "concluded", 20, "the copy is made")
    assert not q.do("query-jobs")[0].get("error")
    assert os.stat(copy).st_blocks * 512 < 2 * MIB, "the copy of an empty disk stays sparse"
    q.do("quit")
    assert jail.wait(vm)[:2] == (0, 0)
    assert digest(ram) == before, "a restored VM cannot change the template's RAM"
    jail.command("net", "destroy", 7)


def test_stop_by_kill_while_it_starts(qemu_jail):
    for _ in range(5):
        vm, _ = qemu_jail.start("-M", "microvm", "-nodefaults", "-display", "none", "-S")
        qemu_jail.command("kill", vm)
        assert qemu_jail.wait(vm) == (-1, 9, 0)


def test_errors_reach_the_log(qemu_jail):
    vm, _ = qemu_jail.start("-M", "no-such-machine")
    assert qemu_jail.wait(vm)[0] == 1
    assert "unsupported machine type" in qemu_jail.log_text()


@pytest.mark.skipif(not os.path.exists("/dev/kvm"), reason="no /dev/kvm")
def test_kvm_works_in_the_jail():
    """Guest code may be slow here (nested); what counts is that the filters let KVM's calls pass and vCPUs run."""
    with Jail(program=QEMU, kvm=1) as jail:
        vm, pid = jail.start("-M", "microvm", "-accel", "kvm", "-cpu", "host,arch-capabilities=off,vmx=off,pmu=off", "-m", "64", "-smp", "2",
                             "-nodefaults", "-no-user-config", "-display", "none", "-sandbox", SANDBOX,
                             "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control", memory=256 * MIB)
        q = Qemu(jail, vm)
        assert q.do("query-kvm")["enabled"]
        assert q.do("query-status")["status"] == "running"
        assert len(q.do("query-cpus-fast")) == 2
        assert "/dev/kvm" in {os.readlink(f) for f in glob.glob(f"/proc/{pid}/fd/*")}
        q.do("stop")
        q.do("system_reset")
        q.do("cont")
        q.do("quit")
        assert jail.wait(vm)[:2] == (0, 0)
