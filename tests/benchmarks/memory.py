"""Whether a worker stays as large as it is: resident memory before and after much work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from tests.benchmarks.child import Child, bench_worker, request_line
from tests.benchmarks.measure import Row, Settings, Target

GROWTH_MB = Target("value", 10, at_most=True)
CHUNKS = 1_000_000
REQUESTS = 20_000
WINDOW = 500
UNREAD_S = 30.0


def _requests(worker: Child, count: int) -> None:
    """``count`` requests of ten chunks, 500 at a time."""
    for first in range(0, count, WINDOW):
        size = min(WINDOW, count - first)
        args: dict[str, object] = {"count": 10}
        lines = b"".join(request_line("bench_stream", args, id=f"r{first + n}") for n in range(size))
        writer = threading.Thread(target=worker.send, args=(lines,))
        writer.start()
        worker.lines(11 * size)
        writer.join()


def _chunks(worker: Child, count: int) -> None:
    worker.timed_lines(request_line("bench_stream", {"count": count}), count + 1)
    worker.timed_lines(request_line("bench_stream_sync", {"count": count}), count + 1)


class Growth:
    """Memory after ``count`` of something, against memory after a tenth of it."""

    def __init__(self, name: str, work: Callable[[Child, int], None], count: int) -> None:
        self.name = name
        self._work, self._count = work, count

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the growth."""
        count = settings.scaled(self._count)
        with bench_worker() as worker:
            self._work(worker, count // 10)
            before = worker.rss_mb()
            self._work(worker, count)
            after = worker.rss_mb()
        extra = {"before_mb": before, "after_mb": after}
        yield Row(self.name, after - before, "MB", target=GROWTH_MB, extra=extra)


class Unread:
    """A host that does not read for 30 s what two handlers, a task and a thread, send at full speed."""

    name = "memory.unread"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the largest growth while nobody read, and after it was read again."""
        with bench_worker() as worker:
            worker.request("bench_stream", {"count": -1}, id="a")
            worker.request("bench_stream_sync", {"count": -1}, id="b")
            _read_for(worker, 0.5)
            before = worker.rss_mb()
            peak = self._watch(worker, 5.0 if settings.quick else UNREAD_S)
            _read_for(worker, 0.5)
            after = worker.rss_mb()
        extra = {"before_mb": before, "peak_mb": peak, "after_mb": after}
        yield Row(self.name, max(peak, after) - before, "MB", target=GROWTH_MB, extra=extra)

    @staticmethod
    def _watch(worker: Child, seconds: float) -> float:
        peak = 0.0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            peak = max(peak, worker.rss_mb())
            time.sleep(0.05)
        return peak


def _read_for(worker: Child, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        worker.take()


BENCHMARKS = [
    Growth("memory.chunks", _chunks, CHUNKS),
    Growth("memory.requests", _requests, REQUESTS),
    Unread(),
]
