"""The internet's DNS server, as honest or hostile as a test wants, and the guest's side of DNS."""

import select
import socket
import struct
import threading

from world import GATEWAY, INTERNET_UPLINK, quad, udp

A, NS, CNAME, PTR, MX, TXT, AAAA, SRV, HTTPS, ANY = 1, 2, 5, 12, 15, 16, 28, 33, 65, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)


def name_wire(name):
    labels = [label for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def question(name, kind=A, ident=1, flags=0x0100):
    return struct.pack("!HHHHHH", ident, flags, 1, 0, 0, 0) + name_wire(name) + struct.pack("!HH", kind, 1)


def record(name, kind, ttl, data):
    return name_wire(name) + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def read_name(data, at):
    labels = []
    while data[at]:
        labels.append(data[at + 1:at + 1 + data[at]].decode())
        at += 1 + data[at]
    return ".".join(labels), at + 1


class Reply:
    def __init__(self, data):
        self.ident, flags, questions, count, _, _ = struct.unpack("!HHHHHH", data[:12])
        self.rcode, self.addresses, self.ttl = flags & 15, [], None
        at = 12
        for _ in range(questions):
            self.name, at = read_name(data, at)
            at += 4
        for _ in range(count):
            kind, _, self.ttl, size = struct.unpack("!HHIH", data[at + 2:at + 12])
            if kind == A:
                self.addresses.append(socket.inet_ntoa(data[at + 12:at + 12 + size]))
            at += 12 + size


class Names:
    """zone: name -> list of (type, value, ttl); a function as value is called with the question's data."""

    ADDRESS = INTERNET_UPLINK

    def __init__(self, ns):
        self.socket = ns.socket(kind=socket.SOCK_DGRAM)
        self.socket.bind((self.ADDRESS, 53))
        self.zone, self.asked, self.mute = {}, [], False
        self.running = True
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def loop(self):
        while self.running:
            if not select.select([self.socket], [], [], 0.2)[0]:
                continue
            data, peer = self.socket.recvfrom(2048)
            name, after = read_name(data, 12)
            self.asked.append((name, struct.unpack("!H", data[after:after + 2])[0], peer[1], data[:2]))
            if not self.mute:
                for answer in self.answers(data, name, after):
                    self.socket.sendto(answer, peer)

    def answers(self, data, name, after):
        entry = self.zone.get(name.lower())
        if callable(entry):
            return entry(data, name, data[12:after + 4])
        return [self.answer(data, data[12:after + 4], name, entry)]

    @staticmethod
    def answer(data, wire, name, entry, rcode=None):
        records, owner = [], name
        for kind, value, ttl in entry or []:
            body = quad(value) if kind == A else name_wire(value)
            records.append(record(owner, kind, ttl, body))
            if kind == CNAME:
                owner = value
        rcode = (NOERROR if entry else NXDOMAIN) if rcode is None else rcode
        return data[:2] + struct.pack("!HHHHH", 0x8180 | rcode, 1, len(records), 0, 0) + wire + b"".join(records)

    def close(self):
        self.running = False
        self.thread.join(5)
        self.socket.close()


class Asker:
    """The guest's stub resolver."""

    def __init__(self, guest):
        self.guest, self.ident = guest, 100

    def send(self, name, kind=A, server=GATEWAY):
        self.ident += 1
        self.guest.send(udp(server, 53, question(name, kind, self.ident), sport=20000 + self.ident))
        return self.ident

    def raw(self, data, seconds=2.0):
        self.ident += 1
        sport = 20000 + self.ident
        self.guest.send(udp(GATEWAY, 53, data, sport=sport))
        packet = self.guest.receive(lambda p: p.protocol == 17 and p.dport == sport, seconds)
        return packet and packet.data

    def ask(self, name, kind=A, seconds=8.0):
        ident = self.send(name, kind)
        packet = self.guest.receive(lambda p: p.protocol == 17 and p.dport == 20000 + ident, seconds)
        if packet is None:
            return None
        assert packet.source == GATEWAY
        reply = Reply(packet.data)
        assert reply.ident == ident
        return reply

    def ask_tcp(self, flow, name, kind=A):
        data = question(name, kind, 9)
        answer = flow.echo(struct.pack("!H", len(data)) + data)
        return Reply(answer[2:])
