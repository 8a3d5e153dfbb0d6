"""The one way out: chunks gather in a buffer and leave in as few writes as possible.

Everything that became ready within a tick of the loop goes out in one write. Nothing is held back for a
timer. When the host stops reading, :attr:`Outbox.full` turns true and producers wait in
:meth:`Outbox.room`, so that what waits is bounded by :data:`HIGH_WATER` and one chunk. Short replies
(pongs, acknowledgements, line errors) pass all the same; their bytes are counted apart.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from bridge.wire.codec import escape_separators
from bridge.worker.stdio import Sink

#: Bytes that may wait before producers do.
HIGH_WATER: Final = 256 * 1024
#: A buffer this large is written without waiting for the tick to end (a Linux pipe's default size).
FLUSH_BYTES: Final = 64 * 1024
#: Bytes of short replies that may wait before the host is no longer read from.
REPLY_BYTES: Final = 8 * 1024 * 1024
#: Producers woken at a time: enough to fill the room, few enough not to wake a thousand in vain.
_WAKE: Final = 16


class Outbox:
    """Gathers framed chunks in :attr:`buffer`, always the same object, and writes them to ``sink``.

    Loop thread only.
    ``on_broken`` is called once, when nobody reads any more; ``on_replies`` whenever the answer to
    "may the host go on sending" changes.
    """

    __slots__ = (
        "_broken",
        "_callbacks",
        "_escape",
        "_loop",
        "_on_broken",
        "_on_empty",
        "_on_replies",
        "_pending",
        "_pending_replies",
        "_replies",
        "_sink",
        "_stalled",
        "_throttled",
        "_waiters",
        "_waking",
        "buffer",
        "bytes_written",
        "flush_bytes",
        "full",
        "scheduled",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sink: Sink,
        *,
        escape: bool,
        on_broken: Callable[[], None],
        on_replies: Callable[[bool], None],
    ) -> None:
        self._loop = loop
        self._sink = sink
        self._escape = escape
        self._on_broken = on_broken
        self._on_replies = on_replies
        self._on_empty: list[Callable[[], None]] = []
        self.buffer = bytearray()
        self.flush_bytes = FLUSH_BYTES
        self.scheduled = False
        self.full = False
        self.bytes_written = 0
        self._pending = memoryview(b"")
        self._replies = 0
        self._pending_replies = 0
        self._throttled = False
        self._stalled = False
        self._broken = False
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._callbacks: list[Callable[[], None]] = []
        self._waking = False

    def touch(self) -> None:
        """Something was appended to :attr:`buffer`: it leaves at the end of this tick at the latest."""
        if len(self.buffer) >= FLUSH_BYTES:
            self.flush()
        elif not self.scheduled:
            self.scheduled = True
            self._loop.call_soon(self._tick)

    def reply(self, size: int) -> None:
        """As :meth:`touch`, where the last ``size`` bytes appended are a short reply's."""
        self._replies += size
        self.touch()
        if not self._throttled and self._replies + self._pending_replies >= REPLY_BYTES:
            self._throttled = True
            self._on_replies(False)

    def _tick(self) -> None:
        self.scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write what can be written now."""
        if self._stalled:
            self.full = self.full or self.waiting >= HIGH_WATER
            return
        while self._pending or self.buffer:
            try:
                written = self._write_pending() if self._pending else self._write_buffer()
            except OSError:
                self._break()
                return
            if not written:
                self._stalled = True
                self._sink.when_writable(self._resume)
                break
        self._after_write()

    @property
    def waiting(self) -> int:
        """Bytes that have not been written yet."""
        return len(self._pending) + len(self.buffer)

    def room(self) -> asyncio.Future[None]:
        """A future that is done when a producer may look at :attr:`full` again."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def when_room(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called, once and not from here, as soon as there is room."""
        if self.full:
            self._callbacks.append(callback)
        else:
            self._loop.call_soon(callback)

    def when_empty(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called, once, when all is written (or nobody reads any more)."""
        self._on_empty.append(callback)
        self.flush()

    def _write_pending(self) -> int:
        written = self._sink.write(self._pending)
        self.bytes_written += written
        self._pending = self._pending[written:]
        if not self._pending:
            self._pending_replies = 0
        return written

    def _write_buffer(self) -> int:
        """Write from the buffer itself; only what is left over is copied, for producers go on to fill it."""
        with memoryview(escape_separators(self.buffer) if self._escape else self.buffer) as data:
            written = self._sink.write(data)
            if written < len(data):
                self._pending = memoryview(bytes(data[written:]))
                self._pending_replies = self._replies
        self.buffer.clear()
        self._replies = 0
        self.bytes_written += written
        return written

    def _resume(self) -> None:
        self._stalled = False
        if self._sink.error is not None:
            self._break()
        else:
            self.flush()

    def _after_write(self) -> None:
        waiting = self.waiting
        if waiting >= HIGH_WATER:
            self.full = True
        elif self.full and waiting <= HIGH_WATER // 2:
            self.full = False
            self._wake()
        if self._throttled and self._replies + self._pending_replies < REPLY_BYTES // 2:
            self._throttled = False
            self._on_replies(True)
        if self._sink.busy and not self._stalled and not self._broken:
            self._stalled = True  # until the sink tells whether what it took could be written
            self._sink.when_writable(self._resume)
        elif not waiting and self._on_empty:
            callbacks, self._on_empty = self._on_empty, []
            for callback in callbacks:
                callback()

    def _wake(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._loop.call_soon(callback)
        if self._waiters and not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake_some)

    def _wake_some(self) -> None:
        """Wake the next producers in line; again each tick, for as long as there is room."""
        self._waking = False
        woken = 0
        while self._waiters and woken < _WAKE and not self.full:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                woken += 1
        if self._waiters and not self.full:
            self._waking = True
            self._loop.call_soon(self._wake_some)

    def _break(self) -> None:
        """Nobody reads any more: drop what waits, let nobody wait."""
        self.buffer.clear()
        self._pending = memoryview(b"")
        self.full = False
        if not self._broken:
            self._broken = True
            self._loop.call_soon(self._on_broken)  # not from here: a caller may hold a stream's lock
        self._after_write()
        self._wake()
