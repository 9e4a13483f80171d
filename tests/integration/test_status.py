"""GET …/status: what a sandbox uses, and used."""

from harness.client import refused
from harness.wait import wait_until


def status(box, **query):
    answer = box.api.get(box.path("status"), query=query)
    assert answer.status == 200, answer
    return answer.json


def test_the_current_figures(box):
    seen = status(box)
    assert seen["sandbox_name"] == box.created["name"] and seen["timestamp"].endswith("Z")
    current = seen["current"]
    assert 0 <= current["cpu_percent"] <= 100
    assert 0 < current["memory_mb"] <= box.created["memory"]
    assert 0 < current["memory_percent"] <= 100


def test_a_busy_processor_is_seen(box):
    with box.stream("while :; do :; done"):
        wait_until(lambda: status(box)["current"]["cpu_percent"] > 20, "the load is seen", 60, 0.5)


def test_a_guest_cannot_lie_beyond_what_it_was_granted(box):
    """The figures are the host's, whatever runs in the guest."""
    box.run("head -c 100000000 /dev/zero | tail | wc -c >/dev/null", timeout=60)
    current = status(box)["current"]
    assert 0 <= current["cpu_percent"] <= 100 and current["memory_mb"] <= box.created["memory"]


def test_history_is_ordered(box):
    seen = wait_until(lambda: status(box, **{"from": "2026-01-01T00:00:00Z"}).get("history"), "a sample was taken", 90, 0.5)
    times = [sample["timestamp"] for sample in seen]
    assert times == sorted(times)
    assert all(0 <= sample["cpu_percent"] <= 100 and sample["memory_mb"] >= 0 for sample in seen)


def test_bad_windows(box):
    refused(box.api.get(box.path("status"), query={"from": "x"}), 400, "invalid_request", "from")
    refused(box.api.get(box.path("status"), query={"to": "-1"}), 400, "invalid_request", "to")


def test_of_a_terminated_sandbox(own):
    box = own()
    box.remove()
    wait_until(lambda: box.get()["status"] == "terminated", "it is terminated")
    answer = box.api.get(box.path("status"))
    assert answer.status in (200, 404, 409), answer
    if answer.status == 200:
        assert answer.json.get("current") is None
