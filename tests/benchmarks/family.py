"""Families of workers: what the hop costs, how soon they are there, what they weigh, what they gain."""

from __future__ import annotations

import os
import re
import signal
import statistics
import time
from collections.abc import Iterator

from tests.benchmarks.child import Child, bench_worker, floor, request_line, worker
from tests.benchmarks.measure import Row, Settings, Target, in_turn
from tests.benchmarks.payloads import TEXTS
from tests.benchmarks.processes import Members, answer, members, pss_mb, rows, wait_serving
from tests.benchmarks.startup import FIRST_ANSWER, ITEM

COUNTS = {"80b": 400_000, "10k-ascii": 20_000}
PACED_CHUNKS, PERIOD_S = 2_000, 0.0005
MANY = 16
STARTS = 3
REPLACED = 15
#: The host's pause between two requests while it waits for an answer of a new worker.
PAUSE_S = 0.0003
BATCH_ITEMS = 4_000
#: Requests that the items of a batch are split into, for each worker, and items at once in each.
PARTS, CONCURRENCY = 8, 8
PID = request_line("bench_pid", id="p")


class Hop:
    """One stream through the supervisor, beside the same from a single worker."""

    name = "family.hop"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The supervisor's processor time per chunk, for chunks that come singly and for a flood's, and the
        rates of floods."""
        with bench_worker("--workers", "2") as family, Child(floor("relay")) as bare:
            wait_serving(family, 2)
            yield self._single(family, bare, settings)
        with bench_worker("--workers", "2") as family, bench_worker() as single:
            wait_serving(family, 2)
            bulk = {text: self._bulk(family, single, text, settings) for text in COUNTS}
        small, large = bulk["80b"], bulk["10k-ascii"]
        yield Row(
            f"{self.name}.bulk",
            small.extra["hop_cpu_us"],
            "µs CPU/chunk",
            target=Target("value", 2, at_most=True),
            extra={"10k": large.extra["hop_cpu_us"]},
        )
        yield small
        yield large

    def _single(self, family: Child, bare: Child, settings: Settings) -> Row:
        count = settings.scaled(PACED_CHUNKS)
        args = {"count": count, "period_s": PERIOD_S, "timetable": True}
        line = request_line("bench_paced", dict(args))
        chunk = b'{"id":"r1","seq":1000,"type":"chunk","text":"%s"}\n' % TEXTS["80b"].encode()

        def supervisor_us() -> float:
            before = family.cpu_s()
            family.timed_lines(line, count + 1)
            return (family.cpu_s() - before) * 1e6 / count

        def bare_us() -> float:
            before = bare.cpu_s()
            due = time.perf_counter()
            for _ in range(count):
                due += PERIOD_S
                time.sleep(max(0.0, due - time.perf_counter()))
                bare.timed_lines(chunk, 1)
            return (bare.cpu_s() - before) * 1e6 / count

        pair = in_turn(settings.rounds, supervisor_us, bare_us)
        target = Target("value", 25, at_most=True)
        return pair.row(f"{self.name}.single", "µs CPU/chunk", "bare asyncio relay", target)

    def _bulk(self, family: Child, single: Child, text: str, settings: Settings) -> Row:
        count = settings.scaled(COUNTS[text])
        line = request_line("bench_stream", {"count": count, "text": text})
        before = family.cpu_s()
        pair = in_turn(
            settings.rounds,
            lambda: count / family.timed_lines(line, count + 1),
            lambda: count / single.timed_lines(line, count + 1),
        )
        hop = (family.cpu_s() - before) * 1e6 / count / (settings.rounds + 1)
        return pair.row(f"{self.name}.rate.{text}", "chunks/s", "one worker", hop_cpu_us=hop)


class Ready:
    """From the end of the template's import to 16 workers that serve.

    Seen in ``stats``, asked for every 10 ms: when it shows the last of them serving, the age of the oldest
    is the time since the first fork was done, and that was asked for as soon as the import had ended. So a
    first fork is missing (some milliseconds), and a poll and an answer of 16 workers are too much.
    """

    name = f"family.ready.{MANY}"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the time; ``extra`` has the times from the start of the process, in ms."""
        times: dict[str, list[float]] = {"ready": [], "all_serving": [], "first_answer": []}
        found = []
        for _ in range(1 if settings.quick else STARTS):
            started = time.perf_counter()
            with Child(worker("--workers", str(MANY))) as child:
                child.lines(1)
                times["ready"].append(_since(started))
                found.append(max(row["age_s"] for row in wait_serving(child, MANY)))
                times["all_serving"].append(_since(started))
            started = time.perf_counter()
            with Child(worker("--workers", str(MANY))) as child:
                child.send(FIRST_ANSWER)
                child.lines(3)
                times["first_answer"].append(_since(started))
        extra = {f"start_to_{name}_ms": statistics.median(values) for name, values in times.items()}
        target = Target("value", 1, at_most=True)
        yield Row(self.name, statistics.median(found), "s", target=target, extra={**extra, "values": found})


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3


