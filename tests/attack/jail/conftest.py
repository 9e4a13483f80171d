import os

import pytest

import jail as j


def pytest_collection_modifyitems(items):
    missing = [n for n in ("AKIRA_LAUNCH", "JAIL_DRIVER", "JAIL_ATTACKER", "JAIL_ATTACKER_DYNAMIC") if not os.environ.get(n)]
    why = "needs root" if os.geteuid() else f"run by meson test; not set: {missing}" if missing else None
    for item in items:
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="module")
def jail():
    """A launcher whose VM program is the static attacker."""
    with j.Jail(env={"SECRET": "hunter2"}) as one:
        yield one


@pytest.fixture(scope="module")
def stage2():
    """A launcher whose VM program is the dynamic attacker: it has the shim."""
    with j.Jail(program=j.DYNAMIC) as one:
        yield one


@pytest.fixture
def base(tmp_path):
    os.chmod(tmp_path, 0o755)
    return str(tmp_path)
