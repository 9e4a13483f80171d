import os
import subprocess
from pathlib import Path

import pytest

from vm import CACHE, ROOT, VM


def find_agent():
    """AKIRA_INIT, or what a build folder made last."""
    if os.environ.get("AKIRA_INIT"):
        return Path(os.environ["AKIRA_INIT"])
    built = sorted(ROOT.glob("build*/src/agent/akira-init"), key=lambda p: p.stat().st_mtime)
    if not built:
        pytest.skip("akira-init is not built")
    return built[-1]


@pytest.fixture(scope="session")
def agent():
    for part in ("images/tiny/image.erofs", "kernel"):
        if not (CACHE / part).exists():
            pytest.skip(f"no {part} in {CACHE}")
    return find_agent()


@pytest.fixture(scope="module")
def vm(agent):
    """One personalised VM for the tests of a module; each must leave it usable."""
    vm = VM(agent)
    try:
        vm.boot()
        yield vm
    finally:
        vm.stop()


@pytest.fixture
def own_vm(agent):
    """A VM that a test may ruin; not yet greeted."""
    vm = VM(agent, memory=256)
    yield vm
    vm.stop()
