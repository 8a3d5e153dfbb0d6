"""One stream as fast as it goes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.child import Child, bench_worker, floor, request_line
from tests.benchmarks.measure import Pair, Row, Settings, Target, in_turn

COUNTS = {"80b": 400_000, "10k-ascii": 30_000, "10k-letters": 20_000, "10k-typeset": 20_000}
#: Part of the bare loop's rate, by the handler's kind and text.
TARGETS = {
    ("async", "80b"): 0.6,
    ("async", "10k-ascii"): 0.8,
    ("async", "10k-letters"): 0.4,
    ("async", "10k-typeset"): 0.4,
    ("sync", "80b"): 0.3,
}
RATE = 800_000
#: Chunks the host lets the worker send ahead, and after how many it grants as many again.
WINDOW = 512
COMMANDS = {"async": "bench_stream", "sync": "bench_stream_sync"}


class Stream:
    """One kind of handler with one text, beside the bare loop."""

    def __init__(self, kind: str, text: str, *, credit: bool) -> None:
        self.name = f"stream.{kind}.{text}" + (".credit" if credit else "")
        self._kind, self._text, self._credit = kind, text, credit

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The ratio's row, and for the smallest chunks the rate's."""
        count = settings.scaled(COUNTS[self._text])
        with bench_worker() as worker, Child(floor("loop", self._text)) as bare:
            before = worker.cpu_s(), bare.cpu_s()
            pair = in_turn(
                settings.rounds, lambda: self._rate(worker, count), lambda: _bare_rate(bare, count)
            )
            per_chunk = 1e6 / count / (settings.rounds + 1)
            cpu = (worker.cpu_s() - before[0]) * per_chunk, (bare.cpu_s() - before[1]) * per_chunk
        yield from self._rows(pair, cpu)

    def _rate(self, worker: Child, count: int) -> float:
        fields = {"credit": WINDOW} if self._credit else {}
        line = request_line(COMMANDS[self._kind], {"count": count, "text": self._text}, **fields)
        return count / worker.timed_lines(line, count + 1, grant=WINDOW // 2 if self._credit else 0)

    def _rows(self, pair: Pair, cpu: tuple[float, float]) -> Iterator[Row]:
        bound = None if self._credit else TARGETS.get((self._kind, self._text))
        target = Target("ratio", bound) if bound else None
        extra = {"cpu_us": cpu[0], "floor_cpu_us": cpu[1]}
        yield pair.row(self.name, "chunks/s", "bare loop", target, **extra)
        if self.name == "stream.async.80b":
            yield Row(f"{self.name}.rate", pair.value, "chunks/s", target=Target("value", RATE))


def _bare_rate(bare: Child, count: int) -> float:
    return count / bare.timed_lines(b"%d\n" % count, count)


BENCHMARKS = [
    Stream(kind, text, credit=credit)
    for kind in ("async", "sync")
    for credit in (False, True)
    for text in COUNTS
]
