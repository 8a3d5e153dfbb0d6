"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.client.running import ROOT

TESTS = """\
import pytest

pids = set()

def test_default(bridge_worker):
    assert bridge_worker.call("stream_predict", {"question": "?"}).scripted
    pids.add(bridge_worker.ready["pid"])

def test_shared(bridge_worker):
    assert bridge_worker.ready["pid"] in pids

@pytest.mark.bridge_worker("--model", "scripted", "--script", "answers.jsonl")
def test_marked(bridge_worker):
    assert bridge_worker.call("stream_predict", {"question": "?"}).output == {"answer": "!"}

@pytest.mark.bridge_worker(fresh=True)
def test_fresh(bridge_worker):
    assert bridge_worker.ready["pid"] not in pids

def test_killed(bridge_worker):
    import os
    os.kill(bridge_worker.ready["pid"], 9)

def test_after_it(bridge_worker):
    assert bridge_worker.call("ping").type == "pong"
    assert bridge_worker.ready["pid"] not in pids
"""


def run(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", *words]
    if "-p bridge" not in " ".join(words):
        command[3:3] = ["-p", "bridge.pytest_plugin"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_fixture(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"outputs": {"answer": "!"}}\n')
    (tmp_path / "test_it.py").write_text(TESTS)
    assert " 6 passed in " in run(tmp_path, "--strict-markers", "-W", "error")


def test_the_setting(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nbridge_worker_flags = --model scripted --max-inflight 7\n"
    )
    (tmp_path / "test_it.py").write_text(
        "def test(bridge_worker):\n    assert bridge_worker.ready['limits']['max_inflight'] == 7\n"
    )
    assert " 1 passed in " in run(tmp_path)
    assert "bridge_worker" in run(tmp_path, "--fixtures")


def test_pytest_finds_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"dspy_bridge": "bridge.pytest_plugin"}


def test_runs_without_workers_stay_light(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test():\n    assert 'asyncio' not in sys.modules and 'msgspec' not in sys.modules\n"
    )
    assert " 1 passed in " in run(tmp_path)
