"""Another version before or after (N13), and saved states of another engine (G10)."""

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import sqlite3
import subprocess

import pytest

from harness.daemon import ROOT, program
from harness.wait import wait_until


def contents(daemon):
    """Every file of the data folder but the lock and what SQLite keeps beside its file while it is open."""
    found = {}
    for path in sorted(daemon.data.rglob("*")):
        if path.is_file() and path.name != "akirad.lock" and not path.name.endswith(("-wal", "-shm")):
            with open(path, "rb") as file:
                found[str(path.relative_to(daemon.data))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def sql(daemon, text):
    with contextlib.closing(sqlite3.connect(daemon.data / "akira.db", timeout=30)) as database:
        found = database.execute(text).fetchall()
        database.commit()
        return found


@pytest.mark.limit(180)
def test_n13_upgrade_and_downgrade(private):
    """
    Kept over an upgrade: keys, records, snapshots, a paused sandbox. A store that a newer akirad has migrated is refused
    with the reason, and is as it was; with the newer one back all is there.
    """
    daemon = private().start()
    api = daemon.api()
    live, paused = api.create(name="live"), api.create(name="paused")
    paused.run("echo kept > /workspace/x; sync")
    made = paused.snapshot(name="old")
    paused.pause()
    assert daemon.stop() == 0
    known = sql(daemon, "PRAGMA user_version")[0][0]
    schemas = sorted((ROOT / "api/schema").glob("sqlite-*.sql"))
    assert known == len(schemas), "each schema is a step"
    rows = sql(daemon, "SELECT count(*) FROM audit")[0][0]

    sql(daemon, f"PRAGMA user_version = {known + 1}")
    before, begin = contents(daemon), daemon.log.stat().st_size
    for _ in range(2):
        daemon.spawn()
        assert daemon.process.wait(60) == 1
        said = daemon.events("start_failed", begin)
        assert said and f"schema version {known + 1}" in said[-1]["error"] and "newer" in said[-1]["error"], said
        assert not daemon.vms()
    code, text = daemon.admin("reset-key")
    assert code != 0 and "schema version" in text, text
    assert contents(daemon) == before

    sql(daemon, f"PRAGMA user_version = {known}")  # the newer one is installed again
    daemon.start()
    api = daemon.api()
    assert api.get("/v1/audit/verify").json["valid"] is True
    assert sql(daemon, "SELECT count(*) FROM audit")[0][0] >= rows
    assert api.box(paused.id).out("cat /workspace/x") == "kept\n"
    with api.restore(made["id"]) as copy:
        assert copy.out("cat /workspace/x") == "kept\n"
    ended = api.get(f"/v1/sandboxes/{live.id}").json
    assert ended["status"] in ("terminated", "paused", "running"), ended


@pytest.mark.limit(60)
def test_n13_a_store_of_nobody(private):
    """Tables of the first schema that no akirad has marked as its own are not guessed at."""
    daemon = private().start()
    assert daemon.stop() == 0
    (daemon.data / "akira.db").unlink()
    first = sorted((ROOT / "api/schema").glob("sqlite-*.sql"))[0]
    with contextlib.closing(sqlite3.connect(daemon.data / "akira.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")  # as every store of ours; opening it would change no more than that
        database.executescript(first.read_text(encoding="utf-8"))
    os.chown(daemon.data / "akira.db", pwd.getpwnam("nobody").pw_uid, -1)
    before = contents(daemon)
    daemon.spawn()
    assert daemon.process.wait(60) == 1
    assert "not a database of akirad" in daemon.events("start_failed")[-1]["error"]
    assert contents(daemon) == before


@pytest.mark.limit(120)
def test_g10_states_of_another_engine_are_not_used(private, tmp_path):
    """The same VM monitor replaced by another file, as an upgrade does: what the old one saved is made anew, not loaded."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    monitor = tmp_path / "qemu-system-x86_64"
    shutil.copy2("/usr/bin/qemu-system-x86_64", monitor)
    daemon = private({"paths": {"qemu": monitor}})

    def builds():
        text = daemon.metrics().get("/metrics", key=None).body.decode()
        return sum(float(n) for n in re.findall(r"^akira_template_builds_total\S* (\S+)$", text, re.M))

    def starts(expected, what):
        daemon.start()
        with daemon.api().create() as box:
            assert box.out("echo fine") == "fine\n"
            pid = daemon.vm_of(box)
            assert os.path.realpath(f"/proc/{pid}/exe").endswith("qemu-system-x86_64")
        assert builds() == expected, what
        wait_until(lambda: not daemon.vms(), "it ended")
        assert daemon.stop() == 0

    starts(1, "the first is made")
    starts(0, "and used again by the same engine")
    os.utime(monitor, (1, 1))
    starts(1, "another engine makes its own")


def test_n13_versions_are_told():
    """Both programs and the API's own answer name one version, by which an operator knows what runs."""
    told = {}
    for name in ("akirad", "akira"):
        try:
            done = subprocess.run([program(name), "--version"], capture_output=True, check=True, stdin=subprocess.DEVNULL)
        except AssertionError:
            continue  # a build without it
        told[name] = re.search(r"\d+\.\d+\.\d+", done.stdout.decode()).group(0)
    assert told and len(set(told.values())) == 1, told
