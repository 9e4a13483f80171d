"""The world of these tests, made of network namespaces, so that nothing touches the machine's own network:

    guest (frames by a tap) ─ slot ─ "host" namespace ─ uplink ─ "internet" namespace

The driver (driver.c: the launcher's and akirad's network code) runs in "host". "internet" holds public addresses, but
also private ones, the metadata service's and others that must not be reached: a packet to them would arrive and be
answered if a rule were missing.
"""

import array
import contextlib
import ctypes
import json
import os
import select
import socket
import struct
import subprocess
import threading
import time

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)

GUEST, GATEWAY = "10.0.2.2", "10.0.2.1"
GUEST_MAC, GATEWAY_MAC = bytes.fromhex("02616b000002"), bytes.fromhex("02616b000001")
PUBLIC, PUBLIC2 = "93.184.216.34", "8.8.4.4"
HOST_UPLINK, INTERNET_UPLINK = "45.10.10.2", "45.10.10.1"
BASE = 0x0AE70000  # 10.231.0.0
FORBIDDEN = [
    "0.1.2.3", "10.9.9.9", "100.64.1.1", "100.100.100.200", "127.0.0.1", "127.9.9.9", "168.63.129.16",
    "169.254.169.254", "169.254.170.2", "172.16.5.5", "172.31.255.254", "192.0.0.192", "192.0.2.7", "192.88.99.1",
    "192.168.1.1", "198.18.0.9", "198.19.255.1", "198.51.100.9", "203.0.113.9", "224.0.0.251", "239.255.255.250",
    "240.0.0.1", "255.255.255.255",
]


def run(*words, ns=None, **options):
    words = list(words) if ns is None else ["nsenter", f"--net={ns.path}", *words]
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


