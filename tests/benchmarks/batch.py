"""A batch through the worker, beside ``asyncio.gather`` over DSPy as it comes in a process of its own.

Both sides run the same engine, which answers at once, so that what is compared is the way around it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.child import Child, bench_worker, floor, request_line
from tests.benchmarks.measure import Row, Settings, Target, in_turn

ITEMS = 1000


class Batch:
    """1,000 items: ``engine`` is the benchmarks' own instant one or the product's scripted one."""

    def __init__(self, engine: str, concurrency: int) -> None:
        self.name = f"batch.{engine}.{concurrency}"
        self._engine, self._concurrency = engine, concurrency

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the rate."""
        items = settings.scaled(ITEMS)
        with bench_worker() as worker, Child(floor("batch", self._engine)) as bare:
            bare.lines(1)
            worker.timed_lines(request_line("bench_engine", {"engine": self._engine}), 1)
            line = self._request(items)
            round_line = b"%d %d\n" % (items, self._concurrency)
            pair = in_turn(
                settings.rounds,
                lambda: items / _checked(worker, line, items),
                lambda: items / _bare_seconds(bare, round_line),
            )
        yield pair.row(self.name, "items/s", "asyncio.gather over acall", Target("ratio", 0.95))

    def _request(self, items: int) -> bytes:
        texts = [{"text": f"The capital of country {number} is"} for number in range(items)]
        args = {"signature": "text -> completion", "items": texts, "concurrency": self._concurrency}
        return request_line("stream_predict_batch", {**args, "lm": {"model": "scripted"}})


def _checked(worker: Child, line: bytes, items: int) -> float:
    seconds = worker.timed_lines(line, items + 1)
    assert b'"succeeded":%d,"failed":0,' % items in worker.tail, worker.errors()
    return seconds


def _bare_seconds(bare: Child, line: bytes) -> float:
    bare.tail = b""
    bare.timed_lines(line, 1)
    return float(bare.tail)


BENCHMARKS = [Batch("instant", 64), Batch("instant", 8), Batch("scripted", 64)]
