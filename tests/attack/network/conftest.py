import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from names import Names  # noqa: E402
from world import World  # noqa: E402


@pytest.fixture
def program():
    """The driver that meson built; without it these tests say nothing, so its absence is a failure."""
    path = os.environ.get("AKIRA_NETWORK_DRIVER")
    assert path and os.path.exists(path), "AKIRA_NETWORK_DRIVER must name the built driver"
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    return path


@pytest.fixture
def still(program, tmp_path):
    """The world before the launcher's network code was started."""
    made = World(program, tmp_path)
    yield made
    made.close()


@pytest.fixture
def world(still):
    still.start()
    return still


@pytest.fixture
def named(world):
    """A world with a DNS server, and akirad's service asking it."""
    world.names = Names(world.net)
    world.driver.ask("service", Names.ADDRESS)
    yield world
    world.names.close()
