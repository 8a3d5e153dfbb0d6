"""The processes of a family, looked at from outside. Linux only."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.child import PATIENCE_S, Child, request_line

POLL_S = 0.01


@dataclass(frozen=True)
class Members:
    """Process ids of a family."""

    supervisor: int
    template: int
    workers: list[int]

    def __iter__(self) -> Any:
        return iter([self.supervisor, self.template, *self.workers])


def children(pid: int) -> list[int]:
    """The processes whose parent is ``pid``."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pss_mb(pid: int) -> float:
    """Memory of a process, in MB (10^6 bytes): a page that N processes share counts as its Nth part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"the kernel does not tell the PSS of {pid}")


def answer(child: Child, line: bytes) -> dict[str, Any]:
    """Send a request that is answered by one chunk, when nothing else is in flight; gives the chunk."""
    child.send(line)
    read = bytearray()
    while not read.endswith(b"\n"):
        size = child.take()
        read += child.block[:size]
    chunk: dict[str, Any] = json.loads(read)
    return chunk


def rows(child: Child) -> list[dict[str, Any]]:
    """What ``stats`` tells of each worker."""
    found: list[dict[str, Any]] = answer(child, request_line("stats", id="s"))["workers"]
    return found


def wait_serving(child: Child, workers: int) -> list[dict[str, Any]]:
    """The rows of ``stats`` once all ``workers`` serve."""
    end = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < end:
        found = [row for row in rows(child) if row["state"] == "serving"]
        if len(found) == workers:
            return found
        time.sleep(POLL_S)
    raise RuntimeError(f"not all of {workers} workers serve: {child.errors()}")


def members(child: Child, workers: int) -> Members:
    """The processes of a family whose workers all serve. The spare one counts as a worker."""
    wait_serving(child, workers)
    (template,) = children(child.process.pid)
    return Members(child.process.pid, template, children(template))
