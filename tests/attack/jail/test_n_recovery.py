"""What of group N concerns the launcher: deaths at any moment, restarts, two at once."""
import errno
import os
import random
import signal
import subprocess
import time

import pytest

from jail import ATTACKER, FAULTS, MIB, Jail, Raw, Refused, alive, processes_of_vms, until


def start_some(jail, count):
    vms = [jail.start("stay") for _ in range(count)]
    for vm, _ in vms:
        assert jail.read(vm) == "ok"
    return vms


def test_n01_akirad_killed(base):
    j = Jail(base=base)
    vms = start_some(j, 20)
    j.process.kill()
    j.process.wait()
    until(lambda: not alive(j.launcher) and not any(alive(pid) for _, pid in vms), 5, "all is gone with akirad")
    assert not j.cgroups()
    again = Jail(base=base)
    assert again.attack("fds")[0] == "ok 0 1 2 3"
    again.close()


def test_n02_vm_killed_is_told(jail):
    for _ in range(20):
        vm, pid = jail.start("stay")
        os.kill(pid, signal.SIGKILL)
        assert jail.wait(vm, 5000) == (-1, 9, 0)
    assert not jail.cgroups() and not processes_of_vms()


def test_n02_launcher_killed(base):
    j = Jail(base=base)
    vms = start_some(j, 10)
    os.kill(j.launcher, signal.SIGKILL)
    until(lambda: not any(alive(pid) for _, pid in vms), 5, "the VMs die with the launcher")
    assert j.command("gone") == "ok yes"
    assert j.command("wait", vms[0][0], 5000) == "eof"
    with pytest.raises(Refused) as refused:
        j.start("stay")
    assert refused.value.code == errno.EPIPE
    j.process.kill()
    j.process.wait()
    left = len({os.path.basename(g[:-1]) for g in j.cgroups()})
    again = Jail(base=base, spawn=False)
    assert left > 0 and again.spawn() == left
    assert not again.cgroups()
    again.close()


def test_n02_launcher_killed_at_any_moment_of_a_start(base):
    """With N18: the child may be anywhere between clone and exec."""
    random.seed(7)
    for round_ in range(25):
        j = Jail(base=base)
        j.send("start", "vm1", "-", 4, 64 * MIB, 1 << 20, 1, "-", "stay")
        began = time.perf_counter()
        delay = random.uniform(0, 0.006)
        while time.perf_counter() - began < delay:
            pass
        os.kill(j.launcher, signal.SIGKILL)
        j.process.stdin.close()
        j.process.wait(10)
        until(lambda: not processes_of_vms(), 5, f"round {round_}: no VM process is left")
    j = Jail(base=base)
    assert not j.cgroups()
    assert j.attack("fds")[0] == "ok 0 1 2 3"
    j.close()


def test_n12_sigterm(base):
    j = Jail(base=base)
    vms = start_some(j, 5)
    os.kill(j.launcher, signal.SIGTERM)
    until(lambda: not alive(j.launcher), 5)
    assert not any(alive(pid) for _, pid in vms) and not j.cgroups()
    for vm, _ in vms:
        assert j.wait(vm) == (-1, 9, 0), "each VM's end was told"
    j.process.kill()
    j.process.wait()


def test_n14_second_launcher_on_the_same_run_dir(base):
    with Jail(base=base) as j:
        second = Raw(base, configure=False)
        code, text = second.configure()
        assert code == errno.EBUSY and "another" in text
        second.close()
        assert j.attack("fds")[0] == "ok 0 1 2 3"


def test_n14_several_installations_side_by_side():
    with Jail() as one, Jail() as two:
        a, _ = one.start("stay", vm="same")
        b, pid = two.start("stay", vm="same")
        one.close()
        assert alive(pid) and two.command("stats", "same").startswith("ok")
        assert two.tag() != one.tag() if os.path.exists(one.base) else True


def test_n09_uids_run_out():
    with Jail(uids=3) as j:
        vms = start_some(j, 3)
        with pytest.raises(Refused) as refused:
            j.start("stay")
        assert refused.value.code == errno.EUSERS
        j.command("kill", vms[0][0])
        j.wait(vms[0][0])
        vm, _ = j.start("stay")
        assert j.read(vm) == "ok"


def test_n18_id_in_use_and_free_again(jail):
    vm, _ = jail.start("stay")
    with pytest.raises(Refused) as refused:
        jail.start("stay", vm=vm)
    assert refused.value.code == errno.EEXIST
    jail.command("kill", vm)
    jail.wait(vm)
    assert jail.command("kill", vm) == "ok", "unknown is no error"
    jail.start("stay", vm=vm)
    jail.command("kill", vm)
    jail.wait(vm)


