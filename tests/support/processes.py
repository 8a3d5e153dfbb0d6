"""Looking at the processes of a family from outside."""

from __future__ import annotations

import os
import signal
import time

from tests.support.worker import PATIENCE, Worker, alive


def children(pid: int) -> list[int]:
    """The processes whose parent is ``pid``, zombies left out."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [child for child in map(int, file.read().split()) if alive(child)]


def template_of(family: Worker) -> int:
    """The process that forks the workers."""
    (template,) = children(family.pid)
    return template


def forked(family: Worker) -> list[int]:
    """The pids of all that the template has forked and that run: the workers and the spare one."""
    return [child for pid in children(family.pid) for child in children(pid)]


def workers_of(family: Worker, count: int = 2) -> list[int]:
    """The workers' pids, once there are ``count`` that serve, a spare one besides, and nobody else."""
    deadline = time.monotonic() + PATIENCE
    while len(forked(family)) != count + 1 or _states(family) != ["serving"] * count + ["spare"]:
        assert time.monotonic() < deadline, forked(family)
        time.sleep(0.005)
    return _serving(family)


def _states(family: Worker) -> list[str]:
    return sorted(row["state"] for row in family.call("stats")["workers"])


def _serving(family: Worker) -> list[int]:
    return [row["pid"] for row in family.call("stats")["workers"] if row["state"] == "serving"]


def all_serving(family: Worker, count: int = 2) -> list[int]:
    """The workers' pids, once ``count`` of them take requests."""
    deadline = time.monotonic() + PATIENCE
    while len(serving := _serving(family)) != count:
        assert time.monotonic() < deadline, serving
    return serving


def kill_workers(family: Worker, count: int = 2) -> list[int]:
    """Kill all workers and wait until others serve; gives the pids of the dead."""
    dead = all_serving(family, count)
    for pid in dead:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while {*all_serving(family, count)} & {*dead}:
        assert time.monotonic() < deadline
    return dead


def everybody(family: Worker, count: int = 2) -> list[int]:
    """All processes of a family, once they are there."""
    workers_of(family, count)
    return [family.pid, template_of(family), *forked(family)]


def wait_all_gone(pids: list[int], within_s: float) -> None:
    """Wait until none of ``pids`` runs."""
    deadline = time.monotonic() + within_s
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"still there after {within_s} s: {left}"
        time.sleep(0.01)


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads_of(pid: int) -> int:
    """How many a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))
