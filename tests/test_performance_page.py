"""The page on performance says what the benchmarks' snapshot says; the cost model reckons as described."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.benchmarks import cost_model, page, performance
from tests.benchmarks.cost_model import Capacity, Memory, Work
from tests.benchmarks.plot import Chart, Line, svg

WORK = Work("predictions", "requests/s", worker_us=900.0, hop_us=100.0)


def test_the_tables_are_made_from_the_snapshot() -> None:
    text = performance.PAGE.read_text(encoding="utf-8")
    assert page.render(text, performance.load()) == text
    assert set(re.findall(r"<!-- table: ([\w-]+) -->", text)) == set(page.TABLES)


def test_the_plot_is_made_from_the_snapshot() -> None:
    assert performance.PLOT.read_text(encoding="utf-8") == svg(performance.charts(performance.load()))


def test_the_plot_loads_and_runs_nothing() -> None:
    drawn = ET.parse(performance.PLOT)
    names = {element.tag.partition("}")[2] for element in drawn.iter()}
    assert names <= {"svg", "g", "rect", "path", "circle", "text"}
    attributes = {key for element in drawn.iter() for key in element.attrib}
    assert not {key for key in attributes if key.startswith("on") or key.endswith("href")}


def test_a_table_without_rows_says_so() -> None:
    text = "a\n<!-- table: dspy -->\nold\n<!-- end -->\nb"
    assert page.render(text, {}) == "a\n<!-- table: dspy -->\n*Not measured yet.*\n<!-- end -->\nb"


def test_peers_stand_in_a_line_each() -> None:
    row = {"name": "grpc.small", "floor": "gRPC", "value": 665_286.0, "floor_value": 8_842.5, "ratio": 75.2}
    snapshot = {"peers": {"rows": [row, {**row, "name": "grpc.rss", "value": 31.23, "floor_value": 52.6}]}}
    head, _, line = page.TABLES["peers"](snapshot).splitlines()
    assert head.startswith("| worker : peer | ratio | small chunks/s | 10 KB chunks/s | ")
    assert head.endswith(" | ready ms | RSS MB |")
    assert line == "| gRPC | 75.2 | 665,000 : 8,840 |  |  |  |  | 31.2 : 52.6 |"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (1.0, "1.00"),
        (45.67, "45.7"),
        (999.6, "1,000"),
        (123_456.0, "123,000"),
    ],
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert page.figure(value) == shown


def test_a_snapshot_takes_runs_without_their_rounds(tmp_path: Path) -> None:
    row = {"name": "a", "value": 1.0, "extra": {"values": [1.0, 2.0], "cpu_us": 3.0}}
    (tmp_path / "latest.json").write_text(json.dumps({"quick": False, "date": "now", "rows": [row]}))
    snapshot = performance.taken(tmp_path, {"peers": {"rows": []}, "benchmarks": {"rows": ["old"]}})
    assert snapshot["benchmarks"]["rows"] == [{**row, "extra": {"cpu_us": 3.0}}]
    assert snapshot["peers"] == {"rows": []}
    (tmp_path / "peers.json").write_text(json.dumps({"quick": True, "rows": []}))
    with pytest.raises(ValueError, match=r"peers\.json is of a quick run"):
        performance.taken(tmp_path, {})


def test_cores_limit_a_family_until_its_supervisor_does() -> None:
    assert cost_model.single(WORK) == Capacity(1e6 / 900, cost_model.CORES)
    assert cost_model.machine(WORK, 4) == Capacity(4_000, cost_model.CORES)
    assert cost_model.enough_cores(WORK) == 10
    assert cost_model.machine(WORK, 32) == Capacity(10_000, cost_model.SUPERVISOR)
    assert cost_model.machine(WORK, 32, families=4) == Capacity(32_000, cost_model.CORES)
    assert cost_model.cluster(WORK, 3, 32, families=1) == Capacity(30_000, cost_model.SUPERVISOR)


def test_who_waits_takes_a_place_and_memory() -> None:
    assert cost_model.in_flight(rate=500, latency_s=2.0) == 1_000
    assert cost_model.waiting_rate(WORK, in_flight=10, latency_s=0.0991) == pytest.approx(100)
    assert cost_model.waiting_rate(WORK, in_flight=1_000, latency_s=0.1) == pytest.approx(1e6 / 900)
    held = Memory(single_mb=90, family_mb=50, worker_mb=12, request_kb=30)
    assert cost_model.family_mb(held, workers=4, requests=1_000) == pytest.approx(50 + 48 + 30)


def test_axes_are_logarithmic() -> None:
    chart = Chart("<t>", "x", "y", (1, 10, 100), [Line("a & b", [(1, 1), (10, 10), (100, 100)])])
    drawn = svg([chart])
    dots = [(float(x), float(y)) for x, y in re.findall(r'circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    (left, bottom), (middle, half), (right, _), *_ = dots  # and the key
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert half < bottom
    assert "&lt;t&gt;" in drawn
    assert "a &amp; b" in drawn
