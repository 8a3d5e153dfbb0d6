"""A host process for peers that are read by their own library: it measures and says what it measured."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol


class Remote(Protocol):
    """A server as its own library shows it."""

    @property
    def pid(self) -> int:
        """Its process."""

    def stream(self, count: int, text: str) -> int:
        """Read a stream to its end; how many chunks came."""

    def answer(self) -> None:
        """One round trip."""

    def close(self) -> None:
        """End it."""


def serve(start: Callable[[], Remote]) -> None:
    """Start a server, then answer lines of stdin until it ends.

    First written is ``{"pid","ready_ms"}``: the time from the spawn to the first round trip's end. A line
    ``{"count","text"}`` is answered with ``{"seconds"}`` of a stream, ``{"count"}`` with ``{"p50_us"}``
    of so many round trips.
    """
    started = time.perf_counter()
    remote = start()
    try:
        remote.answer()
        _say(pid=remote.pid, ready_ms=(time.perf_counter() - started) * 1e3)
        for line in sys.stdin:
            _measure(remote, **json.loads(line))
    finally:
        remote.close()


def _measure(remote: Remote, count: int, text: str | None = None) -> None:
    if text is None:
        _say(p50_us=statistics.median(_seconds(remote.answer) for _ in range(count)) * 1e6)
    else:
        _say(seconds=_seconds(lambda: _check(remote.stream(count, text), count)))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _check(seen: int, count: int) -> None:
    assert seen == count, f"{seen} chunks instead of {count}"


def _say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)
