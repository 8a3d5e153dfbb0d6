"""A request and what may happen to it: pure transitions, no I/O, no clock.

========  ==================================  =========
state     event                               new state
========  ==================================  =========
(none)    admit, a slot free                  RUNNING
(none)    admit, none free                    QUEUED
QUEUED    promote                             RUNNING
RUNNING   chunk                               RUNNING
RUNNING   requeue (whoever ran it has died)   QUEUED
any       finish, release                     DONE
DONE      chunk, finish                       DONE (nothing is written)
========  ==================================  =========

A :class:`Stream` writes its chunks into a buffer the caller owns; it counts ``seq`` and credit, and
writes exactly one chunk with ``"done":true``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import IntEnum
from typing import Any, Final

import msgspec
from orjson import JSONEncodeError, dumps

from bridge.wire.calls import Calls
from bridge.wire.chunks import COMMA, LINE_OPTIONS, ChunkFormat
from bridge.wire.codec import decode_args
from bridge.wire.fallback import convert
from bridge.wire.messages import Envelope, RequestId, is_final
from bridge.wire.way import LOOK, Pace, Way

_NO_ARGS: Final = msgspec.Raw(b"{}")
_DIGITS: Final = [b"%d" % number for number in range(1000)]
_DIGITS_OF_THREE: Final = [b"%03d" % number for number in range(1000)]


class State(IntEnum):
    """Where a request is in its life."""

    QUEUED = 0
    RUNNING = 1
    DONE = 2


class Stream:
    """One admitted request: its envelope, its place in the table, and its way out.

    ``credit`` is the number of chunks that may still be sent, None for no bound. ``deadline`` is in
    seconds of the caller's monotonic clock.
    """

    __slots__ = (
        "_digits",
        "_format",
        "_head",
        "_lines",
        "_low",
        "_quick",
        "_small",
        "_start",
        "_thousands",
        "args",
        "calls",
        "command",
        "credit",
        "deadline",
        "done",
        "id",
        "labels",
        "state",
        "traceparent",
        "weight",
    )

    def __init__(self, request: Envelope, chunk_format: ChunkFormat, now: float, size: int = 0) -> None:
        self.id: RequestId = request.id  # type: ignore[assignment]  # checked by the codec
        self.command = request.command
        self.args: Any = request.args
        #: The bytes of its line: args that are still raw keep the whole of it.
        self.weight = size
        self.credit = request.credit
        self.deadline = None if request.timeout_ms is None else now + request.timeout_ms / 1000
        traceparent = request.traceparent
        self.traceparent = traceparent if isinstance(traceparent, str) and len(traceparent) < 512 else None
        self.state = State.QUEUED
        #: The same as ``state is State.DONE``, at a tenth of the cost on the hot path.
        self.done = False
        self.calls = Calls()
        #: Fields that every terminal chunk of this request carries (``scripted``).
        self.labels: dict[str, Any] = {}
        self._format = chunk_format
        self._lines = not chunk_format.packet4
        #: Chunks are lines, and the end is not reached.
        self._quick = self._lines
        self._small = chunk_format.small
        # ``seq`` in two parts, so that its text comes out of a table: formatting it would be a fifth of a
        # small chunk's cost. The head is the chunk's start up to and with the thousands.
        self._start = self._head = chunk_format.head(self.id)
        self._digits = _DIGITS
        self._thousands = self._low = 0

    def take_args(self, args_type: type) -> Any:
        """The args, decoded; the line's bytes are let go.

        :raises BridgeError: see :func:`bridge.wire.codec.decode_args`.
        """
        args, self.args = self.args, _NO_ARGS
        return decode_args(args, args_type)

    async def send_all(self, chunks: AsyncIterator[Any], way: Way, pace: Pace) -> Any:
        """Send what ``chunks`` yields; gives the final one, None without one or once the request has ended.

        The way of nearly all chunks is written out: it costs two thirds of what its parts would as calls.
        """
        out, flush_bytes, small, mapping = way.buffer, way.flush_bytes, self._small, self._format.mapping
        left = LOOK
        async for payload in chunks:
            if payload.__class__ is not dict:
                if is_final(payload):
                    return payload
                payload = mapping(payload)
            if way.full or (self.credit is not None and self.credit <= 0):
                await pace.clear_way()
            if (
                self._quick
                and payload.__class__ is dict
                and payload.get("type").__class__ is str
                and "id" not in payload
                and "seq" not in payload
                and "done" not in payload
            ):
                try:
                    encoded = dumps(payload, convert, LINE_OPTIONS)
                except (JSONEncodeError, RecursionError):
                    encoded = self.encode(payload)
                if len(encoded) > small:
                    encoded = self._format.checked(encoded, len(self._head), payload)
                low = self._low
                out += self._head
                out += self._digits[low]
                place = len(out)
                out += encoded
                out[place] = COMMA
                del encoded  # let the next one have the same memory, while the cache holds it
                if self.credit is not None or low == 999:
                    self._count()
                else:
                    self._low = low + 1
            elif (place := self.chunk(payload, out)) < 0:
                return None  # it has ended, and the generator went on all the same
            if place >= flush_bytes or not way.scheduled:
                way.touch()
            left -= 1
            if not left:
                left = LOOK
                await pace.look()
        return None

    def chunk(self, payload: Any, out: bytearray) -> int:
        """Append one chunk to ``out``; gives where in ``out`` it stands, -1 (and nothing) once done.

        The caller has looked at :attr:`starved` first: credit goes below zero only for chunks that the
        protocol lets pass without.
        """
        return self.put(self._format.encode(payload, len(self._head) + 3), out)

    def encode(self, payload: Any) -> bytes:
        """A payload made ready for :meth:`put`: :meth:`chunk` in two steps, for a lock around the second."""
        return self._format.encode(payload, len(self._head) + 3)

    def put(self, encoded: bytes, out: bytearray) -> int:
        """Append what :meth:`encode` made; as :meth:`chunk`."""
        if self.done:
            return -1
        place = len(out)
        if self._lines:
            out += self._head
            out += self._digits[self._low]
            join = len(out)
            out += encoded
            out[join] = COMMA
        else:
            self._format.place(out, self._head + self._digits[self._low], encoded)
        if self.credit is not None or self._low == 999:
            self._count()
        else:
            self._low += 1
        return place

    def finish(self, payload: Any, out: bytearray) -> bool:
        """Append the terminal chunk, once: False when the request had already ended."""
        if self.done:
            return False
        self.done = True
        self._quick = False
        self.state = State.DONE
        if self.labels:
            payload = {**self._format.mapping(payload), **self.labels}
        self._format.append(out, self._head + self._digits[self._low], payload, done=True)
        self._low += 1
        self.args = _NO_ARGS
        return True

    def abandon(self) -> None:
        """The request has ended without a word from here."""
        self.done = True
        self.state = State.DONE
        self.args = _NO_ARGS

    def resume_at(self, seq: int) -> None:
        """The next chunk is number ``seq``: those before it were written by somebody else."""
        self._thousands, self._low = divmod(seq, 1000)
        if self._thousands:
            self._digits = _DIGITS_OF_THREE
            self._head = self._start + b"%d" % self._thousands

    @property
    def seq(self) -> int:
        """The number of chunks written, which is the next one's ``seq``."""
        return self._thousands * 1000 + self._low

    def _count(self) -> None:
        if self.credit is not None:
            self.credit -= 1
        self._low += 1
        if self._low == 1000:
            self._low = 0
            self._thousands += 1
            self._digits = _DIGITS_OF_THREE
            self._head = self._start + b"%d" % self._thousands

    @property
    def starved(self) -> bool:
        """Whether the next chunk must wait for a grant."""
        return self.credit is not None and self.credit <= 0

    def grant(self, count: int) -> None:
        """``count`` more chunks may be sent; meaningless for a stream without bounds."""
        if self.credit is not None:
            self.credit += count
