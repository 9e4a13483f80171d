"""The plots are whole XML, with their axes named, a legend, both colour schemes, and points where the figures say."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

import plot

SVG = "{http://www.w3.org/2000/svg}"
CURVES = {"create latency over concurrency": {"p50": [[1, 90], [10, 900], [100, 9000]], "p<99": [[1, 200], [10, 2000], [100, 20000]]}}


def drawn(tmp_path, curves):
    source = tmp_path / "results.json"
    source.write_text(json.dumps({"curves": curves}), encoding="utf-8")
    subprocess.run([FOLDER / "plot", source, "--out", tmp_path / "plots"], check=True, capture_output=True)
    return {path.name: path for path in (tmp_path / "plots").glob("*.svg")}


def test_a_plot_names_its_axes_units_and_series(tmp_path):
    files = drawn(tmp_path, CURVES)
    assert list(files) == ["create-latency-over-concurrency.svg"]
    root = ElementTree.parse(files["create-latency-over-concurrency.svg"]).getroot()
    texts = {item.text for item in root.iter(SVG + "text")}
    assert {"Create latency over concurrency", "creates at a time (count)", "latency (ms)", "p50", "p<99"} <= texts
    assert "prefers-color-scheme:dark" in root.find(SVG + "style").text


def test_points_lie_where_the_figures_say(tmp_path):
    root = ElementTree.parse(drawn(tmp_path, CURVES)["create-latency-over-concurrency.svg"]).getroot()
    first = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(SVG + "circle")][:3]
    (x0, y0), (x1, y1), (x2, y2) = first
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)  # decades are equally far apart
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2) and y0 > y1 > y2


def test_a_single_point_is_no_plot(tmp_path):
    assert drawn(tmp_path, {"memory of idle sandboxes": {"Pss, all": [[1, 60]]}}) == {}


def test_zero_does_not_break_a_logarithmic_axis():
    ElementTree.fromstring(plot.line_plot("t", "x", "y", {"a": [(0, 0), (10, 5)]}, True, True))
