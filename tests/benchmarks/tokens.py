"""Tokens on their way from a language model, over HTTP, to the worker's stdout."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import orjson

from tests.benchmarks.child import Child, bench_worker, floor, request_line
from tests.benchmarks.measure import Row, Settings, Target, in_turn, percentile

#: Deltas of the stream that is held against a call without streaming.
DELTAS: Final = 54
CALLS: Final = 100
STREAMS: Final = 100
CHAINS: Final = 200
PERIOD_MS: Final = 20


class Model(Child):
    """The language model, as a process of its own."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-m", "tests.benchmarks.model"])
        self.lines(1)
        self.port = int(self.tail)

    def lm(self) -> dict[str, Any]:
        """What to pass as ``lm``."""
        base = f"http://127.0.0.1:{self.port}/v1"
        return {"model": "openai/gpt-4o-mini", "api_base": base, "api_key": "sk-no-key-at-all"}


def _configured(worker: Child, model: Model) -> None:
    worker.timed_lines(request_line("configure", {"lm": model.lm()}), 1)


def _asked(tokens: int, period_ms: float) -> dict[str, Any]:
    return {"signature": "question -> answer", "question": f"pace {tokens} {period_ms:g}"}


def _ends(worker: Child, wanted: int) -> list[tuple[float, bytes]]:
    """The lines until ``wanted`` requests have ended, each with the time it was read at."""
    lines: list[tuple[float, bytes]] = []
    rest, ended = b"", 0
    while ended < wanted:
        size = worker.take()
        now = time.monotonic()
        *whole, rest = (rest + bytes(worker.block[:size])).split(b"\n")
        lines += [(now, line) for line in whole]
        ended += sum(line.endswith(b',"done":true}') for line in whole)
    return lines


class StreamedCall:
    """The processor time of a call with 54 deltas, and of the same call without streaming."""

    name = "stream.54"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The calls' row and the tokens'."""
        calls = settings.scaled(CALLS)
        asked = _asked(DELTAS, 0)
        streamed = {**asked, "module": "chain_of_thought"}
        item = {"question": asked["question"]}
        whole = {"signature": asked["signature"], "module": "chain_of_thought", "items": [item]}
        with Model() as model, bench_worker() as worker:
            _configured(worker, model)

            def cpu_ms(command: str, args: dict[str, Any]) -> float:
                before = worker.cpu_s()
                for _ in range(calls):
                    worker.send(request_line(command, args))
                    _ends(worker, 1)
                return (worker.cpu_s() - before) * 1000 / calls

            pair = in_turn(
                settings.rounds,
                lambda: cpu_ms("stream_predict", streamed),
                lambda: cpu_ms("stream_predict_batch", whole),
            )
        yield pair.row(self.name, "ms CPU", "the call unstreamed", Target("ratio", 2.0, at_most=True))


class FirstToken:
    """From the model's write to the worker's chunk in the host's hands, 100 streams at once: what that takes
    longer than reading the same stream with nothing between."""

    name = "token.first"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The medians of the first tokens: the worker's less that of a bare client, which is the floor."""
        # Each runs longer than it takes to start all.
        tokens = settings.scaled(200)
        lines = [
            request_line("stream_predict", _asked(tokens, PERIOD_MS) | {"module": "chain_of_thought"}, id=n)
            for n in range(STREAMS)
        ]
        with Model() as model, bench_worker() as worker, Child(floor("sse", str(model.port))) as bare:
            _configured(worker, model)
            bare.send(b"1 1 0\n")
            bare.lines(2)
            found: list[float] = []
            every: list[float] = []

            def start_all() -> None:
                for line in lines:
                    worker.send(line)
                    time.sleep(PERIOD_MS / 1000)

            def ours() -> float:
                writer = threading.Thread(target=start_all)
                writer.start()
                late = _lateness(_ends(worker, STREAMS))
                writer.join()
                found.extend(first := [each[0] for each in late.values()])
                every.extend(value for each in late.values() for value in each)
                return statistics.median(first)

            def theirs() -> float:
                bare.send(b"%d %d %d\n" % (STREAMS, tokens, PERIOD_MS))
                late = _lateness(_ends(bare, STREAMS))
                return statistics.median(each[0] for each in late.values())

            pair = in_turn(settings.rounds if settings.quick else 3, ours, theirs)
        added = [a - b for a, b in zip(pair.values, pair.floors, strict=True)]
        extra = {
            "added_ms": added,
            "whole_ms": pair.values,
            "p99_first_ms": percentile(found, 99),
            "p50_all_ms": percentile(every, 50),
            "p99_all_ms": percentile(every, 99),
        }
        yield Row(
            self.name,
            statistics.median(added),
            "ms added",
            "bare asyncio client",
            pair.floor,
            None,
            Target("value", 2.0, at_most=True),
            extra,
        )


