"""K04-K07: frames and packets that no honest guest sends, and other sandboxes."""

import itertools
import socket
import struct

import pytest
from world import (
    BASE, GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, PUBLIC, PUBLIC2, SYN, Flow, arp, icmp, ip, number, quad, run, tcp, udp,
    wait_for,
)

ports = itertools.count(7000)
OTHER_MAC = bytes.fromhex("02deadbeef01")
BROADCAST = b"\xff" * 6


def address(offset):
    return socket.inet_ntoa((BASE + offset).to_bytes(4, "big"))


def dropped(world, guest, frames):
    """Each frame is counted as false, none gets to the internet, nothing is answered."""
    world.capture.clear()
    guest.clear()
    before = world.driver.counters(0)["spoofed"]
    for i, frame in enumerate(frames, 1):
        guest.frame(**frame) if isinstance(frame, dict) else guest.frame(frame)
        wait_for(lambda: world.driver.counters(0)["spoofed"] == before + i, 3, f"frame {i} being counted")
    assert world.capture.from_slots() == []
    assert guest.receive(lambda p: True, 0.05) is None
    assert isinstance(guest.connect(PUBLIC, 80, next(ports)), Flow)  # and an honest frame still passes


# ---- K04 ----


def test_k04_sandbox_to_sandbox(world):
    a, b = world.slot(0, "open", "dns"), world.slot(1, "open", "dns")
    b.clear()
    for target in (GUEST, address(2), address(3), address(4), address(5), "10.0.2.3"):
        a.send(tcp(target, 80), udp(target, 7), icmp(target))
        assert not isinstance(a.connect(target, 80, 7100, 0.1), Flow)
    assert b.receive(lambda p: True, 0.1) is None
    assert world.slot_packets("rx", 1) == 0


def test_k04_without_the_rules_of_the_slot_the_host_still_separates(world):
    """The host's table alone, as if the slot's own rules had been lost: to slots, host, private, but not the internet."""
    a, b = world.slot(0, "open"), world.slot(1, "open")
    world.in_slot("nft", "flush", "ruleset")
    world.in_slot("nft", "add table ip t; add chain ip t n { type nat hook postrouting priority 100; }; add rule ip t n oifname veth0 masquerade")
    assert isinstance(a.connect(PUBLIC, 80, 7200), Flow)
    world.capture.clear()
    server = world.host.socket()
    server.bind(("0.0.0.0", 9000))
    server.listen(8)
    server.setblocking(False)
    for target in (address(2), address(3), address(4), address(5), "45.10.10.2", "10.9.9.9", "169.254.169.254", "172.16.5.5", "198.18.0.9"):
        for port in (80, 9000):
            assert not isinstance(a.connect(target, port, 7201, 0.1), Flow), target
    with pytest.raises(BlockingIOError):
        server.accept()
    server.close()
    assert world.slot_packets("rx", 1) == 0 and b.receive(lambda p: True, 0.05) is None
    assert world.capture.from_slots() == []


def test_k04_a_slot_cannot_take_the_address_of_another(world):
    """Packets of slot 0's veth with slot 1's address: its own NAT gone, the host's check holds."""
    guest = world.slot(0, "open")
    world.slot(1, "open")
    for name in ("all", "ak-t1-000"):
        world.host.write(f"net/ipv4/conf/{name}/rp_filter", "0")  # it would do as well; here our own check is meant
    world.in_slot("nft", "flush", "ruleset")
    world.in_slot("nft", f"add table ip t; add chain ip t n {{ type nat hook postrouting priority 100; }}; add rule ip t n oifname veth0 snat to {address(5)}")
    sent = world.slot_packets("tx")
    guest.send(udp(PUBLIC, 7), tcp(PUBLIC, 80), icmp(PUBLIC))
    wait_for(lambda: world.slot_packets("tx") >= sent + 3, 3, "the packets reaching the host")
    assert world.capture.from_slots() == []


def test_k04_arp_scan_shows_the_gateway_alone(world):
    guest = world.slot(0, "open", "dns")
    for last in range(0, 256):
        guest.frame(arp(1, target=f"10.0.2.{last}"), kind=0x0806, destination=BROADCAST)
    answers = set()
    while packet := guest.receive(lambda p: p.type == 0x0806, 0.2):
        answers.add(packet.frame[28:32])
    assert answers == {quad(GATEWAY)}


# ---- K05 ----


def test_k05_spoofed_mac(world):
    guest = world.slot(0, "open", "dns")
    dropped(world, guest, [{"payload": udp(PUBLIC, 7), "source": mac} for mac in (OTHER_MAC, GATEWAY_MAC, BROADCAST, b"\0" * 6)])


