"""How long a start takes, and what a worker weighs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from tests.benchmarks.child import BARE_READY, BARE_START, Child, floor, request_line, worker
from tests.benchmarks.measure import Row, Settings, Target, in_turn

ROUNDS = 15
ANSWER_ROUNDS = 3
ITEM = {"signature": "text -> completion", "items": [{"text": "a"}], "lm": {"model": "scripted"}}
PING = request_line("ping")
FIRST_ANSWER = request_line("stream_predict_batch", dict(ITEM))


def _first_lines(argv: list[str], line: bytes, count: int) -> float:
    """Milliseconds from the spawn to the ``count``-th line."""
    started = time.perf_counter()
    with Child(argv) as child:
        child.send(line)
        child.lines(count)
        return (time.perf_counter() - started) * 1e3


class Start:
    """Spawn to a line of the worker, beside a Python that imports what it can not do without till then."""

    def __init__(
        self, name: str, line: bytes, lines: int, floor_argv: list[str], floor_name: str, bound: float
    ) -> None:
        self.name = name
        self._line, self._lines = line, lines
        self._floor_argv, self._floor_name = floor_argv, floor_name
        self._bound = bound

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the time."""
        rounds = settings.rounds if settings.quick else ROUNDS
        pair = in_turn(
            rounds,
            lambda: _first_lines(worker(), self._line, self._lines),
            lambda: _first_lines(self._floor_argv, b"", 1),
        )
        yield pair.row(self.name, "ms", self._floor_name, Target("ratio", self._bound, at_most=True))


class FirstAnswer:
    """Spawn to the first prediction, beside a process that imports DSPy and predicts."""

    name = "start.answer"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the time: ``ready``, the prediction and ``complete`` are three lines."""
        rounds = settings.rounds if settings.quick else ANSWER_ROUNDS
        pair = in_turn(
            rounds,
            lambda: _first_lines(worker("--preload"), FIRST_ANSWER, 3),
            lambda: _first_lines(floor("answer"), b"", 1),
        )
        yield pair.row(self.name, "ms", "import dspy, one prediction")


def _rss(argv: list[str], line: bytes, count: int) -> float:
    with Child(argv) as child:
        child.send(line)
        child.lines(count)
        return child.rss_mb()


class Weight:
    """Resident memory after a first answer."""

    def __init__(
        self,
        name: str,
        line: bytes,
        lines: int,
        floor_argv: list[str],
        floor_name: str,
        target: Target | None = None,
    ) -> None:
        self.name = name
        self._line, self._lines = line, lines
        self._floor_argv, self._floor_name = floor_argv, floor_name
        self._target = target

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the size."""
        value = statistics.median(_rss(worker(), self._line, self._lines) for _ in range(3))
        bare = statistics.median(_rss(self._floor_argv, b"", 1) for _ in range(3))
        yield Row(self.name, value, "MB", self._floor_name, bare, target=self._target)


BENCHMARKS = [
    Start("start.ready", b"", 1, BARE_READY, 'python -c "import msgspec"', 1.3),
    Start("start.pong", PING, 2, BARE_START, 'python -c "import asyncio, orjson, msgspec"', 1.3),
    FirstAnswer(),
    Weight(  # after a pong: at `ready` half of the imports are still to come
        "rss.ready",
        PING,
        2,
        BARE_START,
        "Python with asyncio, orjson, msgspec",
        Target("value", 30, at_most=True),
    ),
    Weight("rss.dspy", FIRST_ANSWER, 3, floor("answer"), "import dspy, one prediction"),
]
