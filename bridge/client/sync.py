"""The same clients for code without asyncio: an event loop in a thread of its own behind each."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections import deque
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from bridge.client.chunks import Chunk
from bridge.client.client import Client
from bridge.client.errors import ClientClosed
from bridge.client.pool import Pool
from bridge.client.request import DEFAULT_CREDIT
from bridge.client.stream import Stream
from bridge.client.tools import Tools

T = TypeVar("T")
C = TypeVar("C", Client, Pool)


class _Loop:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # not this thread's loop
        self._loop = self._runner.get_loop()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="dspy-bridge client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._runner:  # at its end all that still runs is cancelled
            self._loop.run_forever()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives; an interrupt (ctrl-C) cancels it.

        Raises:
            ClientClosed: the loop has been stopped, before or meanwhile.
            RuntimeError: this is the loop's own thread, which would wait for itself, or a forked process,
                which has no such thread.
        """
        if threading.current_thread() is self._thread or os.getpid() != self._pid:
            work.close()
            raise RuntimeError("a blocking client can not be used by its own async tools or after a fork")
        with self._lock:
            if self._stopped:
                work.close()
                raise ClientClosed("The client was closed.")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClientClosed("The client was closed.") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and its thread."""
        with self._lock:
            self._stopped = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class SyncStream:
    """:class:`~bridge.client.Stream` without asyncio: closing or dropping it cancels the request."""

    def __init__(self, stream: Stream, loop: _Loop) -> None:
        self._stream = stream
        self._loop = loop
        self._chunks: deque[Chunk] = deque()

    def __iter__(self) -> SyncStream:
        return self

    def __next__(self) -> Chunk:
        if not self._chunks:
            self._chunks.extend(self._loop.do(self._stream.take()))
            if not self._chunks:
                raise StopIteration
        return self._chunks.popleft()

    def close(self) -> None:
        """Cancel the request, unless it has ended."""
        self._chunks.clear()
        self._loop.do(self._stream.aclose())

    def __enter__(self) -> SyncStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Sync(Generic[C]):
    """Requests of a client that lives in another thread. Methods may be called from any thread."""

    def __init__(self, client: C) -> None:
        self._client: C = client
        self._running: _Loop | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """As the asynchronous client's ``start``."""
        with self._lock:
            if self._running is not None:
                raise RuntimeError("the client is started already")
            running = self._running = _Loop()
        try:
            running.do(self._client.start())
        except BaseException:
            self._stop()
            raise

    def close(self, *, grace: float = 0.0) -> None:
        """As the asynchronous client's ``close``."""
        if (running := self._running) is not None:
            try:
                running.do(self._client.close(grace=grace))
            except ClientClosed:
                return  # by another thread
            self._stop()

    def _stop(self) -> None:
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def stream(
        self,
        command: str,
        args: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        credit: int = DEFAULT_CREDIT,
        tools: Tools | None = None,
        retries: int = 0,
    ) -> SyncStream:
        """The chunks of a request, as :meth:`bridge.client.Client.stream`; up to two windows are held."""
        stream = self._client.stream(
            command, args, timeout=timeout, credit=credit, tools=tools, retries=retries
        )
        return SyncStream(stream, self._loop)

    def call(
        self,
        command: str,
        args: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        tools: Tools | None = None,
        retries: int = 0,
    ) -> Chunk:
        """The last chunk of a request, as :meth:`bridge.client.Client.call`."""
        return self._loop.do(self._client.call(command, args, timeout=timeout, tools=tools, retries=retries))

    def configure(self, **args: Any) -> Chunk:
        """Name a language model for later requests."""
        return self._loop.do(self._client.configure(**args))

    @property
    def in_flight(self) -> int:
        """How many requests run."""
        return self._client.in_flight

    @property
    def _loop(self) -> _Loop:
        if (running := self._running) is None:
            raise RuntimeError("the client is not started: use `with`, or start() it")
        return running

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncClient(_Sync[Client]):
    """:class:`~bridge.client.Client` without asyncio, with the same arguments."""

    def __init__(self, *flags: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(Client(*flags, **options))

    @property
    def ready(self) -> Chunk:
        """The worker's first chunk."""
        return self._client.ready

    @property
    def usable(self) -> bool:
        """Whether the worker runs and takes requests."""
        return self._client.usable


class SyncPool(_Sync[Pool]):
    """:class:`~bridge.client.Pool` without asyncio, with the same arguments."""

    def __init__(self, *flags: str | os.PathLike[str], workers: int = 2, **options: Any) -> None:
        super().__init__(Pool(*flags, workers=workers, **options))

    def wait_ready(self, workers: int | None = None) -> None:
        """Wait until so many workers (all unless given) take requests."""
        self._loop.do(self._client.wait_ready(workers))

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that take requests."""
        return self._client.pids
