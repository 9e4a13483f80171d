"""K08, K09, K11, K15: DNS, and rules that are about names."""

import socket
import struct
import time

import pytest
from names import (
    A, AAAA, ANY, CNAME, FORMERR, HTTPS, MX, NOERROR, NOTIMP, NS, NXDOMAIN, PTR, REFUSED, SERVFAIL, SRV, TXT, Asker,
    Names, question,
)
from world import GATEWAY, PUBLIC, PUBLIC2, Flow, udp, wait_for

REBOUND = "10.9.9.9"


@pytest.fixture
def guest(named):
    return named.slot(0)


@pytest.fixture
def asker(guest):
    return Asker(guest)


def test_names_resolve(named, guest, asker):
    """The control: an ordinary name, an ordinary connection."""
    named.names.zone["www.example.com"] = [(CNAME, "edge.example.net", 300), (A, PUBLIC, 100), (A, PUBLIC2, 200)]
    named.driver.ask("attach", 0, "allow")
    reply = asker.ask("www.example.com")
    assert (reply.rcode, reply.addresses, reply.ttl) == (NOERROR, [PUBLIC, PUBLIC2], 100)
    assert reply.name == "www.example.com"
    assert asker.ask("nothing.example.com").rcode == NXDOMAIN
    assert isinstance(guest.connect(PUBLIC, 80, 8000), Flow)


# ---- K08 ----


def test_k08_rebinding_of_an_allowed_name(named, guest, asker):
    named.names.zone["rebind.example"] = [(A, PUBLIC, 0)]
    named.driver.ask("attach", 0, "deny", "allow=rebind.example")
    reply = asker.ask("rebind.example")
    assert reply.addresses == [PUBLIC] and reply.ttl >= 30  # a TTL of 0 does not make a pin of no time
    assert isinstance(guest.connect(PUBLIC, 80, 8100), Flow)
    for private in (REBOUND, "169.254.169.254", "127.0.0.1", "192.168.1.1", "0.0.0.0", "224.0.0.1", "100.100.100.200"):
        named.names.zone["rebind.example"] = [(A, private, 0)]
        reply = asker.ask("rebind.example")
        assert (reply.rcode, reply.addresses) == (NOERROR, []), private
        assert not isinstance(guest.connect(private, 80, 8101, 0.1), Flow)
    assert named.driver.dns(0)["filtered"] == 7


def test_k08_public_and_private_in_one_answer(named, guest, asker):
    named.names.zone["mixed.example"] = [(A, "169.254.169.254", 60), (A, PUBLIC, 60), (A, REBOUND, 60)]
    named.driver.ask("attach", 0, "deny", "allow=mixed.example")
    assert asker.ask("mixed.example").addresses == [PUBLIC]


def test_k08_alias_to_metadata(named, guest, asker):
    named.names.zone["alias.example"] = [(CNAME, "metadata.google.internal", 60), (A, "169.254.169.254", 60)]
    named.driver.ask("attach", 0, "deny", "allow=alias.example")
    assert asker.ask("alias.example").addresses == []


