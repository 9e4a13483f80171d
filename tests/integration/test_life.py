"""Create, get, list, delete, and how sandboxes end."""

import re
import threading
import time

import pytest

from harness.client import refused
from harness.wait import wait_until

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_create_answers_as_documented(api, own):
    box = own(name="first", resources={"cpus": 2, "memory": 256, "storage": 1}, metadata={"team": "a"})
    created = box.created
    assert re.fullmatch(r"sbx_[0-9A-Za-z_-]{16,}", created["id"])
    assert created["name"] == "first" and created["status"] == "running"
    assert TIME.fullmatch(created["created_at"])
    assert (created["cpu"], created["memory"], created["storage"], created["disk_size"]) == (2, 256, 1, 1)


def test_create_without_a_body_gives_the_defaults(daemon, api):
    """The default image may be absent on the machine that runs the tests, and is then named with those that exist."""
    answer = api.post("/v1/sandboxes/create", {})
    if answer.status == 422:
        refused(answer, 422, "unprocessable", "tiny")
        return
    assert answer.status == 201, answer
    box = api.box(answer.json["id"])
    try:
        assert re.match(r"sandbox-", answer.json["name"])
        assert (answer.json["cpu"], answer.json["memory"], answer.json["storage"]) == (1, 512, 10)
    finally:
        box.remove()


def test_names_are_made_when_none_is_given(own):
    first, second = own(), own()
    assert first.created["name"].startswith("sandbox-") and second.created["name"].startswith("sandbox-")
    assert first.id != second.id


def test_names_need_not_be_unique(own):
    assert own(name="twin").id != own(name="twin").id


def test_get_shows_what_was_asked(own):
    box = own(name="asked", timeout_seconds=600, metadata={"k": "v"}, network={"outbound": "deny"})
    seen = box.get()
    for field in ("id", "name", "created_at", "cpu", "memory", "storage", "disk_size"):
        assert seen[field] == box.created[field], field
    assert seen["image"] == "tiny" and seen["status"] == "running"
    assert TIME.fullmatch(seen["expires_at"])
    assert seen["network"]["outbound"] == "deny"
    assert seen["metadata"] == {"k": "v"}
    assert seen.get("termination") is None


def test_an_unknown_image_names_those_that_exist(api):
    refused(api.post("/v1/sandboxes/create", {"image": "no-such-image"}), 422, "unprocessable", "tiny")


def test_list_pages_are_whole_and_newest_first(api, own):
    made = [own(name=f"page{number}", metadata={"set": "pages"}).id for number in range(3)]
    answer = api.get("/v1/sandboxes/list", query={"page": 1, "page_size": 2})
    assert answer.status == 200
    page = answer.json["pagination"]
    assert page["page"] == 1 and page["page_size"] == 2 and page["total_items"] >= 3
    assert page["total_pages"] == -(-page["total_items"] // 2)
    rows, number = [], 1
    while number <= page["total_pages"]:
        rows += api.get("/v1/sandboxes/list", query={"page": number, "page_size": 2}).json["data"]
        number += 1
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids)) == page["total_items"]
    assert [i for i in ids if i in made] == list(reversed(made))
    assert {"id", "name", "status", "cpu", "memory", "disk_size", "created_at"} <= set(rows[0])


def test_a_page_beyond_the_end_is_empty(api, box):
    answer = api.get("/v1/sandboxes/list", query={"page": 100000, "page_size": 100})
    assert answer.status == 200 and answer.json["data"] == []


def test_list_filters_by_metadata(api, own):
    wanted = own(metadata={"colour": "teal", "n": "1"})
    own(metadata={"colour": "red", "n": "1"})
    answer = api.get("/v1/sandboxes/list", query={"metadata.colour": "teal"})
    if answer.status == 400:
        answer = api.get("/v1/sandboxes/list", query={"metadata": "colour=teal"})
    assert answer.status == 200, answer
    assert [row["id"] for row in answer.json["data"]] == [wanted.id]


def test_delete_ends_it_and_it_stays_readable(api, own):
    box = own(name="gone")
    answer = box.delete()
    assert answer.status == 200, answer
    assert answer.json["id"] == box.id and answer.json["message"]
    seen = wait_until(lambda: box.get()["status"] == "terminated" and box.get(), "it is terminated")
    assert seen["termination"]["reason"] == "deleted"
    assert seen["termination"]["message"] and TIME.fullmatch(seen["termination"]["at"])
    assert box.id not in api.live()


@pytest.mark.parametrize("body", [{}, {"keep_storage": True}, {"create_snapshot": False}])
def test_delete_takes_a_body(own, body):
    answer = own().api.delete(own().path("delete"), json=body)
    assert answer.status == 200, answer


def test_delete_of_what_is_gone(own):
    """Again: not an error of the server, and never a second record of another sandbox."""
    box = own()
    assert box.delete().status == 200
    again = box.delete()
    assert again.status in (200, 404, 409), again


