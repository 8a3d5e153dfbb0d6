"""Servers to measure: the worker, peers that write lines, and peers that a host of their own reads."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from tests.benchmarks.child import Child, bench_worker, request_line
from tests.benchmarks.payloads import TEXTS

PROGRAMS = "tests.benchmarks.peers.programs"
#: What every answer holds.
ANSWER = TEXTS["80b"].encode()
#: Longer than this a host does not take to end.
PATIENCE_S = 10.0
#: A pipe's usual size.
BUFFER_BYTES = 64 * 1024
#: Reads so many lines, which must be all there is.
ReadLines = Callable[[int], None]


class Server(Protocol):
    """A running server: ``pid`` is its process, ``ready_ms`` its spawn to its first round trip's end."""

    pid: int
    ready_ms: float

    def stream(self, count: int, text: str) -> float:
        """Seconds from the request of ``count`` chunks to the last of them."""

    def answer(self, count: int) -> float:
        """The median of ``count`` round trips, in microseconds."""


@dataclass(frozen=True)
class Dialect:
    """What a server that writes lines is told, and how many line feeds it answers with."""

    program: str
    stream: Callable[[int, str], bytes]
    answer: bytes
    #: What must be said first, with the line feeds of its answer.
    handshake: list[tuple[bytes, int]] = field(default_factory=list)
    #: Line feeds of one message.
    feeds: int = 1


class LineServer:
    """Counted by its line feeds, in blocks as large as they come, and decoded by nobody.

    A stream's last message is its end: ``count + 1`` in all.
    """

    def __init__(self, child: Child, dialect: Dialect, started: float) -> None:
        self._child, self._dialect = child, dialect
        for data, feeds in dialect.handshake:
            child.send(data)
            child.lines(feeds)
        self.answer(1)
        assert ANSWER in child.tail, child.tail
        self.pid = child.process.pid
        self.ready_ms = (time.perf_counter() - started) * 1e3

    def stream(self, count: int, text: str) -> float:
        """See :class:`Server`."""
        request = self._dialect.stream(count, text)
        return self._child.timed_lines(request, (count + 1) * self._dialect.feeds)

    def answer(self, count: int) -> float:
        """See :class:`Server`."""
        dialect = self._dialect
        trips = [self._child.timed_lines(dialect.answer, dialect.feeds) for _ in range(count)]
        return statistics.median(trips) * 1e6


@contextlib.contextmanager
def line_server(dialect: Dialect, python: str) -> Iterator[Server]:
    """Run the dialect's program with ``python``."""
    started = time.perf_counter()
    with Child([python, "-m", f"{PROGRAMS}.{dialect.program}"]) as child:
        yield LineServer(child, dialect, started)


class HostedServer:
    """Measured by a host process (:mod:`tests.benchmarks.peers.programs.host`) with the peer's library."""

    def __init__(self, host: Child) -> None:
        self._host = host
        first = self._said()
        self.pid: int = first["pid"]
        self.ready_ms: float = first["ready_ms"]

    def stream(self, count: int, text: str) -> float:
        """See :class:`Server`."""
        return float(self._ask(count=count, text=text)["seconds"])

    def answer(self, count: int) -> float:
        """See :class:`Server`."""
        return float(self._ask(count=count)["p50_us"])

    def _ask(self, **request: Any) -> dict[str, Any]:
        self._host.send(json.dumps(request).encode() + b"\n")
        return self._said()

    def _said(self) -> dict[str, Any]:
        self._host.lines(1)
        said: dict[str, Any] = json.loads(self._host.tail.splitlines()[-1])
        return said


@contextlib.contextmanager
def hosted_server(words: list[str], python: str) -> Iterator[Server]:
    """Run a host with ``python``, and with it its server, which ends when the host does."""
    program, *rest = words
    with Child([python, "-m", f"{PROGRAMS}.{program}", *rest]) as host:
        try:
            yield HostedServer(host)
        finally:
            _finish(host)


def _finish(host: Child) -> None:
    """Let it end by itself, which it does when its stdin ends: its server and its socket go with it."""
    assert host.process.stdin
    host.process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        host.process.wait(PATIENCE_S)


def count_lines(child: Child) -> ReadLines:
    """Count line feeds in blocks, as :class:`LineServer` does."""
    return child.lines


def split_lines(child: Child) -> ReadLines:
    """Make a ``bytes`` object of each line, in the way a Python host would: a buffered file."""
    return _each_line(child, len)


def decode_lines(child: Child) -> ReadLines:
    """Make a dict of each line."""
    return _each_line(child, orjson.loads)


def _each_line(child: Child, use: Callable[[bytes], object]) -> ReadLines:
    assert child.process.stdout
    lines = io.BufferedReader(io.FileIO(child.process.stdout.fileno(), closefd=False), BUFFER_BYTES)

    def read(count: int) -> None:
        seen = sum(1 for line in itertools.islice(lines, count) if use(line))
        assert seen == count, f"{seen} lines instead of {count}: {child.errors()}"

    return read


class Worker:
    """The worker, read as its peer is."""

    def __init__(self, child: Child, reading: Callable[[Child], ReadLines], started: float) -> None:
        self._child = child
        self._answer = request_line("bench_answer")
        child.timed_lines(self._answer, 1)
        assert ANSWER in child.tail, child.tail
        self.pid = child.process.pid
        self.ready_ms = (time.perf_counter() - started) * 1e3
        self._read = reading(child)

    def stream(self, count: int, text: str) -> float:
        """See :class:`Server`."""
        started = time.perf_counter()
        self._child.request("bench_stream", {"count": count, "text": text})
        self._read(count + 1)
        return time.perf_counter() - started

    def answer(self, count: int) -> float:
        """See :class:`Server`."""
        return statistics.median(self._round_trip() for _ in range(count)) * 1e6

    def _round_trip(self) -> float:
        started = time.perf_counter()
        self._child.send(self._answer)
        self._read(1)
        return time.perf_counter() - started


@contextlib.contextmanager
def worker(reading: Callable[[Child], ReadLines]) -> Iterator[Server]:
    """Run ``python -m bridge`` with the benchmarks' commands, read with ``reading``."""
    started = time.perf_counter()
    with bench_worker() as child:
        yield Worker(child, reading, started)