class Weight:
    """What a family of 16 weighs when each worker has made a prediction."""

    name = f"family.pss.{MANY}"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the sum; ``extra``: before that, and by kind of process, in MB."""
        with Child(worker("--workers", str(MANY))) as child:
            child.lines(1)
            family = members(child, MANY)
            before = _sizes(family)
            predict_everywhere(child, MANY)
            after = _sizes(family)
        kinds = {
            "supervisor": after[family.supervisor],
            "template": after[family.template],
            "worker": statistics.median(after[pid] for pid in family.workers),
            "worker_before": statistics.median(before[pid] for pid in family.workers),
        }
        target = Target("value", 300, at_most=True)
        extra = {"before": sum(before.values()), **kinds}
        yield Row(self.name, sum(after.values()), "MB", target=target, extra=extra)


def _sizes(family: Members) -> dict[int, float]:
    return {pid: pss_mb(pid) for pid in family}


def predict_everywhere(child: Child, workers: int) -> None:
    """Have each worker of a family make a prediction; the least busy gets the next, so they take turns."""
    before = {row["pid"]: row["taken"] for row in wait_serving(child, workers)}
    lines = [request_line("stream_predict_batch", dict(ITEM), id=f"x{number}") for number in range(workers)]
    child.send(b"".join(lines))
    child.lines(2 * workers)
    after = wait_serving(child, workers)
    assert all(row["taken"] == before[row["pid"]] + 1 for row in after), child.errors()


class Replaced:
    """From a worker's death to an answer of the one in its place.

    Of two workers, one holds a request, the other is killed. The host then asks, one request after the other,
    who is there: the dead is refused, the survivor answers, until the new one does, which is the least busy:
    the spare worker, forked before. The floor is one process with DSPy that kills, waits for, and forks.
    """

    name = "family.replaced"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the median."""
        with bench_worker("--workers", "2") as family, Child(floor("fork")) as bare:
            bare.lines(1)
            wait_serving(family, 2)

            def forked() -> float:
                bare.tail = b""
                bare.timed_lines(b"\n", 1)
                return float(bare.tail) * 1e3

            rounds = settings.rounds if settings.quick else REPLACED
            pair = in_turn(rounds, lambda: self._replaced(family), forked)
        target = Target("value", 10, at_most=True)
        yield pair.row(self.name, "ms", "kill, wait, fork in one process", target)

    @staticmethod
    def _replaced(family: Child) -> float:
        pids = {row["pid"] for row in wait_serving(family, 2)}
        served: set[int] = set()
        while served != pids:  # one that dies without having done anything is replaced after a pause
            served.add(answer(family, PID)["pid"])
        family.send(request_line("bench_paced", {"count": 1, "period_s": 600, "timetable": False}, id="h"))
        (survivor,) = (row["pid"] for row in rows(family) if row["in_flight"])
        (victim,) = pids - {survivor}
        started = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        while answer(family, PID).get("pid", victim) in pids:
            time.sleep(PAUSE_S)
        elapsed = _since(started)
        family.request("cancel", {"target": "h"}, id=None)
        family.lines(1)
        return elapsed


class CpuBatch:
    """A batch whose LM answers at once: two workers beside one, the items split into requests."""

    name = "family.cpu_batch"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the rate."""
        items = settings.scaled(BATCH_ITEMS)
        with bench_worker("--workers", "2") as family, bench_worker() as single:
            for child in (family, single):
                child.timed_lines(request_line("bench_engine", {"engine": "instant"}), 1)
            wait_serving(family, 2)
            pair = in_turn(
                settings.rounds,
                lambda: items / batch_seconds(family, items, 2 * PARTS),
                lambda: items / batch_seconds(single, items, PARTS),
            )
            taken = [row["taken"] for row in wait_serving(family, 2)]
        assert min(taken) >= (settings.rounds + 1) * PARTS, "one worker did it all"
        yield pair.row(self.name, "items/s", "one worker", Target("ratio", 1.8))


def batch_seconds(child: Child, items: int, parts: int) -> float:
    """How long ``items`` predictions take, asked for in so many requests at once."""
    args = {"signature": "text -> completion", "concurrency": CONCURRENCY, "lm": {"model": "scripted"}}
    texts = [{"text": f"The capital of country {number} is"} for number in range(items)]
    size = -(-items // parts)
    requests = [{**args, "items": texts[start : start + size]} for start in range(0, items, size)]
    lines = [request_line("stream_predict_batch", one, id=f"b{n}") for n, one in enumerate(requests)]
    seconds = child.timed_lines(b"".join(lines), items + len(lines))
    assert not re.search(rb'"failed":[1-9]', child.tail), child.errors()
    return seconds


BENCHMARKS = [Hop(), Ready(), Weight(), Replaced(), CpuBatch()]