def test_k08_alias_to_a_denied_name(named, guest, asker):
    named.names.zone["alias.example"] = [(CNAME, "Evil.Example.net", 60), (A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "allow", "deny=evil.example.net")
    assert asker.ask("alias.example").rcode == NXDOMAIN


def test_k08_no_ipv6_address_is_ever_given(named, guest, asker):
    named.driver.ask("attach", 0, "allow")
    reply = asker.ask("www.example.com", AAAA)
    assert (reply.rcode, reply.addresses) == (NOERROR, [])
    assert named.names.asked == []


def test_k08_forged_answers(named, guest, asker):
    """Wrong id, wrong question, records that do not belong to the question: not believed; the true one is."""
    def forge(data, name, wire):
        wrong_id = bytes([data[0] ^ 1]) + data[1:]
        other = Names.answer(data, question("other.example")[12:], "other.example", [(A, PUBLIC2, 60)])
        unrelated = Names.answer(data, wire, "unrelated.example", [(A, PUBLIC2, 60)])
        true = Names.answer(data, wire, name, [(A, PUBLIC, 60)])
        return [Names.answer(wrong_id, wire, name, [(A, PUBLIC2, 60)]), other, b"", b"\0" * 11, data, true, unrelated]

    named.names.zone["forged.example"] = forge
    named.driver.ask("attach", 0, "deny", "allow=forged.example")
    assert asker.ask("forged.example").addresses == [PUBLIC]
    assert guest.connect(PUBLIC2, 80, 8200, 0.5) == "refused"


def test_k08_random_ids_and_ports(named, guest, asker):
    named.names.zone["r.example"] = [(A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "allow")
    for _ in range(20):
        assert asker.ask("r.example").addresses == [PUBLIC]
    assert len({asked[3] for asked in named.names.asked}) >= 18
    assert len({asked[2] for asked in named.names.asked}) >= 15


def test_k08_loop_of_aliases(named, guest, asker):
    named.names.zone["loop.example"] = [(CNAME, "a.example", 60), (CNAME, "loop.example", 60), (CNAME, "a.example", 60)] * 4
    named.driver.ask("attach", 0, "allow")
    assert asker.ask("loop.example").addresses == []


# ---- K09 ----


@pytest.mark.parametrize("name", ("evilexample.com", "example.com.evil.net", "sub.example.com", "example.co", "xn--example-9d0b.com", "com", "example.net"))
def test_k09_names_that_only_look_allowed(named, guest, asker, name):
    named.names.zone[name] = [(A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "deny", "allow=example.com")
    assert asker.ask(name).rcode == NXDOMAIN
    assert named.names.asked == []


def test_k09_case_and_trailing_dot(named, guest, asker):
    named.names.zone["example.com"] = [(A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "deny", "allow=EXAMPLE.com.")
    assert asker.ask("ExAmPlE.CoM").addresses == [PUBLIC]
    assert asker.ask("example.com.").addresses == [PUBLIC]


def test_k09_wildcard(named, guest, asker):
    for name in ("a.example.com", "b.a.example.com", "example.com", "aexample.com"):
        named.names.zone[name] = [(A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "deny", "allow=*.example.com", "deny=b.a.example.com")
    assert asker.ask("a.example.com").addresses == [PUBLIC]
    for name in ("example.com", "aexample.com", "b.a.example.com"):
        assert asker.ask(name).rcode == NXDOMAIN


def test_k09_bytes_that_imitate_a_dot(named, guest, asker):
    """One label "a.example" below com is not the name a.example.com."""
    named.driver.ask("attach", 0, "deny", "allow=a.example.com", "allow=*.example.com")
    for labels in ([b"a.example", b"com"], [b"x\0", b"example", b"com"], [b"a\\.b", b"example", b"com"], [b"\xc3\xa4", b"example", b"com"]):
        wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
        answer = asker.raw(question("x")[:12] + wire + struct.pack("!HH", A, 1))
        assert answer[3] & 15 == NXDOMAIN
    assert named.names.asked == []


def test_k09_address_without_a_name(named, guest, asker):
    """An entry in the guest's own /etc/hosts, an address by number, QUIC: only what was resolved and pinned counts."""
    named.names.zone["example.com"] = [(A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "deny", "allow=example.com")
    assert guest.connect(PUBLIC, 443, 8300, 1) == "refused"
    assert asker.ask("example.com").addresses == [PUBLIC]
    assert isinstance(guest.connect(PUBLIC, 443, 8301), Flow)
    assert guest.connect(PUBLIC2, 443, 8302, 1) == "refused"
    named.capture.clear()
    guest.send(udp(PUBLIC2, 443, b"quic"))
    wait_for(lambda: named.driver.counters(0)["policy"] >= 3)
    assert named.capture.from_slots() == []


def test_k09_denied_name(named, guest, asker):
    named.names.zone["bad.example"] = named.names.zone["x.bad.example"] = [(A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "allow", "deny=bad.example", "deny=*.bad.example")
    assert asker.ask("bad.example").rcode == NXDOMAIN
    assert asker.ask("x.bad.example").rcode == NXDOMAIN
    assert named.names.asked == []


def test_k09_denied_range_wins_over_a_pin(named, guest, asker):
    named.names.zone["example.com"] = [(A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "deny", "allow=example.com", f"deny={PUBLIC}")
    assert asker.ask("example.com").addresses == [PUBLIC]
    assert guest.connect(PUBLIC, 443, 8400, 1) == "refused"


def test_k10_pins_are_made_again_for_names_still_allowed(named, guest, asker):
    named.names.zone["a.example"], named.names.zone["b.example"] = [(A, PUBLIC, 60)], [(A, PUBLIC2, 60)]
    named.driver.ask("attach", 0, "deny", "allow=a.example", "allow=b.example")
    assert asker.ask("a.example").addresses and asker.ask("b.example").addresses
    kept, cut = guest.connect(PUBLIC, 80, 8500), guest.connect(PUBLIC2, 80, 8501)
    assert kept.echo(b"1") == b"1" and cut.echo(b"1") == b"1"
    named.driver.ask("update", 0, "deny", "allow=a.example", "allow=c.example")
    assert kept.echo(b"2") == b"2"
    assert cut.echo(b"2", 1.0) in (None, "reset")
    assert guest.connect(PUBLIC2, 80, 8502, 1) == "refused"


# ---- K11 ----


def test_k11_nothing_leaves_before_a_policy(named, guest, asker):
    for _ in range(20):
        guest.send(udp(PUBLIC, 7), udp(GATEWAY, 53, question("example.com")), udp(PUBLIC, 53, question("example.com")))
    assert guest.connect(PUBLIC, 80, 8600, 0.5) == "refused"
    assert named.capture.from_slots() == [] and named.names.asked == []


def test_k11_nothing_leaves_under_deny(named, guest, asker):
    named.driver.ask("attach", 0, "deny")
    assert asker.ask("example.com").rcode == NXDOMAIN  # at once, and no question went out
    assert asker.ask("exfil.attacker.example", TXT).rcode == REFUSED
    for _ in range(20):
        guest.send(udp(PUBLIC, 7), udp(PUBLIC, 53, question("example.com")))
    assert guest.connect(PUBLIC, 80, 8700, 0.5) == "refused"
    assert named.capture.from_slots() == [] and named.names.asked == []


def test_k11_nothing_is_left_of_an_earlier_sandbox(named, guest, asker):
    """Questions that an earlier guest left in the sockets are not answered to the next one, nor asked."""
    named.driver.ask("policy", 0, "open", "dns")
    for _ in range(10):
        asker.send("old.example")
    flow = guest.connect(GATEWAY, 53, 8800)
    assert isinstance(flow, Flow)
    named.driver.ask("attach", 0, "allow")
    named.names.zone["new.example"] = [(A, PUBLIC, 60)]
    assert asker.ask("new.example").addresses == [PUBLIC]
    assert [name for name, *_ in named.names.asked] == ["new.example"]


def test_k11_nothing_after_detach(named, guest, asker):
    named.driver.ask("attach", 0, "deny", "allow=example.com")
    named.names.mute = True
    asker.send("example.com")
    wait_for(lambda: named.names.asked)
    named.driver.ask("detach", 0)
    with pytest.raises(Exception, match="^2: "):
        named.driver.ask("dns", 0)


# ---- K15 ----


def test_k15_only_our_resolver(named, guest, asker):
    named.driver.ask("attach", 0, "allow")
    named.capture.clear()
    for server in (PUBLIC, "8.8.8.8", "45.10.10.1"):
        guest.send(udp(server, 53, question("example.com")), udp(server, 853, b"doq"))
        assert guest.connect(server, 53, 8900, 0.5) in ("refused", None)
        assert guest.connect(server, 853, 8901, 0.5) in ("refused", None)
    assert named.capture.from_slots() == []


def test_k15_types_that_make_tunnels(named, guest, asker):
    named.driver.ask("attach", 0, "allow")
    for kind in (NS, MX, TXT, SRV, ANY, 10, 33, 43, 46, 99, 252, 65280):
        assert asker.ask("data.tunnel.example", kind).rcode == REFUSED, kind
    assert asker.ask("1.0.0.10.in-addr.arpa", PTR).rcode == NXDOMAIN
    assert asker.ask("www.example.com", HTTPS).rcode == NOERROR
    assert named.names.asked == []


def test_k15_rate(named, guest, asker):
    named.names.zone["r.example"] = [(A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "allow")
    start = time.monotonic()
    for _ in range(350):
        asker.send("r.example")
    wait_for(lambda: named.driver.dns(0)["limited"] >= 50)
    assert len(named.names.asked) <= 100 + 50 * (time.monotonic() - start) + 2


def test_k15_broken_questions(named, guest, asker):
    named.driver.ask("attach", 0, "allow")
    good = question("www.example.com")
    for data, rcode in (
        (good[:4] + b"\0\2" + good[6:], FORMERR), (good[:4] + b"\0\0" + good[6:], FORMERR), (good[:20], FORMERR),
        (good[:12] + b"\xc0\x0c" + good[-4:], FORMERR), (good[:12] + b"\x3f" + good[13:], FORMERR),
        (question("www.example.com", flags=0x2800), NOTIMP), (good[:-2] + b"\0\3", REFUSED), (good + b"x" * 600, FORMERR),
    ):
        assert asker.raw(data)[3] & 15 == rcode
    for data in (b"", b"\0" * 5, question("x", flags=0x8180)):
        assert asker.raw(data, 0.1) is None
    assert named.names.asked == []


def test_k15_over_tcp(named, guest, asker):
    named.names.zone["t.example"] = [(A, PUBLIC, 60)]
    named.driver.ask("attach", 0, "allow")
    flow = guest.connect(GATEWAY, 53, 8950)
    for _ in range(3):
        assert asker.ask_tcp(flow, "t.example").addresses == [PUBLIC]
    assert asker.ask_tcp(flow, "t.example", TXT).rcode == REFUSED
    both = question("t.example", A, 21), question("t.example", TXT, 22)
    answer = flow.echo(b"".join(struct.pack("!H", len(data)) + data for data in both))
    assert struct.unpack("!H", answer[2:4])[0] == 21
    second = answer[2 + struct.unpack("!H", answer[:2])[0]:]
    if not second:
        second = guest.receive(lambda p: p.protocol == 6 and p.dport == flow.sport and p.data).data
    assert struct.unpack("!H", second[2:4])[0] == 22


def test_k15_tcp_connections_are_bounded(named, guest, asker):
    named.driver.ask("attach", 0, "allow")
    flows = [guest.connect(GATEWAY, 53, 9000 + i, 1) for i in range(20)]
    wait_for(lambda: named.driver.dns(0)["limited"] >= 1)
    data = struct.pack("!H", 40) + b"x"
    alive = [flow for flow in flows if isinstance(flow, Flow) and flow.echo(data, 0.05) is None]
    assert len(alive) <= 20 and flows[0] is not None
    assert asker.ask("a.example").rcode == NXDOMAIN  # UDP is not held up by them


def test_upstream_that_is_silent(named, guest, asker):
    named.names.mute = True
    named.driver.ask("attach", 0, "allow")
    assert asker.ask("www.example.com", seconds=6).rcode == SERVFAIL
    assert len(named.names.asked) == 2
    assert named.driver.dns(0)["failed"] == 1


def test_many_outstanding_are_bounded(named, guest, asker):
    named.names.mute = True
    named.driver.ask("attach", 0, "allow")
    for i in range(60):
        asker.send(f"n{i}.example")
    assert wait_for(lambda: named.driver.dns(0)["limited"] >= 20)
    assert len(named.names.asked) <= 33
    assert socket.inet_aton(GATEWAY)
