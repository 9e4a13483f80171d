"""The pool of restored, unclaimed VMs, and admission by memory."""

import concurrent.futures
import re
import time

import pytest

from harness.client import refused
from harness.wait import wait_until


def metric(daemon, name):
    """Sum of a metric over its labels; None while it is not there."""
    text = daemon.metrics().get("/metrics").body.decode()
    found = re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", text, re.M)
    return sum(float(value) for value in found) if found else None


@pytest.fixture(scope="module")
def pooled():
    from harness.daemon import Daemon

    daemon = Daemon({"pool": {"size": 2}}).start()
    yield daemon
    daemon.close()


def waiting(daemon, live):
    return len(daemon.vms()) - live


@pytest.mark.limit(240)
def test_it_fills_is_used_and_fills_again(pooled):
    api = pooled.api()
    with api.create() as first:
        assert first.out("echo ok") == "ok\n"
        wait_until(lambda: waiting(pooled, 1) >= 1, "VMs wait in the pool", 120, 0.2)
        assert len(api.live()) == 1
        with api.create() as second:
            assert second.out("hostname; cat /etc/machine-id") != first.out("hostname; cat /etc/machine-id")
            wait_until(lambda: waiting(pooled, 2) >= 1, "it fills again", 120, 0.2)


@pytest.mark.limit(240)
def test_what_is_claimed_gets_its_own_environment(pooled):
    api = pooled.api()
    api.create(env_vars={"WHO": "first"}).remove()
    wait_until(lambda: waiting(pooled, 0) >= 1, "VMs wait in the pool", 120, 0.2)
    with api.create(env_vars={"WHO": "second"}, name="claimed") as box:
        assert box.out("echo $WHO; ls -A /workspace") == "second\n"


@pytest.mark.limit(240)
def test_more_creates_than_the_pool_holds(pooled):
    api = pooled.api()
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        boxes = list(pool.map(lambda number: api.create(name=f"burst{number}"), range(5)))
    try:
        assert len({box.out("cat /proc/sys/kernel/random/boot_id") for box in boxes}) == 5
    finally:
        for box in boxes:
            box.remove()


@pytest.mark.limit(240)
def test_a_waiting_vm_that_dies_is_replaced(pooled):
    import os
    import signal

    api = pooled.api()
    api.create().remove()
    wait_until(lambda: len(pooled.vms()) >= 1 and not api.live(), "VMs wait in the pool", 120, 0.2)
    for pid in pooled.vms():
        os.kill(pid, signal.SIGKILL)
    # A create in the very moment of the death may fail, but says that it may be tried again, and the next one works.
    answer = api.post("/v1/sandboxes/create", {"image": "tiny"})
    assert answer.status in (201, 503), answer
    with api.create() as box:
        assert box.out("echo ok") == "ok\n"


@pytest.mark.limit(120)
def test_it_is_drained_at_the_end(private):
    daemon = private({"pool": {"size": 2}}).start()
    daemon.api().create().remove()
    wait_until(lambda: daemon.vms(), "VMs wait in the pool", 100, 0.2)
    begin = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - begin < 45


def test_a_create_that_memory_cannot_honour_is_refused_at_once(private):
    """503 with Retry-After, not a VM that dies later."""
    with open("/proc/meminfo", encoding="ascii") as file:
        total = int(re.search(r"MemTotal:\s+(\d+)", file.read()).group(1)) // 1024
    daemon = private({"limits": {"memory_reserve_mib": total - 200}}).start()
    begin = time.monotonic()
    answer = daemon.api().create(expect=503, resources={"memory": 1024})
    assert time.monotonic() - begin < 20
    refused(answer, 503, "capacity")
    assert int(answer.headers["retry-after"]) > 0
    assert not daemon.api().live()
