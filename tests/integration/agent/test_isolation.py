"""What a hostile command may not do: to the agent, to the devices, to the others."""
import pytest

from vm import *


def test_own_process_tree(vm):
    r = vm.run("cat /proc/1/comm; ls /proc | grep -c '^[0-9]'")
    name, count = r.stdout.split()
    assert name == "init" and int(count) < 12


def test_first_process_is_out_of_reach(vm):
    r = vm.run("kill -9 1; kill -STOP 1; cat /proc/1/environ /proc/1/maps; ls -l /proc/1/fd /proc/1/root; true")
    assert r.code == 0
    assert "Permission denied" in r.stderr
    assert vm.run("echo on").stdout == "on\n"


def test_no_devices(vm):
    r = vm.run("ls /dev | tr '\\n' ' '; for n in '254 0' '1 1' '4 64' '10 200'; do mknod /tmp/node b $n; mknod /tmp/node c $n; done")
    assert "vd" not in r.stdout and "vport" not in r.stdout and "mem" not in r.stdout and "console" not in r.stdout
    assert r.stderr.count("Operation not permitted") == 8


@pytest.mark.parametrize("line", [
    "mount -t tmpfs none /mnt", "mount -o remount,rw /sys", "mount -o remount,rw /proc/sys", "umount /proc/sys", "umount /proc/kcore",
    "umount -l /sys", "mount -t devtmpfs none /mnt", "mount --bind / /mnt", "unshare -m true",
    "hostname other", "date -s @0", "ip link set lo down", "ip addr add 10.0.0.1/8 dev lo", "chroot /proc/1/root true",
    "echo b >/proc/sysrq-trigger", "echo x >/proc/sys/kernel/core_pattern", "echo 1 >/proc/sys/kernel/panic",
    "echo max >/sys/fs/cgroup/memory.max", "dmesg -C", "echo -1000 >/proc/self/oom_score_adj",
    "nice -n -5 true 2>&1 | grep -q denied; false", "ulimit -l unlimited",
    "nsenter -t 1 -m true", "head -c 1 /proc/kcore | grep -q . ", "cat /dev/mem", "reboot -f", "swapon /etc/hostname"])
def test_forbidden(vm, line):
    r = vm.run(f"command -v {line.split()[0]} >/dev/null || exit 99; {line}")
    assert r.code != 0, (line, r)
    assert vm.run("echo on").stdout == "on\n"


def test_capabilities(vm):
    caps = int(vm.run("grep CapBnd /proc/self/status").stdout.split()[1], 16)
    for cap in (2, 12, 16, 17, 19, 20, 21, 22, 23, 24, 25, 27, 29, 30, 32, 33, 34, 35, 36, 37, 38, 39, 40):
        assert not caps >> cap & 1, cap
    for cap in (0, 1, 3, 5, 6, 7, 10, 13, 18, 31):
        assert caps >> cap & 1, cap


def test_kernel_is_hidden(vm):
    r = vm.run("head -c 100 /proc/kcore /proc/kmsg /proc/keys | grep -v '^==>' | tr -d '\\n'; ls -A /sys/firmware")
    assert r.stdout.strip() == ""


def test_what_must_work(vm):
    r = vm.run("""set -e
        chown 1000:1000 /tmp; chown 0:0 /tmp; chmod 1777 /tmp
        touch /tmp/f; chown 33:33 /tmp/f; chmod 4755 /tmp/f
        mkfifo /tmp/p; ln -s a /tmp/l; mkdir -p /opt/x; mv /opt/x /opt/y; rmdir /opt/y
        mv /usr/share/doc /usr/share/doc2; mv /usr/share/doc2 /usr/share/doc
        rm /etc/debian_version
        echo ok >/dev/shm/x; cat /dev/urandom | head -c 4 | wc -c
        setpriv --reuid 1000 --regid 1000 --clear-groups id -u
        """)
    assert r.code == 0, r
    assert r.stdout.split() == ["4", "1000"]


def test_python_multiprocessing(vm):
    if vm.run("command -v python3").code:
        pytest.skip("no Python in the image")
    r = vm.run("python3", "-c", "import multiprocessing as m; p=m.Pool(3); print(sum(p.map(abs,range(-9,0))))")
    assert r.stdout == "45\n", r


def test_frames_cannot_be_forged_by_output(vm):
    forged = "\\x00\\x00\\x00\\x00\\x51\\x00\\x00\\x00\\x01\\x00\\x00\\x00"
    s = vm.start(f"for i in $(seq 200); do printf '{forged}'; done")
    assert s.exit() == (0, 0) and len(s.output[0]) == 2400


def test_fork_bomb(agent):
    vm = VM(agent, memory=256)
    try:
        vm.boot(max_procs=200)
        bomb = vm.start("f() { f | f & f; }; f; wait", opened=False)
        bomb.take(OPENED)
        until(lambda: vm.request(METRICS)["procs"] >= 190)
        try:
            assert vm.run("/bin/true", shell=0).code == 0
        except AgentError as e:
            assert e.code == 11
        vm.write("/tmp/still", b"writes")
        bomb.close()
        assert bomb.exit()[1] == 9
        until(lambda: vm.request(METRICS)["procs"] < 5)
        assert vm.run("echo on").stdout == "on\n"
    finally:
        vm.stop()


def test_memory_hog(agent):
    vm = VM(agent, memory=256)
    try:
        vm.boot()
        hog = vm.start("echo up; tail /dev/zero; echo $?; head -c 400M /dev/zero >/dev/shm/x; echo $?")
        hog.wait_output("up")
        codes = hog.exit()
        assert codes[1] in (0, 9)
        r = vm.run("rm -f /dev/shm/x; echo on")
        assert r.stdout == "on\n"
        used = vm.request(METRICS)
        assert used["mem_used"] < used["mem_total"]
    finally:
        vm.stop()


def test_pipes_and_descriptors_hog(vm):
    s = vm.start("for i in $(seq 4000); do eval 'exec {fd}<>/dev/null' || break; done 2>/dev/null; echo full; sleep 100")
    s.wait_output("full")
    assert vm.run("echo on").stdout == "on\n"
    s.close()
    assert s.exit()[1] == 9
