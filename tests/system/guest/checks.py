"""Runs in the guest: the package from its installation to its purge, the service under systemd, cgroup v2.

Each check is a function, run in the order of this file; one that fails does not stop the others. Results go, a line
each, to the port that tests/system/run reads.
"""

import glob
import json
import os
import re
import subprocess
import sys
import time
import traceback
import urllib.request

import v2

PAYLOAD = "/payload"
UNIT = "akirad.service"
SLICE = f"/sys/fs/cgroup/system.slice/{UNIT}"
CHECKS = []
PORT = open("/dev/virtio-ports/results", "w", encoding="utf-8")


def check(function):
    CHECKS.append(function)
    return function


def tell(kind, text):
    """`text` begins with the check's name."""
    PORT.write(f"{kind} {' | '.join(str(text).strip().splitlines())[:1500]}\n")
    PORT.flush()


class Skipped(Exception):
    pass


def run(*command, ok=(0,), limit=120):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=limit, check=False)
    assert ok is None or done.returncode in ok, f"{' '.join(command)}: {done.returncode}: {done.stdout[-800:]}"
    return done.stdout


def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


# ---- the service ----


def shown(name):
    return run("systemctl", "show", "-P", name, UNIT).strip()


def restarts():
    return int(shown("NRestarts"))


def healthy():
    try:
        with urllib.request.urlopen("http://127.0.0.1:8787/healthz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def await_healthy():
    until(healthy, 60, "healthz: " + run("journalctl", "-u", UNIT, "-n", "15", "-o", "cat", ok=None)[-900:])


def pids_of(names=("akirad", "akira-launch", "qemu-system")):
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            if os.path.basename(os.readlink(path + "/exe")).startswith(names):
                found.append(int(path[6:]))
        except OSError:
            continue
    return found


def traces():
    """What a service that has ended may not leave on the host."""
    left = [f"process {pid}" for pid in pids_of()]
    left += [f"cgroup {d}" for d in glob.glob("/sys/fs/cgroup/**/akira*", recursive=True) if os.path.isdir(d)]
    left += [f"table {line}" for line in run("nft", "list", "tables").splitlines() if "akira" in line]
    left += [f"link {link['ifname']}" for link in json.loads(run("ip", "-j", "link")) if re.match("ak", link["ifname"])]
    left += [f"namespace {name}" for name in json.loads(run("lsns", "-J", "-t", "net") or "{}").get("namespaces", [])
             if name["pid"] != 1 and name["nprocs"] and "akira" in str(name["command"])]
    left += [f"mount {line.split()[1]}" for line in read("/proc/mounts").splitlines() if "akira" in line.split()[1]
             and line.split()[1] != "/var/lib/akira"]
    left += [f"namespace {path}" for path in glob.glob("/run/netns/*")]
    return left


# ---- the machine ----


@check
def machine_is_a_debian_with_systemd_and_cgroup_v2():
    state = run("systemctl", "is-system-running", ok=None).strip()
    failed = run("systemctl", "--failed", "--plain", "--no-legend")
    assert state in ("running", "starting") and not failed, (state, failed)
    have = read("/sys/fs/cgroup/cgroup.controllers").split()
    assert {"cpu", "io", "memory", "pids"} <= set(have), have


@check
def package_installs():
    """/var/lib/akira is a file system of its own, on a partition."""
    subprocess.run(["sfdisk", "-q", "/dev/vdc"], input="start=2048\n", text=True, check=True)
    run("udevadm", "settle")
    run("mkfs.ext4", "-q", "/dev/vdc1")
    os.makedirs("/var/lib/akira")
    run("mount", "/dev/vdc1", "/var/lib/akira")
    out = run("dpkg", "-i", f"{PAYLOAD}/akira-1.deb")
    assert "warning" not in out.lower() and "error" not in out.lower(), out
    assert run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "akira").startswith("ii")


