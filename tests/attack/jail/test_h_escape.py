"""Group H: the VM process is in the attacker's hands. Each test says which line of the list it is."""
import errno
import os
import re
import time

import pytest

from jail import DYNAMIC, MIB, SIGSEGV, SIGSYS, UIDS, USER, Jail, until

KILLED = ("", -1, SIGSYS, 0)


def blocked(result, *errors):
    """Did seccomp kill it, or did it get one of these errors?"""
    text, code, signal, _ = result
    if signal == SIGSYS:
        return True
    return text.startswith("no ") and (not errors or int(text.split()[1]) in errors)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/shadow", "/proc/self/status", "/proc/1/environ", "/sys/kernel", "/dev/mem",
                                  "/dev/vda", "/dev/kvm", "/dev/net/tun", "/dev/fuse", "../../../../etc/passwd",
                                  "/vm/../../etc/passwd", "/root/.ssh", "/var/run", "/tmp"])
def test_h01_open_outside(jail, path):
    text, code, signal, _ = jail.attack("open", path, os.O_RDONLY)
    assert text == f"no {errno.ENOENT}" and signal == 0


def test_h01_root_is_tiny_tree(jail):
    for root in ("", "/..", "/../../..", "/vm/../.."):
        assert jail.attack("root", root or "/")[0] == "ok 0"


@pytest.mark.parametrize("path", ["/x", "/vm/x", "/dev/x", "/lib/x", "/usr/x"])
def test_h01_nothing_can_be_made(jail, path):
    assert blocked(jail.attack("make", path))


def test_h01_device_nodes_are_the_two(jail):
    assert jail.attack("open", "/dev/null", os.O_RDWR)[0].startswith("ok")
    assert jail.attack("open", "/dev/urandom", os.O_RDONLY)[0].startswith("ok")


def test_h01_own_files_as_granted(jail):
    ro = jail.file("ro", mode=0o644, data=b"base")
    rw = jail.file("rw")
    files = f"r:ro:{ro},w:rw:{rw}"
    assert jail.attack("write", "/vm/rw", files=files)[0] == "ok 1"
    assert blocked(jail.attack("write", "/vm/ro", files=files), errno.EROFS, errno.EACCES)
    assert blocked(jail.attack("remount", "/vm/ro", files=files))
    assert open(ro, "rb").read(4) == b"base" and open(rw, "rb").read(1) == b"x"
    assert os.stat(rw).st_uid == USER, "given back at the end"


# H02 is tests/unit/launch/test_filter.c, which tries each number 0..1023 under both stages' filters; here: that the
# filter which a real VM has is that one, and the other ways into the kernel.
@pytest.mark.parametrize("number", [0x40000000 + 1, 0x40000000 + 39, 500, 1023])
def test_h02_x32_and_unknown_numbers(jail, number):
    assert jail.attack("call", number) == KILLED


def test_h02_int80(jail):
    assert jail.attack("int80", 20) == KILLED


@pytest.mark.parametrize("how", ["map", "protect"])
def test_h03_executable_memory_second_stage(stage2, how):
    assert stage2.attack("--run", "execmem", how)[0] == f"no {errno.EPERM}"


def test_h03_memfd_exec_personality(jail, stage2):
    assert blocked(jail.attack("memfd"), errno.ENOSYS)
    assert jail.attack("call", 135, 0x0040000) == KILLED           # personality(ADDR_NO_RANDOMIZE)
    assert stage2.attack("--run", "execve", "/lib64/ld-linux-x86-64.so.2") == KILLED
    assert blocked(jail.attack("execve", "/bin/sh"), errno.ENOENT, errno.EACCES)
    rw = jail.file("prog", data=open("/bin/true", "rb").read(), mode=0o755)
    assert blocked(jail.attack("execve", "/vm/prog", files=f"w:prog:{rw}"), errno.EACCES)


