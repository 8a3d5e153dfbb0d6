"""What machines carry, reckoned from what one unit of work costs.

A unit of work (a request, an item, a token) takes ``worker_us`` of a worker's processor time and, in a
family, ``hop_us`` of its supervisor's. Workers share nothing else, so that this is Amdahl's law with the
supervisor as the serial part: one core carries at most ``1 / hop_us``, however many workers there are, and
all cores together ``cores / (worker_us + hop_us)``. Who waits for a language model takes no core but a
place and memory: by Little's law ``rate * latency`` units are in flight.

All figures come from one machine's benchmarks. That cores are alike, and that memory bandwidth suffices for
all, are assumptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bridge.options import ServeOptions

#: Requests that a worker or a family runs at once unless told otherwise (``--max-inflight``).
MAX_IN_FLIGHT: Final = ServeOptions().max_inflight
CORES, SUPERVISOR = "cores", "supervisor"


@dataclass(frozen=True)
class Work:
    """A kind of work and what a unit of it takes: µs of a worker and of the supervisor."""

    name: str
    unit: str
    worker_us: float
    hop_us: float


@dataclass(frozen=True)
class Capacity:
    """Units a second, and what limits them: :data:`CORES` or :data:`SUPERVISOR`."""

    rate: float
    limit: str


@dataclass(frozen=True)
class Memory:
    """MB: a single worker, a family without its workers, each of these. KB: a request that waits."""

    single_mb: float
    family_mb: float
    worker_mb: float
    request_kb: float


#: Name of the ``cost.*`` row, what the page calls it, and its unit.
KINDS: Final = (
    ("request", "trivial requests", "requests/s"),
    ("prediction", "predictions, a request each", "requests/s"),
    ("item", "predictions, items of batches", "items/s"),
    ("token", "tokens of streamed predictions", "tokens/s"),
    ("chunk", "small chunks of a flood", "chunks/s"),
)


def works(values: Mapping[str, float]) -> list[Work]:
    """All kinds of work; ``values``: the benchmarks' rows by name.

    :raises KeyError: a row is missing.
    """
    return [
        Work(label, unit, values[f"cost.{name}"], values[f"cost.{name}.hop"]) for name, label, unit in KINDS
    ]


def memory(values: Mapping[str, float]) -> Memory:
    """What processes and requests hold.

    :raises KeyError: a row is missing.
    """
    names = ("single", "family", "worker", "prediction")
    return Memory(*(values[f"cost.memory.{name}"] for name in names))


def single(work: Work) -> Capacity:
    """One worker, which is one core."""
    return Capacity(1e6 / work.worker_us, CORES)


def machine(work: Work, cores: float, families: int = 1) -> Capacity:
    """One machine whose cores are shared by ``families`` of as many workers as there is time for."""
    by_cores = cores * 1e6 / (work.worker_us + work.hop_us)
    by_supervisors = families * 1e6 / work.hop_us
    return Capacity(by_cores, CORES) if by_cores <= by_supervisors else Capacity(by_supervisors, SUPERVISOR)


def cluster(work: Work, machines: int, cores: int, families: int = 1) -> Capacity:
    """``machines`` of a kind. They share nothing: each has its own pipes and hosts."""
    one = machine(work, cores, families)
    return Capacity(machines * one.rate, one.limit)


def enough_cores(work: Work) -> float:
    """Cores beyond which one supervisor can feed no more."""
    return (work.worker_us + work.hop_us) / work.hop_us


def in_flight(rate: float, latency_s: float) -> float:
    """How many wait at a time when ``rate`` a second take ``latency_s`` each (Little's law)."""
    return rate * latency_s


def waiting_rate(work: Work, in_flight: int, latency_s: float) -> float:
    """Units a second of one worker with ``in_flight`` at a time: the LM limits, then the core."""
    return min(in_flight / (latency_s + work.worker_us / 1e6), 1e6 / work.worker_us)


def family_mb(held: Memory, workers: int, requests: float) -> float:
    """MB of a family with so many requests waiting."""
    return held.family_mb + workers * held.worker_mb + requests * held.request_kb / 1e3
