"""GET /v1/usage: from the host's figures, correct across restarts."""

import datetime

from harness.client import refused
from harness.wait import wait_until


def today(api):
    answer = api.get("/v1/usage")
    assert answer.status == 200, answer
    day = datetime.datetime.utcnow().strftime("%Y-%m-%d")
    rows = [row for row in answer.json["data"] if row.get("day") == day or row.get("date") == day]
    return {name: sum(float(row[name]) for row in rows) for name in (rows[0] if rows else {}) if isinstance(rows[0][name], (int, float))}


def test_it_grows_with_use(api, own):
    before = today(api)
    box = own()
    box.run("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done", timeout=60)
    box.remove()

    def counted():
        now = today(api)
        names = ("sandbox_seconds", "vcpu_seconds", "cpu_seconds", "creates", "executions")
        return all(now.get(name, 0) > before.get(name, 0) for name in names)

    # Figures are booked once a minute at the latest.
    wait_until(counted, "it is counted", 90, 0.5)


def test_bad_days(api):
    for query in ({"from": "x"}, {"to": "2026-99-01"}, {"from": "2026-01-01T00:00"}):
        refused(api.get("/v1/usage", query=query), 400, "invalid_request")