def wait_for(condition, seconds=5.0, what="the condition"):
    """Poll condition until it is true; its value. The bound is the failure, never the speed."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what} did not come true in {seconds} s"
        select.select([], [], [], 0.005)


class Namespace:
    """A network namespace held by a descriptor; tasks run in it on threads of their own."""

    def __init__(self):
        self.fd = None
        self.inside(self._make, enter=False)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        run("ip", "link", "set", "lo", "up", ns=self)

    def _make(self):
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def inside(self, task, *words, enter=True):
        result = {}

        def body():
            try:
                if enter and libc.setns(self.fd, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                result["value"] = task(*words)
            except BaseException as error:  # handed to the caller below
                result["error"] = error

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if "error" in result:
            raise result["error"]
        return result.get("value")

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, protocol=0):
        return self.inside(socket.socket, family, kind, protocol)

    def write(self, name, value):
        def task():
            with open(f"/proc/sys/{name}", "w") as file:
                file.write(value)

        self.inside(task)

    def read(self, name):
        def task():
            with open(f"/proc/sys/{name}") as file:
                return file.read().strip()

        return self.inside(task)

    def close(self):
        os.close(self.fd)


class DriverError(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text


class Driver:
    def __init__(self, program, host):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(30)
        self.errors = open(os.path.join(host.run_dir, "driver.log"), "a+")

        environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=1:exitcode=99")
        self.process = subprocess.Popen(
            ["nsenter", f"--net={host.path}", program, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stderr=self.errors, env=environment,
        )
        theirs.close()

    def ask(self, *words):
        self.socket.send(" ".join(str(word) for word in words).encode())
        data, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(16))
        assert data, f"the driver died: {self.log()}"
        answer = data.decode().split(" ", 2)
        if answer[0] != "ok":
            raise DriverError(int(answer[1]), answer[2] if len(answer) > 2 else "")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) // 4 * 4])
                return fds[0]
        return data.decode()[3:].split()

    def counters(self, slot):
        return {key: int(value) for key, value in (word.split("=") for word in self.ask("counters", slot))}

    def dns(self, slot):
        return {key: int(value) for key, value in (word.split("=") for word in self.ask("dns", slot))}

    def log(self):
        self.errors.seek(0)
        return self.errors.read()[-4000:]

    def close(self):
        """End it in order; a leak or an error that the sanitizers saw fails the test."""
        self.socket.close()
        code = self.process.wait(20)
        text = self.log()
        self.errors.close()
        assert code == 0, f"driver ended with {code}: {text}"

    def kill(self):
        self.process.kill()
        self.process.wait(20)
        self.socket.close()
        self.errors.close()


# ---- packets ----


def quad(text):
    return socket.inet_aton(text)


def number(text):
    return struct.unpack("!I", quad(text))[0]


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(destination, protocol, payload, source=GUEST, ttl=64, fragment=0, options=b"", ident=7, version=4, total=None):
    head = 5 + len(options) // 4
    total = head * 4 + len(payload) if total is None else total
    packet = struct.pack("!BBHHHBBH4s4s", version << 4 | head, 0, total, ident, fragment, ttl, protocol, 0, quad(source), quad(destination))
    packet += options
    return packet[:10] + struct.pack("!H", checksum(packet)) + packet[12:] + payload


def pseudo(source, destination, protocol, payload):
    return checksum(quad(source) + quad(destination) + struct.pack("!BBH", 0, protocol, len(payload)) + payload)


def udp(destination, port, data=b"x", source=GUEST, sport=4000, **options):
    head = struct.pack("!HHHH", sport, port, 8 + len(data), 0)
    total = pseudo(source, destination, 17, head + data) or 0xFFFF
    return ip(destination, 17, head[:6] + struct.pack("!H", total) + data, source=source, **options)


SYN, ACK, RST, FIN, PSH = 2, 16, 4, 1, 8


def tcp(destination, port, flags=SYN, sport=5000, seq=1000, ack=0, data=b"", source=GUEST, **options):
    head = struct.pack("!HHIIBBHHH", sport, port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 5 << 4, flags, 64000, 0, 0)
    total = pseudo(source, destination, 6, head + data)
    return ip(destination, 6, head[:16] + struct.pack("!H", total) + head[18:] + data, source=source, **options)


def icmp(destination, kind=8, code=0, rest=b"\x00\x01\x00\x01ping", source=GUEST, **options):
    body = struct.pack("!BBH", kind, code, 0) + rest
    return ip(destination, 1, body[:2] + struct.pack("!H", checksum(body)) + body[4:], source=source, **options)


def arp(operation, sender_mac=GUEST_MAC, sender=GUEST, target=GATEWAY, target_mac=b"\0" * 6):
    return struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, sender_mac, quad(sender), target_mac, quad(target))


class Packet:
    """What a received IPv4 frame says."""

    def __init__(self, frame):
        self.frame, self.type = frame, struct.unpack("!H", frame[12:14])[0]
        self.source = self.destination = self.protocol = self.sport = self.dport = None
        self.flags, self.data, self.icmp = 0, b"", None
        if self.type != 0x0800:
            return
        body = frame[14:]
        size, total = (body[0] & 15) * 4, struct.unpack("!H", body[2:4])[0]
        self.protocol = body[9]
        self.source, self.destination = socket.inet_ntoa(body[12:16]), socket.inet_ntoa(body[16:20])
        body = body[size:total]
        if self.protocol == 17:
            self.sport, self.dport = struct.unpack("!HH", body[:4])
            self.data = body[8:]
        elif self.protocol == 6:
            self.sport, self.dport, self.seq, self.ack, offset, self.flags = struct.unpack("!HHIIBB", body[:14])
            self.data = body[(offset >> 4) * 4:]
        elif self.protocol == 1:
            self.icmp = (body[0], body[1])
            self.data = body[8:]


class Guest:
    """Speaks raw frames over a slot's tap, as a hostile guest would."""

    def __init__(self, tap):
        self.tap = tap
        self.pending = []

    def frame(self, payload, kind=0x0800, source=GUEST_MAC, destination=GATEWAY_MAC):
        os.write(self.tap, b"\0" * 10 + destination + source + struct.pack("!H", kind) + payload)

    def send(self, *packets):
        for packet in packets:
            self.frame(packet)

    def receive(self, match, seconds=3.0):
        """The first frame that matches, or None."""
        end = time.monotonic() + seconds
        while True:
            for i, packet in enumerate(self.pending):
                if match(packet):
                    return self.pending.pop(i)
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.tap], [], [], left)[0]:
                return None
            self.drain()

    def drain(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.pending.append(Packet(os.read(self.tap, 70000)[10:]))

    def clear(self):
        self.drain()
        self.pending.clear()

    def connect(self, address, port, sport, seconds=3.0):
        """The handshake: "open" with a Flow, "reset", "refused" (ICMP) or None."""
        self.send(tcp(address, port, SYN, sport))
        packet = self.receive(
            lambda p: (p.protocol == 6 and p.dport == sport) or (p.icmp and p.icmp[0] == 3), seconds
        )
        if packet is None:
            return None
        if packet.icmp:
            return "refused"
        if packet.flags & RST:
            return "reset"
        flow = Flow(self, address, port, sport, packet.seq + 1)
        self.send(tcp(address, port, ACK, sport, 1001, flow.ack))
        return flow

    def close(self):
        if self.tap >= 0:
            os.close(self.tap)
        self.tap = -1


class Flow:
    def __init__(self, guest, address, port, sport, ack):
        self.guest, self.address, self.port, self.sport, self.seq, self.ack = guest, address, port, sport, 1001, ack

    def echo(self, data, seconds=2.0):
        """Send data to the echo server; what it answers, or "reset"/None."""
        self.guest.send(tcp(self.address, self.port, ACK | PSH, self.sport, self.seq, self.ack, data))
        packet = self.guest.receive(
            lambda p: p.protocol == 6 and p.dport == self.sport and (p.data or p.flags & RST), seconds
        )
        if packet is None:
            return None
        if packet.flags & RST:
            return "reset"
        self.seq += len(data)
        self.ack = packet.seq + len(packet.data)
        self.guest.send(tcp(self.address, self.port, ACK, self.sport, self.seq, self.ack))
        return packet.data


# ---- the internet ----


class Capture:
    """Every IP packet that arrives at the internet's end of the uplink."""

    def __init__(self, ns, device):
        self.socket = ns.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((device, 3))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self.socket.setblocking(False)
        self.packets = []

    def read(self):
        with contextlib.suppress(BlockingIOError):
            while True:
                data, origin = self.socket.recvfrom(70000)
                if origin[2] != socket.PACKET_OUTGOING:
                    self.packets.append(Packet(data))
        return self.packets

    def clear(self):
        self.read()
        self.packets.clear()

    def from_slots(self):
        """Packets that were sent on: everything but ARP and IPv6 chatter of the uplink itself."""
        return [p for p in self.read() if p.type == 0x0800]

    def close(self):
        self.socket.close()


class Internet:
    """Answers every address: TCP echo on any port of `ports`, UDP echo on 7; DNS on 53 by names.py."""

    def __init__(self, ns):
        self.ns = ns
        self.running = True
        self.sockets = {}
        self.lock = threading.Lock()
        self.accepted = []
        for port in (25, 80, 443, 8080):
            self.listen(port)
        echo = ns.socket(kind=socket.SOCK_DGRAM)
        echo.bind(("0.0.0.0", 7))
        self.udp_seen = []
        echo.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: answer from the address that was asked
        self.sockets[echo.fileno()] = ("udp", echo)
        self.wake_read, self.wake_write = os.pipe()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def listen(self, port):
        server = self.ns.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", port))
        server.listen(1024)
        server.setblocking(False)
        self.sockets[server.fileno()] = ("tcp", server)

    def loop(self):
        while self.running:
            ready = select.select([*self.sockets, self.wake_read], [], [], 1)[0]
            for fd in ready:
                if fd != self.wake_read:
                    self.serve(fd)

    def serve(self, fd):
        kind, sock = self.sockets[fd]
        if kind == "tcp":
            with contextlib.suppress(BlockingIOError):
                client, _ = sock.accept()
                self.sockets[client.fileno()] = ("client", client)
                self.accepted.append(client)
            return
        if kind == "udp":
            data, ancillary, _, peer = sock.recvmsg(2048, 256)
            self.udp_seen.append(data)
            sock.sendmsg([data], ancillary, 0, peer)
            return
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        if data:
            with contextlib.suppress(OSError):
                sock.sendall(data)
        else:
            del self.sockets[fd]
            sock.close()

    def close(self):
        self.running = False
        os.write(self.wake_write, b"x")
        self.thread.join(5)
        for _, sock in list(self.sockets.values()):
            sock.close()
        os.close(self.wake_read)
        os.close(self.wake_write)


class World:
    def __init__(self, program, run_dir):
        self.program = program
        self.host = Namespace()
        self.host.run_dir = str(run_dir)
        self.net = Namespace()
        run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "in0", "netns", self.net.path, ns=self.host)
        for ns, device, address in ((self.host, "up0", HOST_UPLINK), (self.net, "in0", INTERNET_UPLINK)):
            ns.write("net/ipv6/conf/all/disable_ipv6", "1")
            run("ip", "address", "add", address + "/24", "dev", device, ns=ns)
            run("ip", "link", "set", device, "up", ns=ns)
        run("ip", "route", "add", "default", "via", INTERNET_UPLINK, ns=self.host)
        # Without our rules the host would send these out, and the internet would answer for every one of them.
        run("ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", ns=self.net)
        run("ip", "rule", "add", "pref", "100", "lookup", "local", ns=self.net)
        run("ip", "rule", "del", "pref", "0", ns=self.net)
        run("ip", "rule", "add", "pref", "1", "to", HOST_UPLINK, "lookup", "main", ns=self.net)
        self.net.write("net/ipv4/conf/all/rp_filter", "0")
        self.net.write("net/ipv4/conf/in0/rp_filter", "0")
        self.net.write("net/ipv4/conf/in0/accept_local", "1")
        self.internet = Internet(self.net)
        self.capture = Capture(self.net, "in0")
        self.driver = None
        self.guests = []

    def start(self, uplink="-", tag="t1"):
        self.driver = Driver(self.program, self.host)
        self.driver.ask("init", uplink, BASE, tag, self.host.run_dir)
        return self.driver

    def slot(self, number=0, *policy):
        self.driver.ask("make", number)
        guest = self.tap(number)
        if policy:
            self.driver.ask("policy", number, *policy)
        return guest

    def tap(self, number):
        guest = Guest(self.driver.ask("tap", number))
        self.guests.append(guest)
        return guest

    def slot_path(self, number=0):
        """A path for nsenter to the namespace of a slot: the driver's descriptor of it."""
        folder = f"/proc/{self.driver.process.pid}/fd"
        own = {os.stat(f"/proc/self/fd/{self.host.fd}").st_ino}
        found = []
        for fd in sorted(os.listdir(folder), key=int):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{fd}").startswith("net:") and os.stat(f"{folder}/{fd}").st_ino not in own:
                    found.append(f"{folder}/{fd}")
        return found[number]

    def in_slot(self, *words, number=0):
        return subprocess.run(
            ["nsenter", f"--net={self.slot_path(number)}", *words], check=True, capture_output=True, text=True
        ).stdout

    def slot_packets(self, way, number=0, tag="t1"):
        """Packets that the host's end of a slot's veth has sent to the slot ("rx") or taken from it ("tx")."""
        statistics = run("ip", "-j", "-s", "link", "show", f"ak-{tag}-{number:03x}", ns=self.host)
        stats = json.loads(statistics)[0]["stats64"]
        return stats["tx" if way == "rx" else "rx"]["packets"]

    def host_rules(self):
        return json.loads(run("nft", "-j", "list", "ruleset", ns=self.host))["nftables"]

    def close(self):
        for guest in self.guests:
            guest.close()
        if self.driver and self.driver.process.poll() is None:
            self.driver.close()
        self.capture.close()
        self.internet.close()
        self.host.close()
        self.net.close()