@check
def package_made_user_and_folders():
    uid, gid = int(run("id", "-u", "akira")), int(run("id", "-g", "akira"))
    for path, mode, owner in (("/var/lib/akira", 0o700, (uid, gid)), ("/var/log/akira", 0o750, (uid, gid)),
                              ("/var/cache/akira", 0o755, (0, 0)), ("/run/akira", 0o755, (0, 0))):
        st = os.stat(path)
        assert (st.st_mode & 0o7777, (st.st_uid, st.st_gid)) == (mode, owner), (path, oct(st.st_mode), st.st_uid)
    assert uid < 1000 and run("getent", "passwd", "akira").strip().endswith("/usr/sbin/nologin")
    run("systemd-sysusers", "akira.conf")
    run("systemd-tmpfiles", "--create", "akira.conf")
    assert int(run("id", "-u", "akira")) == uid


@check
def package_does_not_start_the_service():
    assert run("systemctl", "is-enabled", UNIT, ok=None).strip() == "disabled"
    assert run("systemctl", "is-active", UNIT, ok=None).strip() == "inactive"


@check
def package_lists_an_image():
    """Put where akira-setup puts it; that itself needs a network."""
    run("cp", "-r", "--no-preserve=ownership", f"{PAYLOAD}/cache/.", "/var/cache/akira/")
    assert "tiny" in run("akira", "image", "list")


@check
def unit_verifies():
    out = run("systemd-analyze", "verify", "--man=no", f"/usr/lib/systemd/system/{UNIT}")
    assert UNIT not in out, out


@check
def unit_exposure_is_bounded():
    out = run("systemd-analyze", "security", "--no-pager", UNIT)
    level = float(re.search(r"exposure level for \S+: ([\d.]+)", out).group(1))
    assert level <= 5.5, f"{level} of 10"


@check
def modules_are_loaded_at_boot():
    run("systemctl", "restart", "systemd-modules-load.service")
    assert os.path.exists("/sys/module/tun") and os.path.exists("/sys/module/nf_tables")


@check
def doctor_sees_this_host():
    out = run("akira", "doctor", ok=None)
    assert re.search(r"ok +cgroup +version 2: cpu, memory, pids", out), out
    assert re.search(r"warn +default-route +none", out), out


@check
def service_starts():
    if os.path.exists("/dev/kvm"):  # QEMU's own processor virtualises, and two emulators in one another are slow
        with open("/etc/akira/akirad.conf", "a", encoding="ascii") as file:
            file.write("[engine]\nacceleration = kvm\n")
    run("systemctl", "enable", "-q", UNIT)
    run("systemctl", "start", UNIT)
    assert run("systemctl", "is-active", UNIT).strip() == "active"
    await_healthy()


@check
def service_drops_root_and_keeps_its_launcher():
    main, uid = int(shown("MainPID")), run("id", "-u", "akira").strip()
    assert set(re.search(r"^Uid:\s+(.*)$", read(f"/proc/{main}/status"), re.M).group(1).split()) == {uid}
    launchers = pids_of(("akira-launch",))
    assert len(launchers) == 1
    assert re.search(r"^Uid:\s+0\s", read(f"/proc/{launchers[0]}/status"), re.M)


@check
def cgroup_lies_in_the_delegated_subtree():
    """No process of the service where its VMs' groups are limited, and nothing of ours outside of its own group."""
    for pid in pids_of(("akirad", "akira-launch")):
        assert read(f"/proc/{pid}/cgroup").strip() == f"0::/system.slice/{UNIT}/supervisor"
    assert {"cpu", "io", "memory", "pids"} <= set(read(f"{SLICE}/cgroup.subtree_control").split())
    groups = glob.glob(f"{SLICE}/akira-*")
    assert len(groups) == 1 and {"cpu", "io", "memory", "pids"} <= set(read(f"{groups[0]}/cgroup.subtree_control").split())
    assert not glob.glob("/sys/fs/cgroup/akira-*")


@check
def credentials_are_made():
    st = os.stat("/var/lib/akira/credentials")
    assert st.st_mode & 0o077 == 0
    assert "default" in run("akira", "org", "list")


@check
def doctor_sees_the_service():
    out = run("akira", "doctor", ok=None)
    assert "FAIL" not in out and re.search(r"ok +akirad +.*\"status\":\"ok\"", out), out


# ---- a sandbox of the installed service ----


