"""The test provider's side of HTTP/1.1."""

from __future__ import annotations

import asyncio
import threading
from http import HTTPStatus

from tests.support.provider_formats import format_of
from tests.support.provider_replies import Reply
from tests.support.provider_requests import Recorded


class Reader(asyncio.StreamReader):
    """A stream that tells when the peer has closed, also while its buffer holds the next request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.gone.set()


class Chunked:
    """The body of a stream in HTTP's chunks, up to ``cut_after`` bytes of it."""

    def __init__(self, writer: asyncio.StreamWriter, cut_after: int | None) -> None:
        self._writer = writer
        self._left = cut_after
        self._pending = bytearray()

    @property
    def full(self) -> bool:
        """Whether it is time to send."""
        return len(self._pending) > 16_384

    def add(self, data: bytes) -> bool:
        """Take an event; whether all of it may be sent."""
        whole = self._left is None or len(data) <= self._left
        self._pending += b"%x\r\n%b" % (len(data), data if whole else data[: self._left])
        if whole:
            self._pending += b"\r\n"
        if self._left is not None:
            self._left -= len(data)
        return whole

    async def flush(self) -> None:
        """Send what was added."""
        self._writer.write(bytes(self._pending))
        self._pending.clear()
        await self._writer.drain()

    async def end(self) -> None:
        """Send the rest, and that there is no more."""
        self._pending += b"0\r\n\r\n"
        await self.flush()


async def is_set(gate: threading.Event) -> None:
    """Return when it is."""
    while not gate.is_set():  # noqa: ASYNC110 - an event of threads tells no loop
        await asyncio.sleep(0.002)


def head(request: Recorded, reply: Reply, kind: str, framing: str) -> bytes:
    """The status line and the headers, with the provider's own."""
    try:
        reason = HTTPStatus(reply.status).phrase
    except ValueError:
        reason = "Failed"  # such as Anthropic's 529
    headers = {"Content-Type": kind, **format_of(request.path).headers, **reply.headers}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    return f"HTTP/1.1 {reply.status} {reason}\r\n{''.join(lines)}{framing}\r\n\r\n".encode("latin-1")
