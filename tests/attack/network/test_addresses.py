"""K01-K03, K14, K16: what can never be reached, and that nothing gets in."""

import socket

import pytest
from names import A, NOERROR, Asker
from world import (
    ACK, BASE, FORBIDDEN, GATEWAY, GUEST, HOST_UPLINK, PUBLIC, PUBLIC2, SYN, Flow, arp, icmp, number, quad, run, tcp,
    udp, wait_for,
)

NEAR, FAR = socket.inet_ntoa((BASE + 2).to_bytes(4, "big")), socket.inet_ntoa((BASE + 3).to_bytes(4, "big"))
HOST_PUBLIC = "45.77.1.1"


def reaches(guest, address, sport=6000):
    """Does anything come back from address by TCP 80, UDP 7 or ping, but for a refusal of ours?"""
    guest.clear()
    guest.send(tcp(address, 80, SYN, sport), udp(address, 7, b"x", sport=sport), icmp(address))
    return guest.receive(
        lambda p: p.source == address and ((p.protocol == 6 and p.flags & ACK and p.flags & SYN) or p.protocol == 17 or p.icmp == (0, 0)),
        0.15,
    )


def test_the_world_answers_where_it_may(world):
    """The control of all the tests below: without a rule against it an address does answer."""
    guest = world.slot(0, "open", "dns")
    assert reaches(guest, PUBLIC)
    flow = guest.connect(PUBLIC2, 443, 6001)
    assert isinstance(flow, Flow) and flow.echo(b"hello") == b"hello"
    counters = world.driver.counters(0)
    assert counters["packets_out"] > 0 and counters["packets_in"] > 0 and counters["bytes_in"] > 0
    for packet in world.capture.from_slots():
        assert packet.source == HOST_UPLINK  # neither the guest's nor the slot's address is seen outside


def test_k01_host_addresses_and_ports(world):
    guest = world.slot(0, "open", "dns")
    run("ip", "address", "add", HOST_PUBLIC + "/32", "dev", "lo", ns=world.host)
    server = world.host.socket()
    server.bind(("0.0.0.0", 9000))
    server.listen(8)
    server.setblocking(False)
    datagrams = world.host.socket(kind=socket.SOCK_DGRAM)
    datagrams.bind(("0.0.0.0", 9000))
    datagrams.setblocking(False)
    for i, address in enumerate((HOST_UPLINK, HOST_PUBLIC, NEAR, FAR, GATEWAY, "127.0.0.1", "0.0.0.0", "10.0.2.3", "10.231.255.255", "255.255.255.255")):
        assert not isinstance(guest.connect(address, 9000, 6100 + i, 0.1), Flow), address
        guest.send(udp(address, 9000, b"x"))
    with pytest.raises(BlockingIOError):
        server.accept()
    with pytest.raises(BlockingIOError):
        datagrams.recv(10)
    client = world.net.socket()  # it does listen
    client.connect((HOST_UPLINK, 9000))
    wait_for(lambda: server.accept(), 2)
    for sock in (server, datagrams, client):
        sock.close()


def test_k01_gateway_offers_dns_and_ping_alone(world):
    guest = world.slot(0, "open", "dns")
    for port in (22, 80, 111, 9000):
        assert not isinstance(guest.connect(GATEWAY, port, 6200 + port, 0.1), Flow)
    assert isinstance(guest.connect(GATEWAY, 53, 6300), Flow)
    guest.send(icmp(GATEWAY))
    assert guest.receive(lambda p: p.icmp == (0, 0) and p.source == GATEWAY)


def test_k02_metadata_services(named):
    guest = named.slot(0)
    named.driver.ask("attach", 0, "allow")
    for i, address in enumerate(("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192")):
        assert not isinstance(guest.connect(address, 80, 6400 + i, 0.1), Flow), address
    named.names.zone["metadata.google.internal"] = [(A, "169.254.169.254", 60)]
    reply = Asker(guest).ask("metadata.google.internal")
    assert (reply.rcode, reply.addresses) == (NOERROR, [])
    assert named.driver.dns(0)["filtered"] == 1
    assert [p for p in named.capture.from_slots() if p.dport != 53] == []


