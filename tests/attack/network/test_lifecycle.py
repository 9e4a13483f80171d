"""K17, K18, and what remains after an end in disorder."""

import contextlib
import json
import os
import subprocess

import pytest
from world import ACK, PUBLIC, PUBLIC2, Driver, Flow, number, run, tcp, udp, wait_for


def blocked_everywhere(world, guest, sport):
    world.capture.clear()
    for i, address in enumerate(("10.9.9.9", "169.254.169.254", "45.10.10.2", "192.168.1.1")):
        assert not isinstance(guest.connect(address, 80, sport + i, 0.05), Flow)
    assert world.capture.from_slots() == []


# ---- K17 ----


@pytest.mark.parametrize("change", (
    "flush ruleset", "delete table inet akira", "delete table netdev akira", "flush chain inet akira out",
    "flush set inet akira blocked", "delete element inet akira blocked { 10.0.0.0/8 }",
    "chain inet akira forward { policy accept; }", "insert rule inet akira forward accept",
    "insert rule netdev akira ingress accept", "flush chain inet akira verdict_out",
    "add table inet akira { flags dormant; }",
))
def test_k17_rules_of_a_slot_altered(world, change):
    guest = world.slot(0, "closed", f"allow={PUBLIC2}/32")
    world.driver.ask("pin", 0, number(PUBLIC), 60)
    assert world.driver.ask("tick")[0] == "0"
    world.in_slot("nft", change)
    assert world.driver.ask("tick")[0] == "1"
    assert world.driver.counters(0)["repaired"] == 1
    assert world.driver.counters(0)["repaired"] == 0
    assert world.driver.ask("tick")[0] == "0"
    blocked_everywhere(world, guest, 16000)
    assert isinstance(guest.connect(PUBLIC, 80, 16100), Flow), "the pin was kept"
    assert isinstance(guest.connect(PUBLIC2, 80, 16101), Flow)
    assert guest.connect("93.184.216.35", 80, 16102, 1) == "refused"


@pytest.mark.parametrize("change", (
    "flush ruleset", "delete table inet akira-t1", "flush chain inet akira-t1 from_slot", "flush chain inet akira-t1 forward",
    "delete element inet akira-t1 blocked { 169.254.0.0/16 }", "insert rule inet akira-t1 input accept",
    "add table inet akira-t1 { flags dormant; }",
))
def test_k17_rules_of_the_host_altered(world, change):
    guest = world.slot(0, "open")
    run("nft", change, ns=world.host)
    assert int(world.driver.ask("tick")[0]) >= 1
    assert world.driver.counters(0)["repaired"] == 1
    assert world.driver.ask("tick")[0] == "0"
    blocked_everywhere(world, guest, 16200)
    assert isinstance(guest.connect(PUBLIC, 80, 16300), Flow)


def test_k17_while_the_rules_of_the_slot_are_gone_the_hosts_hold(world):
    guest = world.slot(0, "open")
    world.in_slot("nft", "flush", "ruleset")
    blocked_everywhere(world, guest, 16400)


def test_k17_while_the_rules_of_the_host_are_gone_the_slots_hold(world):
    guest = world.slot(0, "open")
    run("nft", "flush", "ruleset", ns=world.host)
    blocked_everywhere(world, guest, 16500)


def test_k17_tables_of_others_are_left_alone(world):
    world.slot(0, "open")
    run("nft", "add table inet firewalld; add chain inet firewalld c; add rule inet firewalld c accept", ns=world.host)
    assert world.driver.ask("tick")[0] == "0"
    world.driver.ask("end")
    names = {entry["table"]["name"] for entry in world.host_rules() if "table" in entry}
    assert names == {"firewalld"}


def test_k17_uplink_that_moves(still):
    """The default route appears after the start, then goes another way: the host's table follows it."""
    run("ip", "route", "del", "default", ns=still.host)
    still.start()
    guest = still.slot(0, "open")
    assert not isinstance(guest.connect(PUBLIC, 80, 16600, 0.2), Flow)
    assert still.capture.from_slots() == []
    run("ip", "route", "add", "default", "via", "45.10.10.1", ns=still.host)
    still.driver.ask("tick")
    assert isinstance(guest.connect(PUBLIC, 80, 16601), Flow)


# ---- K18 ----


def push(peer, data):
    """The old flow's peer sends on; the host may answer it with a reset."""
    with contextlib.suppress(OSError):
        peer.sendall(data)


