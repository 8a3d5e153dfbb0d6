"""The peers' benchmarks run with what Python brings and say what they found. No figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.measure import Target
from tests.benchmarks.peers.compare import PEERS

ROOT = Path(__file__).resolve().parents[1]
ROWS = {"small", "small.cpu", "10k", "10k.cpu", "answer", "rss", "ready"}
WAIT_S = 120


def peers(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m tests.benchmarks.peers`` to its end."""
    command = [sys.executable, "-m", "tests.benchmarks.peers", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_a_quick_run_prints_a_table_and_writes_its_rows(tmp_path: Path) -> None:
    only = ("--only", "pipe", "threads", "--python", sys.executable)
    done = peers("--quick", *only, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert document["quick"] is True
    assert {"bridge", "peers' python"} <= document["machine"]["versions"].keys()
    rows = {row["name"]: row for row in document["rows"]}
    assert rows.keys() == {f"{peer}.{row}" for peer in ("pipe", "threads") for row in ROWS}
    for name, row in rows.items():
        assert row["value"] > 0, name
        assert row["floor_value"] > 0, name
        assert row["ratio"] > 0, name
        assert f"| {name} |" in done.stdout
    assert {name for name, row in rows.items() if row["target"]} == {"pipe.small"}
    small = rows["pipe.small"]
    assert small["target"] == "ratio ≥ 3"
    assert small["met"] is (small["ratio"] >= 3)
    assert small["extra"]["worker_read_with"] == "decode_lines"
    assert rows["threads.small"]["extra"]["worker_read_with"] == "count_lines"


def test_the_aims_are_ratios_of_small_chunks() -> None:
    aims = {peer.name: Target("ratio", peer.bound) for peer in PEERS if peer.bound}
    assert {name: str(target) for name, target in aims.items()} == {
        "grpc-sync": "ratio ≥ 60",
        "grpc-aio": "ratio ≥ 60",
        "mcp": "ratio ≥ 200",
        "pygls": "ratio ≥ 10",
        "pipe": "ratio ≥ 3",
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--only", "nonsense"), "no peer's name begins with nonsense"),
        (("--only", "grpc", "pygls"), "has no grpcio, pygls; make bench-peers installs what is needed"),
    ],
    ids=["unknown", "not installed"],
)
def test_a_peer_that_is_not_there_is_a_usage_error(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n', encoding="utf-8")
    bare.chmod(0o755)
    output = tmp_path / "output"
    done = peers(*words, "--python", str(bare), "--output", str(output))
    assert done.returncode == 2
    assert says in done.stderr
    assert not output.exists()
