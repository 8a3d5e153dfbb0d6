"""The same clients for code without asyncio: an event loop in a thread of its own behind each."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from bridge.client.chunks import Chunk
from bridge.client.client import Client
from bridge.client.pool import Pool
from bridge.client.stream import Stream

T = TypeVar("T")
C = TypeVar("C", Client, Pool)


class _Loop:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._run, name="dspy-bridge client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._runner:
            self._loop.run_forever()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives; an interrupt (ctrl-C) cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def soon(self, work: Any, *args: Any) -> None:
        """Have the loop call ``work``, unless it has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work, *args)

    def stop(self) -> None:
        """End the loop and its thread."""
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

    def __del__(self) -> None:
        self._loop.soon(self._stream.cancel)


class _Sync(Generic[C]):
    """Requests of a client that lives in another thread. Methods may be called from any thread."""

    def __init__(self, client: C) -> None:
        self._client: C = client
        self._running: _Loop | None = None

    def start(self) -> None:
        """As the asynchronous client's ``start``."""
        if self._running is not None:
            raise RuntimeError("the client is started already")
        self._running = _Loop()
        try:
            self._running.do(self._client.start())
        except BaseException:
            self._running.stop()
            self._running = None
            raise

    def close(self, *, grace: float = 0.0) -> None:
        """As the asynchronous client's ``close``."""
        if self._running is not None:
            self._running.do(self._client.close(grace=grace))
            self._running.stop()
            self._running = None

    def stream(self, command: str, args: Mapping[str, Any] | None = None, **options: Any) -> SyncStream:
        """The chunks of a request; options as :meth:`bridge.client.Client.stream` takes them."""
        return SyncStream(self._client.stream(command, args, **options), self._loop)

    def call(self, command: str, args: Mapping[str, Any] | None = None, **options: Any) -> Chunk:
        """The last chunk of a request; options as :meth:`bridge.client.Client.call` takes them."""
        return self._loop.do(self._client.call(command, args, **options))

    def configure(self, **args: Any) -> Chunk:
        """Name a language model for later requests."""
        return self._loop.do(self._client.configure(**args))

    @property
    def _loop(self) -> _Loop:
        if self._running is None:
            raise RuntimeError("the client is not started: use `with`, or start() it")
        return self._running

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncClient(_Sync[Client]):
    """:class:`~bridge.client.Client` without asyncio, with the same arguments."""

    def __init__(self, *flags: str, **options: Any) -> None:
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

    def __init__(self, *flags: str, workers: int = 2, **options: Any) -> None:
        super().__init__(Pool(*flags, workers=workers, **options))

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that take requests."""
        return self._client.pids
