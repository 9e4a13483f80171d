"""Processes that a command leaves running."""

import time

from harness.wait import wait_until


def test_a_background_process_runs_on(box):
    begin = time.monotonic()
    assert box.out("nohup sh -c 'sleep 1; echo later > /tmp/later; sleep 300' >/dev/null 2>&1 & echo started") == "started\n"
    assert time.monotonic() - begin < 30
    wait_until(lambda: box.out("cat /tmp/later 2>/dev/null || true") == "later\n", "it runs on")


def test_one_that_holds_the_output_open_does_not_hold_the_answer(box):
    """The command ended; what it left behind still has the pipe."""
    begin = time.monotonic()
    result = box.run("sleep 200 & echo now", timeout=100)
    assert result["stdout"] == "now\n" and result["exit_code"] == 0
    assert time.monotonic() - begin < 40


def test_one_that_writes_on_does_not_block_or_leak(box):
    """What it writes after the end is thrown away, and it does not die of a closed pipe at once or fill one."""
    box.run("(for i in $(seq 1 3000); do echo noise; done; head -c 3000000 /dev/zero; echo finished > /tmp/finished; sleep 100) & echo now")
    wait_until(lambda: box.out("cat /tmp/finished 2>/dev/null || true") == "finished\n", "the writer came to its end")


def test_a_server_serves_the_next_command(box):
    box.run("cd /tmp && echo served > page && (nohup python3 -m http.server 8123 --bind 127.0.0.1 >/dev/null 2>&1 &)")
    fetch = (
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8123/page').read().decode(), end='')\""
    )
    wait_until(lambda: box.run(fetch)["stdout"] == "served\n", "the server answers")


def test_zombies_are_reaped(box):
    box.run("for i in $(seq 30); do (sleep 0.01 &) ; done; true")
    wait_until(lambda: box.out("ps -eo stat | grep -c ^Z || true").strip() == "0", "no zombie is left")


def test_a_stream_ends_with_its_command_not_with_what_it_left(box):
    begin = time.monotonic()
    out, _, code, _ = box.stream("sleep 200 & echo now").collect()
    assert (out, code) == ("now\n", 0) and time.monotonic() - begin < 40
