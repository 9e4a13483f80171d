"""What was made with an earlier build of an image, or by another version of QEMU."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from harness.client import refused
from harness.daemon import CACHE, TEMPORARY, Daemon


def build_anew(folder):
    """Another file of the same content, and the earlier build beside it, as images/build leaves them."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    kept = folder.with_name(f"{folder.name}@{manifest['digest'][7:23]}")
    shutil.copytree(folder, kept, copy_function=os.link)
    image = folder / "image.erofs"
    data = image.read_bytes() + bytes(4096)
    image.unlink()
    image.write_bytes(data)
    manifest |= {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return kept


@pytest.fixture
def tiny():
    """A folder of images of the test's own, with tiny alone in it."""
    cache = Path(tempfile.mkdtemp(prefix="akira-test-", dir=TEMPORARY))
    cache.chmod(0o755)
    folder = cache / "images/tiny"
    shutil.copytree((CACHE / "images").resolve() / "tiny", folder)
    (cache / "guest").symlink_to((CACHE / "guest").resolve())
    yield folder
    shutil.rmtree(cache)


@pytest.mark.limit(240)
def test_an_image_is_built_anew(tiny):
    daemon = Daemon(cache_dir=tiny.parent.parent).start()
    try:
        api = daemon.api()
        box = api.create(image="tiny")
        box.put("/workspace/x", b"kept")
        box.run("mv /etc/terminfo /etc/moved; nohup sleep 1000 >/dev/null 2>&1 &")
        snapshot = box.snapshot()
        box.pause()
        kept = build_anew(tiny)

        with api.create(image="tiny") as fresh:
            assert fresh.run("ls /workspace/x")["exit_code"] != 0
        with api.restore(snapshot["id"]) as copy:
            assert copy.fetch("/workspace/x") == b"kept"
        box.resume()
        assert box.out("pgrep -c sleep") == "1\n"
        box.remove()

        shutil.rmtree(kept)
        refused(api.post(f"/v1/snapshots/{snapshot['id']}/restore", {"name": "again"}), 422, "unprocessable", "built anew")
        # The present build, because it is asked for.
        with api.restore(snapshot["id"], image="tiny") as copy:
            assert copy.fetch("/workspace/x") == b"kept"
        api.forget_snapshot(snapshot["id"])
    finally:
        daemon.close()


def test_paused_by_another_engine(daemon, own):
    """Another version of QEMU, or of its acceleration, might misread the state: it is kept for the one that wrote it."""
    box = own()
    box.put("/workspace/x", b"kept")
    box.pause()
    manifest = daemon.data / "paused" / box.id / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(json.dumps(json.loads(text) | {"engine": "qemu-1-2-kvm"}), encoding="utf-8")
    refused(box.execute("true"), 409, "conflict", "another version of the engine")
    refused(box.api.post(box.path("resume")), 409, "conflict", "another version of the engine")
    assert box.status == "paused"
    manifest.write_text(text, encoding="utf-8")
    box.resume()
    assert box.fetch("/workspace/x") == b"kept"