def test_k05_spoofed_destination_mac(world):
    guest = world.slot(0, "open", "dns")
    dropped(world, guest, [{"payload": udp(PUBLIC, 7), "destination": mac} for mac in (OTHER_MAC, BROADCAST, bytes.fromhex("01005e0000fb"))])


def test_k05_spoofed_source_address(world):
    guest = world.slot(0, "open", "dns")
    sources = (PUBLIC2, GATEWAY, "10.0.2.3", "127.0.0.1", "0.0.0.0", "255.255.255.255", address(3), address(5), "45.10.10.2")
    dropped(world, guest, [udp(PUBLIC, 7, source=source) for source in sources])
    dropped(world, guest, [tcp(PUBLIC, 80, source=source) for source in sources])
    dropped(world, guest, [icmp(PUBLIC, source=source) for source in sources])


def test_k05_spoofed_arp(world):
    guest = world.slot(0, "open", "dns")
    neighbours = world.in_slot("ip", "neigh")
    frames = [
        arp(2, sender=GATEWAY),                                   # "I am the gateway"
        arp(2, sender=GUEST, target=GUEST),                       # gratuitous
        arp(1, sender=GUEST, target=GUEST),                       # announcement
        arp(2, sender=GUEST, target=GATEWAY, target_mac=GATEWAY_MAC),
        arp(1, sender=PUBLIC),
        arp(1, sender=GUEST, sender_mac=OTHER_MAC),
        arp(1, sender="0.0.0.0"),
        arp(3),
        arp(1)[:20],
    ]
    dropped(world, guest, [{"payload": frame, "kind": 0x0806, "destination": BROADCAST} for frame in frames])
    assert world.in_slot("ip", "neigh") == neighbours


def test_k05_servers_that_a_guest_may_not_be(world):
    """DHCP, mDNS, LLMNR: from the guest to everybody."""
    guest = world.slot(0, "open", "dns")
    frames = [
        {"payload": udp("255.255.255.255", 68, b"offer", sport=67), "destination": BROADCAST},
        {"payload": udp("255.255.255.255", 67, b"discover", sport=68, source="0.0.0.0"), "destination": BROADCAST},
        {"payload": udp("224.0.0.251", 5353, b"mdns", sport=5353), "destination": bytes.fromhex("01005e0000fb")},
        {"payload": udp("224.0.0.252", 5355, b"llmnr", sport=5355), "destination": bytes.fromhex("01005e0000fc")},
    ]
    dropped(world, guest, frames)


# ---- K06 ----


def ipv6(payload=b"", following=59):
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 255) + bytes.fromhex("fe80" + "00" * 13 + "02" + "ff02" + "00" * 13 + "01") + payload


def test_k06_other_ethertypes(world):
    guest = world.slot(0, "open", "dns")
    inner = udp(PUBLIC, 7)
    advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    frames = [
        {"payload": ipv6(advertisement, 58), "kind": 0x86DD, "destination": bytes.fromhex("333300000001")},
        {"payload": ipv6(), "kind": 0x86DD},
        {"payload": struct.pack("!HH", 5, 0x0800) + inner, "kind": 0x8100},
        {"payload": struct.pack("!HH", 0, 0x0800) + inner, "kind": 0x8100},
        {"payload": struct.pack("!HHHH", 5, 0x8100, 6, 0x0800) + inner, "kind": 0x88A8},
        {"payload": b"\x02\x07\x04" + GUEST_MAC, "kind": 0x88CC, "destination": bytes.fromhex("0180c200000e")},
        {"payload": b"\x42\x42\x03" + b"\0" * 35, "kind": 0x0026, "destination": bytes.fromhex("0180c2000000")},
        {"payload": b"\0\0\x11\x40" + inner, "kind": 0x8847},
        {"payload": b"\x11\0\0\0\0\0", "kind": 0x8864},
        {"payload": inner, "kind": 0x0801},
        {"payload": ipv6(), "kind": 0x0800},
    ]
    dropped(world, guest, frames)


def test_k06_other_protocols(world):
    guest = world.slot(0, "open", "dns")
    dropped(world, guest, [ip(PUBLIC, protocol, b"\0" * 24) for protocol in (0, 2, 4, 41, 46, 47, 50, 51, 58, 89, 103, 108, 112, 132, 136, 255)])


def test_k06_ipv6_is_off(world):
    world.slot(0, "open", "dns")
    assert world.in_slot("ip", "-6", "address", "show", "scope", "link") == ""
    assert run("ip", "-6", "address", "show", "dev", "ak-t1-000", ns=world.host) == ""


