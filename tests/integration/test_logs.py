"""GET /v1/sandboxes/logs."""

import datetime

from harness.client import refused
from harness.wait import wait_until


def entries(api, **query):
    answer = api.get("/v1/sandboxes/logs", query=query)
    assert answer.status == 200, answer
    return answer.json


def entry_of(api, box, command):
    def look():
        return [entry for entry in entries(api, sandbox_id=box.id, limit=1000)["logs"] if entry["command"] == command]

    return wait_until(look, f"{command} is in the log")[0]


def test_an_entry_is_as_documented(api, box):
    answer = box.execute("echo logged; echo wrong >&2; exit 3", working_dir="/tmp")
    entry = entry_of(api, box, "echo logged; echo wrong >&2; exit 3")
    assert entry["sandbox_id"] == box.id and entry["exit_code"] == 3 and entry["status"] == "completed"
    assert entry["source"] == "sync" and entry["working_dir"] == "/tmp"
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert entry["execution_id"] == answer.json["id"]
    assert entry["stdout"] == "logged\n" and entry["stderr"] == "wrong\n"
    assert entry["execution_time_ms"] >= 0 and entry["timestamp"].endswith("Z")


def test_streams_are_logged(api, box):
    box.stream("echo streamed-entry").collect()
    assert entry_of(api, box, "echo streamed-entry")["source"] == "stream"


def test_timeouts_are_logged(api, box):
    box.execute("sleep 77", timeout=1)
    entry = entry_of(api, box, "sleep 77")
    assert entry["status"] == "timeout" and entry["exit_code"] == 124


def test_output_in_the_log_is_bounded(api, box):
    box.run("seq 1 100000; : bounded")
    entry = entry_of(api, box, "seq 1 100000; : bounded")
    assert entry["stdout_truncated"] is True and len(entry["stdout"]) <= 20000


def test_limits_and_windows(api, box):
    for number in range(5):
        box.run(f"true {number}")
    wait_until(lambda: entries(api, sandbox_id=box.id)["total"] >= 5, "all are logged")
    answer = entries(api, sandbox_id=box.id, limit=2)
    assert len(answer["logs"]) == 2 and answer["total"] >= 5
    times = [entry["timestamp"] for entry in entries(api, sandbox_id=box.id)["logs"]]
    assert times == sorted(times, reverse=True)
    future = (datetime.datetime.utcnow() + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    later = (datetime.datetime.utcnow() + datetime.timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert entries(api, sandbox_id=box.id, **{"from": future, "to": later})["logs"] == []


def test_bad_queries(api):
    for query, field in (({"limit": 0}, "limit"), ({"limit": 1001}, "limit"), ({"limit": "x"}, "limit"),
                         ({"from": "yesterday"}, "from"), ({"to": "2026-13-01T00:00:00Z"}, "to")):
        refused(api.get("/v1/sandboxes/logs", query=query), 400, "invalid_request", field)


def test_control_bytes_cannot_forge_entries(api, daemon, box):
    """Neither in the answer nor in akirad's own log."""
    forged = '\n{"event":"forged_entry","level":"error"}\n\x1b[2J'
    command = f"printf %s '{forged}'; : {forged.encode().hex()}"
    box.run(command)
    assert entry_of(api, box, command)["command"] == command
    assert not daemon.events("forged_entry")
    assert all("\x1b" not in line for line in daemon.log_lines())
