"""The same batch with DSPy alone and through a worker, or two.

The LM answers at once, so that the processor is what limits, or after 50 ms, so that the ideal is known.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Self

from tests.benchmarks.child import Child, bench_worker, request_line
from tests.benchmarks.dspy_floors import texts
from tests.benchmarks.measure import Row, Settings, Target, in_turn

ITEMS = 1000
IN_FLIGHT = 64
LATENCY_MS = 50
#: Beginning and end of a round, with fewer in flight, are not to count.
LEAST = 1600
#: A request of a batch runs in one worker: so many for each spread it evenly.
PARTS = 8


class Bare(Child):
    """DSPy without a worker."""

    def __init__(self, way: str, latency_ms: int) -> None:
        super().__init__([sys.executable, "-m", "tests.benchmarks.dspy_floors", way, str(latency_ms)])

    def __enter__(self) -> Self:
        self.lines(1)
        return self

    def rate(self, items: int, in_flight: int) -> float:
        """Items a second."""
        self.tail = b""
        self.timed_lines(b"%d %d\n" % (items, in_flight), 1)
        return items / float(self.tail)


class Ours:
    """A worker, or a family of them, whose LM takes its time."""

    def __init__(self, workers: int, latency_ms: int, parts: int | None = None) -> None:
        self._child = bench_worker("--workers", str(workers)) if workers > 1 else bench_worker()
        self._parts = parts or (workers * PARTS if workers > 1 else 1)
        engine = {"engine": "instant", "latency_s": latency_ms / 1000}
        self._child.timed_lines(request_line("bench_engine", engine), 1)

    def __enter__(self) -> Ours:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.__exit__()

    def rate(self, items: int, in_flight: int) -> float:
        """Items a second."""
        size = -(-items // self._parts)
        asked = texts(items)
        parts = [asked[start : start + size] for start in range(0, items, size)]
        lines = b"".join(
            self._line(f"r{number}", part, max(1, in_flight // len(parts)))
            for number, part in enumerate(parts)
        )
        seconds = self._child.timed_lines(lines, items + len(parts))
        assert b'"failed":0,' in self._child.tail, self._child.errors()
        assert not re.search(rb'"failed":[1-9]', self._child.tail), self._child.errors()
        return items / seconds

    def _line(self, name: str, asked: list[str], concurrency: int) -> bytes:
        items = [{"text": text} for text in asked]
        args = {"signature": "text -> completion", "items": items, "concurrency": concurrency}
        return request_line("stream_predict_batch", {**args, "lm": {"model": "scripted"}}, id=name)


class Pair:
    """Two ways, one beside the other, with an LM that answers at once."""

    def __init__(
        self,
        name: str,
        ours: Callable[[], Bare | Ours],
        theirs: Callable[[], Bare | Ours],
        floor: str,
        target: Target | None = None,
        items: int = ITEMS,
    ) -> None:
        self.name = name
        self._ours, self._theirs = ours, theirs
        self._floor, self._target, self._items = floor, target, items

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the rate."""
        items = settings.scaled(self._items)
        with self._ours() as ours, self._theirs() as theirs:
            pair = in_turn(
                settings.rounds, lambda: ours.rate(items, IN_FLIGHT), lambda: theirs.rate(items, IN_FLIGHT)
            )
        yield pair.row(self.name, "items/s", self._floor, self._target)


class Waiting:
    """Four ways with an LM that takes 50 ms, beside what is possible: ``in_flight`` answers every 50 ms."""

    def __init__(self, in_flight: int, targets: dict[str, float]) -> None:
        self.name = f"dspy.{LATENCY_MS}ms.{in_flight}"
        self._in_flight, self._targets = in_flight, targets

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """A row for each way."""
        items = self._in_flight * 2 if settings.quick else max(LEAST, self._in_flight * 20)
        ideal = self._in_flight * 1000 / LATENCY_MS
        rates: dict[str, list[float]] = {}
        with ExitStack() as stack:
            ways: dict[str, Bare | Ours] = {
                "gather": Bare("gather", LATENCY_MS),
                "parallel": Bare("parallel", LATENCY_MS),
                "one": Ours(1, LATENCY_MS),
                "two": Ours(2, LATENCY_MS),
            }
            for way in ways.values():
                stack.enter_context(way)
                way.rate(self._in_flight, self._in_flight)
            for _ in range(1 if settings.quick else 3):
                for name, way in ways.items():
                    rates.setdefault(name, []).append(way.rate(items, self._in_flight))
        for name, values in rates.items():
            target = Target("ratio", self._targets[name]) if name in self._targets else None
            value = statistics.median(values)
            yield Row(
                f"{self.name}.{name}", value, "items/s", "the ideal", ideal, None, target, {"values": values}
            )


BENCHMARKS = [
    Pair(
        "dspy.gather",
        lambda: Ours(1, 0),
        lambda: Bare("gather", 0),
        "asyncio.gather over acall",
        Target("ratio", 2.0),
    ),
    Pair("dspy.parallel", lambda: Ours(1, 0), lambda: Bare("parallel", 0), "dspy.Parallel, 64 threads"),
    Pair(
        "dspy.tuned",
        lambda: Ours(1, 0),
        lambda: Bare("tuned", 0),
        "the same tuning in process",
        Target("ratio", 0.95),
    ),
    Pair(
        "dspy.workers",
        lambda: Ours(2, 0),
        lambda: Ours(1, 0, parts=2 * PARTS),
        "one worker, the items in as many requests",
        Target("ratio", 1.8),
        items=4 * ITEMS,
    ),
    Waiting(32, {"one": 0.95}),
    Waiting(256, {"two": 0.8}),
]