def test_k06_jumbo(world):
    """A frame larger than the MTU is not sent on as it is."""
    guest = world.slot(0, "open", "dns")
    guest.send(udp(PUBLIC, 7, b"j" * 8000))
    assert isinstance(guest.connect(PUBLIC, 80, 7300), Flow)
    assert [p for p in world.capture.from_slots() if len(p.frame) > 1514] == []


# ---- K07 ----


def test_k07_fragments(world):
    guest = world.slot(0, "open", "dns")
    more = 0x2000
    dropped(world, guest, [
        udp(PUBLIC, 7, b"f" * 64, fragment=more),
        udp(PUBLIC, 7, b"f" * 64, fragment=1),
        udp(PUBLIC, 7, b"f" * 64, fragment=more | 1),
        udp(PUBLIC, 7, b"f" * 64, fragment=0x1FFF),       # the end of 65,535 bytes and more
        tcp(PUBLIC, 80, fragment=more)[:28],              # a header in two pieces
        udp(PUBLIC, 7, fragment=0x8000),                  # the reserved bit
        udp(GATEWAY, 53, b"f" * 16, fragment=more),
    ])


def test_k07_options(world):
    guest = world.slot(0, "open", "dns")
    dropped(world, guest, [
        udp(PUBLIC, 7, options=b"\x83\x07\x04" + quad("10.9.9.9") + b"\0"),  # loose source route
        udp(PUBLIC, 7, options=b"\x89\x07\x04" + quad("10.9.9.9") + b"\0"),  # strict
        udp(PUBLIC, 7, options=b"\x07\x07\x04" + b"\0" * 4 + b"\0"),         # record route
        udp(PUBLIC, 7, options=b"\x44\x08\x05\0" + b"\0" * 4),               # time stamps
        udp(PUBLIC, 7, options=b"\x94\x04\0\0"),                             # router alert
        udp(PUBLIC, 7, options=b"\x01" * 40),
    ])


def test_k07_time_to_live(world):
    guest = world.slot(0, "open", "dns")
    dropped(world, guest, [udp(PUBLIC, 7, ttl=1), udp(PUBLIC, 7, ttl=0), icmp(PUBLIC, ttl=1)])


def test_k07_icmp_but_echo(world):
    guest = world.slot(0, "open", "dns")
    inner = udp(PUBLIC, 7)[:28]
    dropped(world, guest, [
        icmp(PUBLIC, 5, 1, quad("10.9.9.9") + inner),  # redirect
        icmp(GATEWAY, 5, 1, quad("10.9.9.9") + inner),
        icmp(PUBLIC, 0), icmp(PUBLIC, 3, 4, b"\0\0\x02\0" + inner), icmp(PUBLIC, 9), icmp(PUBLIC, 10), icmp(PUBLIC, 13, 0, b"\0" * 16),
        icmp(PUBLIC, 17, 0, b"\0" * 8), icmp(PUBLIC, 42),
    ])


def test_k07_broken_headers(world):
    guest = world.slot(0, "open", "dns")
    dropped(world, guest, [udp(PUBLIC, 7, version=5), udp(PUBLIC, 7, version=15), b"\x44" + udp(PUBLIC, 7)[1:], b"\x40" + b"\0" * 19])
    world.capture.clear()
    for payload in (b"", b"\x45", udp(PUBLIC, 7)[:19], udp(PUBLIC, 7, total=4000), udp(PUBLIC, 7, total=10), ip(PUBLIC, 6, b"\0" * 4), ip(PUBLIC, 17, b"\0" * 3)):
        guest.frame(payload)
    assert isinstance(guest.connect(PUBLIC, 80, 7400), Flow)
    assert [p for p in world.capture.from_slots() if p.protocol != 6] == []


def test_k07_no_warning_of_the_kernel(world):
    """Every false frame of this file once more, and no WARN of the host's kernel."""
    before = run("dmesg").count("WARNING:")
    guest = world.slot(0, "open", "dns")
    for fragment in (0x2000, 1, 0x1FFF, 0x3FFF):
        guest.send(udp(PUBLIC, 7, b"f" * 64, fragment=fragment), tcp(PUBLIC, 80, fragment=fragment)[:24])
    guest.send(tcp(PUBLIC, 80, SYN | 1 | 4 | 8 | 16 | 32), tcp(PUBLIC, 80, 0), ip(PUBLIC, 6, b"\xff" * 20), ip(PUBLIC, 17, b"\xff" * 8))
    assert isinstance(guest.connect(PUBLIC, 80, 7500), Flow)
    assert number(PUBLIC) and run("dmesg").count("WARNING:") == before