def test_n18_start_and_kill_leave_nothing(jail):
    before = len(os.listdir(f"/proc/{jail.launcher}/fd"))
    for _ in range(50):
        vm, _ = jail.start("stay")
        jail.command("kill", vm)
        jail.wait(vm)
    until(lambda: len(os.listdir(f"/proc/{jail.launcher}/fd")) <= before, 5, "no descriptor is left behind")
    assert not jail.cgroups() and not processes_of_vms()


def test_n18_failed_starts_leave_nothing(jail):
    before = len(os.listdir(f"/proc/{jail.launcher}/fd"))
    for _ in range(20):
        with pytest.raises(Refused):
            jail.start("stay", files=f"w:x:{jail.file('roots', owner=0)}")
    until(lambda: len(os.listdir(f"/proc/{jail.launcher}/fd")) <= before, 5, "no descriptor is left behind")
    assert not jail.cgroups() and not processes_of_vms()


def test_limits_can_change(jail):
    vm, _ = jail.start("cpu", 20000, quarters=1, memory=64 * MIB)
    assert jail.command("limits", vm, 8, 128 * MIB) == "ok"
    assert jail.command("limits", vm, 2, 32 * MIB) == "ok"
    with pytest.raises(Refused) as refused:
        jail.command("limits", "nobody", 2, 32 * MIB)
    assert refused.value.code == errno.ENOENT
    jail.command("kill", vm)
    jail.wait(vm)


def test_works_after_akirad_dropped_root():
    with Jail() as j:
        j.command("drop", 64100, 64100)
        rw = j.file("own")
        assert j.attack("write", "/vm/own", files=f"w:own:{rw}")[0] == "ok 1"
        st = os.stat(rw)
        assert (st.st_uid, st.st_gid, st.st_mode & 0o777) == (64100, 64100, 0o660)


@pytest.mark.skipif(not FAULTS, reason="needs -Dfaults=true")
@pytest.mark.parametrize("place", ["launch_cgroup", "launch_files", "launch_run", "jail_mounts", "jail_privileges"])
def test_n03_a_step_of_the_start_fails(place):
    with Jail(env={"AKIRA_FAULT": f"{place}=fail"}) as j:
        rw = j.file("rw")
        before = len(os.listdir(f"/proc/{j.launcher}/fd"))
        with pytest.raises(Refused) as refused:
            j.start("stay", files=f"w:rw:{rw}")
        assert refused.value.code == errno.EIO and place in refused.value.text
        assert not processes_of_vms() and not j.cgroups()
        assert len(os.listdir(f"/proc/{j.launcher}/fd")) == before
        assert os.stat(rw).st_uid == 64100, "the file is akirad's again"


@pytest.mark.skipif(not FAULTS, reason="needs -Dfaults=true")
@pytest.mark.parametrize("place", ["launch_cgroup", "launch_files", "launch_run"])
def test_n03_the_launcher_dies_in_a_step(base, place):
    j = Jail(base=base, env={"AKIRA_FAULT": f"{place}=kill"})
    with pytest.raises(Refused) as refused:
        j.start("stay")
    assert refused.value.code == errno.EPIPE
    until(lambda: not processes_of_vms(), 5)
    j.process.kill()
    j.process.wait()
    with Jail(base=base, spawn=False) as again:
        assert again.spawn() == 1
        assert again.attack("fds")[0] == "ok 0 1 2 3" and not again.cgroups()


def test_n18_the_child_is_killed_while_it_prepares(jail):
    """From outside, at any moment from clone to exec and after: the start fails or the VM's end is told."""
    random.seed(18)
    early = late = 0
    children = f"/proc/{jail.launcher}/task/{jail.launcher}/children"
    for i in range(60):
        vm = f"early{i}"
        jail.send("start", vm, "-", 4, 64 * MIB, 1 << 20, 1, "-", "stay")
        pid = until(lambda: open(children).read().split(), 5, "a child is there")[0]
        began, delay = time.perf_counter(), random.uniform(0, 0.002)
        while time.perf_counter() - began < delay:
            pass
        os.kill(int(pid), signal.SIGKILL)
        try:
            jail.answer()
            assert jail.wait(vm) == (-1, 9, 0)
            late += 1
        except Refused:
            early += 1
    assert not processes_of_vms() and not jail.cgroups(), (early, late)
    assert jail.attack("fds")[0] == "ok 0 1 2 3"


def cgroup2():
    return next((line.split()[1] for line in open("/proc/mounts") if line.split()[2] == "cgroup2"), None)


@pytest.mark.skipif(not cgroup2(), reason="no cgroup2 mount")
def test_cgroup_v2_birth_kill_and_sweep(base):
    r = subprocess.run([os.environ["JAIL_V2"], cgroup2(), ATTACKER, base], capture_output=True, text=True, timeout=30)
    assert r.stdout == "ok\n", r.stderr
    assert not os.path.exists(cgroup2() + "/akira-v2test")