def test_k18_reset_leaves_nothing_of_the_old_guest(world):
    old = world.slot(0, "open", "dns", "kbps=50000")
    flow = old.connect(PUBLIC, 80, 17000)
    assert flow.echo(b"old") == b"old"
    world.driver.ask("pin", 0, number(PUBLIC2), 3600)
    peer = world.internet.accepted[-1]
    peer.sendall(b"queued in the tap")
    wait_for(lambda: old.drain() or any(p.data == b"queued in the tap" for p in old.pending))
    peer.sendall(b"never read")
    old.close()
    world.driver.ask("reset", 0)
    new = world.tap(0)
    push(peer, b"for the old guest")
    assert new.receive(lambda p: True, 0.3) is None
    counters = world.driver.counters(0)
    assert not any(counters.values()), counters
    assert world.in_slot("cat", "/proc/net/nf_conntrack") == ""
    assert "tbf" not in world.in_slot("tc", "qdisc", "show")
    assert new.connect(PUBLIC2, 80, 17001, 1) == "refused"  # deny-all, no pin
    world.driver.ask("policy", 0, "open", "dns")
    push(peer, b"for the old guest still")
    assert new.receive(lambda p: p.data.startswith(b"for the old"), 0.3) is None
    assert isinstance(new.connect(PUBLIC, 80, 17000), Flow)
    flows = run("cat", "/proc/net/nf_conntrack", ns=world.host)
    assert flows.count("dport=80") == 1, flows


def test_k18_reset_undoes_what_a_vm_did_to_its_tap(world):
    """A monitor that was broken into can change the MAC by its descriptor; the next guest has the right gateway."""
    import fcntl
    import struct

    old = world.slot(0, "open", "dns")
    request = struct.pack("16sH6s8x", b"tap0", 1, bytes.fromhex("02aabbccddee"))
    fcntl.ioctl(old.tap, 0x8924, request)  # SIOCSIFHWADDR
    assert "02:aa:bb:cc:dd:ee" in world.in_slot("ip", "link", "show", "tap0")
    old.close()
    world.driver.ask("reset", 0)
    assert "02:61:6b:00:00:01" in world.in_slot("ip", "link", "show", "tap0")
    world.driver.ask("policy", 0, "open", "dns")
    assert isinstance(world.tap(0).connect(PUBLIC, 80, 17100), Flow)


def test_k18_reset_while_a_vm_still_holds_the_tap_fails(world):
    world.slot(0, "open")
    with pytest.raises(Exception, match="^16: "):
        world.driver.ask("reset", 0)


def test_k18_same_number_again(world):
    old = world.slot(0, "open")
    flow = old.connect(PUBLIC, 80, 17200)
    assert flow.echo(b"old") == b"old"
    peer = world.internet.accepted[-1]
    old.close()
    world.driver.ask("destroy", 0)
    new = world.slot(0, "open")
    push(peer, b"for the old guest")
    assert new.receive(lambda p: True, 0.3) is None
    assert isinstance(new.connect(PUBLIC, 80, 17200), Flow)


def test_k18_dns_sockets_survive_a_reset(named):
    from names import A, Asker

    named.names.zone["a.example"] = [(A, PUBLIC, 60)]
    old = named.slot(0)
    named.driver.ask("attach", 0, "allow")
    assert Asker(old).ask("a.example").addresses == [PUBLIC]
    named.driver.ask("detach", 0)
    old.close()
    named.driver.ask("reset", 0)
    named.driver.ask("attach", 0, "deny", "allow=a.example")
    new = named.tap(0)
    assert Asker(new).ask("a.example").addresses == [PUBLIC]
    assert isinstance(new.connect(PUBLIC, 80, 17300), Flow)


# ---- ends in disorder ----


def links(world):
    return sorted(link["ifname"] for link in json.loads(run("ip", "-j", "link", ns=world.host)) if link["ifname"].startswith("ak-"))


def namespaces(world):
    """How many network namespaces the driver's descriptors hold."""
    folder = f"/proc/{world.driver.process.pid}/fd"
    return sum(os.readlink(f"{folder}/{fd}").startswith("net:") for fd in os.listdir(folder))


