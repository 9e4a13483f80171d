"""The limits of cgroup v2, as akira-launch sets them, effective: with the driver and the attacker of tests/attack/jail."""

import errno
import os
import signal
import subprocess
import sys
import time

PROGRAMS, TESTS = "/payload/jail", "/payload/tests"
os.environ.update(AKIRA_LAUNCH=f"{PROGRAMS}/akira-launch", JAIL_DRIVER=f"{PROGRAMS}/jail-driver", JAIL_V2=f"{PROGRAMS}/jail-v2",
                  JAIL_ATTACKER=f"{PROGRAMS}/jail-attacker", JAIL_ATTACKER_DYNAMIC=f"{PROGRAMS}/jail-attacker-dynamic",
                  JAIL_FAULTS="1", PYTHONDONTWRITEBYTECODE="1", ASAN_OPTIONS="detect_leaks=0")
sys.path.insert(0, TESTS)
from jail import MIB, Jail, until  # noqa: E402  pylint: disable=wrong-import-position


def group_of(pid):
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
        return "/sys/fs/cgroup" + file.read().strip().split("::")[1]


def value(group, name, key=None):
    with open(f"{group}/{name}", encoding="ascii") as file:
        text = file.read()
    if key is None:
        return text.strip()
    return next((int(line.split()[1]) for line in text.splitlines() if line.split()[0] == key), 0)


def intruder(group, code):
    """A process of root's in the VM's group: without any of the jail's other layers, so that the group alone holds it."""
    enter = lambda: open(f"{group}/cgroup.procs", "w", encoding="ascii").write("0")  # pylint: disable=consider-using-with
    return subprocess.Popen([sys.executable, "-c", code], preexec_fn=enter, stdout=subprocess.PIPE, text=True)


def standing(jail, *args, **options):
    vm, pid = jail.start(*(args or ("stay",)), **options)
    if not args:
        assert jail.read(vm, ms=20000) == "ok"
    return vm, group_of(pid)


def end(jail, vm):
    jail.command("kill", vm)
    return jail.wait(vm, 20000)


def v2_group_is_delegated_and_limited():
    with Jail() as jail:
        vm, group = standing(jail, quarters=6, memory=64 * MIB)
        assert group.startswith("/sys/fs/cgroup/system.slice/system-test.service/akira-"), group
        got = {n: value(group, n) for n in ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max")}
        assert got == {"memory.max": str(64 * MIB), "memory.swap.max": "0", "memory.oom.group": "1", "cpu.max": "600000 400000",
                       "pids.max": "192"}, got
        assert jail.command("limits", vm, 2, 32 * MIB) == "ok"
        assert value(group, "memory.max") == str(32 * MIB) and value(group, "cpu.max") == "200000 400000"
        assert end(jail, vm) == (-1, 9, 0) and not os.path.exists(group)


def v2_memory_ends_the_whole_group():
    with Jail() as jail:
        other, _ = standing(jail)
        vm, group = standing(jail, memory=48 * MIB)
        companion = intruder(group, "import time; print('in', flush=True); time.sleep(600)")
        assert companion.stdout.readline() == "in\n"
        hog = intruder(group, "b = []\nwhile True: b.append(bytearray(1 << 20))")
        assert jail.wait(vm, 60000) == (-1, 9, 1), "the reason of the VM's end is memory"
        assert hog.wait(20) == -signal.SIGKILL and companion.wait(20) == -signal.SIGKILL
        assert jail.command("stats", other).startswith("ok") and end(jail, other) == (-1, 9, 0)
        assert jail.attack("memory", 200 * MIB, memory=48 * MIB) == ("", -1, 9, 1)


def v2_pids_stop_a_fork_bomb():
    with Jail() as jail:
        vm, group = standing(jail)
        bomb = intruder(group, "import os, time\nn = 0\ntry:\n while True:\n  if not os.fork(): time.sleep(600)\n  n += 1\n"
                        "except OSError as e: print(n, e.errno, flush=True)\ntime.sleep(600)")
        count, error = bomb.stdout.readline().split()
        assert int(error) == errno.EAGAIN and int(count) < 192
        assert value(group, "pids.events", "max") > 0 and int(value(group, "pids.current")) <= 192
        assert end(jail, vm)[1] == 9
        assert bomb.wait(20) == -signal.SIGKILL, "cgroup.kill reaches what is not in the VM's pid namespace"


def v2_cpu_is_throttled():
    with Jail() as jail:
        vm, group = standing(jail, "cpu", 120000, quarters=1)
        used = lambda: value(group, "cpu.stat", "usage_usec")
        until(lambda: value(group, "cpu.stat", "nr_throttled") >= 2, 60, "the quota holds it")
        first, began = used(), time.monotonic()
        until(lambda: time.monotonic() - began > 4, 30)
        share = (used() - first) / ((time.monotonic() - began) * 1e6)
        end(jail, vm)
        assert share < 0.4, f"{share:.2f} of a CPU with a quarter"


def v2_kill_ends_all_at_once():
    out = subprocess.run([os.environ["JAIL_V2"], "/sys/fs/cgroup", os.environ["JAIL_ATTACKER"], "/run"], capture_output=True,
                         text=True, timeout=120, check=False)
    assert out.stdout == "ok\n", out.stderr


def v2_launcher_killed_and_the_next_sweeps():
    with Jail() as jail:
        vm, group = standing(jail)
        os.kill(jail.launcher, signal.SIGKILL)
        jail.process.kill()
        jail.process.wait()
        assert os.path.exists(group), vm
        again = Jail(base=jail.base, spawn=False)
        assert again.spawn() == 1 and not os.path.exists(group)
        again.close()


CHECKS = [v2_group_is_delegated_and_limited, v2_memory_ends_the_whole_group, v2_pids_stop_a_fork_bomb, v2_cpu_is_throttled,
          v2_kill_ends_all_at_once, v2_launcher_killed_and_the_next_sweeps]
