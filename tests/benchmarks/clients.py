"""The clients, each in its own runtime: one stream beside that runtime's bare pipe, round trips, restarts."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Iterator

from tests.benchmarks.child import Child, request_line
from tests.benchmarks.measure import Row, Settings, Target, in_turn
from tests.support.drivers import COMMANDS, Driver
from tests.support.worker import command_line

CHUNKS = 1_000_000
WINDOW = 512
#: Chunks per second.
RATES = {"python": 350_000, "node": 350_000, "elixir": 200_000, "erlang": None}
PINGS = 5_000
ROUND_TRIP_US = 150
RESTARTS = 15
RESTART_MS = 100
#: Longer than this without an event is a failure, not a measurement.
PATIENCE_S = 120.0


class ClientStream:
    """One stream of small chunks with credit; the floor reads and decodes the same lines without a client."""

    def __init__(self, language: str) -> None:
        self.name = f"client.{language}.stream"
        self._language = language

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The rate's row."""
        count = settings.scaled(CHUNKS)
        bound = RATES[self._language]
        with Driver(COMMANDS[self._language]) as driver:
            driver.start(command_line())
            pair = in_turn(settings.rounds, lambda: _stream(driver, count), lambda: _raw(driver, count))
            driver.stop()
        target = Target("value", bound) if bound else None
        yield pair.row(self.name, "chunks/s", "the runtime's pipe, decoding", target)


def _stream(driver: Driver, count: int) -> float:
    ref = driver.stream("kit.count", {"n": count}, credit=WINDOW)
    event = driver.expect("ended", driver.event(ref, PATIENCE_S))
    assert event["in_order"]
    assert event["count"] == count + 1
    return count / float(event["ms"]) * 1e3


def _raw(driver: Driver, count: int) -> float:
    line = json.dumps({"id": 1, "command": "kit.count", "args": {"n": count}})
    event = driver.ask("raw", PATIENCE_S, argv=command_line(), line=line)
    return count / float(driver.expect("raw", event)["ms"]) * 1e3


class RoundTrip:
    """Calls of ``ping``, one after the other."""

    def __init__(self, language: str) -> None:
        self.name = f"client.{language}.ping"
        self._language = language

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the median, beside a host that does nothing but write a line and read one."""
        count = settings.scaled(PINGS)
        with Driver(COMMANDS[self._language]) as driver, Child(command_line()) as bare:
            driver.start(command_line())
            driver.ask("ping", PATIENCE_S, n=count)
            bare.lines(1)
            pair = in_turn(settings.rounds, lambda: _ping(driver, count), lambda: _bare_ping(bare, count))
            driver.stop()
        yield pair.row(self.name, "µs", "a bare host", Target("value", ROUND_TRIP_US, at_most=True))


def _ping(driver: Driver, count: int) -> float:
    return float(driver.expect("pings", driver.ask("ping", PATIENCE_S, n=count))["p50_us"])


def _bare_ping(child: Child, count: int) -> float:
    return statistics.median(child.timed_lines(request_line("ping"), 1) for _ in range(count)) * 1e6


class Restart:
    """A pool's only worker is killed: how long until the next one has answered.

    The call is made at once. If it goes to the dying worker it is sent again: ``retries`` is 1.
    """

    def __init__(self, language: str) -> None:
        self.name = f"client.{language}.restart"
        self._language = language

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """The row of the time; the floor is a worker's start to its first answer."""
        rounds = settings.rounds if settings.quick else RESTARTS
        with Driver(COMMANDS[self._language]) as driver:
            pair = in_turn(rounds, lambda: _restart(driver), _first_answer)
        yield pair.row(self.name, "ms", "spawn to pong", Target("value", RESTART_MS, at_most=True))


def _restart(driver: Driver) -> float:
    # A new pool for each: one whose workers end soon after their start takes its time.
    driver.start(command_line(), workers=1)
    driver.call("ping")
    [pid] = driver.pids()
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    assert driver.call("ping", retries=1)["type"] == "pong"
    elapsed = time.perf_counter() - begin
    driver.stop()
    return elapsed * 1e3


def _first_answer() -> float:
    begin = time.perf_counter()
    with Child(command_line()) as worker:
        worker.send(request_line("ping"))
        worker.lines(2)
        return (time.perf_counter() - begin) * 1e3


BENCHMARKS = [kind(language) for kind in (ClientStream, RoundTrip, Restart) for language in COMMANDS]
