"""How long a ping takes: idle, and beside a stream at full speed."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator

from tests.benchmarks.child import Child, bench_worker, floor, request_line, worker
from tests.benchmarks.measure import Row, Settings, Target, percentile

PINGS = 2_000
FLOOD_PINGS = 1_000
BLOCKS = 5
#: The host's pause between two pings beside a stream.
PAUSE_S = 0.001
PING = request_line("ping", id="p")
PONG = b'"pong"'


def _round_trips(child: Child, count: int) -> list[float]:
    """Microseconds of ``count`` echoes, one after the other."""
    return [child.timed_lines(PING, 1) * 1e6 for _ in range(count)]


class Idle:
    """The worker and the host on one core, beside ``cat`` on the same."""

    name = "ping.idle"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The rows of the median and of the 99th percentile."""
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
        try:
            ours, cats = self._measure(settings)
        finally:
            os.sched_setaffinity(0, cores)
        for percent, target in ((50, Target("ratio", 4, at_most=True)), (99, None)):
            ratios = [
                percentile(a, percent) / percentile(b, percent) for a, b in zip(ours, cats, strict=True)
            ]
            yield Row(
                f"{self.name}.p{percent}",
                statistics.median(percentile(block, percent) for block in ours),
                "µs",
                "cat",
                statistics.median(percentile(block, percent) for block in cats),
                statistics.median(ratios),
                target,
            )

    def _measure(self, settings: Settings) -> tuple[list[list[float]], list[list[float]]]:
        count = settings.scaled(PINGS)
        ours, cats = [], []
        with Child(worker()) as bridge, Child(["cat"]) as cat:
            bridge.lines(1)
            _round_trips(bridge, 100)
            _round_trips(cat, 100)
            for _ in range(BLOCKS):
                ours.append(_round_trips(bridge, count))
                cats.append(_round_trips(cat, count))
        return ours, cats


def _beside_stream(child: Child, count: int) -> tuple[list[float], float]:
    """Milliseconds of ``count`` pings while all else is read, and the stream's lines per second."""
    trips: list[float] = []
    sent, due, lines = 0.0, time.perf_counter() + 0.2, 0
    started = time.perf_counter()
    while len(trips) < count:
        before = child.tail[-len(PONG) :]
        size = child.take()
        lines += child.block.count(b"\n", 0, size)
        now = time.perf_counter()
        if sent and (child.block.find(PONG, 0, size) >= 0 or PONG in before + child.block[: len(PONG)]):
            trips.append((now - sent) * 1e3)
            sent, due = 0.0, now + PAUSE_S
        elif not sent and now >= due:
            sent = time.perf_counter()
            child.send(PING)
    return trips, lines / (time.perf_counter() - started)


class BesideStream:
    """One stream without an end, read by the host, and a ping now and then."""

    def __init__(self, name: str, command: str, bounds: dict[int, float]) -> None:
        self.name = name
        self._command = command
        self._bounds = bounds

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The rows of the median and of the 99th percentile."""
        count = settings.scaled(FLOOD_PINGS)
        ours = self._blocks(bench_worker, count, request_line(self._command, {"count": -1}))
        bare = self._blocks(lambda: Child(floor("flood", "80b")), count, b"")
        for percent in (50, 99):
            bound = self._bounds.get(percent)
            yield Row(
                f"{self.name}.p{percent}",
                statistics.median(percentile(trips, percent) for trips, _ in ours),
                "ms",
                "bare loop, polling every 256 chunks",
                statistics.median(percentile(trips, percent) for trips, _ in bare),
                target=Target("value", bound, at_most=True) if bound else None,
                extra={"stream_lines_per_s": statistics.median(rate for _, rate in ours)},
            )

    @staticmethod
    def _blocks(start: Callable[[], Child], count: int, line: bytes) -> list[tuple[list[float], float]]:
        blocks = []
        for _ in range(3):
            with start() as child:
                child.send(line)
                blocks.append(_beside_stream(child, count))
        return blocks


BENCHMARKS = [
    Idle(),
    BesideStream("ping.beside-stream", "bench_stream", {50: 0.5, 99: 2.0}),
    BesideStream("ping.beside-thread", "bench_stream_sync", {}),
]
