"""A fault at each marked place of akirad (src/base/fault.h): after the restart things are whole or gone (G14, N03)."""

import contextlib
import http.client
import re
import subprocess

import pytest

from harness.daemon import ROOT
from harness.wait import wait_until

PLACES = sorted({
    name
    for path in (ROOT / "src/daemon").rglob("*.c")
    for name in re.findall(r'\bFAULT\("([^"]+)"\)', path.read_text(encoding="utf-8"))
})


def everything(api, memory):
    """Passes through all that akirad can do, ending early when it dies."""
    box = api.create(name="fault", resources={"memory": memory})
    box.out("echo x")
    box.put("/workspace/x", b"kept")
    made = box.snapshot(name="fault")
    copy = api.restore(made["id"], name="fault-copy")
    other, between = box.clone(name="fault-clone")
    box.pause()
    box.resume()
    for one in (box, copy, other):
        assert one.delete().status == 200
    gone = api.create(name="fault-last")
    gone.delete(create_snapshot=True, snapshot_name="fault-last")
    for identifier in (made["id"], between["id"]):
        api.delete(f"/v1/snapshots/{identifier}")


def whole_or_gone(daemon):
    api = daemon.api()
    for identifier, row in api.live().items():
        if row["status"] == "creating":
            wait_until(lambda i=identifier: api.get(f"/v1/sandboxes/{i}").json["status"] != "creating", "it is settled")
        seen = api.get(f"/v1/sandboxes/{identifier}").json
        if seen["status"] in ("running", "paused"):
            assert api.box(identifier).out("cat /workspace/x 2>/dev/null || echo none") in ("kept", "none\n")
        api.delete(f"/v1/sandboxes/{identifier}/delete")
    for identifier, row in api.snapshots().items():
        assert row["status"] in ("ready", "error", "pending_deletion"), row
        if row["status"] == "ready":
            with api.restore(identifier) as copy:
                assert copy.out("cat /workspace/x 2>/dev/null || echo none") in ("kept", "none\n")
        if row["status"] != "pending_deletion":
            assert api.delete(f"/v1/snapshots/{identifier}").status in (200, 404)
    wait_until(lambda: not api.live() and not api.snapshots(), "all can be removed")
    # Whatever is on disk belongs to something: nothing does any more.
    stray = [path for path in daemon.data.rglob("*") if re.match(r"(sbx|snap)_", path.name)]
    wait_until(lambda: not [p for p in daemon.data.rglob("*") if re.match(r"(sbx|snap)_", p.name)], f"no file is left ({stray})")
    with api.create(name="after") as box:
        assert box.out("echo ok") == "ok\n"


def run_with(prepared, fault):
    prepared.environment = {"AKIRA_FAULT": fault}
    try:
        prepared.start()
        # A size of its own has no template yet.
        everything(prepared.api(), 320 if fault.startswith("template") else 256)
    except (OSError, http.client.HTTPException, AssertionError, subprocess.SubprocessError, ValueError) as error:
        if "sanitizer" in str(error):
            raise
        # Its sockets close a moment before it can be waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            prepared.process.wait(3)
    finally:
        prepared.environment = {}


@pytest.mark.limit(240)
@pytest.mark.parametrize("place", PLACES)
def test_killed_at(prepared, place):
    run_with(prepared, f"{place}=kill")
    died = not prepared.alive
    if prepared.process.poll() is None:
        prepared.stop()
    else:
        prepared.kill()
    if not died:
        pytest.fail("this sequence of calls does not pass there: extend everything()")
    prepared.start()
    whole_or_gone(prepared)
    assert prepared.stop() == 0


@pytest.mark.limit(240)
@pytest.mark.parametrize("place", PLACES)
def test_failing_at(prepared, place):
    """An I/O error there instead: akirad lives, and what was asked failed whole."""
    run_with(prepared, f"{place}=fail")
    if prepared.alive:
        whole_or_gone(prepared)
        assert prepared.stop() == 0
        return
    assert prepared.process.returncode >= 0, f"died of signal {-prepared.process.returncode}"
    prepared.kill()
    prepared.start()
    whole_or_gone(prepared)
    assert prepared.stop() == 0


def test_there_are_places():
    """Else the tests above test nothing."""
    assert any("snapshot" in place for place in PLACES) and any("create" in place for place in PLACES), PLACES