@pytest.mark.parametrize("policy", (["open"], ["closed", "allow=0.0.0.0/0"]))
def test_k03_private_ranges_whatever_is_allowed(world, policy):
    allowed = [f"allow={address}/32" for address in FORBIDDEN[:40]] if policy[0] == "closed" else []
    guest = world.slot(0, *policy, *allowed)
    assert reaches(guest, PUBLIC)
    world.capture.clear()
    for address in FORBIDDEN:
        before = world.driver.counters(0)["private"]
        guest.send(tcp(address, 80), udp(address, 7), icmp(address))
        wait_for(lambda: world.driver.counters(0)["private"] == before + 3, 3, f"three refusals of {address}")
    assert world.capture.from_slots() == []


def test_k03_pin_of_a_private_address_is_refused(world):
    world.slot(0, "closed")
    for address in FORBIDDEN:
        with pytest.raises(Exception, match="^13: "):
            world.driver.ask("pin", 0, number(address), 60)


def test_k14_nothing_comes_in(world):
    guest = world.slot(0, "open", "dns")
    run("ip", "route", "add", "10.231.0.0/16", "via", HOST_UPLINK, "dev", "in0", "table", "77", ns=world.net)
    run("ip", "rule", "add", "pref", "2", "to", "10.231.0.0/16", "lookup", "77", ns=world.net)
    raw = world.net.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    seen = world.slot_packets("rx")
    for target in (FAR, NEAR):
        raw.sendto(tcp(target, 80, source=PUBLIC), (target, 0))
        raw.sendto(udp(target, 7, source=PUBLIC), (target, 0))
        raw.sendto(icmp(target, source=PUBLIC), (target, 0))
    client = world.net.socket()
    client.settimeout(0.2)
    with pytest.raises(OSError):
        client.connect((FAR, 80))
    client.close()
    raw.close()
    assert world.slot_packets("rx") == seen, "a packet from outside got as far as the slot"
    assert reaches(guest, PUBLIC)
    assert guest.receive(lambda p: p.destination == GUEST and p.dport in (80, 7), 0.1) is None


def test_k14_a_flow_lets_in_its_own_peer_alone(world):
    guest = world.slot(0, "open", "dns")
    guest.send(udp(PUBLIC, 7, b"one", sport=6500))
    assert guest.receive(lambda p: p.protocol == 17 and p.data == b"one")
    outside = [p for p in world.capture.from_slots() if p.protocol == 17][0]
    raw = world.net.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    for source, port in ((PUBLIC2, 7), (PUBLIC, 8)):
        raw.sendto(udp(HOST_UPLINK, outside.sport, b"bad", source=source, sport=port), (HOST_UPLINK, 0))
    raw.sendto(udp(HOST_UPLINK, outside.sport, b"good", source=PUBLIC, sport=7), (HOST_UPLINK, 0))
    raw.close()
    assert guest.receive(lambda p: p.data == b"good")
    assert guest.receive(lambda p: p.data == b"bad", 0.1) is None


def test_k16_smtp_is_off(world):
    guest = world.slot(0, "open", "dns")
    before = world.driver.counters(0)["policy"]
    assert not isinstance(guest.connect(PUBLIC, 25, 6600, 0.5), Flow)
    assert world.driver.counters(0)["policy"] == before + 1
    assert [p for p in world.capture.from_slots() if p.dport == 25] == []
    assert isinstance(guest.connect(PUBLIC, 80, 6601), Flow)


def test_a_refusal_is_told_at_once(world):
    """A program in the guest fails, and does not hang."""
    guest = world.slot(0, "closed")
    assert guest.connect(PUBLIC, 80, 6700, 1.0) == "refused"
    assert guest.connect("10.1.1.1", 80, 6701, 1.0) == "refused"


def test_gateway_answers_arp_for_itself_alone(world):
    guest = world.slot(0, "open", "dns")
    guest.frame(arp(1), kind=0x0806, destination=b"\xff" * 6)
    answer = guest.receive(lambda p: p.type == 0x0806)
    assert answer and answer.frame[14 + 14:14 + 18] == quad(GATEWAY)
