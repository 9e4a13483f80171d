"""Group H against akira-launch itself: akirad is in the attacker's hands (H09, H10), layers are missing (H07)."""
import errno
import os
import shutil
import socket
import tempfile

import pytest

from jail import FAULTS, SIGSYS, UIDS, USER, Jail, Raw, Refused, processes_of_vms
from test_h_escape import blocked


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    base = str(tmp_path_factory.mktemp("raw"))
    one = Raw(base)
    os.chown(one.data_dir, USER, USER)
    yield one
    assert one.close() == 0, "whatever came, it ends in order"


BAD_IDS = ["", "../../x", "a/b", "a" * 64, "a" * 65, "ünï", b"a\0b", "-x", "a b", "a.b", "a\n", b"\xff", "."]


@pytest.mark.parametrize("vm", BAD_IDS)
def test_h09_ids(raw, vm):
    code, _ = raw.ask(raw.VM_START, raw.start_fields(vm=vm))
    assert code == errno.EBADMSG
    for kind in (raw.VM_KILL, raw.VM_STATS):
        assert raw.ask(kind, raw.field(raw.ID, vm))[0] == errno.EBADMSG


@pytest.mark.parametrize("name", ["", "../x", "A", "a/b", "a.b", "a" * 16, b"a\0", "-", "é"])
def test_h09_file_names(raw, name):
    with open(os.devnull) as f:
        assert raw.ask(raw.VM_START, raw.start_fields(files=[(name, False)]), [f.fileno()])[0] == errno.EBADMSG


def test_h09_names_twice_and_too_many(raw):
    with open(os.devnull) as f:
        fd = f.fileno()
        assert raw.ask(raw.VM_START, raw.start_fields(files=[("a", False)] * 2), [fd] * 2)[0] == errno.EBADMSG
        seven = [(f"a{i}", False) for i in range(7)]
        assert raw.ask(raw.VM_START, raw.start_fields(files=seven), [fd] * 7)[0] == errno.EBADMSG


@pytest.mark.parametrize("count,given", [(0, 1), (1, 0), (2, 1), (6, 12), (7, 7)])
def test_h09_descriptor_counts(raw, count, given):
    with open(os.devnull) as f:
        assert raw.ask(raw.VM_START, raw.start_fields(fds=count), [f.fileno()] * given)[0] == errno.EBADMSG


@pytest.mark.parametrize("message", [b"\1", b"\1\0\0\0\0\0\0\0", b"\2\0\x08\0\1\0\0\0", b"\1\0\xff\x7f\1\0\0\0",
                                     b"\1\0\x09\0\1\0\0\0\1\0\xff\xff\xff\xff", b"\1\0\x09\0\1\0\0\0\1\0\1\0", b"\xff" * 40000])
def test_h09_malformed_messages(raw, message):
    raw.send(message)
    assert raw.receive()[0] == errno.EBADMSG
    assert raw.ask(raw.VM_KILL, raw.field(raw.ID, "nobody"))[0] == 0, "and it goes on"


def test_h09_message_too_large(raw):
    raw.send(b"\1\0\x08\0" + b"\0" * 60000)
    assert raw.receive()[0] == errno.EMSGSIZE
    assert raw.ask(raw.VM_KILL, raw.field(raw.ID, "nobody"))[0] == 0


@pytest.mark.parametrize("change", [{"quarters": b""}, {"memory": b""}, {"slot_": b""}, {"fds_": b""}, {"fsize": b""}, {"id": b""}])
def test_h09_missing_fields(raw, change):
    assert raw.ask(raw.VM_START, raw.start_fields(**change))[0] == errno.EBADMSG


def test_h09_values_out_of_range(raw):
    bad = [{"quarters": raw.u32(raw.QUARTERS, 0)}, {"quarters": raw.u32(raw.QUARTERS, 1025)}, {"memory": raw.u64(raw.MEMORY, 0)},
           {"memory": raw.u64(raw.MEMORY, 1 << 63)}, {"fsize": raw.u64(raw.FSIZE, 1 << 63)}, {"slot_": raw.u32(raw.SLOT, 4096)},
           {"args_": raw.field(raw.ARG, "a" * 2049)}, {"args_": raw.field(raw.ARG, "a") * 129},
           {"args_": raw.field(raw.ARG, "a" * 2048) * 17}, {"args_": raw.field(raw.ARG, b"a\0b")},
           {"id": raw.field(raw.ID, "a") * 2}, {"extra": raw.field(raw.QEMU, "/bin/sh")}, {"extra": raw.field(127, "")},
           {"extra": raw.field(65535, "")}]
    for change in bad:
        assert raw.ask(raw.VM_START, raw.start_fields(**change))[0] == errno.EBADMSG, change