@check
def sandbox_runs_a_command():
    began = time.monotonic()
    run("akira", "sandbox", "create", "--name", "one", "-m", "256m", "--cpus", "1", "--image", "tiny", limit=280)
    assert run("akira", "sandbox", "exec", "one", "echo", "hello", limit=200).strip() == "hello", time.monotonic() - began


@check
def sandbox_is_held_by_its_own_group():
    vm = pids_of(("qemu-system",))
    assert vm, "no VM process"
    group = "/sys/fs/cgroup" + read(f"/proc/{vm[0]}/cgroup").strip().split("::")[1]
    assert group.startswith(f"{SLICE}/akira-"), group
    disk = os.stat("/dev/vdc").st_rdev
    limits = {name: read(f"{group}/{name}").strip() for name in ("memory.max", "cpu.max", "pids.max", "io.max")}
    assert limits["io.max"].splitlines()[-1] == f"{os.major(disk)}:{os.minor(disk)} rbps=419430400 wbps=419430400 riops=20000 wiops=20000", limits
    if os.path.exists("/dev/kvm"):
        assert "/dev/kvm" in [os.readlink(fd) for fd in glob.glob(f"/proc/{vm[0]}/fd/*")]
    assert "max" not in limits["memory.max"] + limits["pids.max"] and not limits["cpu.max"].startswith("max")
    out = run("akira", "doctor", "--jail", str(vm[0]), ok=None)
    assert "FAIL" not in out and re.search(r"ok +io-limit", out), out


@check
def reload_keeps_the_process():
    before = shown("MainPID"), restarts()
    run("systemctl", "reload", UNIT)
    await_healthy()
    assert (shown("MainPID"), restarts()) == before


@check
def restart_gives_a_new_process_and_keeps_the_sandbox():
    run("akira", "sandbox", "exec", "one", "-c", "echo kept >/tmp/file", limit=200)
    before = shown("MainPID")
    run("systemctl", "restart", UNIT)
    await_healthy()
    assert shown("MainPID") != before and len(pids_of(("akirad", "akira-launch"))) == 2
    assert run("akira", "sandbox", "exec", "one", "cat", "/tmp/file", limit=200).strip() == "kept"


@check
def memory_of_one_vm_is_not_the_end_of_the_service():
    """The VM's group runs out: systemd sees that in the service's own counters, and must let it be."""
    before, count, vm = shown("MainPID"), restarts(), pids_of(("qemu-system",))[0]
    one = re.search(r"sbx_\w+", run("akira", "sandbox", "list")).group()
    group = "/sys/fs/cgroup" + read(f"/proc/{vm}/cgroup").strip().split("::")[1]
    v2.intruder(group, "b = []\nwhile True: b.append(bytearray(1 << 20))").wait(60)
    until(lambda: not os.path.exists(group), 60, "the VM is gone with its group")
    until(lambda: re.search(r"reason +oom", run("akira", "sandbox", "get", one, ok=None)), 30, "the reason is told")
    assert shown("MainPID") == before and shown("ActiveState") == "active" and restarts() == count


@check
def killed_daemon_is_started_again():
    before, count = shown("MainPID"), restarts()
    os.kill(int(before), 9)
    until(lambda: restarts() > count and shown("MainPID") not in ("0", before), 60, "systemd starts it again")
    await_healthy()
    assert len(pids_of(("akirad", "akira-launch"))) == 2


@check
def killed_launcher_takes_all_along_and_both_come_back():
    count = restarts()
    os.kill(pids_of(("akira-launch",))[0], 9)
    until(lambda: restarts() > count, 60, "akirad ended and was started again")
    await_healthy()
    assert len(pids_of(("akirad", "akira-launch"))) == 2


@check
def stop_leaves_nothing():
    """A VM that is ready in the pool included, if it came to that."""
    run("systemctl", "stop", UNIT)
    assert run("systemctl", "is-active", UNIT, ok=None).strip() == "inactive"
    assert shown("Result") == "success"
    assert not traces(), traces()


