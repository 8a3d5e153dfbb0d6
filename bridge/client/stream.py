"""The chunks of one request, as a consumer takes them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType

from bridge.client.chunks import Chunk
from bridge.client.errors import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    SHUTTING_DOWN,
    WORKER_DIED,
    RequestError,
)
from bridge.client.inbox import Inbox
from bridge.client.link import Link
from bridge.client.request import Request

#: Gives a worker that takes a request, waiting for one until the loop's time given (None: its own limit).
Chooser = Callable[[float | None], Awaitable[Link]]


class Stream:
    """An async iterator of chunks, the terminal one included.

    The request is sent when the first chunk is asked for. It is cancelled when the task that waits for a
    chunk is, and when the iterator is closed or dropped: leaving an ``async for`` over ``client.stream(…)``
    is enough; one that is kept in a variable wants ``async with`` or :meth:`aclose`. To be read by one task
    at a time.

    Raises (while iterating):
        RequestError: the request ended badly; what had come before was given first.
    """

    __slots__ = (
        "_cancelled", "_choose", "_deadline", "_half", "_inbox", "_link", "_loop", "_over", "_request",
        "_retries", "_taken", "_thread", "_untouched",
    )  # fmt: skip

    def __init__(self, request: Request, choose: Chooser) -> None:
        self._request = request
        self._choose = choose
        self._retries = request.retries
        self._half = max(1, request.credit // 2)
        self._taken = 0
        self._untouched = True
        self._over = False
        self._cancelled = False  # before it was sent
        self._inbox: Inbox | None = None
        self._link: Link | None = None
        self._deadline: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Chunk:
        inbox = self._inbox
        if inbox is None or not inbox.chunks:
            inbox = await self._filled()
            if inbox is None:
                raise StopAsyncIteration
        self._taken += 1
        if self._taken >= self._half:
            self._grant()
        return inbox.chunks.popleft()

    async def take(self) -> list[Chunk]:
        """All chunks that have come, at least one; none at the end of the stream."""
        inbox = await self._filled()
        if inbox is None:
            return []
        chunks = list(inbox.chunks)
        inbox.chunks.clear()
        self._taken += len(chunks)
        if self._taken >= self._half:
            self._grant()
        return chunks

    def cancel(self) -> None:
        """End the request; chunks that have come can still be taken, then it raises (``cancelled``)."""
        if self._link is not None and self._inbox is not None:
            self._link.cancel(self._inbox)
        else:
            self._cancelled = True

    async def aclose(self) -> None:
        """Cancel the request, unless it has ended, and end the iteration."""
        self.cancel()
        self._over = True
        self._inbox = None

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        inbox = self._inbox
        if inbox is None or inbox.ended or self._loop is None or self._link is None:
            return
        if threading.get_ident() == self._thread:
            self._link.cancel(inbox)
        else:  # collected by another thread
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._link.cancel, inbox)

    def _grant(self) -> None:
        if self._inbox is not None and self._link is not None and not self._inbox.ended:
            self._link.grant(self._inbox, self._taken)
        self._taken = 0

    async def _filled(self) -> Inbox | None:
        """The inbox with at least one chunk in it; None when the stream has ended well."""
        while not self._over:
            if self._cancelled and self._inbox is None:
                self._over = True
                raise _cancelled()
            inbox = self._inbox or await self._send()
            if inbox.chunks:
                self._untouched = False
                return inbox
            if not inbox.ended:
                await self._wait(inbox)
            elif inbox.error is None or not self._try_again(inbox.error):
                self._over = True
                if inbox.error is not None:
                    raise inbox.error
        return None

    async def _wait(self, inbox: Inbox) -> None:
        try:
            await inbox.wait()
        except asyncio.CancelledError:
            # Not left to the iterator's end: the exception's traceback keeps it alive for who knows how long.
            self.cancel()
            raise

    async def _send(self) -> Inbox:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.get_ident()
            if self._request.timeout is not None:
                self._deadline = self._loop.time() + self._request.timeout
        try:
            self._link = await self._choose(self._deadline)
            if self._cancelled:  # meanwhile
                raise _cancelled()
            self._inbox = self._link.send(self._request, self._timeout_ms())
        except RequestError:
            self._over = True
            raise
        self._taken = 0
        return self._inbox

    def _timeout_ms(self) -> int | None:
        if self._deadline is None or self._loop is None:
            return None
        left = self._deadline - self._loop.time()
        if left <= 0:
            message = "No worker was ready in time."
            raise RequestError(message, code=DEADLINE_EXCEEDED, retryable=True)
        return max(1, round(left * 1000))

    def _try_again(self, error: RequestError) -> bool:
        """Whether the request is to be sent once more: nothing of it has been delivered."""
        if not self._untouched:
            return False
        if error.code == WORKER_DIED and self._retries > 0:
            self._retries -= 1
        elif error.code != SHUTTING_DOWN:
            return False
        self._inbox = None
        return True


def _cancelled() -> RequestError:
    return RequestError("The request was cancelled before it was sent.", code=CANCELLED)