def test_h09_second_configuration(raw):
    assert raw.configure(qemu="/bin/sh")[0] == errno.EALREADY


def test_h09_slot_that_does_not_exist(raw):
    assert raw.ask(raw.VM_START, raw.start_fields(slot=77))[0] in (errno.ENOENT, errno.ENOSYS)


def test_h09_nothing_before_configuration(base):
    r = Raw(base, configure=False)
    assert r.ask(r.VM_START, r.start_fields())[0] == errno.ENOTCONN
    assert r.ask(r.NET_MAKE, r.u32(r.SLOT, 1))[0] == errno.ENOTCONN
    r.close()


@pytest.mark.parametrize("change", [{"first": 0}, {"count": 0}, {"count": 65537}, {"user": UIDS + 3}, {"qemu": "relative"},
                                    {"qemu": "/nonexistent"}, {"qemu": "/etc/passwd"}, {"run_dir": "x"}])
def test_h09_configuration_that_makes_no_sense(base, change):
    r = Raw(base, configure=False)
    assert r.configure(**change)[0] != 0
    r.close()


def file_cases(raw):
    """(descriptor, writable, errors) of what akirad must not be able to give to a VM."""
    path = lambda name: f"{raw.data_dir}/{name}"

    def made(name, owner=USER, flags=os.O_RDWR, mode=0o600):
        if not os.path.exists(path(name)):
            with open(path(name), "wb") as f:
                f.truncate(4096)
            os.chmod(path(name), mode)
            os.chown(path(name), owner, owner)
        return os.open(path(name), flags)
    linked = made("linked")
    if not os.path.exists(path("second")):
        os.link(path("linked"), path("second"))
        os.mkfifo(path("fifo"))
    return {
        "hard link": (linked, True, {errno.EINVAL}),
        "fifo": (os.open(path("fifo"), os.O_RDWR), True, {errno.EINVAL}),
        "folder": (os.open(raw.data_dir, os.O_RDONLY), False, {errno.EINVAL}),
        "device": (os.open("/dev/null", os.O_RDWR), True, {errno.EINVAL}),
        "socket": (socket.socketpair()[0].detach(), False, {errno.EINVAL}),
        "root's": (made("roots", owner=0), True, {errno.EACCES}),
        "shadow": (os.open("/etc/shadow", os.O_RDWR), True, {errno.EACCES}),
        "shadow read": (os.open("/etc/shadow", os.O_RDONLY), False, {errno.EACCES}),
        "other device": (os.memfd_create("x"), True, {errno.EACCES, errno.EINVAL}),
        "path only": (made("plain", flags=os.O_PATH), True, {errno.EACCES}),
        "read only for writing": (made("plain", flags=os.O_RDONLY), True, {errno.EACCES}),
        "write only for reading": (made("plain", flags=os.O_WRONLY), False, {errno.EACCES}),
        "deleted": (deleted(made, path), True, {errno.EINVAL}),
    }


def deleted(made, path):
    fd = made("deleted")
    os.unlink(path("deleted"))
    return fd


def test_h09_descriptors_of_the_wrong_kind(raw):
    before = os.stat("/etc/shadow")
    for what, (fd, writable, errors) in file_cases(raw).items():
        code, text = raw.ask(raw.VM_START, raw.start_fields(files=[("x", writable)]), [fd])
        assert code in errors, f"{what}: {code} {text}"
        os.close(fd)
    after = os.stat("/etc/shadow")
    assert (before.st_uid, before.st_mode, before.st_ctime_ns) == (after.st_uid, after.st_mode, after.st_ctime_ns)
    assert not processes_of_vms()


