"""Threads for handlers that are not asynchronous, and the way of their chunks to the loop.

The threads are daemons of a pool of our own: a stuck handler must neither block the process's exit nor
take a place that others wait for. Their number is bounded by the requests that may run at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any, Final

from bridge.wire.session import Stream
from bridge.worker.outbox import Outbox

IDLE_S: Final = 10.0
#: Bytes that all threads together may be ahead of the loop, and what each may at least. Shared, so that a
#: thousand streams before a stalled host hold no more, and sixty busy ones park before they starve the loop.
AHEAD_BYTES: Final = 256 * 1024
LEAST_AHEAD_BYTES: Final = 2 * 1024


class HandlerThreads:
    """Runs callables in daemon threads, reusing idle ones."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()
        self._streams = 0
        #: Bytes each stream may be ahead of the loop now.
        self.ahead_bytes = AHEAD_BYTES

    def count(self, change: int) -> None:
        """A stream in a thread has begun (1) or ended (-1). Loop thread."""
        self._streams += change
        self.ahead_bytes = max(LEAST_AHEAD_BYTES, AHEAD_BYTES // max(1, self._streams))

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` in a thread at once; it must not raise.

        :raises RuntimeError: when the system gives no more threads.
        """
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._jobs.put(job)
                return
        threading.Thread(target=self._run, args=(job,), name="bridge-handler", daemon=True).start()

    def _run(self, job: Callable[[], None]) -> None:
        next_job: Callable[[], None] | None = job
        while next_job is not None:
            next_job()
            next_job = self._next()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            self._idle += 1
        try:
            return self._jobs.get(timeout=IDLE_S)
        except Empty:
            pass
        with self._lock:
            try:  # a job may have been handed over just now
                return self._jobs.get_nowait()
            except Empty:
                self._idle -= 1
                return None


class ThreadChannel:
    """Carries one request's chunks from its handler's thread to the outbox.

    Chunks are encoded in the thread, before the handler goes on and may change them, into a buffer that
    the loop fetches; a thread that is too far ahead, out of credit, or before a full outbox waits.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, outbox: Outbox, stream: Stream, pool: HandlerThreads
    ) -> None:
        self._loop = loop
        self._outbox = outbox
        self._pool = pool
        self._stream = stream
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._buffer = bytearray()
        self._fetching = False
        self._listening = False

    def send(self, chunks: Iterable[Any], is_final: Callable[[Any], bool]) -> Any:
        """The thread's part: send all ``chunks``, up to the one that ``is_final``, which is returned.

        None when there was none, or when the request has ended meanwhile.
        """
        stream, buffer, outbox, lock = self._stream, self._buffer, self._outbox, self._lock
        encode, put = stream.encode, stream.put
        position = 0
        for payload in chunks:
            if payload.__class__ is not dict and is_final(payload):
                return payload
            encoded = encode(payload)  # runs code of the payload's own: not with the lock in hand
            with lock:
                if position >= self._pool.ahead_bytes or outbox.full or stream.credit is not None:
                    self._clear_way()
                position = put(encoded, buffer)
                if position < 0:
                    return None
                if self._fetching:
                    continue
                self._fetching = True
            self._loop.call_soon_threadsafe(self._fetch)
        return None

    def _clear_way(self) -> None:
        """Wait, the lock in hand, until the loop has caught up, there is credit, and the host reads."""
        while not self._stream.done:
            full = self._outbox.full
            if not (full or self._stream.starved or len(self._buffer) >= self._pool.ahead_bytes):
                return
            if full and not self._listening:
                self._listening = True
                self._loop.call_soon_threadsafe(self._outbox.when_room, self._roomy)
            self._changed.wait()

    def grant(self, count: int | None) -> None:
        """More credit (None: no bounds any more). Loop thread."""
        with self._lock:
            if count is None:
                self._stream.credit = None
            else:
                self._stream.grant(count)
            self._changed.notify_all()

    def close(self, end: Callable[[], None]) -> None:
        """Run ``end``, which ends the stream, after all that was put before. Loop thread."""
        with self._lock:
            self._move()
            end()
            self._changed.notify_all()

    def _fetch(self) -> None:
        if self._outbox.full:
            self._outbox.when_room(self._fetch)
            return
        with self._lock:
            self._fetching = False
            self._move()
            self._changed.notify_all()

    def _move(self) -> None:
        if self._buffer:
            self._outbox.buffer += self._buffer
            self._buffer.clear()
            self._outbox.touch()

    def _roomy(self) -> None:
        with self._lock:
            self._listening = False
            self._changed.notify_all()
