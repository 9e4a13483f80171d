"""Fixtures of the integration tests, and the order of the modules: the basic ones first."""

import faulthandler
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import contract  # noqa: E402
from harness import daemon as daemons  # noqa: E402
from harness.daemon import Daemon  # noqa: E402

LONG = bool(os.environ.get("AKIRA_TEST_LONG"))
# Against hangs alone. A test that needs more says so: @pytest.mark.limit(seconds).
LIMIT = 120

ORDER = """agent harness life execute stream files background logs status cli bad_input generator auth audit audit_changes
    idempotency usage metrics config snapshots clone pause pool templates storage attack_guest parallel restart faults
    disk_full connections leaks openapi""".split()


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): how long this test may take before it counts as hanging")
    config.addinivalue_line("markers", "long: runs with AKIRA_TEST_LONG=1 alone")


def place(item):
    name = Path(item.fspath).stem.removeprefix("test_")
    folder = Path(item.fspath).parent.name
    for index, area in enumerate(ORDER):
        if name == area or folder == area:
            return index
    return len(ORDER)


def pytest_collection_modifyitems(items):
    items.sort(key=place)  # stable: the order inside a module stays
    for item in items:
        if item.get_closest_marker("long") and not LONG:
            item.add_marker(pytest.mark.skip(reason="long form: AKIRA_TEST_LONG=1"))


class Hanging(BaseException):
    """Not an Exception, so that no test's own handler swallows it."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker else LIMIT

    def ring(*_):
        faulthandler.dump_traceback(file=sys.__stderr__)
        pytest.fail(f"hangs: not done after {seconds} s", pytrace=True)

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds * (20 if LONG else 1))
    yield
    signal.alarm(0)


@pytest.fixture(autouse=True)
def watch():
    """After each test: no sanitizer has anything to say, and no daemon died that should be alive."""
    yield
    for daemon in list(daemons.running):
        daemon.check_reports()


def pytest_sessionfinish():
    daemons.clean_up()
    contract.share()


class Shared:
    """The daemon of most tests. Started once; started again if a test brought it down, so that the rest can run."""

    def __init__(self):
        self.current = None

    def get(self):
        if self.current is None or not self.current.alive:
            if self.current is not None:
                self.current.close()
            self.current = Daemon().start()
        return self.current


@pytest.fixture(scope="session")
def shared_daemon():
    shared = Shared()
    yield shared
    if shared.current is not None:
        current = shared.current
        assert current.alive, f"akirad ended by itself\n{current.tail()}"
        code = current.stop()
        try:
            assert code == 0, f"akirad ended with {code} after SIGTERM\n{current.tail()}"
        finally:
            current.close()


@pytest.fixture(scope="module")
def daemon(shared_daemon):
    return shared_daemon.get()


@pytest.fixture(scope="module")
def api(daemon):
    return daemon.api()


@pytest.fixture(scope="module")
def box(api):
    """A sandbox that the tests of one module share and do not harm."""
    sandbox = api.create(name="shared")
    yield sandbox
    sandbox.remove()


@pytest.fixture
def own(api):
    """Makes sandboxes for one test, and removes them after it."""
    made = []

    def create(**fields):
        made.append(api.create(**fields))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.remove()


@pytest.fixture(scope="module")
def prepared():
    """A daemon that does not run, on a data folder with a finished template, so that none need be made each time."""
    daemon = Daemon().start()
    daemon.api().create().remove()
    assert daemon.stop() == 0
    yield daemon
    daemon.close()


@pytest.fixture
def private():
    """Makes daemons for one test, and stops them after it."""
    made = []

    def make(*arguments, **options):
        made.append(Daemon(*arguments, **options))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()
