"""``--workers auto``: affinity, and the quotas of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge.cli.cores import usable_cores

CORES = len(os.sched_getaffinity(0))


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A folder with the parts of ``/proc`` and ``/sys`` that tell of control groups."""
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))


V1 = "4:cpu,cpuacct:/docker/a\n2:memory:/docker/a\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "5000 100000\n"}, 1),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        (
            "0::/a/b\n",
            {"sys/fs/cgroup/a/cpu.max": "800000 100000", "sys/fs/cgroup/a/b/cpu.max": "400000 100000"},
            4,
        ),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "nonsense"}, 64),
        ("0::/\n", {}, 64),
        (
            V1,
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            V1,
            {
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us": "100000\n",
            },
            64,
        ),
        ("2:memory:/a\n", {}, 64),
    ],
)
def test_quotas(tmp_path: Path, cgroup: str, files: dict[str, str], cores: int) -> None:
    assert usable_cores(machine(tmp_path, cgroup, files)) == cores


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 64


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= usable_cores() <= CORES
