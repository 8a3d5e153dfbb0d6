"""A pytest plugin, there as soon as the package is installed: the fixture ``bridge_worker``.

It gives a running worker as a :class:`~bridge.client.SyncClient`:

>>> @pytest.mark.bridge_worker("--model", "scripted", "--script", "answers.jsonl")
... def test_answers(bridge_worker):
...     assert bridge_worker.call("stream_predict", {"question": "?"}).output["answer"] == "!"

Flags come from the marker, else from the setting ``bridge_worker_flags``, else they are
``--model scripted``. Tests with equal flags share a worker, since importing DSPy takes a second: what
``configure`` names in one is there in the next. ``fresh=True`` in the marker asks for a worker of one's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # every run of pytest imports this module, most need no worker
    from bridge.client.sync import SyncClient

_SETTING = "bridge_worker_flags"
#: Seconds within which a worker that is well answers.
PING_S = 5.0
_DEFAULT = ["--model", "scripted"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting."""
    parser.addini(_SETTING, "flags of `dspy-bridge serve` for the fixture bridge_worker", "args", _DEFAULT)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "bridge_worker(*flags, fresh=False): how the fixture bridge_worker starts its worker"
    )


class _Workers:
    """Running workers by their flags."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, ...], SyncClient] = {}

    def get(self, flags: tuple[str, ...]) -> SyncClient:
        """The worker with these flags, started if there is none or it has ended."""
        client = self._running.get(flags)
        if client is not None and not _answers(client):
            client.close()
            client = None
        if client is None:
            client = self._running[flags] = start(flags)
        return client

    def close(self) -> None:
        """End them all."""
        with contextlib.ExitStack() as ends:
            for client in self._running.values():
                ends.callback(client.close)


def _answers(client: SyncClient) -> bool:
    from bridge.client.errors import RequestError

    try:
        client.call("ping", timeout=PING_S)
    except (RequestError, RuntimeError):  # dead, or closed by a test
        return False
    return True


def start(flags: tuple[str, ...]) -> SyncClient:
    """A worker with ``flags``."""
    from bridge.client.sync import SyncClient

    client = SyncClient(*flags)
    client.start()
    return client


@pytest.fixture(scope="session")
def _bridge_workers() -> Iterator[_Workers]:
    workers = _Workers()
    yield workers
    workers.close()


@pytest.fixture
def bridge_worker(request: pytest.FixtureRequest, _bridge_workers: _Workers) -> Iterator[SyncClient]:
    """A running worker, as a blocking client; see the module's text for its flags."""
    marker = request.node.get_closest_marker("bridge_worker")
    words = marker.args if marker is not None and marker.args else request.config.getini(_SETTING)
    flags = tuple(map(str, words))
    if marker is None or not marker.kwargs.get("fresh", False):
        yield _bridge_workers.get(flags)
        return
    client = start(flags)
    try:
        yield client
    finally:
        client.close()
