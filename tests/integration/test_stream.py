"""POST …/execute_async: NDJSON as it is produced, and a client that leaves."""

import json
import re
import time

import pytest

from harness.client import refused
from harness.wait import wait_until


def test_streams_are_apart_and_the_code_is_last(box):
    with box.stream("echo a; echo b >&2; exit 5") as stream:
        assert stream.status == 200
        assert "ndjson" in stream.headers["content-type"] or "json" in stream.headers["content-type"]
        items = [item for _, item in stream]
    assert "".join(item.get("stdout", "") for item in items) == "a\n"
    assert "".join(item.get("stderr", "") for item in items) == "b\n"
    assert items[-1]["exit_code"] == 5
    assert not any("exit_code" in item for item in items[:-1])


def test_every_line_is_an_object_and_none_is_blank(box):
    with box.stream("for i in 1 2 3; do echo $i; sleep 0.1; done") as stream:
        for _, line in stream.lines():
            assert line.endswith(b"\n") and line.strip()
            assert isinstance(json.loads(line), dict)


def test_output_arrives_as_it_is_produced(box):
    """A line a second is seen a second apart."""
    with box.stream("for i in 1 2 3 4; do echo tick$i; sleep 1; done") as stream:
        seen = {}
        for when, item in stream:
            for tick in re.findall(r"tick\d", item.get("stdout", "")):
                seen[tick] = when
    times = [seen[f"tick{number}"] for number in (1, 2, 3, 4)]
    assert times[3] - times[0] > 2.5, times
    assert all(later - earlier > 0.4 for earlier, later in zip(times, times[1:])), times


def test_output_without_a_newline_arrives(box):
    with box.stream("printf first; sleep 3; printf second") as stream:
        for when, item in stream:
            if "first" in item.get("stdout", ""):
                first = when
            if "second" in item.get("stdout", ""):
                assert when - first > 1.5


def test_a_long_silence_is_kept_alive(box):
    with box.stream("sleep 3; echo end") as stream:
        out, _, code, error = stream.collect()
    assert (out, code, error) == ("end\n", 0, None)


def test_killed_by_a_signal(box):
    assert box.stream("kill -9 $$").collect()[2] == 137


def test_environment_and_folder(box):
    out, _, code, _ = box.stream("echo $X; pwd", env={"X": "ü $y"}, working_dir="/tmp").collect()
    assert (out, code) == ("ü $y\n/tmp\n", 0)


def test_much_output_is_whole_and_in_order(box):
    out, _, code, _ = box.stream("seq 1 300000").collect()
    assert code == 0 and out == "".join(f"{number}\n" for number in range(1, 300001))


def test_split_characters_are_joined(box):
    out = box.stream(r"for i in 1 2 3; do printf '\xe6'; sleep 0.2; printf '\x97\xa5'; done").collect()[0]
    assert out == "日日日"


def test_a_slow_reader_holds_the_command_not_the_memory(daemon, box):
    """The client reads nothing for a while: the command waits, akirad does not grow."""
    before = daemon.memory()
    with box.stream("head -c 60000000 /dev/zero | tr '\\0' x; echo; echo end >&2") as stream:
        wait_until(lambda: box.out("pgrep -c tr || true").strip() != "0", "the command runs")
        assert daemon.memory() - before < 200 << 20
        out, err, code, _ = stream.collect()
    assert len(out) == 60000001 and err == "end\n" and code == 0


def test_leaving_kills_the_whole_group(box):
    stream = box.stream("(exec -a child sleep 300) & exec -a parent sleep 300")
    wait_until(lambda: re.search(r"^parent", box.out("ps -eo args"), re.M), "it runs")
    begin = time.monotonic()
    stream.close()
    wait_until(lambda: not re.search(r"^(parent|child)", box.out("ps -eo args"), re.M), "the group is gone", 20)
    # Under a second is promised; the bound here is for a slow machine with sanitizers.
    assert time.monotonic() - begin < 10


def test_leaving_a_flood(box):
    stream = box.stream("exec -a flood yes")
    for _ in zip(range(20), stream):
        pass
    stream.close()
    wait_until(lambda: not re.search(r"^flood", box.out("ps -eo args"), re.M), "the flood is gone", 20)
    assert box.out("echo on") == "on\n"


def test_deleted_under_way(own):
    box = own()
    with box.stream("echo begin; sleep 300") as stream:
        items = iter(stream)
        assert "begin" in next(item for _, item in items if item.get("stdout"))["stdout"]
        assert box.delete().status == 200
        rest = [item for _, item in items]
    assert any(item.get("error") for item in rest) or any("exit_code" in item for item in rest), rest


def test_bad_calls_answer_before_the_stream(box, api):
    refused(api.post(box.path("execute_async"), {}), 400, "invalid_request", "command")
    refused(api.post(box.path("execute_async"), {"command": "true", "tmeout": 1}), 400, "invalid_request", "tmeout")
    refused(api.post("/v1/sandboxes/sbx_doesnotexist00000000/execute_async", {"command": "true"}), 404, "not_found")


@pytest.mark.parametrize("count", [8])
def test_streams_at_once(box, count):
    streams = [box.stream(f"for i in 1 2 3; do echo {number}; sleep 0.2; done; exit {number}") for number in range(count)]
    for number, stream in enumerate(streams):
        out, _, code, error = stream.collect()
        assert (out, code, error) == (f"{number}\n" * 3, number, None)
