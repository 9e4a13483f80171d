"""A guest in QEMU's microvm, driven over the guest protocol (api/guest-protocol.md). For the tests of akira-init."""
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CACHE = Path(os.environ.get("AKIRA_CACHE", "/var/cache/akira"))

HELLO = 1
PING, SETUP, PERSONALISE, SYNC, FREEZE, THAW, GROW, WARM, METRICS, SHUTDOWN, STAT = range(16, 27)
OPEN_EXEC, OPEN_READ, OPEN_WRITE, OPEN_TCP, OPEN_WATCH = range(32, 37)
SIGNAL, RESIZE, CLOSE, DETACH = range(48, 52)
DATA, EOF, CREDIT = range(64, 67)
RESULT, OPENED, EXIT, ERROR = range(80, 84)

TAGS = """version nonce keep agent phase errno message fresh wall_ms entropy hostname machine_id boot_id address gateway
prefix mtu dns workdir env max_procs arg shell cwd user stdin pty rows cols path mode size mtime_ms pid code signal
cpu_us mem_total mem_used disk_total disk_used procs port""".split()
TAG = {name: i + 1 for i, name in enumerate(TAGS)}
WIDTH = {"version": 4, "keep": 1, "phase": 1, "errno": 4, "fresh": 1, "wall_ms": 8, "address": 4, "gateway": 4,
         "prefix": 4, "mtu": 4, "dns": 4, "max_procs": 4, "shell": 1, "user": 4, "stdin": 1, "pty": 1, "rows": 2,
         "cols": 2, "mode": 4, "size": 8, "mtime_ms": 8, "pid": 4, "code": 4, "signal": 4, "cpu_us": 8, "mem_total": 8,
         "mem_used": 8, "disk_total": 8, "disk_used": 8, "procs": 4, "port": 2}
WINDOW = 262144
BOUND = 60  # seconds that anything may take under software emulation


def fields(*pairs, **named):
    """Encode a list of fields; a value that is a list is a repeated field."""
    out = b""
    for name, value in [*pairs, *named.items()]:
        for item in value if isinstance(value, list) else [value]:
            if name in WIDTH:
                item = int(item).to_bytes(WIDTH[name], "little")
            elif isinstance(item, str):
                item = item.encode()
            out += struct.pack("<HI", TAG[name], len(item)) + item
    return out


def parse(payload):
    out, at = {}, 0
    while at < len(payload):
        tag, size = struct.unpack_from("<HI", payload, at)
        value = payload[at + 6:at + 6 + size]
        assert len(value) == size, "a field goes beyond its payload"
        name = TAGS[tag - 1]
        out[name] = int.from_bytes(value, "little") if name in WIDTH else value
        at += 6 + size
    return out


def until(condition, bound=BOUND):
    """Ask again and again; the condition itself makes a request of the guest, which is the pause."""
    deadline = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < deadline, f"not within {bound} s"


class AgentError(Exception):
    def __init__(self, code, message):
        super().__init__(f"{os.strerror(code)}: {message}")
        self.code, self.message = code, message


class Stream:
    def __init__(self, vm, number):
        self.vm, self.id = vm, number
        self.frames = []              # (type, fields) that nobody took yet
        self.output = [bytearray(), bytearray()]
        self.eof = False
        self.ended = False
        self.in_credit = WINDOW       # bytes we may still send
        self.out_window = WINDOW      # bytes the guest may still send
        self.auto_credit = True
        self.owed = 0                 # bytes taken and not yet given back

    def wait(self, condition, what, bound=BOUND):
        deadline = time.monotonic() + bound
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {bound} s"
            self.vm.poll(deadline - time.monotonic())

    def take(self, *types, bound=BOUND):
        def there():
            return any(t in types or t == ERROR for t, _ in self.frames)
        self.wait(there, f"frame of {types}", bound)
        for i, (kind, values) in enumerate(self.frames):
            if kind in types or kind == ERROR:
                del self.frames[i]
                if kind == ERROR and ERROR not in types:
                    raise AgentError(values["errno"], values["message"].decode())
                return values

    def send(self, data):
        """DATA, within the window."""
        at = 0
        while at < len(data):
            self.wait(lambda: self.in_credit > 0 or self.ended, "credit")
            if self.ended:
                return
            n = min(65536, self.in_credit, len(data) - at)
            self.vm.frame(DATA, self.id, data[at:at + n])
            self.in_credit -= n
            at += n

    def end(self):
        self.vm.frame(EOF, self.id)

    def signal(self, number):
        self.vm.frame(SIGNAL, self.id, fields(signal=number))

    def close(self):
        self.vm.frame(CLOSE, self.id)

    def credit(self, size):
        self.out_window += size
        self.vm.frame(CREDIT, self.id, struct.pack("<I", size))

    def wait_output(self, text, channel=0, bound=BOUND):
        if isinstance(text, str):
            text = text.encode()
        self.wait(lambda: text in self.output[channel], f"output {text!r}", bound)

    def exit(self, bound=BOUND):
        values = self.take(EXIT, bound=bound)
        return values["code"], values["signal"]