H04 = {"setuid": ["setuid"], "capset": ["call", 126], "unshare": ["call", 272, 0x10000000], "setns": ["call", 308, 3, 0],
       "mount": ["mount"], "chroot": ["chroot"], "pivot_root": ["call", 155], "ptrace": ["ptrace", 1], "traceme": ["call", 101, 0],
       "process_vm_readv": ["readmem", 1], "kcmp": ["call", 312, 1, 1, 0, 0, 0], "bpf": ["call", 321, 5],
       "perf": ["call", 298], "userfaultfd": ["call", 323, 1], "keyctl": ["call", 250, 0, -4, 0], "add_key": ["call", 248],
       "io_uring": ["call", 425, 1, 0], "init_module": ["call", 175], "kexec": ["call", 246], "reboot": ["call", 169],
       "swapon": ["call", 167], "iopl": ["call", 172, 3], "modify_ldt": ["call", 154, 0], "clone_newuser": ["call", 56, 0x10000000],
       "clone3": ["call", 435], "fork": ["call", 57], "vfork": ["call", 58], "clone_process": ["call", 56, 17],
       "open_by_handle_at": ["call", 304, -100], "name_to_handle_at": ["call", 303], "mknod": ["call", 133],
       "move_mount": ["call", 429], "open_tree": ["call", 428, -100], "fsopen": ["call", 430], "pidfd_open": ["call", 434, 1],
       "pidfd_getfd": ["call", 438, 3, 0], "quotactl": ["call", 179], "syslog": ["call", 103, 3], "setrlimit": ["call", 160, 0],
       "splice": ["call", 275], "vmsplice": ["call", 278], "tee": ["call", 276], "landlock": ["call", 444],
       "process_madvise": ["call", 440], "memfd_secret": ["call", 447]}


@pytest.mark.parametrize("name", H04)
def test_h04_privileged_calls(jail, name):
    assert blocked(jail.attack(*H04[name]), errno.EPERM, errno.ENOSYS)


@pytest.mark.parametrize("family,kind,protocol", [(2, 1, 0), (2, 2, 0), (2, 3, 1), (10, 1, 0), (16, 3, 0), (16, 3, 12),
                                                  (17, 3, 0), (38, 5, 0), (40, 1, 0), (1, 1, 0), (44, 3, 0)])
def test_h05_sockets(jail, family, kind, protocol):
    assert jail.attack("socket", family, kind, protocol) == KILLED


def test_h06_other_vms(jail):
    victim, pid = jail.start("stay")
    assert jail.read(victim) == "ok"
    assert blocked(jail.attack("kill", pid), errno.EPERM, errno.ESRCH)
    assert blocked(jail.attack("kill", -1), errno.EPERM)
    assert blocked(jail.attack("ptrace", pid))
    assert blocked(jail.attack("readmem", pid))
    assert jail.attack("processes")[0] == "ok 0"
    jail.command("kill", victim)
    assert jail.wait(victim)[1] == 9


def test_h06_uids_are_unique_and_rest(jail):
    names = [jail.start("stay") for _ in range(5)]
    uids = [os.stat(f"/proc/{pid}").st_uid or status_ids(pid)[0] for _, pid in names]
    uids = [status_ids(pid)[0] for _, pid in names]
    assert len(set(uids)) == 5 and all(UIDS <= u < UIDS + 40 for u in uids)
    for vm, _ in names:
        jail.command("kill", vm)
        jail.wait(vm)
    vm, pid = jail.start("stay")
    assert status_ids(pid)[0] not in uids, "the uid that has rested longest comes next"
    jail.command("kill", vm)
    jail.wait(vm)


def status(pid, task=None):
    path = f"/proc/{pid}/task/{task}/status" if task else f"/proc/{pid}/status"
    return dict(line.split(":", 1) for line in open(path).read().splitlines())


def status_ids(pid):
    return [int(n) for n in status(pid)["Uid"].split()]


