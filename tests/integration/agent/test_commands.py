"""Commands: OPEN_EXEC and what follows."""
import signal
import time

import pytest

from vm import *


def test_output_and_code(vm):
    r = vm.run("echo out; echo err >&2; exit 7")
    assert (r.code, r.signal, r.stdout, r.stderr) == (7, 0, "out\n", "err\n")


def test_arguments_are_not_seen_by_a_shell(vm):
    assert vm.run("printf", "%s|", "a b", "$HOME", "", "*").stdout == "a b|$HOME||*|"


def test_environment(vm):
    r = vm.run("echo $HOME $FOO $LANG", env=["FOO=bar", "LANG=xx"])
    assert r.stdout == "/root bar xx\n"


def test_workdir_and_cwd(vm):
    assert vm.run("pwd").stdout == "/workspace\n"
    assert vm.run("pwd", cwd="/usr/bin").stdout == "/usr/bin\n"
    vm.run("mkdir -p sub")
    assert vm.run("pwd", cwd="sub").stdout == "/workspace/sub\n"


def test_cwd_missing(vm):
    with pytest.raises(AgentError) as e:
        vm.run("true", cwd="/no/such")
    assert e.value.code == 2 and "working directory" in e.value.message


def test_program_missing(vm):
    with pytest.raises(AgentError) as e:
        vm.run("no-such-program", shell=0)
    assert e.value.code == 2
    with pytest.raises(AgentError) as e:
        vm.run("/etc/passwd", shell=0)
    assert e.value.code == 13


def test_pid_is_the_one_of_the_sandbox(vm):
    s = vm.start("echo $$")
    assert s.exit() == (0, 0) and int(s.output[0]) == s.pid


def test_signal_reported(vm):
    s = vm.start("sleep", "100")
    s.signal(signal.SIGTERM)
    assert s.exit() == (128 + 15, 15)


def test_signal_handled(vm):
    s = vm.start("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
    s.wait_output("ready")
    s.signal(signal.SIGUSR1)
    assert s.exit() == (3, 0) and b"got" in s.output[0]


def test_signal_reaches_the_group(vm):
    s = vm.start("sleep 100 & sleep 100 & echo ready; wait")
    s.wait_output("ready")
    s.signal(signal.SIGTERM)
    assert s.exit()[1] == 15
    assert vm.run("pgrep -x sleep").code == 1


def test_default_signal_dispositions(vm):
    r = vm.run("grep -E 'SigIgn|SigBlk' /proc/self/status; yes | head -1")
    assert r.stdout.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16, "y"]


def test_close_kills_what_left_the_session(vm):
    s = vm.start("setsid setsid sleep 777 & setsid sh -c '(sleep 777 &) ; sleep 777' & echo ready; sleep 777")
    s.wait_output("ready")
    assert vm.run("until [ $(pgrep -xc sleep) = 4 ]; do :; done").code == 0
    s.close()
    assert s.exit() == (128 + 9, 9)
    assert vm.run("while pgrep -x sleep; do :; done").code == 0


def test_background_process_holds_nobody_up(vm):
    start = time.monotonic()
    s = vm.start("sleep 300 & echo $!")
    assert s.exit() == (0, 0)
    assert time.monotonic() - start < 100
    pid = int(s.output[0])
    assert vm.run(f"kill -0 {pid} && kill {pid}").code == 0


def test_background_output_is_swallowed(vm):
    r = vm.run("(trap 'echo PIPE >/tmp/pipe' PIPE; head -c 1000000 /dev/zero && echo whole >/tmp/whole) & echo started")
    assert r.code == 0 and "started" in r.stdout
    assert vm.run("for i in $(seq 1000); do [ -e /tmp/whole ] && exit 0; sleep 0.05; done; exit 1").code == 0
    assert vm.run("test -e /tmp/pipe").code == 1


def test_stdin_echo(vm):
    s = vm.start("cat", stdin=1)
    s.send(b"one\n")
    s.wait_output("one\n")
    s.send(b"two\n")
    s.end()
    assert s.exit() == (0, 0) and s.output[0] == b"one\ntwo\n"


def test_stdin_of_none_is_empty(vm):
    assert vm.run("cat; echo end").stdout == "end\n"


def test_stdin_large_goes_through(vm):
    data = bytes(range(256)) * 8192
    s = vm.start("sha256sum; true", stdin=1)
    s.send(data)
    s.end()
    s.exit()
    import hashlib
    assert s.output[0].split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_stdin_nobody_reads(vm):
    s = vm.start("exec <&-; echo closed; sleep 0.2", stdin=1)
    s.wait_output("closed")
    s.send(b"x" * 1000000)
    assert s.exit() == (0, 0)


def test_stdin_waits_for_a_slow_reader(vm):
    s = vm.start("echo ready; read -r go </tmp/fifo; wc -c", stdin=1, opened=False)
    s.close()
    s.take(OPENED)
    s.exit()
    vm.run("rm -f /tmp/fifo; mkfifo /tmp/fifo")
    s = vm.start("read -r go </tmp/fifo; wc -c", stdin=1)
    s.send(b"x" * WINDOW)
    assert s.in_credit == 0
    assert vm.run("echo go >/tmp/fifo").code == 0
    s.send(b"x" * 100)
    s.end()
    assert s.exit() == (0, 0) and int(s.output[0]) == WINDOW + 100


