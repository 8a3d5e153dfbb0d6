"""A thousand streams at a time, and ten thousand."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

from tests.benchmarks.child import Child, bench_worker, floor, request_line
from tests.benchmarks.measure import Row, Settings, Target, in_turn, percentile

STREAMS = 1000
CHUNKS = 100
RATE = 300_000
PERIOD_S = 0.01
PACED_S = 3.0
SLACK_MS = 250


def _run(worker: Child, command: str, args: dict[str, object], chunks: int) -> float:
    """Start all streams and read them to their ends; seconds."""
    lines = b"".join(request_line(command, args, id=f"r{number}") for number in range(STREAMS))
    writer = threading.Thread(target=worker.send, args=(lines,))
    started = time.perf_counter()
    writer.start()
    worker.lines(STREAMS * (chunks + 1))
    elapsed = time.perf_counter() - started
    writer.join()
    return elapsed


class Burst:
    """1,000 requests of 100 chunks each, as fast as they go; ``yielding``: in turns of one chunk."""

    def __init__(self, *, yielding: bool) -> None:
        self.name = "burst.yielding" if yielding else "burst"
        self._yielding = yielding

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The rate's row."""
        chunks = settings.scaled(CHUNKS)
        total = STREAMS * chunks
        args: dict[str, object] = {"count": chunks, "yielding": self._yielding}
        round_line = b"%d %d 0 0\n" % (STREAMS, chunks)
        with bench_worker() as worker, Child(floor("tasks", "80b")) as bare:
            pair = in_turn(
                settings.rounds,
                lambda: total / _run(worker, "bench_stream", args, chunks),
                lambda: total / bare.timed_lines(round_line, total),
            )
        yield pair.row(self.name, "chunks/s", "bare asyncio tasks, yielding", Target("value", RATE))


class Paced:
    """1,000 streams of a chunk every 10 ms: by a timetable, or with sleeps of that length between."""

    def __init__(self, *, timetable: bool) -> None:
        self.name = "paced" if timetable else "paced.sleeping"
        self._timetable = timetable

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The part of the ideal that came, or of what bare tasks do with the same sleeps."""
        chunks = int((1.0 if settings.quick else PACED_S) / PERIOD_S)
        total = STREAMS * chunks
        args: dict[str, object] = {"count": chunks, "period_s": PERIOD_S, "timetable": self._timetable}
        round_line = b"%d %d %g %d\n" % (STREAMS, chunks, PERIOD_S, self._timetable)
        with bench_worker() as worker, Child(floor("tasks", "80b")) as bare:
            before = worker.cpu_s()
            pair = in_turn(
                settings.rounds if settings.quick else 3,
                lambda: total / _run(worker, "bench_paced", args, chunks),
                lambda: total / bare.timed_lines(round_line, total),
            )
            cpu = (worker.cpu_s() - before) * 1e6 / total / (len(pair.values) + 1)
        if self._timetable:
            extra = {"values": pair.values, "cpu_us": cpu, "bare_tasks": pair.floor}
            target = Target("ratio", 0.9)
            yield Row(self.name, pair.value, "chunks/s", "the ideal", STREAMS / PERIOD_S, None, target, extra)
        else:
            yield pair.row(self.name, "chunks/s", "bare asyncio tasks, sleeping", cpu_us=cpu)


class Deadlines:
    """10,000 streams of a chunk a second for five seconds, each with a deadline a quarter of a second later.

    That quarter is for all but the pauses between the chunks: 10,000 requests come at once.
    """

    name = "paced.10k"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """How many missed their deadline; how late the chunks came to the host, in ms."""
        streams, chunks = settings.scaled(10_000), 2 if settings.quick else 5
        args: dict[str, object] = {"count": chunks, "period_s": 1.0, "timetable": True, "due": True}
        timeout_ms = chunks * 1000 + SLACK_MS
        lines = b"".join(
            request_line("bench_paced", args, id=f"r{number}", timeout_ms=timeout_ms)
            for number in range(streams)
        )
        with bench_worker("--max-inflight", str(streams)) as worker:
            before = worker.cpu_s()
            missed, late_ms = _read_paced(worker, lines, streams)
            cpu = (worker.cpu_s() - before) * 1e6 / max(1, len(late_ms))
        extra = {
            "streams": streams,
            "slack_ms": SLACK_MS,
            "late_p50_ms": percentile(late_ms, 50),
            "late_p99_ms": percentile(late_ms, 99),
            "late_most_ms": max(late_ms),
            "cpu_us": cpu,
        }
        yield Row(self.name, missed, "missed", None, None, None, Target("value", 0, at_most=True), extra)


def _read_paced(worker: Child, lines: bytes, streams: int) -> tuple[int, list[float]]:
    """Run the requests to their ends: how many did not end well, and how late each chunk was."""
    writer = threading.Thread(target=worker.send, args=(lines,))
    writer.start()
    late_ms: list[float] = []
    done = well = 0
    rest = b""
    while done < streams:
        size = worker.take()
        now = time.monotonic_ns()
        whole, _, rest = (rest + worker.block[:size]).rpartition(b"\n")
        late_ms.extend((now - int(due)) / 1e6 for due in re.findall(rb'"due":(\d+)', whole))
        done += whole.count(b'"done":true')
        well += whole.count(b'"type":"complete"')
    writer.join()
    return done - well, late_ms


BENCHMARKS = [
    Burst(yielding=False),
    Burst(yielding=True),
    Paced(timetable=True),
    Paced(timetable=False),
    Deadlines(),
]
