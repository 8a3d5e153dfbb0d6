"""One worker and its requests."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Final

from bridge.client.caller import Caller
from bridge.client.chunks import Chunk
from bridge.client.errors import ClientClosed
from bridge.client.link import Link
from bridge.client.process import Options

_CLOSED: Final = "the client was closed; make another"
#: The worker of this installation, by this interpreter.
SERVE: Final = (sys.executable, "-m", "bridge", "serve")


class Client(Caller):
    """A worker of one's own: started by ``async with``, ended on leaving.

    ``flags`` are those of ``dspy-bridge serve``. ``argv`` replaces the whole command line, flags included.
    ``env`` is added to the environment. ``stderr`` takes the worker's log: None for this process's own, a
    file, or ``subprocess.DEVNULL``. Requests of a worker that dies fail with
    :class:`~bridge.client.WorkerDied`; a :class:`~bridge.client.Pool` starts another.
    """

    def __init__(
        self,
        *flags: str | os.PathLike[str],
        argv: Sequence[str | os.PathLike[str]] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stderr: int | IO[Any] | None = None,
        ready_timeout: float = 30.0,
    ) -> None:
        self._options = Options(
            argv or (*SERVE, *flags), env=env, cwd=cwd, stderr=stderr, ready_timeout=ready_timeout
        )
        self._link: Link | None = None

    async def start(self) -> None:
        """Start the worker and wait until it is ready.

        Raises:
            StartFailed: there is no such program, or it did not become ready.
            RuntimeError: it was started before; a client has one worker in its life.
        """
        if self._link is not None:
            raise RuntimeError("the client is started already" if not self._link.closed else _CLOSED)
        link = self._link = Link(self._options)
        try:
            await link.start()
        except BaseException:
            if not link.closed:
                self._link = None  # so that it can be tried again
            raise

    async def close(self, *, grace: float = 0.0) -> None:
        """End the worker. Running requests have ``grace`` seconds to end; the rest fail (``closed``)."""
        if self._link is not None:
            await self._link.close(grace)

    async def __aenter__(self) -> Client:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def ready(self) -> Chunk:
        """The worker's first chunk: ``protocol``, ``version``, ``pid``, ``limits``, ``commands``."""
        return self._link.ready if self._link is not None else Chunk()

    @property
    def usable(self) -> bool:
        """Whether the worker runs and takes requests."""
        return self._link is not None and self._link.usable

    @property
    def in_flight(self) -> int:
        """How many requests run."""
        return self._link.in_flight if self._link is not None else 0

    async def _choose(self, deadline: float | None) -> Link:
        if self._link is None or not (self._link.ready or self._link.closed):
            raise ClientClosed("The client is not started: use `async with`, or start() it.")
        self._link.check()
        return self._link
