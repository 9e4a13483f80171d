"""The copy of the audit log as JSON lines (audit.file)."""

import json
import shutil

from harness.wait import wait_until


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_it_follows_survives_a_torn_line_and_a_rotation(private):
    daemon = private()
    folder = daemon.root / "audit"
    folder.mkdir()
    shutil.chown(folder, "nobody", "nogroup")
    file = folder / "audit.jsonl"
    daemon.settings["audit"] = {"file": file}
    daemon.write_config()
    daemon.start()

    def make_key(name):
        assert daemon.api().post("/v1/keys", {"name": name, "scopes": ["sandboxes:read"]}).status == 201

    def has(number):
        return file.exists() and sum(entry["action"] == "key.create" for entry in lines(file)) >= number

    make_key("one")
    wait_until(lambda: has(1), "the copy has the new key's record", 30)
    assert daemon.stop() == 0
    with open(file, "ab") as torn:
        torn.write(b'{"seq":99999,"time"')
    daemon.start()
    make_key("two")
    wait_until(lambda: has(2), "the copy goes on after a restart", 30)
    numbers = [entry["seq"] for entry in lines(file)]
    assert numbers == list(range(1, len(numbers) + 1)), "each record once, in order"

    file.rename(folder / "audit.jsonl.1")
    make_key("three")
    wait_until(lambda: has(1), "a rotated copy is begun anew", 30)
    assert lines(file)[0]["seq"] == numbers[-1] + 1
    assert daemon.key not in file.read_text() + (folder / "audit.jsonl.1").read_text()


def test_a_file_that_cannot_be_written_is_said_at_the_start(private):
    daemon = private({"audit": {"file": "/nonexistent/audit.jsonl"}})
    daemon.spawn()
    assert daemon.process.wait(60) == 1
    assert "audit.file" in daemon.tail()