def test_h09_link_may_be_read(jail):
    """Images may be links of one file; the mount is read-only, so a second name is nobody's harm."""
    path = jail.file("image", data=b"image", mode=0o644)
    os.link(path, path + ".2")
    assert jail.attack("open", "/vm/x", os.O_RDONLY, files=f"r:x:{path}")[0].startswith("ok")
    assert blocked(jail.attack("write", "/vm/x", files=f"r:x:{path}"), errno.EROFS, errno.EACCES)


def test_h09_two_vms_and_one_writable_file(jail):
    rw = jail.file("shared")
    vm, _ = jail.start("stay", files=f"w:x:{rw}")
    with pytest.raises(Refused) as refused:
        jail.start("stay", files=f"w:x:{rw}")
    assert refused.value.code == errno.EBUSY
    jail.command("kill", vm)
    jail.wait(vm)
    assert jail.attack("write", "/vm/x", files=f"w:x:{rw}")[0] == "ok 1", "free again after its end"


@pytest.mark.parametrize("kind", ["symlink", "folder"])
def test_h09_lock_is_something_else(base, kind):
    """CVE-2026-1386: a prepared run_dir must not make root write elsewhere."""
    victim = base + "/victim"
    open(victim, "w").write("precious")
    os.makedirs(base + "/run")
    os.symlink(victim, base + "/run/lock") if kind == "symlink" else os.mkdir(base + "/run/lock")
    r = Raw(base, configure=False)
    assert r.configure()[0] in (errno.ELOOP, errno.EISDIR)
    r.close()
    assert open(victim).read() == "precious" and os.stat(victim).st_mode & 0o777 == 0o644


@pytest.mark.parametrize("mode,owner", [(0o777, 0), (0o775, 0), (0o755, USER)])
def test_h09_run_dir_of_others(base, mode, owner):
    os.makedirs(base + "/run")
    os.chown(base + "/run", owner, owner)
    os.chmod(base + "/run", mode)
    r = Raw(base, configure=False)
    assert r.configure()[0] == errno.EPERM
    r.close()


def test_h09_run_dir_leaves_no_names_of_vms(jail):
    vm, pid = jail.start("stay")
    assert jail.read(vm) == "ok"
    assert not [n for n in os.listdir(jail.run_dir) if vm in n]
    mounts = open("/proc/self/mounts").read()
    assert "akira-jail" not in mounts and "akira-vm" not in mounts, "nothing of a jail is in the host's mount table"
    jail.command("kill", vm)
    jail.wait(vm)


def test_h10_path_swapped_during_start(jail):
    """The path of a VM's file is swapped for a link to a secret as fast as can be: the VM gets what was opened."""
    right = jail.file("right", data=b"right", mode=0o644)
    secret = jail.file("secret", data=b"wrong", owner=0, mode=0o600)
    folder = tempfile.mkdtemp(dir="/dev/shm")
    path, link = folder + "/swapped", folder + "/link"
    os.symlink(right, path)
    swapper = os.fork()
    if not swapper:
        for _ in range(50_000):
            for target in (secret, right):
                os.symlink(target, link)
                os.rename(link, path)
        os._exit(0)
    granted = refused = 0
    while os.waitpid(swapper, os.WNOHANG)[0] == 0:
        try:
            result = jail.attack("open", "/vm/x", os.O_RDONLY, files=f"r:x:{path}")
            assert result[0].startswith("ok")
            granted += 1
        except Refused as error:
            assert error.code == errno.EACCES
            refused += 1
    shutil.rmtree(folder)
    assert granted > 10 and refused > 10, (granted, refused)
    st = os.stat(secret)
    assert st.st_uid == 0 and st.st_mode & 0o777 == 0o600


# ---- H07: one layer taken away at a time; what must then still hold, and by which layer ----