class Result:
    def __init__(self, stream):
        self.code, self.signal = stream.exit()
        self.stdout, self.stderr = (bytes(o).decode(errors="replace") for o in stream.output)

    def __repr__(self):
        return f"<exit {self.code} signal {self.signal} stdout {self.stdout!r} stderr {self.stderr!r}>"


class VM:
    def __init__(self, agent, memory=512, disk="256M", cpus=1, image="tiny", kernel=None, network=True):
        self.dir = Path(tempfile.mkdtemp(prefix="akira-agent-"))
        self.streams, self.next_id, self.inbox = {}, 0, b""
        self.started = time.monotonic()
        guest = self.dir / "guest"
        command = [ROOT / "tools/guest/assemble", "--agent", agent, "--out", guest]
        if kernel:
            command += ["--kernel", kernel]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        manifest = json.loads((guest / "manifest.json").read_text())
        self.scratch = self.dir / "scratch"
        with open(self.scratch, "wb"):
            pass
        os.truncate(self.scratch, _bytes(disk))
        subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1",
                        self.scratch], check=True)
        self.qmp_path, path = self.dir / "qmp", self.dir / "agent"
        self.console = open(self.dir / "console", "w+b")
        loud = os.environ.get("AKIRA_TEST_CMDLINE", "quiet")
        base = CACHE / "images" / image / "image.erofs"
        acpi = "on" if manifest["acpi"] else "off"
        command = [
            "qemu-system-x86_64", "-M",
            f"microvm,acpi={acpi},rtc=on,pit=on,pic=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=on",
            "-accel", "tcg", "-cpu", "max", "-m", str(memory), "-smp", str(cpus), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-serial", "stdio",
            "-kernel", guest / "kernel", "-initrd", guest / "initramfs.cpio",
            "-append", f"console=ttyS0 {loud} panic=-1 reboot=t {_clock()} {manifest['cmdline']}",
            "-drive", f"id=base,if=none,format=raw,readonly=on,file={base}",
            "-device", "virtio-blk-device,drive=base,serial=base",
            "-drive", f"id=scratch,if=none,format=raw,discard=unmap,file={self.scratch}",
            "-device", "virtio-blk-device,drive=scratch,serial=scratch",
            "-device", "virtio-serial-device",
            "-chardev", f"socket,id=agent,path={path},server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=akira.agent",
            "-device", "virtio-rng-device",
            "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
        ]
        if network:
            command += ["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-device,netdev=net"]
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=self.console,
                                        stderr=self.console)
        self.agent_path = str(path)
        self.socket = self._connect(self.agent_path)

    def _connect(self, path):
        deadline = time.monotonic() + BOUND
        while True:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(path)
                return s
            except OSError:
                s.close()
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < deadline, "QEMU does not listen"
                select.select([], [], [], 0.01)

    def reconnect(self):
        self.socket.close()
        self.inbox = b""
        self.socket = self._connect(self.agent_path)

    def log(self):
        self.console.flush()
        return (self.dir / "console").read_text(errors="replace")

    def qmp(self, command, **arguments):
        with self._connect(str(self.qmp_path)) as s, s.makefile("rwb") as f:
            f.readline()
            for c in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                f.write(json.dumps(c).encode() + b"\n")
                f.flush()
                answer = {"event": 1}
                while "event" in answer:
                    answer = json.loads(f.readline())
            assert "return" in answer, answer
            return answer["return"]

    # frames

    def raw(self, data):
        self.socket.settimeout(BOUND)
        self.socket.sendall(data)

    def frame(self, kind, stream, payload=b"", channel=0):
        self.raw(struct.pack("<IBBHI", len(payload), kind, channel, 0, stream) + payload)

    def poll(self, seconds):
        """Take what arrived within that time; handles at least what is there."""
        self.socket.settimeout(max(seconds, 0.001))
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            return
        except ConnectionError:
            data = b""
        if not data:
            raise ConnectionError("the guest's port closed:\n" + self.log()[-3000:])
        self.inbox += data
        self._frames()

    def _frames(self):
        at = 0
        while len(self.inbox) - at >= 12:
            size, kind, channel, reserved, number = struct.unpack_from("<IBBHI", self.inbox, at)
            assert size <= 65536 and reserved == 0, "the guest sent a malformed header"
            if len(self.inbox) - at - 12 < size:
                break
            self._handle(kind, channel, number, self.inbox[at + 12:at + 12 + size])
            at += 12 + size
        self.inbox = self.inbox[at:]

    def _handle(self, kind, channel, number, payload):
        stream = self.streams.get(number)
        if not stream:
            return
        if kind == DATA:
            stream.out_window -= len(payload)
            assert stream.out_window >= 0, "the guest went over its window"
            stream.output[channel] += payload
            if stream.auto_credit:
                stream.owed += len(payload)
                if stream.owed >= WINDOW // 4:
                    stream.credit(stream.owed)
                    stream.owed = 0
        elif kind == EOF:
            stream.eof = True
        elif kind == CREDIT:
            stream.in_credit += struct.unpack("<I", payload)[0]
        else:
            values = parse(payload)
            stream.frames.append((kind, values))
            if kind in (RESULT, EXIT, ERROR):
                stream.ended = True

    def hello(self, keep=0, bound=BOUND):
        nonce = os.urandom(16)
        self.streams = {}
        payload = fields(version=1, nonce=nonce, keep=keep)
        self.frame(HELLO, 0, payload)
        mark = fields(version=1, nonce=nonce)
        deadline = time.monotonic() + bound
        while True:
            at = self.inbox.find(mark)
            if at >= 12:
                size = struct.unpack_from("<I", self.inbox, at - 12)[0]
                if len(self.inbox) >= at + size:
                    answer = parse(self.inbox[at:at + size])
                    self.inbox = self.inbox[at + size:]
                    return answer
            assert time.monotonic() < deadline, f"no HELLO within {bound} s\n{self.log()[-3000:]}"
            assert self.process.poll() is None, self.log()
            self.socket.settimeout(1)
            try:
                data = self.socket.recv(1 << 20)
            except TimeoutError:
                continue
            self.inbox += data

    # requests

    def open(self, kind, payload=b"", number=None):
        if number is None:
            self.next_id += 1
            number = self.next_id
        stream = self.streams[number] = Stream(self, number)
        self.frame(kind, number, payload)
        return stream

    def request(self, kind, *pairs, bound=BOUND, **named):
        return self.open(kind, fields(*pairs, **named)).take(RESULT, bound=bound)

    def personalise(self, **changes):
        values = dict(wall_ms=int(time.time() * 1000), entropy=os.urandom(64), hostname="box", machine_id=b"\x11" * 16,
                      boot_id=bytes(range(16)), workdir="/workspace",
                      env=["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
                           "LANG=C.UTF-8"])
        values.update(changes)
        return self.request(PERSONALISE, **{k: v for k, v in values.items() if v is not None})

    def start(self, *argv, stdin=0, opened=True, **named):
        """OPEN_EXEC; one argument is a line for the shell."""
        pairs = [("arg", list(argv))]
        if len(argv) == 1:
            named.setdefault("shell", 1)
        stream = self.open(OPEN_EXEC, fields(*pairs, stdin=stdin, **named))
        if opened:
            stream.pid = stream.take(OPENED)["pid"]
        return stream

    def run(self, *argv, **named):
        return Result(self.start(*argv, **named))

    def read(self, path):
        stream = self.open(OPEN_READ, fields(path=path))
        info = stream.take(OPENED)
        stream.wait(lambda: stream.eof or stream.frames, "end of the file")
        if not stream.eof:
            stream.take(RESULT)
        return stream.output[0], info

    def write(self, path, data, **named):
        stream = self.open(OPEN_WRITE, fields(path=path, **named))
        stream.take(OPENED)
        stream.send(data)
        stream.end()
        return stream.take(RESULT)["size"]

    def boot(self, **changes):
        answer = self.hello()
        self.request(SETUP, fresh=1)
        self.personalise(**changes)
        return answer

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.socket.close()
        self.console.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def _clock():
    """As the engine does: without it Debian's kernel was seen to hang in its calibration under emulation."""
    mhz = [line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("cpu MHz")]
    return f"tsc_early_khz={int(float(mhz[0]) * 1000)}" if mhz else ""


def _bytes(text):
    return int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]
