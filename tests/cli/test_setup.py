"""The scripts behind the Makefile, where something is missing and may not be installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of programs in which the user is not root and Python can make no environments."""
    _program(tmp_path / "id", "echo 1000")
    _program(
        tmp_path / "python3",
        f'case "$2" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"',
    )
    return tmp_path


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def _run(folder: Path, *words: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=folder, env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_python_without_venv(folder: Path) -> None:
    path = f"{folder}:{os.environ['PATH']}"
    done = _run(folder, str(ROOT / ".ci" / "venv"), str(folder / "python3"), "environment", path=path)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert done.returncode == 1
    assert f"sudo apt-get install python{version}-venv" in done.stderr
    assert not (folder / "environment").exists()


def test_a_python_that_is_none(folder: Path) -> None:
    done = _run(folder, str(ROOT / ".ci" / "venv"), "/no/such/python", "environment", path=os.environ["PATH"])
    assert done.returncode == 1
    assert "make PYTHON=" in done.stderr


def test_missing_tools_are_named(folder: Path) -> None:
    (folder / "bash").symlink_to("/bin/bash")
    done = _run(folder, "/bin/bash", str(ROOT / ".ci" / "tools"), path=str(folder))
    assert done.returncode == 1
    assert "sudo apt-get install --no-install-recommends jq nodejs elixir" in done.stderr