def test_cycles_leave_nothing(world):
    folder = f"/proc/{world.driver.process.pid}/fd"
    world.slot(0, "open").close()
    world.driver.ask("destroy", 0)
    before, rules = len(os.listdir(folder)), run("nft", "list", "ruleset", ns=world.host)
    for _ in range(20):
        guest = world.slot(5, "open", "kbps=1000")
        world.driver.ask("pin", 5, number(PUBLIC), 60)
        guest.close()
        world.driver.ask("reset", 5)
        world.driver.ask("destroy", 5)
    assert links(world) == [] and len(os.listdir(folder)) == before
    assert run("nft", "list", "ruleset", ns=world.host) == rules


def test_killed_launcher_leaves_nothing(world):
    world.slot(0, "open").close()
    world.slot(7, "open").close()
    assert links(world) == ["ak-t1-000", "ak-t1-007"]
    world.driver.kill()
    wait_for(lambda: links(world) == [], 5, "the kernel taking down what nobody holds")
    world.driver = Driver(world.program, world.host)
    world.driver.ask("init", "-", 0x0AE70000, "t1", world.host.run_dir)
    assert world.driver.ask("sweep") == ["0"]
    assert isinstance(world.slot(0, "open").connect(PUBLIC, 80, 18000), Flow)


def test_killed_launcher_with_a_vm_that_lives_on(world):
    """Whoever holds the tap keeps the namespace; the sweep cuts it off, and the number is free again."""
    survivor = world.slot(0, "open")
    world.slot(1, "open").close()
    run("ip", "link", "add", "ak-t2-000", "type", "veth", "peer", "name", "other0", ns=world.host)  # of another installation
    world.driver.kill()
    wait_for(lambda: links(world) == ["ak-t1-000", "ak-t2-000"])
    world.driver = Driver(world.program, world.host)
    world.driver.ask("init", "-", 0x0AE70000, "t1", world.host.run_dir)
    assert world.driver.ask("sweep") == ["1"]
    assert links(world) == ["ak-t2-000"]
    new = world.slot(0, "open")
    world.capture.clear()
    survivor.send(udp(PUBLIC, 7), tcp(PUBLIC, 80))
    assert isinstance(new.connect(PUBLIC, 80, 18100), Flow)
    assert all(p.protocol == 6 and p.dport == 80 for p in world.capture.from_slots())
    assert len([p for p in world.capture.from_slots() if p.flags & ACK]) >= 1


def test_second_launcher_is_refused(world):
    second = Driver(world.program, world.host)
    with pytest.raises(Exception, match="^16: another launcher"):
        second.ask("init", "-", 0x0AE70000, "t1", world.host.run_dir)
    second.close()


@pytest.mark.parametrize("words, text", (
    (("-", 0x0AE70000, "T", None), "tag"), (("-", 0x0AE70000, "toolong", None), "tag"), (("-", 0x0AE70000, "a-b", None), "tag"),
    (("a b;c", 0x0AE70000, "t1", None), ""), (('x"{', 0x0AE70000, "t1", None), "uplink"), (("-", 0x0AE70100, "t1", None), "net_base"),
    (("-", 0x0A000000, "t1", None), "net_base"), (("-", 0x08080000, "t1", None), "net_base"), (("-", 0x0AE70000, "t1", "/nowhere"), "net.lock"),
))
def test_configuration_is_checked(still, words, text):
    still.driver = Driver(still.program, still.host)
    with pytest.raises(Exception, match=text):
        still.driver.ask("init", *words[:3], words[3] or still.host.run_dir)


def test_forwarding_is_turned_on_for_the_uplink_alone(still):
    run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1", ns=still.host)
    still.start()
    assert still.host.read("net/ipv4/conf/up0/forwarding") == "1"
    assert still.host.read("net/ipv4/conf/lan0/forwarding") == "0"
    assert still.host.read("net/ipv4/ip_forward") == "0"
    assert "net_forwarding_enabled" in still.driver.log()


def test_nothing_of_the_hosts_own_rules_changes(still):
    run("nft", "add table ip mine; add chain ip mine c { type filter hook forward priority 0; policy accept; }", ns=still.host)
    before = run("nft", "list", "table", "ip", "mine", ns=still.host)
    still.start()
    still.slot(0, "open").close()
    still.driver.ask("end")
    assert run("nft", "list", "ruleset", ns=still.host) == before


def test_no_process_is_left(world):
    world.slot(0, "open")
    children = subprocess.run(["pgrep", "-P", str(world.driver.process.pid)], capture_output=True, text=True).stdout
    assert children == "" and namespaces(world) == 1
