"""How many cores this process may use: what ``--workers auto`` means."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The cores of the process's affinity, or fewer (rounded up) where its control groups have a quota, as
    containers with a CPU limit do: more workers than that would only wait for each other.

    ``root`` is where ``proc`` and ``sys`` are. Quotas: ``cpu.max`` (cgroup v2, linux/Documentation/
    admin-guide/cgroup-v2.rst), ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (v1, scheduler/sched-bwc.rst).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Cores granted to each of the process's control groups that has a bound."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    groups = root / "sys/fs/cgroup"
    for line in lines:  # 0::/a/b in version 2, 4:cpu,cpuacct:/a/b in version 1
        _, controllers, group = line.split(":", 2)
        if not controllers:
            for folder in _up(groups, group):
                yield from _bound((folder / "cpu.max",))
        elif "cpu" in controllers.split(","):
            for folder in _up(groups / "cpu", group):
                yield from _bound((folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))


def _up(mount: Path, group: str) -> Iterator[Path]:
    """The group's folder and those around it. In a container the mount itself often is the group's."""
    own = mount / group.strip("/")
    yield own
    for folder in own.parents:
        if not folder.is_relative_to(mount):
            return
        yield folder


def _bound(files: tuple[Path, ...]) -> Iterator[float]:
    """Quota by period, if there are both and they are a bound: none is ``max`` or -1."""
    try:
        quota, period = map(int, " ".join(file.read_text() for file in files).split())
    except (OSError, ValueError):
        return
    if quota > 0 and period > 0:
        yield quota / period
