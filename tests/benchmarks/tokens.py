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
from tests.benchmarks.measure import Pair, Row, Settings, Target, in_turn, percentile

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
    """From the model's write to the worker's chunk in the host's hands, 100 streams at once."""

    name = "token.first"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The median of the first tokens, the floor's a bare asyncio client of the same server."""
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
        added = Pair([a - b for a, b in zip(pair.values, pair.floors, strict=True)], pair.floors)
        extra = {
            "p99_first_ms": percentile(found, 99),
            "p50_all_ms": percentile(every, 50),
            "p99_all_ms": percentile(every, 99),
            "added_ms": added.values,
        }
        yield pair.row(self.name, "ms", "bare asyncio client", Target("value", 2.0, at_most=True), **extra)


class Chains:
    """200 chains of thought at 50 tokens/s each: what came by the time it was due, and at what cost."""

    name = "cot.200"

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The pace's row and the token's."""
        tokens = settings.scaled(400)
        ideal = tokens * PERIOD_MS / 1000
        lines = b"".join(
            request_line("stream_chain_of_thought", _asked(tokens, PERIOD_MS) | {"tokens": True}, id=n)
            for n in range(CHAINS)
        )
        late: list[float] = []
        with Model() as model, bench_worker() as worker:
            _configured(worker, model)
            rates, cpu = [], []
            for number in range(1 + (1 if settings.quick else 3)):
                before = worker.cpu_s()
                started = time.monotonic()
                worker.send(lines)
                read = _ends(worker, CHAINS)
                if number:  # the first round opens the connections
                    rates.append(CHAINS * tokens / (time.monotonic() - started))
                    cpu.append((worker.cpu_s() - before) * 1e6 / CHAINS / tokens)
                    late += [value for each in _lateness(read).values() for value in each]
        extra = {"values": rates, "p50_ms": percentile(late, 50), "p99_ms": percentile(late, 99)}
        yield Row(
            self.name,
            statistics.median(rates),
            "deltas/s",
            "the model's pace",
            CHAINS * tokens / ideal,
            None,
            Target("ratio", 0.95),
            extra,
        )
        yield Row(
            f"{self.name}.cpu",
            statistics.median(cpu),
            "µs CPU/token",
            target=Target("value", 60, at_most=True),
            extra={"values": cpu},
        )


def _lateness(lines: list[tuple[float, bytes]]) -> dict[Any, list[float]]:
    """By request, how long each token took to get here, in ms."""
    late: dict[Any, list[float]] = {}
    for now, line in lines:
        if b'"delta":' in line and b" t" in line:
            chunk = orjson.loads(line)
            written = int(chunk["delta"].split("t")[1].split()[0])
            late.setdefault(chunk["id"], []).append(now * 1e3 - written / 1e6)
    return late


BENCHMARKS = [StreamedCall(), FirstToken(), Chains()]
