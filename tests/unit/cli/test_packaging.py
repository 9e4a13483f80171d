"""What is installed must go with the programs: settings, units, scripts."""

import configparser
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
PACKAGING = ROOT / "packaging"


@pytest.fixture
def akirad(request):
    program = request.config.getoption("--akirad")
    if not program or not os.access(program, os.X_OK):
        pytest.skip("akirad is not built: give --akirad PATH")
    return program


def example(commented):
    text = (PACKAGING / "akirad.conf").read_text()
    return re.sub(r"^#([a-z_]+ =)", r"\1", text, flags=re.M) if commented else text


def test_the_example_names_every_setting_with_its_default(akirad):
    help_text = subprocess.run([akirad, "--help"], capture_output=True, text=True, check=True).stdout
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(example(True))
    shown = {f"{section}-{key}".replace("_", "-"): value for section in parser.sections() for key, value in parser[section].items()}
    settings = {}
    for line in help_text.splitlines():
        if found := re.match(r"  --(\S+)", line):
            name = found[1]
            settings[name] = ""
        elif found := re.match(r" {20,}.*\bdefault (\S+)$", line):
            settings[name] = found[1]
    assert shown == settings


@pytest.mark.parametrize("commented", [False, True])
def test_akirad_takes_the_example(akirad, tmp_path, commented):
    path = tmp_path / "akirad.conf"
    path.write_text(example(commented))
    done = subprocess.run([akirad, "--config", path, "--check-config"], capture_output=True, text=True)
    # Not every host that builds has the user; any other complaint is about the file.
    assert done.returncode == 0 or "user" in done.stderr, done.stderr


def test_scripts_and_unit_are_sound(tmp_path):
    for script in ["build-deb", "akira-setup"]:
        subprocess.run(["bash", "-n", PACKAGING / script], check=True)
    for script in ["postinst", "prerm", "postrm"]:
        subprocess.run(["sh", "-n", PACKAGING / "debian" / script], check=True)
    if not shutil.which("systemd-analyze"):
        return
    # The programs are not installed where tests run.
    text = (PACKAGING / "akirad.service").read_text().replace("/usr/sbin/akirad", "/bin/true")
    unit = tmp_path / "akirad.service"
    unit.write_text(re.sub("^Documentation=.*\n", "", text, flags=re.M))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert done.returncode == 0 and "akirad.service" not in done.stderr, done.stderr


def test_the_unit_keeps_what_akirad_needs():
    text = (PACKAGING / "akirad.service").read_text()
    for line in ["KillMode=mixed", "Delegate=yes", "TimeoutStopSec=120", "OOMScoreAdjust=-900", "ProtectSystem=strict"]:
        assert f"\n{line}\n" in text
    # systemd would give the data to root, see the comment there.
    assert "\nStateDirectory=" not in text
    for capability in ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETPCAP"]:
        assert re.search(f"^CapabilityBoundingSet=.*{capability}", text, re.M)


def metric_names():
    source = (ROOT / "src/daemon/api/metrics.c").read_text()
    names = set()
    for name, kind in re.findall(r'(?:value|head|FIGURE)\([^"]*"([a-z_]+)", "(counter|gauge|histogram)"', source):
        suffixes = ["_bucket", "_sum", "_count"] if kind == "histogram" else [""]
        names |= {f"akira_{name}{suffix}" for suffix in suffixes}
    assert len(names) > 20
    return names


@pytest.mark.parametrize("path", ["prometheus/akira.rules.yml", "grafana/akira.json"])
def test_dashboards_and_alerts_name_metrics_that_are_there(path):
    text = (PACKAGING / path).read_text()
    if path.endswith(".json"):
        expressions = [t["expr"] for panel in json.loads(text)["panels"] for t in panel["targets"]]
    else:
        expressions = re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n +(?:for|labels):", text)
    used = set(re.findall(r"\bakira_[a-z_]+", "\n".join(expressions)))
    assert len(expressions) >= 8 and used
    assert used <= metric_names()
