"""A peer beside the worker: streams, round trips, start, weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from tests.benchmarks.child import Child, cpu_s, rss_mb
from tests.benchmarks.measure import Pair, Row, Settings, Target, in_turn
from tests.benchmarks.peers import dialects, servers
from tests.benchmarks.peers.servers import ReadLines, Server

#: Chunks of one request, by the row's name and the text.
STREAMS = {"small": ("80b", 20_000), "10k": ("10k-ascii", 2_000)}
#: Requests are repeated, one after the other, until a round has lasted so long.
ROUND_S = 0.5
ANSWERS = 1_000


@dataclass(frozen=True)
class Peer:
    """What the worker is compared with.

    ``start`` takes the Python to run it with. ``reading`` is how the worker is read, so that both hosts do
    the same: what a peer's library hands over as bytes or dicts, the worker's host gets as such, too.
    ``bound``: the worker's rate of small chunks is to be so many times the peer's.
    """

    name: str
    label: str
    start: Callable[[str], AbstractContextManager[Server]]
    reading: Callable[[Child], ReadLines]
    distribution: str | None = None
    bound: float | None = None


_count, _split, _decode = servers.count_lines, servers.split_lines, servers.decode_lines
_grpc_sync, _grpc_aio = (partial(servers.hosted_server, ["grpc_host", kind]) for kind in ("sync", "aio"))
PEERS = [
    Peer("grpc-sync", "grpcio, threads", _grpc_sync, _split, "grpcio", 60),
    Peer("grpc-aio", "grpcio, asyncio", _grpc_aio, _split, "grpcio", 60),
    Peer("mcp", "MCP SDK, progress", partial(servers.line_server, dialects.MCP), _count, "mcp", 200),
    Peer("pygls", "pygls, notifications", partial(servers.line_server, dialects.PYGLS), _count, "pygls", 10),
    Peer("pipe", "multiprocessing.Pipe", partial(servers.hosted_server, ["pipe_host"]), _decode, None, 3),
    Peer("threads", "threads, print", partial(servers.line_server, dialects.THREADS), _count),
]


class Side:
    """One of the two servers, and the processor time of its rounds, in µs a chunk."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.cpu_us: list[float] = []

    def rate(self, count: int, text: str, at_least_s: float) -> float:
        """Chunks per second of one round."""
        chunks, seconds = 0, 0.0
        before = cpu_s(self._server.pid)
        while not chunks or seconds < at_least_s:
            seconds += self._server.stream(count, text)
            chunks += count
        self.cpu_us.append((cpu_s(self._server.pid) - before) / chunks * 1e6)
        return chunks / seconds


class Comparison:
    """All rows of one peer; the floor is the peer."""

    def __init__(self, peer: Peer, python: str) -> None:
        self.name = peer.name
        self._peer, self._python = peer, python

    def __call__(self, settings: Settings) -> Iterator[Row]:
        """Rates and processor time of streams, the median round trip, memory after all that, and starts."""
        with self._peer.start(self._python) as peer, servers.worker(self._peer.reading) as worker:
            for name in STREAMS:
                yield from self._stream(name, worker, peer, settings)
            count = settings.scaled(ANSWERS)
            trips = in_turn(settings.rounds, lambda: worker.answer(count), lambda: peer.answer(count))
            yield self._row("answer", "µs", trips)
            yield self._row("rss", "MB", Pair([rss_mb(worker.pid)], [rss_mb(peer.pid)]))
        yield self._row("ready", "ms", in_turn(settings.rounds, self._worker_ready, self._peer_ready))

    def _stream(self, name: str, worker: Server, peer: Server, settings: Settings) -> Iterator[Row]:
        text, chunks = STREAMS[name]
        count = settings.scaled(chunks)
        at_least_s = 0.0 if settings.quick else ROUND_S
        ours, theirs = Side(worker), Side(peer)
        rates = in_turn(
            settings.rounds,
            lambda: ours.rate(count, text, at_least_s),
            lambda: theirs.rate(count, text, at_least_s),
        )
        bound = self._peer.bound if name == "small" else None
        yield self._row(name, "chunks/s", rates, Target("ratio", bound) if bound else None)
        yield self._row(f"{name}.cpu", "µs/chunk", Pair(ours.cpu_us[1:], theirs.cpu_us[1:]))

    def _row(self, name: str, unit: str, pair: Pair, target: Target | None = None) -> Row:
        reading = self._peer.reading.__name__
        return pair.row(f"{self.name}.{name}", unit, self._peer.label, target, worker_read_with=reading)

    def _worker_ready(self) -> float:
        with servers.worker(self._peer.reading) as worker:
            return worker.ready_ms

    def _peer_ready(self) -> float:
        with self._peer.start(self._python) as peer:
            return peer.ready_ms