@check
def stop_after_a_crash_leaves_nothing():
    run("systemctl", "reset-failed", UNIT)
    run("systemctl", "start", UNIT)
    await_healthy()
    os.kill(int(shown("MainPID")), 9)
    until(lambda: restarts() > 0 and shown("ActiveState") == "active", 60, "it is back")
    await_healthy()
    run("systemctl", "stop", UNIT)
    assert not traces(), traces()


# ---- cgroup v2 ----

CHECKS.extend(v2.CHECKS)


@check
def v2_attacks_of_the_jail():
    """The attack suite itself, those tests that are about limits, descriptors and ends; each test counts."""
    names = "h08_state or n12 or works_after or h14 and (disk or memory) and not cgroup[r]"
    out = run("systemd-run", "--pipe", "--wait", "--quiet", *(f"--setenv={k}={v}" for k, v in os.environ.items()
              if k.startswith(("JAIL_", "AKIRA_", "ASAN_", "PYTHON"))), sys.executable, "-m", "pytest", "-q", "-p",
              "no:cacheprovider", "-rA", "--tb=short", "-k", names, f"{PAYLOAD}/tests", limit=300, ok=None)
    print(out, file=sys.stderr, flush=True)
    results = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED)\S* (?:\S*/)?(\S+::\S+|.*)$", out, re.M)
    assert results, out[-600:]
    for word, name in results:
        tell({"PASSED": "pass", "SKIPPED": "skip"}.get(word, "fail"), name.split("::")[-1])


# ---- the end of the package ----


@check
def upgrade_restarts_what_ran_and_keeps_what_was_set():
    run("systemctl", "reset-failed", UNIT)
    run("systemctl", "start", UNIT)
    await_healthy()
    before, key = shown("MainPID"), read("/var/lib/akira/credentials")
    with open("/etc/akira/akirad.conf", "a", encoding="ascii") as file:
        file.write("# changed by the operator\n")
    run("dpkg", "-i", f"{PAYLOAD}/akira-2.deb")
    await_healthy()
    assert run("dpkg-query", "-W", "-f", "${Version}", "akira").endswith("+next")
    assert shown("MainPID") not in ("0", before) and run("systemctl", "is-enabled", UNIT).strip() == "enabled"
    assert read("/var/lib/akira/credentials") == key and read("/etc/akira/akirad.conf").endswith("by the operator\n")
    run("akira", "org", "list")


@check
def removal_stops_and_keeps_data():
    run("dpkg", "-r", "akira")
    assert not traces(), traces()
    assert not os.path.exists("/usr/sbin/akirad") and not os.path.exists(f"/usr/lib/systemd/system/{UNIT}")
    assert os.path.exists("/var/lib/akira/credentials") and os.path.exists("/etc/akira/akirad.conf")
    assert not os.path.lexists(f"/etc/systemd/system/multi-user.target.wants/{UNIT}")


@check
def purge_leaves_the_user_alone():
    run("dpkg", "-P", "akira")
    run("umount", "/var/lib/akira")
    found = [p for p in run("find", "/", "-xdev", "-name", "*akira*", "-not", "-path", "/proc/*").split()
             if not p.startswith(("/payload", "/tmp", "/var/lib/systemd", "/var/log/journal"))]
    assert found in ([], ["/var/lib/akira"]), found
    assert not os.path.exists("/var/lib/akira") or not os.listdir("/var/lib/akira")
    run("getent", "passwd", "akira")


def main():
    only = read(f"{PAYLOAD}/only")
    for function in CHECKS:
        if only and not re.search(only, function.__name__):
            continue
        name, began = function.__name__, time.monotonic()
        try:
            function()
            tell("pass", f"{name} ({time.monotonic() - began:.1f} s)")
        except Skipped as why:
            tell("skip", f"{name}: {why}")
        except Exception as error:  # pylint: disable=broad-exception-caught
            print(traceback.format_exc(), file=sys.stderr, flush=True)
            where = traceback.extract_tb(error.__traceback__)[-1]
            tell("fail", f"{name}: {type(error).__name__}: {error or where.line}")
            print(run("journalctl", "-u", UNIT, "-n", "80", "-g", "^(?!.*http_request)", "-o", "cat", "--no-pager", ok=None), file=sys.stderr, flush=True)
    tell("end", "of the checks")


main()
