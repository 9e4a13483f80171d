"""Templates that are damaged, foreign or hostile are refused with their reason and made anew (G02, G06-G08, G11)."""

import json
import os
import shutil
from pathlib import Path

import pytest

from harness.daemon import CACHE


def template_folders(daemon):
    """The folders that hold a finished template: those with a manifest below a folder named for templates."""
    found = set()
    for base in (daemon.data, daemon.cache):
        for path in base.rglob("*"):
            if path.is_file() and "template" in str(path.relative_to(base)).lower():
                found.add(path.parent)
    return sorted(found)


def newest(daemon, name):
    """A file of the template that was used last: older ones may lie beside it."""
    found = sorted(template_folders(daemon), key=lambda folder: folder.stat().st_mtime_ns)
    assert found, "no template is on disk"
    return found[-1] / name


def memory_file(daemon):
    return newest(daemon, "ram")


def state_file(daemon):
    return newest(daemon, "state")


def manifest(daemon):
    return newest(daemon, "manifest.json")


def flip(path, offset=None):
    with open(path, "r+b") as file:
        file.seek(offset if offset is not None else path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x40]))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def replace_by_link(path):
    path.unlink()
    path.symlink_to("/etc/passwd")


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def change_manifest(path):
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text)
        for key, value in data.items():
            if isinstance(value, str) and len(value) > 20:
                data[key] = "0" * len(value)
        path.write_text(json.dumps(data), encoding="utf-8")
    except ValueError:
        path.write_text(text.replace("a", "b"), encoding="utf-8")


HARMS = {
    "memory-truncated": (memory_file, cut),
    "memory-bit-flipped": (memory_file, flip),
    "state-bit-flipped": (state_file, flip),
    "manifest-foreign": (manifest, change_manifest),
    "memory-is-a-symlink": (memory_file, replace_by_link),
    "state-is-a-fifo": (state_file, replace_by_fifo),
    "state-truncated": (state_file, cut),
    "state-first-byte": (state_file, lambda path: flip(path, 0)),
    "memory-last-byte": (memory_file, lambda path: flip(path, path.stat().st_size - 1)),
    "memory-empty": (memory_file, lambda path: os.truncate(path, 0)),
    "memory-longer": (memory_file, lambda path: os.truncate(path, path.stat().st_size + 4096)),
    "memory-missing": (memory_file, lambda path: path.unlink()),
    "manifest-empty": (manifest, lambda path: os.truncate(path, 0)),
    "manifest-not-json": (manifest, lambda path: path.write_bytes(b"\xff\0{" * 1000)),
    "manifest-is-a-folder": (manifest, replace_by_folder),
}


@pytest.mark.limit(180)
@pytest.mark.parametrize("harm", HARMS)
def test_harmed(prepared, harm):
    which, how = HARMS[harm]
    how(which(prepared))
    begin = prepared.log.stat().st_size
    prepared.start()
    try:
        with prepared.api().create() as box:
            assert box.out("echo works; cat /etc/hostname") != ""
            assert box.out("python3 -c 'print(6 * 7)'", timeout=60) == "42\n"
        said = [entry for entry in prepared.events(begin=begin) if "template" in json.dumps(entry)]
        assert any(entry.get("level") in ("warn", "warning", "error") for entry in said), said
        # It was made anew, and is a plain file of its own.
        assert memory_file(prepared).is_file() and not memory_file(prepared).is_symlink()
    finally:
        assert prepared.stop() == 0


@pytest.mark.limit(180)
def test_a_good_one_is_used_again(prepared):
    prepared.start()
    with prepared.api().create() as box:
        box.out("true")
    before = manifest(prepared).stat()
    assert prepared.stop() == 0
    prepared.start()
    with prepared.api().create() as box:
        assert box.out("echo again") == "again\n"
    after = manifest(prepared).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert prepared.stop() == 0


@pytest.mark.limit(180)
def test_what_a_killed_build_left_is_swept(private):
    daemon = private()
    daemon.start()
    answer = daemon.api().create(wait_for_ready=False)
    assert answer.created["status"] in ("creating", "running")
    daemon.kill()
    daemon.start()
    with daemon.api().create() as box:
        assert box.out("echo ok") == "ok\n"
    left = [path for path in daemon.data.rglob("*") if "tmp" in path.name.lower() or path.name.startswith(".new")]
    assert not left, left


@pytest.mark.limit(240)
def test_first_creates_at_once_wait_for_one_build(private):
    import concurrent.futures

    daemon = private().start()
    api = daemon.api()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        boxes = list(pool.map(lambda number: api.create(name=f"first{number}"), range(4)))
    assert len({box.id for box in boxes}) == 4
    for box in boxes:
        assert box.out("echo ok") == "ok\n"
    assert len([path for path in (folder for folder in template_folders(daemon)) if Path(path).is_dir()]) >= 1
    for box in boxes:
        box.remove()


@pytest.mark.limit(180)
def test_an_image_that_was_altered_is_refused(private, tmp_path):
    """M05: the digest is checked at use."""
    cache = tmp_path / "cache"
    daemon = private(cache_dir=cache)
    shutil.copytree(CACHE / "guest", cache / "guest")
    shutil.copytree(CACHE / "images" / "tiny", cache / "images" / "tiny")
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    flip(cache / "images" / "tiny" / "image.erofs")
    daemon.start()
    answer = daemon.api().post("/v1/sandboxes/create", {"image": "tiny", "resources": {"memory": 256}})
    assert answer.status in (422, 500, 503), answer
    assert not daemon.api().live()
