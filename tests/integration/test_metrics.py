"""Prometheus metrics on their own listener."""

import re

from harness.wait import wait_until

LINE = re.compile(r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*"(,[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*")*\})? [-+0-9.eE]+(Inf)?(NaN)?$')


def scrape(daemon):
    answer = daemon.metrics().get("/metrics")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
    return answer.body.decode()


def total(text, name, *labels):
    found = 0.0
    for line in text.splitlines():
        if re.match(rf"^{name}[{{ ]", line) and all(label in line for label in labels):
            found += float(line.rsplit(" ", 1)[1])
    return found


def test_the_format(daemon, box):
    text = scrape(daemon)
    names = set()
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.match(r"^# (HELP|TYPE) [a-zA-Z_:]\w* ", line), line
            continue
        assert LINE.match(line), line
        names.add(re.match(r"^[a-zA-Z_:]\w*", line).group())
    typed = set(re.findall(r"^# TYPE (\w+)", text, re.M))
    for name in names:
        assert name in typed or re.sub(r"_(bucket|sum|count)$", "", name) in typed, name
    assert all(name.startswith(("akira", "process")) for name in names), names


def test_requests_are_counted(daemon, api, box):
    def requests(status):
        text = scrape(daemon)
        name = next(name for name in re.findall(r"^# TYPE (\w+) counter", text, re.M) if "request" in name)
        return total(text, name, f'status="{status}"') or total(text, name, f'code="{status}"')

    before = requests(200)
    for _ in range(3):
        api.get("/v1/sandboxes/list")
    assert requests(200) >= before + 3
    before = requests(404)
    api.get("/v1/sandboxes/sbx_0000000000000000000000")
    assert requests(404) == before + 1


def test_histograms_are_cumulative(daemon, box):
    text = scrape(daemon)
    assert " histogram" in text
    series = {}
    for name, labels, bound, value in re.findall(r'^(\w+)_bucket\{(.*?)le="([^"]+)"\} (\S+)$', text, re.M):
        series.setdefault((name, labels), []).append((float(bound.replace("+Inf", "inf")), float(value)))
    assert series
    for values in series.values():
        assert values == sorted(values) and [v for _, v in values] == sorted(v for _, v in values)
        assert values[-1][0] == float("inf")


def test_no_ids_and_no_secrets(daemon, api, box):
    box.run("true")
    text = scrape(daemon)
    for word in (box.id, api.key, "sbx_", "exec_", "req_"):
        assert word not in text, word


def test_the_listeners_are_apart(daemon, api):
    assert daemon.metrics(api.key).get("/v1/sandboxes/list").status == 404
    assert api.get("/metrics").status == 404


def test_sandboxes_by_state(daemon, box):
    text = scrape(daemon)
    assert [line for line in text.splitlines() if 'running"' in line and float(line.rsplit(" ", 1)[1]) >= 1], text


def test_by_organisation(daemon, api, own):
    box = own(resources={"memory": 256})
    box.run("head -c 3000000 /dev/urandom > /workspace/data; sync; (echo x > /dev/tcp/192.0.2.1/80) 2>/dev/null")
    made = box.snapshot()

    def figure(name):
        return total(scrape(daemon), f"akira_organisation_{name}", '{organisation="org_')

    assert figure("sandboxes") >= 1 and figure("cpu_units") >= 1
    assert figure("disk_bytes") > 3000000 and figure("snapshot_bytes") > 3000000
    before = figure("memory_bytes")
    assert before >= 256 << 20
    box.pause()  # what was used until then is counted
    assert figure("memory_bytes") == before - (256 << 20)
    assert figure("cpu_seconds_total") > 0 and figure("refused_packets_total") > 0
    api.forget_snapshot(made["id"])


def test_the_audit_log_is_followed(private):
    daemon = private()
    daemon.settings["audit"] = {"file": daemon.data / "audit.jsonl"}
    daemon.write_config()
    daemon.start()
    before = total(scrape(daemon), "akira_audit_records_total")
    assert daemon.api().post("/v1/keys", {"name": "counted", "scopes": ["sandboxes:read"]}).status == 201
    assert total(scrape(daemon), "akira_audit_records_total") > before
    wait_until(lambda: "akira_audit_copy_lag_records 0\n" in scrape(daemon), "the copy is whole", 30)
