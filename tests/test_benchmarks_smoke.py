"""The benchmarks run and write what they say. No figure is held to anything here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.cost_model import KINDS

ROOT = Path(__file__).resolve().parents[1]
FIELDS = {"name", "value", "unit", "floor", "floor_value", "ratio", "target", "met", "extra"}


def benchmarks(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m tests.benchmarks`` to its end."""
    command = [sys.executable, "-m", "tests.benchmarks", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_quick_run_prints_a_table_and_writes_its_rows(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks",
        "--quick",
        "--only",
        "stream.async.80b",
        "start.ready",
    ]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "latest.json").read_text(encoding="utf-8"))
    assert document["quick"] is True
    assert document["machine"].keys() == {"cpus", "system", "python", "versions", "load"}
    rows = {row["name"]: row for row in document["rows"]}
    assert {"stream.async.80b", "stream.async.80b.rate", "start.ready"} <= rows.keys()
    for row in rows.values():
        assert row.keys() == FIELDS
        assert row["value"] > 0
        assert f"| {row['name']} |" in done.stdout
    assert rows["stream.async.80b"]["floor_value"] > 0
    assert rows["start.ready"]["target"] == "ratio ≤ 1.3"


def test_a_quick_run_of_families(tmp_path: Path) -> None:
    names = ("family.replaced", "cost.cpu")
    done = benchmarks("--quick", "--only", *names, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "latest.json").read_text(encoding="utf-8"))
    found = {row["name"]: row["value"] for row in document["rows"]}
    assert found["family.replaced"] > 0
    assert all(found[f"cost.{name}{hop}"] > 0 for name, _, _ in KINDS for hop in ("", ".hop"))


def test_an_unknown_name_is_a_usage_error(tmp_path: Path) -> None:
    done = benchmarks("--only", "nonsense", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "no benchmark's name begins with nonsense" in done.stderr
    assert not list(tmp_path.iterdir())
