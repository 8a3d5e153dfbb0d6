"""Fixtures: workers that are ended, whatever the test did to them."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

from tests.support.worker import Worker

# With bytecode, as installed workers have it: without, each of them would compile the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A busy machine is no failure, and a run must not depend on the one before.
hypothesis.settings.register_profile(
    "bridge",
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("BRIDGE_EXAMPLES", "150")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("bridge")

Spawn = Callable[..., Worker]
#: Seconds after which a test is taken to hang: its process says where, and ends.
HANGS_S = 180


@pytest.fixture(autouse=True)
def _no_test_hangs() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANGS_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts workers; see :class:`tests.support.worker.Worker` for what it takes."""
    workers: list[Worker] = []

    def start(*flags: str, **options: Any) -> Worker:
        workers.append(Worker(*flags, **options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture(scope="session")
def _kept() -> Iterator[list[Worker]]:
    """The worker that the next test may use on: starting one for each would take most of the time."""
    kept: list[Worker] = []
    yield kept
    for worker in kept:
        worker.close()


@pytest.fixture
def worker(_kept: list[Worker]) -> Iterator[Worker]:
    """An idle worker with the test commands; a new one when the last test ended it or failed."""
    if not _kept:
        _kept.append(Worker())
    worker = _kept[0]
    worker.forget()
    try:
        usable = False
        yield worker
        usable = worker.idle()
    finally:
        if not usable:
            _kept.clear()
            worker.close()


@pytest.fixture(params=["lines", "packet4"])
def framing(request: pytest.FixtureRequest) -> str:
    """Both framings."""
    return str(request.param)