DEFENCE = {
    # attack: (arguments, layers of which each alone is enough)
    "host file": (["open", "/etc/shadow", os.O_RDONLY], "root uid landlock"),
    "host file anyone may read": (["open", "/etc/passwd", os.O_RDONLY], "root landlock"),
    "other processes": (["open", "/proc/1/environ", os.O_RDONLY], "root uid landlock"),
    "device": (["open", "/dev/mem", os.O_RDWR], "root uid landlock"),
    "make a file": (["make", "/tmp/jail-test-made"], "root landlock seccomp"),
    "mount": (["mount"], "caps seccomp uid landlock"),
    "become root": (["setuid"], "caps seccomp"),
    "new namespace": (["call", 272, 0x00020000], "caps seccomp"),
    "kill": (["kill", 2], "pidns seccomp"),
    "trace": (["ptrace", 2], "pidns seccomp uid"),
    "route out": (["connect", "1.1.1.1"], "netns seccomp landlock"),
    "host's loopback": (["connect", "127.0.0.1"], "netns seccomp landlock"),
    "module": (["call", 175, 0, 0, 0], "caps seccomp"),
    "perf of all": (["call", 298, 0, -1, 0, -1, 0], "caps seccomp"),
    "reboot": (["call", 169, 1, 2, 3], "caps seccomp"),
    "syslog": (["call", 103, 3, 0, 0], "caps seccomp"),
}


@pytest.mark.skipif(not FAULTS, reason="needs -Dfaults=true")
@pytest.mark.parametrize("layer", ["seccomp", "netns", "root", "uid", "caps", "landlock"])
def test_h07_one_layer_missing(layer):
    with Jail(env={"AKIRA_JAIL_WITHOUT": layer}) as j:
        for what, (attack, layers) in DEFENCE.items():
            layers = layers.split()
            assert len(layers) > 1, "every line of the table has two layers at least"
            result = j.attack(*attack)
            assert blocked(result), f"without {layer}: {what}: {result}"
    assert not os.path.exists("/tmp/jail-test-made")


@pytest.mark.skipif(not FAULTS, reason="needs -Dfaults=true")
def test_h07_the_knob_works():
    """Each layer that is taken away can be seen to be gone: else the matrix above would say nothing."""
    with Jail(env={"AKIRA_JAIL_WITHOUT": "seccomp"}) as j:
        assert j.attack("socket", 2, 1, 0)[0].startswith("ok")
    with Jail(env={"AKIRA_JAIL_WITHOUT": "root,landlock"}) as j:
        assert j.attack("open", "/etc/passwd", os.O_RDONLY)[0].startswith("ok")
    with Jail(env={"AKIRA_JAIL_WITHOUT": "seccomp,landlock,netns"}) as j:
        assert j.attack("connect", "127.0.0.1")[0] == f"no {errno.ECONNREFUSED}"
    with Jail(env={"AKIRA_JAIL_WITHOUT": "seccomp,uid,landlock"}) as j:
        assert j.attack("mount")[0].startswith("ok")


@pytest.mark.skipif(not FAULTS, reason="needs -Dfaults=true")
def test_h05_no_route_without_seccomp():
    with Jail(env={"AKIRA_JAIL_WITHOUT": "seccomp,landlock"}) as j:
        assert j.attack("connect", "1.1.1.1")[0] == f"no {errno.ENETUNREACH}"
        assert j.attack("connect", "127.0.0.1")[0] == f"no {errno.ENETUNREACH}"
        assert j.attack("abstract", "/tmp/.X11-unix/X0")[0] == f"no {errno.ECONNREFUSED}"


@pytest.mark.skipif(FAULTS, reason="this build has the knobs")
def test_h07_release_has_no_knobs():
    with Jail(env={"AKIRA_JAIL_WITHOUT": "seccomp,root,uid,caps,netns,landlock"}) as j:
        assert j.attack("socket", 2, 1, 0) == ("", -1, SIGSYS, 0)


@pytest.mark.skipif(not FAULTS, reason="needs -Dfaults=true")
@pytest.mark.parametrize("layer,word", [("uid", "uid"), ("caps", "capabilit"), ("root", "root"), ("netns", "ns/net"),
                                        ("death", "outlive"), ("limits", "limits")])
def test_h08_child_that_forgot_a_step_does_not_run(layer, word):
    """The child verifies its own state before the exec: a step that went missing ends the start, with the reason."""
    with Jail(env={"AKIRA_JAIL_WITHOUT": "forget-" + layer}) as j:
        with pytest.raises(Refused) as refused:
            j.start("stay")
        assert word in refused.value.text
        assert not processes_of_vms() and not j.cgroups()
