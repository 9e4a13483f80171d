"""Attacks on devices and side channels that a sandbox's root can try without a kernel of its own (C, D, F, P)."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from harness.wait import wait_until


def python(box, source, **fields):
    """Runs a program in the sandbox; what it printed, as JSON."""
    box.put("/tmp/attack.py", source.encode())
    return json.loads(box.out("python3 /tmp/attack.py", **{"timeout": 60, **fields}))


def kernel_complaints():
    """The host kernel's warnings and worse."""
    done = subprocess.run(["dmesg", "--level=emerg,alert,crit,err,warn"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    return [line for line in done.stdout.decode("utf-8", "replace").splitlines() if re.search(r"WARNING|BUG|Oops|general protection", line)]


def file_of(daemon, box):
    return daemon.data / "scratch" / box.id


QCOW2 = b"QFI\xfb" + (3).to_bytes(4, "big") + (512).to_bytes(8, "big") + (11).to_bytes(4, "big") + (16).to_bytes(4, "big") + (1 << 30).to_bytes(8, "big")


@pytest.mark.limit(120)
def test_c05_another_formats_header_in_a_raw_disk(daemon, own):
    """The raw device is out of reach inside. A header written on the host is what it is: bytes of a raw disk."""
    box = own()
    tried = python(box, """
import json, os, stat
refused = 0
for major in (8, 254, 259):
    for minor in (0, 1, 16):
        try:
            os.mknod("/tmp/node", stat.S_IFBLK | 0o666, os.makedev(major, minor))
            open("/tmp/node", "rb+").write(b"QFI\\xfb")
        except OSError: refused += 1
        finally:
            if os.path.exists("/tmp/node"): os.unlink("/tmp/node")
print(json.dumps([refused, os.path.exists("/dev/vda"), os.path.exists("/dev/vdb")]))
""")
    assert tried == [9, False, False]
    box.run("echo mine > /workspace/kept; sync")
    box.pause()
    path = file_of(daemon, box)
    size = path.stat().st_size
    header = QCOW2.ljust(512, b"\0") + b"/etc/shadow"  # ext4 leaves the first KiB alone
    with open(path, "r+b") as file:
        file.write(header)
    assert box.out("cat /workspace/kept") == "mine\n"
    made = box.snapshot()
    try:
        with box.api.restore(made["id"]) as copy:
            assert copy.out("cat /workspace/kept; grep -rl root: /workspace || true") == "mine\n"
            assert file_of(daemon, copy).stat().st_size == size
        kept = daemon.data / "snapshots" / made["id"]
        with open(kept, "r+b") as file:
            file.write(header)
        with box.api.restore(made["id"]) as copy:
            assert file_of(daemon, copy).stat().st_size == size
            assert copy.out("cat /workspace/kept; grep -rl root: /workspace || true") == "mine\n"
            no_format(daemon)
        assert kept.read_bytes()[: len(header)] == header
    finally:
        box.api.forget_snapshot(made["id"])


def no_format(daemon):
    """Every disk of every VM is raw by name."""
    for pid in daemon.vms():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert any(b"raw" in word for word in words), words
        for word in words:
            assert not (b"driver=qcow2" in word or b'"driver":"qcow2"' in word or b"format=qcow2" in word)


@pytest.mark.limit(120)
def test_c12_discards_in_a_loop(daemon, own):
    """The disk takes no discards; what is written, removed and written again takes no more of the host than the disk's size."""
    box = own(resources={"storage": 1})
    source = """
import fcntl, json, os, struct
refused, tries = 0, 400
for path in ("/workspace", "/"):
    fd = os.open(path, os.O_RDONLY)
    for _ in range(tries // 2):
        try: fcntl.ioctl(fd, 0xc0185879, struct.pack("QQQ", 0, 2**64 - 1, 0))  # FITRIM
        except OSError: refused += 1
print(json.dumps([refused, tries]))
"""
    refused, tries = python(box, source)
    assert refused == tries
    for _ in range(2):
        box.run("head -c 20000000 /dev/zero | tr '\\0' x > /workspace/x; sync; fallocate -p -o 0 -l 20000000 /workspace/x; rm /workspace/x; sync", timeout=60)
    assert file_of(daemon, box).stat().st_blocks * 512 <= (1 << 30) + (1 << 20)
    assert box.out("echo alive") == "alive\n"


@pytest.mark.limit(120)
def test_d02_offload_headers_that_lie(daemon, own):
    """A packet socket sends frames with headers of its own for segmentation and checksums: nobody but itself has trouble."""
    box, other, before = own(), own(), kernel_complaints()
    pid = daemon.vm_of(box)
    sent, refused = python(box, """
import json, os, random, socket, struct
dice, sent, refused = random.Random(2), 0, 0
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((next(n for n in os.listdir("/sys/class/net") if n != "lo"), 0))
s.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
ends = (0, 1, 13, 14, 33, 34, 54, 1000, 1514, 0x7fff, 0x8000, 0xffff)
for number in range(6000):
    flags, kind = dice.choice((0, 1, 2, 4, 0xff)), dice.choice((0, 1, 3, 4, 5, 0x81, 0x84, 0xff))
    head = struct.pack("<BBHHHH", flags, kind, *(dice.choice(ends) for _ in range(4)))
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, dice.choice(ends), 1, 0, 64, dice.choice((6, 17, 1)), 0, bytes([10, 0, 2, 15]), bytes([1, 1, 1, 1]))
    frame = b"\\xff" * 6 + bytes([2, 0x61, 0x6b, 0, 0, 2]) + b"\\x08\\0" + ip + os.urandom(dice.choice((0, 1, 8, 20, 1400)))
    try: s.send(head + frame); sent += 1
    except OSError: refused += 1
print(json.dumps([sent, refused]))
""")
    print(f"{sent} sent, {refused} refused by its own kernel")
    assert sent > 100, "its kernel refuses all of them: the attack does not reach the device"
    assert daemon.vm_of(box) == pid and box.out("echo alive") == "alive\n"
    assert other.out("echo unharmed") == "unharmed\n"
    assert kernel_complaints() == before


@pytest.mark.limit(120)
def test_f07_every_leaf_of_cpuid_and_privileged_instructions(own):
    """Run from a user's process: values or a signal, for that process alone; there is no door to MSRs."""
    box = own()
    result = python(box, """
import ctypes, json, mmap, os, signal, stat
def code(octets):
    m = mmap.mmap(-1, 4096, prot=7)
    m.write(bytes.fromhex(octets))
    return ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(m))), m
# push rbx; mov eax,edi; mov ecx,esi; mov r8,rdx; cpuid; store four words at r8; pop rbx; ret
cpuid, _keep = code("53" "89f8" "89f1" "4989d0" "0fa2" "418900" "41895804" "41894808" "4189500c" "5b" "c3")
room, names, leaves = (ctypes.c_uint32 * 4)(), set(), 0
for base in (0, 0x40000000, 0x80000000, 0xc0000000, 0x8fffffff, 0xfffffff0):
    for leaf in range(base, base + 48):
        for sub in (0, 1, 2, 63, 0xffffffff):
            cpuid(leaf & 0xffffffff, sub, ctypes.addressof(room)); leaves += 1
            if sub == 0: names.add(bytes(room).decode("latin-1"))
ends = {}
for name, octets in {"rdmsr": "b9100000000f32c3", "wrmsr": "0f30c3", "in": "e460c3", "out": "e664c3", "hlt": "f4c3", "cli": "fac3",
                     "vmcall": "0f01c1c3", "vmmcall": "0f01d9c3", "vmrun": "0f01d8c3", "invd": "0f08c3", "mov cr3": "0f22d8c3", "lgdt": "0f0117c3"}.items():
    child = os.fork()
    if child == 0:
        code(octets)[0](0, 0, None); os._exit(0)
    status = os.waitpid(child, 0)[1]
    ends[name] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
doors = []
for device in ((202, 0), (203, 0), (10, 144)):
    try: os.mknod("/tmp/msr", stat.S_IFCHR | 0o600, os.makedev(*device)); os.open("/tmp/msr", os.O_RDWR); doors.append(device)
    except OSError: pass
print(json.dumps([leaves, sorted(names), ends, doors, os.path.exists("/dev/cpu")]))
""")
    leaves, names, ends, doors, folder = result
    assert leaves == 6 * 48 * 5 and doors == [] and folder is False
    for name, end in ends.items():
        if name not in ("vmcall", "vmmcall"):
            assert end in (4, 7, 11), (name, end)  # SIGILL, SIGBUS, SIGSEGV
    host = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    brand = re.search(r"model name\s*: (.+)", host).group(1)
    assert not any(brand[:12] in name for name in names), "the host's processor tells its name"
    assert box.out("echo alive") == "alive\n"


def test_p04_no_memory_is_offered_for_merging(daemon, own):
    """Same pages of two VMs never become one: no memory of a VM is marked mergeable, and none is counted as merged."""
    boxes = [own(), own()]
    for box in boxes:
        pid = daemon.vm_of(box)
        flags = re.findall(r"^VmFlags:(.*)$", Path(f"/proc/{pid}/smaps").read_text(), re.M)
        assert flags and not [line for line in flags if "mg" in line.split()]
        merged = Path(f"/proc/{pid}/ksm_stat")
        if merged.exists():
            numbers = dict(re.findall(r"^(\w+) (\d+)", merged.read_text(), re.M))
            assert numbers.get("ksm_rmap_items", "0") == "0", numbers


def test_p06_signs_of_the_host_and_of_neighbours(own):
    """Uptime, counter of cycles, boot id and hardware address tell nothing of the host's age or of how many there are."""
    age = float(Path("/proc/uptime").read_text().split()[0])
    told = []
    for box in (own(), own()):
        told.append(python(box, """
import ctypes, json, mmap, re
m = mmap.mmap(-1, 4096, prot=7)
m.write(bytes.fromhex("0f3148c1e2204809d0c3"))  # rdtsc
tsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
mhz = float(re.search(r"cpu MHz\\s*: ([\\d.]+)", open("/proc/cpuinfo").read()).group(1))
steal = int(open("/proc/stat").readline().split()[8])
print(json.dumps({"uptime": float(open("/proc/uptime").read().split()[0]), "tsc": tsc / mhz / 1e6, "steal": steal,
                  "boot": open("/proc/sys/kernel/random/boot_id").read().strip(),
                  "mac": [open(f"/sys/class/net/{n}/address").read().strip() for n in ("eth0",)]}))
"""))
    first, second = told
    if age > 1200:
        for one in told:
            assert one["uptime"] < age / 2 and one["tsc"] < age / 2, (one, age)
    boots = {first["boot"], second["boot"], Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    assert len(boots) == 3
    assert first["mac"] == second["mac"], "numbered addresses would count the neighbours"
    assert first["steal"] == second["steal"] == 0


@pytest.mark.limit(120)
def test_d03_a_flood_inwards(daemon, own):
    """As many datagrams as a process of the host can send in two seconds at a sandbox's host ends: all are dropped."""
    import socket
    import time

    box = own()
    box.put("/tmp/listen.py", b"import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('', 4444))\ns.settimeout(30)\n"
            b"try: print('got', len(s.recv(2000)))\nexcept OSError: print('nothing')\n")
    base = daemon.settings["network"]["net_base"].rsplit(".", 2)[0]
    routes = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout.decode()
    ends = re.findall(rf"inet ({re.escape(base)}\.\d+\.\d+)/(\d+)", routes)
    assert ends, routes
    targets = [".".join(end.split(".")[:3] + [str(int(end.split(".")[3]) + step)]) for end, _ in ends for step in (0, 1)]
    stream = box.stream("timeout 6 python3 /tmp/listen.py")
    flood, sent, end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0, time.monotonic() + 2
    while time.monotonic() < end:
        for target in targets:
            try:
                flood.sendto(b"x" * 1200, (target, 4444))
                sent += 1
            except OSError:
                pass
        if sent % 5000 < len(targets):
            assert box.api.get("/v1/sandboxes/list").status == 200
    assert sent > 1000
    out, _, _, _ = stream.collect()
    assert "got" not in out
    print(f"{sent} datagrams to {targets}")
    wait_until(lambda: box.execute("echo alive").status == 200, "it answers")
