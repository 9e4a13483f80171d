"""What the tests of the jail share: the driver, raw messages, and looking at the host's side of a VM."""
import array
import ctypes
import glob
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time

LAUNCH = os.environ.get("AKIRA_LAUNCH", "")
DRIVER = os.environ.get("JAIL_DRIVER", "")
ATTACKER = os.environ.get("JAIL_ATTACKER", "")
DYNAMIC = os.environ.get("JAIL_ATTACKER_DYNAMIC", "")
FAULTS = bool(os.environ.get("JAIL_FAULTS"))
USER, UIDS, UID_COUNT = 64100, 3900000, 40
SIGSYS, SIGKILL, SIGSEGV = 31, 9, 11
MIB = 1 << 20


def own_network():
    """In the child before its exec: a network namespace of the test's own, so that the host's rules stay untouched."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        os._exit(120)
    os.system("ip link set lo up")


def until(condition, seconds=10.0, what="condition"):
    """Wait for a condition with a bound; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_of_vms():
    """Every process on the host whose uid is in the range of these tests."""
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            uid = os.stat(path).st_uid
            with open(path + "/status") as f:
                uid = int(re.search(r"^Uid:\s+(\d+)", f.read(), re.M).group(1))
        except (FileNotFoundError, ProcessLookupError):
            continue
        if UIDS <= uid < UIDS + UID_COUNT and alive(int(path[6:])):
            found.append(int(path[6:]))
    return found


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code} {text}")
        self.code, self.text = code, text


