"""The attacks of these folders run against a real akirad, with the fixtures of the integration tests."""

import importlib.util
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "integration" / "conftest.py"
_spec = importlib.util.spec_from_file_location("integration_fixtures", SOURCE)
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)  # puts the harness on the path

pytest_configure = _fixtures.pytest_configure
pytest_runtest_protocol = _fixtures.pytest_runtest_protocol
pytest_sessionfinish = _fixtures.pytest_sessionfinish
watch = _fixtures.watch
shared_daemon = _fixtures.shared_daemon
daemon = _fixtures.daemon
api = _fixtures.api
box = _fixtures.box
own = _fixtures.own
private = _fixtures.private