def test_large_output(vm):
    s = vm.start("head -c 5000000 /dev/zero; echo end >&2")
    assert s.exit() == (0, 0)
    assert len(s.output[0]) == 5000000 and s.output[1] == b"end\n"


def test_output_stops_without_credit(vm):
    s = vm.start("head -c 2000000 /dev/zero")
    s.auto_credit = False
    # Frames that come with OPENED may have been credited.
    s.wait(lambda: s.out_window == 0, "full window")
    assert vm.run("echo others go on").stdout == "others go on\n"
    before = len(s.output[0])
    vm.request(PING)
    assert len(s.output[0]) == before and not s.ended
    s.auto_credit = True
    s.credit(100000)
    assert s.exit() == (0, 0) and len(s.output[0]) == 2000000


def test_close_without_credit_ends(vm):
    s = vm.start("yes")
    s.auto_credit = False
    s.wait(lambda: s.out_window == 0, "full window")
    s.close()
    assert s.exit()[1] == 9


def test_detach(vm):
    s = vm.start("echo one; cat >/dev/null; echo two; sleep 0.2; exit 5", stdin=1)
    s.wait_output("one")
    vm.frame(DETACH, s.id)
    assert s.exit() == (5, 0)


def test_twenty_in_parallel(vm):
    streams = [vm.start(f"sleep 0.1; seq {i} {i + 1000}; exit {i}") for i in range(20)]
    for i, s in enumerate(streams):
        assert s.exit() == (i, 0)
        assert s.output[0].decode().split() == [str(n) for n in range(i, i + 1001)]


def test_streams_are_bounded(vm):
    streams = [vm.open(OPEN_EXEC, fields(arg=["sleep", "1000"], stdin=0)) for _ in range(256)]
    for s in streams:
        s.take(OPENED)
    with pytest.raises(AgentError) as e:
        vm.request(PING)
    assert e.value.code == 11
    for s in streams:
        s.close()
    for s in streams:
        assert s.exit()[1] == 9
    vm.request(PING)


def test_many_commands_leave_nothing(vm):
    before = vm.run("ls /proc | grep -c '^[0-9]'; ls -d /sys/fs/cgroup/c*/ | wc -l").stdout.split()
    for _ in range(30):
        vm.run("true")
    after = vm.run("ls /proc | grep -c '^[0-9]'; ls -d /sys/fs/cgroup/c*/ | wc -l").stdout.split()
    assert before == after


def test_terminal(vm):
    s = vm.start("tty; stty size; cat", pty=1, rows=33, cols=111, stdin=1)
    s.wait_output("33 111")
    assert b"/dev/pts/" in s.output[0]
    s.send(b"typed\n")
    s.wait_output(b"typed\r\ntyped\r\n")
    vm.frame(RESIZE, s.id, fields(rows=44, cols=55))
    s.send(b"\x04")
    assert s.exit() == (0, 0)


def test_terminal_resize(vm):
    s = vm.start("trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done", pty=1, rows=24, cols=80)
    s.wait_output("ready")
    vm.frame(RESIZE, s.id, fields(rows=44, cols=55))
    s.wait_output("44 55")
    assert s.exit() == (0, 0)


def test_terminal_interrupt_and_job_control(vm):
    s = vm.start("/bin/bash", "-i", pty=1, stdin=1)
    s.send(b"PS1=; echo rea''dy\n")
    s.wait_output("ready\r\n")
    s.send(b"sleep 1000\n")
    assert vm.run("until pgrep -x sleep; do :; done").code == 0
    s.send(b"\x03")
    s.send(b"echo code $?\n")
    s.wait_output("code 130")
    s.send(b"exit 4\n")
    assert s.exit() == (4, 0)


def test_terminal_end_of_input(vm):
    s = vm.start("cat; echo done", pty=1, stdin=1)
    s.send(b"abc\n")
    s.end()
    assert s.exit() == (0, 0) and b"done" in s.output[0]


def test_terminal_background_holder(vm):
    s = vm.start("trap '' HUP; sleep 100 & echo last words", pty=1)
    assert s.exit() == (0, 0) and b"last words" in s.output[0]
    assert vm.run("pkill -x sleep").code == 0


def test_user(vm):
    r = vm.run("id -u; echo $HOME; echo x >/dev/stdout; touch /root/x || echo denied", user=65534)
    assert r.stdout.split() == ["65534", "/nonexistent", "x", "denied"]


def test_exec_of_odd_bytes(vm):
    s = vm.start("printf", "%s", b"\xff\xfe")
    assert s.exit() == (0, 0) and s.output[0] == b"\xff\xfe"


def test_arguments_too_many(vm):
    assert vm.run("printf", *["a"] * 1023).stdout == "a"


def test_wrong_phase_is_said(own_vm):
    own_vm.hello()
    with pytest.raises(AgentError) as e:
        own_vm.start("true")
    assert e.value.code == 22
    with pytest.raises(AgentError):
        own_vm.personalise()
    own_vm.request(WARM)
    own_vm.request(SETUP, fresh=1)
    with pytest.raises(AgentError) as e:
        own_vm.request(SETUP, fresh=1)
    assert e.value.code == 114
    own_vm.personalise()
    assert own_vm.run("echo hi").stdout == "hi\n"
