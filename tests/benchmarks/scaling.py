"""What one unit of each kind of work costs, and how the rate grows with workers and requests in flight.

The rows ``cost.*`` are what :mod:`tests.benchmarks.cost_model` reckons with, ``scale.*`` what it can be held
against. Processor time is that of the named process alone, the host's is not in it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.benchmarks.child import Child, bench_worker, cpu_s, request_line
from tests.benchmarks.family import MANY, PID, batch_seconds, predict_everywhere
from tests.benchmarks.measure import Pair, Row, Settings
from tests.benchmarks.processes import answer, members, pss_mb, wait_serving
from tests.benchmarks.startup import ITEM

CHUNKS, REQUESTS, ITEMS, TOKENS, PREDICTIONS = 200_000, 5_000, 2_000, 2_000, 500
#: Requests sent at a time: enough to keep a worker busy, so that each costs as in a busy one.
WINDOW = 50
IDLE_S = 5.0
LATENCY_S = 0.05
#: Predictions in flight for each worker that waits for its LM.
EACH = 16
IN_FLIGHT = (1, 4, 16, 64, 256, 1024)
HELD = 1_000
#: Workers of the smaller of the two families whose memory gives that of one more worker; the other has 16.
FEW = 4


class Costs:
    """Processor time: in a single worker, and in the supervisor of a family."""

    name = "cost.cpu"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """A row for each kind of work, in µs."""
        with bench_worker() as single, bench_worker("--workers", "2") as family:
            wait_serving(family, 2)
            for child in (single, family):
                child.timed_lines(request_line("bench_engine", {"engine": "instant"}), 1)
            for name, unit, work, count in WORK:
                size = settings.scaled(count)
                costs = [[_cpu_us(child, work, size) for child in (single, family)] for _ in range(3)]
                worker, hop = (statistics.median(figures) for figures in zip(*costs, strict=True))
                yield Row(f"cost.{name}", worker, f"µs CPU/{unit}")
                yield Row(f"cost.{name}.hop", hop, f"µs CPU/{unit}")
        with bench_worker() as single, bench_worker("--workers", "2") as family:
            wait_serving(family, 2)
            for name, child in (("cost.token", single), ("cost.token.hop", family)):
                yield Row(name, _token_us(child, settings.scaled(TOKENS)), "µs CPU/token")


def _token_us(child: Child, tokens: int) -> float:
    """A long answer's cost less a short one's, by their tokens."""
    return (_cpu_of_answer(child, tokens) - _cpu_of_answer(child, 1)) / tokens


def _cpu_us(child: Child, work: Callable[[Child, int], object], count: int) -> float:
    work(child, max(WINDOW, count // 10))
    before = child.cpu_s()
    work(child, count)
    return (child.cpu_s() - before) * 1e6 / count


def _cpu_of_answer(child: Child, tokens: int) -> float:
    """µs that streaming an answer of so many words takes. The scripted model says a word at a time."""
    script = [{"outputs": {"answer": " ".join(["word"] * tokens)}}]
    lm = {"model": "scripted", "script": script}
    line = request_line("stream_predict", {"question": "How long?", "lm": lm})
    times = []
    for _ in range(6):
        before = child.cpu_s()
        _until_done(child, line)
        times.append((child.cpu_s() - before) * 1e6)
    return statistics.median(times[1:])


def _until_done(child: Child, line: bytes) -> int:
    """Send a request, read it to its end; how many lines came."""
    child.tail = b""
    child.send(line)
    lines = 0
    while not child.tail.endswith(b',"done":true}\n'):
        size = child.take()
        lines += child.block.count(b"\n", 0, size)
    return lines


def _chunks(child: Child, count: int) -> None:
    child.timed_lines(request_line("bench_stream", {"count": count}), count + 1)


def _echoes(child: Child, count: int) -> None:
    for _ in range(0, count, WINDOW):
        child.timed_lines(b"".join(PID.replace(b'"p"', b"%d" % n) for n in range(WINDOW)), WINDOW)


def _predictions(child: Child, count: int) -> None:
    for _ in range(0, count, WINDOW):
        lines = (request_line("stream_predict_batch", dict(ITEM), id=f"x{n}") for n in range(WINDOW))
        child.timed_lines(b"".join(lines), 2 * WINDOW)


def _items(child: Child, count: int) -> None:
    batch_seconds(child, count, 4)


#: Name, unit, what does that much of it, and how much.
WORK: list[tuple[str, str, Callable[[Child, int], None], int]] = [
    ("chunk", "chunk", _chunks, CHUNKS),
    ("request", "request", _echoes, REQUESTS),
    ("prediction", "request", _predictions, PREDICTIONS),
    ("item", "item", _items, ITEMS),
]


class Idle:
    """Processor time of all processes together while nothing is asked."""

    def __init__(self, name: str, workers: int) -> None:
        self.name = f"cost.idle.{name}"
        self._workers = workers

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row, in ms for each second."""
        with _running(self._workers) as (_, pids):
            before = sum(map(cpu_s, pids))
            time.sleep(1.0 if settings.quick else IDLE_S)
            spent = sum(map(cpu_s, pids)) - before
        seconds = 1.0 if settings.quick else IDLE_S
        yield Row(self.name, spent * 1e3 / seconds, "ms CPU/s", extra={"processes": len(pids)})