class Chains:
    """200 chains of thought at 50 tokens/s each, once all have begun: do they keep up, and at what cost?

    The cost is that of half as many, which leave a core some room; its floor is DSPy itself in a process of
    its own, reading the same streams and telling nobody.
    """

    name = "cot.200"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The pace's row and the token's."""
        tokens = 100 if settings.quick else 400
        ideal = tokens * PERIOD_MS / 1000
        lines = [
            request_line("stream_chain_of_thought", _asked(tokens, PERIOD_MS) | {"tokens": True}, id=n)
            for n in range(CHAINS)
        ]
        half = CHAINS // 2
        per_s = half * 1000 / PERIOD_MS
        kept, late, ours, theirs = [], [], [], []
        with Model() as model, bench_worker() as worker, Child(floor("dspy", str(model.port))) as bare:
            _configured(worker, model)
            bare.lines(1)
            for _ in range(1 if settings.quick else 3):
                started = time.monotonic()
                worker.send(b"".join(lines))
                begin, end = started + ideal / 4, started + ideal * 0.9
                times = [pair for each in _times(_ends(worker, CHAINS)).values() for pair in each]
                # Who falls behind reads less than is written meanwhile.
                written = sum(begin < at < end for at, _ in times)
                kept.append(sum(begin < at < end for _, at in times) / written)
                late += [(read - at) * 1000 for at, read in times if begin < at < end]
                worker.send(b"".join(lines[:half]))
                cpu = _SteadyCpu(worker, ideal)
                _ends(worker, half)
                ours.append(cpu.taken() * 1e6 / per_s)
                bare.send(b"%d %d %d\n" % (half, tokens, PERIOD_MS))
                cpu = _SteadyCpu(bare, ideal)
                bare.lines(1)
                theirs.append(cpu.taken() * 1e6 / per_s)
        rate = CHAINS * 1000 / PERIOD_MS
        extra = {"kept": kept, "p50_ms": percentile(late, 50), "p99_ms": percentile(late, 99)}
        share = statistics.median(kept)
        target = Target("ratio", 0.95)
        yield Row(self.name, rate * share, "deltas/s", "the model's pace", rate, share, target, extra)
        added = statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
        yield Row(
            f"{self.name}.added",
            added,
            "µs CPU/token",
            "DSPy's own",
            statistics.median(theirs),
            None,
            Target("value", 60, at_most=True),
            {"whole": ours, "dspy": theirs},
        )


class _SteadyCpu:
    """The processor seconds a second that a child takes in the middle of the next ``ideal`` seconds."""

    def __init__(self, child: Child, ideal: float) -> None:
        self._taken = 0.0
        self._thread = threading.Thread(target=self._measure, args=(child, ideal))
        self._thread.start()

    def _measure(self, child: Child, ideal: float) -> None:
        time.sleep(ideal / 3)
        before, started = child.cpu_s(), time.monotonic()
        time.sleep(ideal / 2)
        self._taken = (child.cpu_s() - before) / (time.monotonic() - started)

    def taken(self) -> float:
        """The measurement, once it is over."""
        self._thread.join()
        return self._taken


def _times(lines: list[tuple[float, bytes]]) -> dict[Any, list[tuple[float, float]]]:
    """By request, when each token was written and when it was read, in seconds."""
    times: dict[Any, list[tuple[float, float]]] = {}
    for now, line in lines:
        if b'"delta":' in line and b"t" in line:
            chunk = orjson.loads(line)
            for word in chunk["delta"].split():
                if word[0] == "t":
                    times.setdefault(chunk["id"], []).append((int(word[1:]) / 1e9, now))
    return times


def _lateness(lines: list[tuple[float, bytes]]) -> dict[Any, list[float]]:
    """By request, how long each token took to get here, in ms."""
    return {name: [(read - written) * 1000 for written, read in each] for name, each in _times(lines).items()}


BENCHMARKS = [StreamedCall(), FirstToken(), Chains()]