def test_calls_on_a_terminated_sandbox_say_so(own):
    box = own()
    box.remove()
    for answer in (
        box.execute("true"),
        box.upload("/tmp/x", b"x"),
        box.download("/etc/hostname"),
        box.api.post(box.path("snapshot")),
        box.api.post(box.path("pause")),
        box.api.post(box.path("resume")),
        box.api.post(box.path("execute_async"), {"command": "true"}),
        box.api.post(box.path("clone")),
    ):
        assert answer.status in (404, 409), answer
        refused(answer, answer.status)


def test_lifetime_is_enforced_by_the_host(own):
    box = own(timeout_seconds=3)
    box.run("nohup sh -c 'trap \"\" TERM INT HUP; while :; do :; done' >/dev/null 2>&1 &")
    seen = wait_until(lambda: box.get()["status"] == "terminated" and box.get(), "its time is over", 30)
    assert seen["termination"]["reason"] == "timeout"


def test_lifetime_is_not_early(own):
    begin = time.monotonic()
    box = own(timeout_seconds=6)
    wait_until(lambda: box.get()["status"] == "terminated", "its time is over", 40)
    assert time.monotonic() - begin > 4.5


def test_idle_timeout_terminates(own):
    box = own(idle_timeout_seconds=2)
    seen = wait_until(lambda: any_ended(box), "it was idle for too long", 40)
    assert seen["termination"]["reason"] == "idle"


def any_ended(box):
    """Looks through the list alone, as a look at the sandbox itself might count as a call."""
    if box.id in box.api.live():
        return None
    return box.get()


def test_a_guest_that_powers_itself_off(own):
    box = own()
    box.execute("echo o > /proc/sysrq-trigger || kill -9 1 || reboot -f", timeout=5)
    seen = box.get()
    # The sandbox may not allow it; then it runs on, and that is right as well.
    if seen["status"] != "running":
        seen = wait_until(lambda: box.get()["status"] == "terminated" and box.get(), "it ended")
        assert seen["termination"]["reason"] in ("guest_shutdown", "host_error")
    else:
        assert box.out("echo alive") == "alive\n"


def test_a_killed_vm_is_noticed_and_explained(daemon, own):
    import os
    import signal

    box = own()
    os.kill(daemon.vm_of(box), signal.SIGKILL)
    seen = wait_until(lambda: box.get()["status"] in ("terminated", "error") and box.get(), "its end is noticed", 20)
    assert seen["termination"]["reason"] == "host_error" and seen["termination"]["message"]
    refused(box.execute("true"), 409 if box.execute("true").status == 409 else 404)


def test_a_vm_that_dies_in_a_command_ends_the_command(daemon, own):
    import os
    import signal

    box = own()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(box.execute("sleep 60", timeout=100)))
    thread.start()
    wait_until(lambda: box.out("pgrep -c sleep || true").strip() not in ("", "0"), "the command runs")
    os.kill(daemon.vm_of(box), signal.SIGKILL)
    thread.join(30)
    assert answers, "the command's call did not end"
    assert answers[0].status != 500 or answers[0].code == "internal", answers
    if answers[0].status == 200:
        assert answers[0].json["status"] == "error", answers


def test_without_waiting_it_is_ready_later(api):
    box = api.create(wait_for_ready=False)
    try:
        assert box.created["status"] in ("creating", "running")
        wait_until(lambda: box.status == "running", "it is ready")
        assert box.out("echo ready") == "ready\n"
    finally:
        box.remove()


def test_set_timeout_counts_from_now(own):
    box = own(timeout_seconds=600)
    before = box.get()["expires_at"]
    answer = box.api.request("PUT", box.path("timeout"), json={"timeout_seconds": 1200})
    assert answer.status == 200, answer
    assert box.get()["expires_at"] > before


def test_the_guest_is_a_vm_of_its_own(box):
    kernel = box.out("uname -r").strip()
    with open("/proc/sys/kernel/osrelease", encoding="ascii") as file:
        assert kernel and kernel != file.read().strip()
    assert int(box.out("grep -c ^processor /proc/cpuinfo")) >= 1


def test_resources_are_what_was_granted(own):
    box = own(resources={"cpus": 1, "memory": 384, "storage": 2})
    total = int(box.out("awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo"))
    assert 300 <= total <= 384
    size = int(box.out("df -m --output=size / | tail -1"))
    assert 1700 <= size <= 2048


def test_delete_all_of_one_organisation(private):
    """On a daemon of its own, as it takes everything."""
    daemon = private().start()
    api = daemon.api()
    made = {api.create(name=f"all{number}").id for number in range(3)}
    answer = api.delete("/v1/sandboxes/delete-all", timeout=90)
    assert answer.status == 200, answer
    assert set(answer.json["deleted_ids"]) == made and answer.json["deleted_count"] == 3
    assert answer.json["message"] and not answer.json.get("errors")
    wait_until(lambda: not api.live(), "none is left")
    assert api.delete("/v1/sandboxes/delete-all").json["deleted_count"] == 0
    wait_until(lambda: not daemon.vms(), "no VM process is left")