@contextmanager
def _running(workers: int) -> Iterator[tuple[Child, list[int]]]:
    """A worker (0) or a family of so many, past a prediction in each, and the processes' ids."""
    with bench_worker(*(("--workers", str(workers)) if workers else ())) as child:
        if workers:
            family = members(child, workers)
            predict_everywhere(child, workers)
            yield child, [family.supervisor, family.template, *family.workers]
        else:
            child.timed_lines(request_line("stream_predict_batch", dict(ITEM)), 2)
            yield child, [child.process.pid]


class Memory:
    """What a worker holds, and what each request in flight adds."""

    name = "cost.memory"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """Rows for processes in MB (resident; in families, where most is shared, PSS), for requests in KB."""
        with _running(0) as (child, _):
            yield Row("cost.memory.single", child.rss_mb(), "MB")
            echo = _held(child, request_line("bench_paced", _paced(3600.0), id=0))
        with _running(0) as (child, _):
            predicting = _held(child, _waiting(3600.0, 1))
        few, many = (self._family(workers) for workers in (FEW, MANY))
        each = (many - few) / (MANY - FEW)
        yield Row("cost.memory.worker", each, "MB", extra={str(FEW): few, str(MANY): many})
        yield Row("cost.memory.family", few - FEW * each, "MB")
        yield Row("cost.memory.request", echo, "KB/request")
        yield Row("cost.memory.prediction", predicting, "KB/request")

    @staticmethod
    def _family(workers: int) -> float:
        with _running(workers) as (_, pids):
            return sum(map(pss_mb, pids))


def _held(child: Child, line: bytes) -> float:
    """KB that each of 1,000 requests takes that wait."""
    head, _, rest = line.partition(b",")
    before = child.rss_mb()
    child.send(b"".join(b"%s%d,%s" % (head[:-1], number, rest) for number in range(HELD)))
    while answer(child, request_line("stats", id="s"))["running"] <= HELD:
        time.sleep(0.05)
    time.sleep(0.5)  # they are admitted; now let them come to where they wait
    return (child.rss_mb() - before) * 1e3 / HELD


def _paced(period_s: float) -> dict[str, object]:
    return {"count": 1, "period_s": period_s, "timetable": False}


def _waiting(seconds: float, items: int, concurrency: int = 1) -> bytes:
    """A batch whose LM takes ``seconds`` for each item. Its id is a number, to be put in the 0's place."""
    lm = {"model": "scripted", "script": [{"outputs": {"completion": "France"}, "delay_s": seconds}]}
    args: dict[str, Any] = {"signature": "text -> completion", "concurrency": concurrency, "lm": lm}
    args["items"] = [{"text": f"The capital of country {number} is"} for number in range(items)]
    return request_line("stream_predict_batch", args, id=0)


def _waiting_rate(child: Child, requests: int, in_flight: int, items: int) -> float:
    """Items a second of ``items`` predictions that wait 50 ms each, ``in_flight`` at a time."""
    line = _waiting(LATENCY_S, items // requests, max(1, in_flight // requests))
    lines = b"".join(line.replace(b'"id":0,', b'"id":%d,' % number, 1) for number in range(requests))
    total = (items // requests) * requests
    return total / child.timed_lines(lines, total + requests)


class Workers:
    """Predictions a second of a single worker and of families, with an LM that answers at once, or after
    50 ms to 16 predictions in flight for each worker."""

    def __init__(self, kind: str, workers: tuple[int, ...]) -> None:
        self.name = f"scale.workers.{kind}"
        self._kind, self._workers = kind, workers

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """A row for each number of workers; the floor is the ideal: so many times one worker's rate of the
        same round."""
        measure = self._cpu if self._kind == "cpu" else self._io
        with ExitStack() as stack:
            children = {
                workers: stack.enter_context(_running(workers if workers > 1 else 0))[0]
                for workers in self._workers
            }
            rounds = [
                {workers: measure(child, workers, settings) for workers, child in children.items()}
                for _ in range(settings.rounds)
            ]
        for workers in self._workers:
            pair = Pair([rates[workers] for rates in rounds], [workers * rates[1] for rates in rounds])
            yield pair.row(f"{self.name}.{workers}", "items/s", "so many times one")

    @staticmethod
    def _cpu(child: Child, workers: int, settings: Settings) -> float:
        child.timed_lines(request_line("bench_engine", {"engine": "instant"}), 1)
        items = settings.scaled(ITEMS)
        return items / batch_seconds(child, items, 8 * workers)

    @staticmethod
    def _io(child: Child, workers: int, settings: Settings) -> float:
        items = EACH * (2 if settings.quick else 20) * workers
        return _waiting_rate(child, 4 * workers, EACH * workers, items)


class InFlight:
    """Predictions a second of one worker, so many in flight, each waiting 50 ms for its LM."""

    name = "scale.in_flight"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """A row for each number; the floor is the ideal."""
        with _running(0) as (child, _):
            for in_flight in IN_FLIGHT:
                items = in_flight * (2 if settings.quick else 20)
                requests = min(in_flight, 8)
                rate = statistics.median(_waiting_rate(child, requests, in_flight, items) for _ in range(3))
                yield Row(f"{self.name}.{in_flight}", rate, "items/s", "the ideal", in_flight / LATENCY_S)


BENCHMARKS = [
    Costs(),
    Idle("single", 0),
    Idle(f"family.{MANY}", MANY),
    Memory(),
    Workers("cpu", (1, 2)),
    Workers("io", (1, 2, 4, 8)),
    InFlight(),
]