def test_h06_not_dumpable(jail, stage2):
    assert jail.attack("dumpable")[0] == "ok 0", "because the program cannot be read"
    assert stage2.attack("dumpable")[0] == "ok 0"


@pytest.mark.parametrize("stages,args", [(2, ["stay", "3"]), (4, ["--run", "stay", "3"])])
def test_h08_state_of_every_thread(stage2, stages, args):
    vm, pid = stage2.start(*args)
    assert stage2.read(vm) == "ok"
    tasks = os.listdir(f"/proc/{pid}/task")
    assert len(tasks) == 4
    for task in tasks:
        s = status(pid, task)
        uids, gids = s["Uid"].split(), s["Gid"].split()
        assert len(set(uids)) == 1 and UIDS <= int(uids[0]) < UIDS + 40 and gids == uids
        assert s["Groups"].strip() == "" and s["NoNewPrivs"].strip() == "1"
        assert s["Seccomp"].strip() == "2" and s["Seccomp_filters"].strip() == str(stages)
        assert all(int(s[c], 16) == 0 for c in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
    for ns in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{ns}") != os.readlink(f"/proc/self/ns/{ns}")
    assert open(f"/proc/{pid}/oom_score_adj").read() == "500\n", "VMs go before akirad"
    mounts = [line.split()[1] for line in open(f"/proc/{pid}/mounts")]
    assert mounts == ["/", "/vm"]
    assert sorted(int(n) for n in os.listdir(f"/proc/{pid}/fd")) == [0, 1, 2, 3]
    stage2.command("kill", vm)
    stage2.wait(vm)


def test_h08_second_stage_reaches_threads_that_run(stage2):
    """TSYNC: a call that the second stage forbids is forbidden in a thread that is older than the filter, too."""
    vm, pid = stage2.start("--run", "stay", "2")
    assert stage2.read(vm) == "ok"
    assert {status(pid, t)["Seccomp_filters"].strip() for t in os.listdir(f"/proc/{pid}/task")} == {"4"}
    stage2.command("kill", vm)
    stage2.wait(vm)


def test_h11_no_inherited_descriptors(base):
    with Jail(base=base, spawn=False) as j:
        j.command("hold", 500)
        j.spawn()
        assert j.attack("fds")[0] == "ok 0 1 2 3"
        assert j.attack("fds", fds=3)[0] == "ok 0 1 2 3 4 5"
        launcher = [os.readlink(f"/proc/{j.launcher}/fd/{n}") for n in os.listdir(f"/proc/{j.launcher}/fd")]
        assert not [f for f in launcher if "shadow" in f]


@pytest.mark.parametrize("path", ["/proc/self/exe", "/proc/1/exe"])
def test_h12_exe_through_proc(jail, path):
    assert jail.attack("open", path, os.O_RDWR)[0] == f"no {errno.ENOENT}"


def test_h12_program_cannot_be_written_or_read(jail, stage2):
    inside = "/usr/bin/" + os.path.basename(jail.program)
    assert blocked(jail.attack("open", inside, os.O_RDWR), errno.EACCES, errno.EROFS)
    assert blocked(jail.attack("open", inside, os.O_RDONLY), errno.EACCES)
    assert blocked(stage2.attack("open", "/lib/akira-shim.so", os.O_RDWR), errno.EACCES, errno.EROFS)
    assert blocked(stage2.attack("open", "/lib/akira-shim.bpf", os.O_RDWR), errno.EACCES, errno.EROFS)
    before = os.stat(jail.program)
    assert jail.attack("nothing")[1] == 0
    assert os.stat(jail.program).st_mtime_ns == before.st_mtime_ns


def test_h13_no_core(jail, stage2):
    for j in (jail, stage2):
        vm, pid = j.start("stay")
        assert j.read(vm) == "ok"
        assert re.search(r"Max core file size\s+0\s+0", open(f"/proc/{pid}/limits").read())
        j.command("kill", vm)
        j.wait(vm)
        cores = lambda: [f for d in (j.base, j.run_dir, j.data_dir, "/", os.getcwd()) for f in os.listdir(d) if f.startswith("core")]
        before = cores()
        assert j.attack("crash")[1:3] == (-1, SIGSEGV)
        assert cores() == before


def test_h14_file_size(jail):
    rw = jail.file("big")
    text = jail.attack("grow", "/vm/big", 8 * MIB, files=f"w:big:{rw}", fsize=4 * MIB)
    assert text == (f"no {errno.EFBIG}", 1, 0, 0)
    assert os.stat(rw).st_size == 4096


def test_h14_descriptors(jail):
    count, error = jail.attack("usefds")[0].split()[1:]
    assert int(error) == errno.EMFILE and int(count) <= 512


def test_h14_threads(jail):
    count, error = jail.attack("threads")[0].split()[1:]
    assert int(error) == errno.EAGAIN and int(count) < 192


def test_h14_memory_ends_the_vm_alone(jail):
    other, _ = jail.start("stay")
    assert jail.attack("memory", 200 * MIB, memory=48 * MIB) == ("", -1, 9, 1)
    assert jail.command("stats", other).startswith("ok")
    jail.command("kill", other)
    assert jail.wait(other) == (-1, 9, 0), "killed by us: not reported as out of memory"


def test_h14_cpu_quota(jail):
    vm, _ = jail.start("cpu", 30000, quarters=1)
    used = lambda: int(jail.command("stats", vm).split()[1])
    until(lambda: used() > 250_000, 10, "what a burst may give is used up")
    first, began = used(), time.monotonic()
    until(lambda: time.monotonic() - began > 2.0, 5)
    spent, passed = used() - first, (time.monotonic() - began) * 1e6
    jail.command("kill", vm)
    jail.wait(vm)
    assert 0.05 < spent / passed < 0.35, f"{spent} us of CPU in {passed} us with a quarter"


def test_h14_output_is_bounded(jail):
    before = len(jail.log_text())
    assert jail.attack("chatter", 20 * MIB)[1] == 0
    text = jail.log_text()[before:]
    assert len(text) < 64 << 10 and "vm_output_dropped" in text
    assert "\033" not in text and '\n{"event":"forged"' not in text


def test_h15_no_secrets_in_cmdline_or_environment(jail, stage2):
    for j, environment in ((jail, b""), (stage2, b"LD_PRELOAD=/lib/akira-shim.so\0")):
        vm, pid = j.start("stay", "0", "visible")
        assert j.read(vm) == "ok"
        assert open(f"/proc/{pid}/environ", "rb").read() == environment
        assert open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")[1:] == [b"stay", b"0", b"visible", b""]
        j.command("kill", vm)
        j.wait(vm)


def test_shim_makes_holes_of_zeros(stage2):
    rw = stage2.file("disk", data=b"d" * MIB)
    text = stage2.attack("zero", "/vm/disk", MIB, files=f"w:disk:{rw}")[0]
    assert text == f"ok {MIB} 0"
    text = stage2.attack("--run", "zero", "/vm/disk", 2 * MIB, files=f"w:disk:{rw}")[0]
    assert text == f"ok {2 * MIB} 0", "beyond the end the file grows, as with ZERO_RANGE"


def test_shim_opens_read_only_ram(stage2):
    ram = stage2.file("ram", data=b"template", mode=0o644)
    other = stage2.file("other", data=b"template", mode=0o644)
    files = f"r:ram:{ram},r:other:{other}"
    assert stage2.attack("open", "/vm/ram", os.O_RDWR, files=files)[0].startswith("ok")
    assert stage2.attack("write", "/vm/ram", files=files)[0] == f"no {errno.EBADF}"
    assert stage2.attack("open", "/vm/other", os.O_RDWR, files=files)[0] in (f"no {errno.EROFS}", f"no {errno.EACCES}")
    assert open(ram, "rb").read(8) == b"template"