class Jail:
    """One akira-launch with a driver in akirad's place."""

    def __init__(self, program=None, env=None, base=None, spawn=True, uids=UID_COUNT, kvm=0,
                 io_bytes=0, io_ops=0):
        self.base = base or tempfile.mkdtemp(prefix="jail-test-")
        self.own = base is None
        os.chmod(self.base, 0o755)
        self.run_dir, self.data_dir = self.base + "/run", self.base + "/data"
        os.makedirs(self.run_dir, exist_ok=True)
        os.makedirs(self.data_dir, exist_ok=True)
        os.chmod(self.data_dir, 0o700)
        os.chown(self.data_dir, USER, USER)
        self.log = open(self.base + "/log", "a+")
        self.program, self.uids, self.count, self.kvm = program or ATTACKER, uids, 0, kvm
        self.io = io_bytes, io_ops
        self.process = subprocess.Popen([DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True, bufsize=1, env={**os.environ, **(env or {})},
                                        preexec_fn=own_network)
        if spawn:
            self.spawn()

    def send(self, *fields):
        self.process.stdin.write("\t".join(str(f) for f in fields) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline().rstrip("\n")
        if line.startswith("error "):
            _, code, text = line.split(" ", 2)
            raise Refused(int(code), text)
        return line

    def command(self, *fields):
        self.send(*fields)
        return self.answer()

    def spawn(self, run_dir=None):
        swept = self.command("spawn", LAUNCH, self.program, run_dir or self.run_dir, self.data_dir, USER, UIDS,
                             self.uids, self.kvm, *self.io)
        self.launcher = int(subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True,
                                           check=True).stdout.split()[-1])
        return int(swept.split()[1])

    def file(self, name, size=4096, owner=USER, mode=0o600, data=b""):
        path = f"{self.data_dir}/{name}"
        with open(path, "wb") as f:
            f.write(data)
            f.truncate(max(size, len(data)))
        os.chmod(path, mode)
        os.chown(path, owner, owner)
        return path

    def start(self, *args, vm=None, fds=1, files="-", quarters=8, memory=256 * MIB, fsize=1 << 30, slot="-"):
        self.count += 1
        vm = vm or f"vm{self.count}"
        pid = int(self.command("start", vm, slot, quarters, memory, fsize, fds, files, *args).split()[1])
        return vm, pid

    def read(self, vm, index=0, ms=5000):
        line = self.command("read", vm, index, ms)
        return None if line == "timeout" else bytes.fromhex(line[3:].strip()).decode(errors="replace")

    def wait(self, vm, ms=10000):
        line = self.command("wait", vm, ms)
        assert line.startswith("ok"), line
        return tuple(int(n) for n in line.split()[1:])

    def attack(self, *args, **options):
        """Run one attack to its end: (what it said, exit code, signal, oom)."""
        vm, _ = self.start(*args, **options)
        text = self.read(vm, ms=20000)
        return (text, *self.wait(vm, 20000))

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait(20)
        self.log.close()
        if self.own:
            shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def log_text(self):
        with open(self.base + "/log", errors="replace") as f:
            return f.read()

    def cgroups(self):
        """Of v1's hierarchies, of v2 at its root, of v2 below a service that systemd delegated."""
        return [g for at in ("*/", "", "*/*/") for g in glob.glob(f"/sys/fs/cgroup/{at}akira-{self.tag()}/*/")]

    def tag(self):
        return re.findall(r'"tag":"([0-9a-z]+)"', self.log_text())[-1]


class Raw:
    """akira-launch with our own bytes on its socket."""
    CONFIG, NET_MAKE, VM_START, VM_KILL, VM_STATS = 1, 2, 8, 9, 11
    ID, SLOT, QEMU, RUN, DATA, UPLINK, USER_TAG, GROUP, FIRST, COUNT, NET, KVM = range(1, 13)
    QUARTERS, MEMORY, ARG, READ, WRITE, FDS, FSIZE, IO_BYTES, IO_OPS = range(23, 32)

    def __init__(self, base, configure=True, **changes):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket, self.serial, self.base = ours, 0, base
        self.run_dir, self.data_dir = base + "/run", base + "/data"
        os.makedirs(self.run_dir, exist_ok=True)
        os.makedirs(self.data_dir, exist_ok=True)
        self.process = subprocess.Popen([LAUNCH], stderr=open(base + "/log", "a"), pass_fds=[3],
                                        preexec_fn=lambda: (own_network(), os.dup2(theirs.fileno(), 3)))
        theirs.close()
        ours.settimeout(20)
        if configure:
            code, text = self.configure(**changes)
            assert code == 0, text

    @staticmethod
    def field(tag, value):
        if isinstance(value, str):
            value = value.encode()
        return struct.pack("<HI", tag, len(value)) + value

    def u32(self, tag, value):
        return self.field(tag, struct.pack("<I", value))

    def u64(self, tag, value):
        return self.field(tag, struct.pack("<Q", value))

    def configure(self, run_dir=None, qemu=None, first=UIDS, count=UID_COUNT, user=USER):
        return self.ask(self.CONFIG, self.field(self.QEMU, qemu or ATTACKER) + self.field(self.RUN, run_dir or self.run_dir) +
                        self.field(self.DATA, self.data_dir) + self.field(self.UPLINK, "") + self.u32(self.USER_TAG, user) +
                        self.u32(self.GROUP, user) + self.u32(self.FIRST, first) + self.u32(self.COUNT, count) +
                        self.u32(self.NET, 10 << 24 | 231 << 16) + self.field(self.KVM, b"\0") +
                        self.u64(self.IO_BYTES, 0) + self.u32(self.IO_OPS, 0))

    def start_fields(self, vm="x", files=(), fds=0, args=("nothing",), slot=0xffffffff, **changes):
        fields = {"id": self.field(self.ID, vm), "slot_": self.u32(self.SLOT, slot),
                  "args_": b"".join(self.field(self.ARG, a) for a in args),
                  "files_": b"".join(self.field(self.WRITE if w else self.READ, n) for n, w in files),
                  "fds_": self.u32(self.FDS, fds), "quarters": self.u32(self.QUARTERS, 4),
                  "memory": self.u64(self.MEMORY, 64 * MIB), "fsize": self.u64(self.FSIZE, 1 << 30)}
        fields.update(changes)
        return b"".join(fields.values())

    def send(self, data, fds=()):
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], control)

    def receive(self):
        """(code, text) of an answer; descriptors that come with it are closed."""
        data, fds, _, _ = socket.recv_fds(self.socket, 4096, 16)
        for fd in fds:
            os.close(fd)
        if not data:
            return None, "ended"
        code, text, at = None, "", 8
        while at < len(data):
            tag, size = struct.unpack_from("<HI", data, at)
            value = data[at + 6:at + 6 + size]
            code = struct.unpack("<I", value)[0] if tag == 100 else code
            text = value.decode() if tag == 101 else text
            at += 6 + size
        return code, text

    def ask(self, kind, fields=b"", fds=(), version=1):
        self.serial += 1
        self.send(struct.pack("<BBHI", version, 0, kind, self.serial) + fields, fds)
        return self.receive()

    def close(self):
        self.socket.close()
        return self.process.wait(20)
