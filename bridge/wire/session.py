"""The requests of one connection and what may happen to them: pure transitions, no I/O, no clock.

========  ==================================  =========
state     event                               new state
========  ==================================  =========
(none)    admit, a slot free                  RUNNING
(none)    admit, none free                    QUEUED
QUEUED    promote                             RUNNING
RUNNING   chunk                               RUNNING
any       finish                              DONE
DONE      chunk, finish                       DONE (nothing is written)
========  ==================================  =========

A :class:`Stream` writes its chunks into a buffer the caller owns; it counts ``seq`` and credit, and
writes exactly one chunk with ``"done":true``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from enum import IntEnum
from typing import Any, Final

import msgspec
from orjson import JSONEncodeError, dumps

from bridge.errors import BridgeError, Code
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
        out, flush_bytes, small = way.buffer, way.flush_bytes, self._small
        left = LOOK
        async for payload in chunks:
            if payload.__class__ is not dict and is_final(payload):
                return payload
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


class Sessions:
    """The table of requests in flight, with admission by count and by bytes."""

    def __init__(
        self,
        chunk_format: ChunkFormat,
        *,
        max_inflight: int,
        max_queued: int,
        max_queued_bytes: int,
    ) -> None:
        self.format = chunk_format
        self._max_inflight = max_inflight
        self._max_queued = max_queued
        self._max_queued_bytes = max_queued_bytes
        self._streams: dict[RequestId, Stream] = {}
        self._waiting: deque[Stream] = deque()
        self.running = 0
        self.queued = 0
        self.queued_bytes = 0

    def __len__(self) -> int:
        return len(self._streams)

    def get(self, request_id: RequestId) -> Stream | None:
        """The request in flight with this id (``1`` and ``"1"`` are two)."""
        return self._streams.get(request_id)

    def in_flight(self) -> list[Stream]:
        """All requests that have not ended, oldest first."""
        return list(self._streams.values())

    def admit(
        self, request: Envelope, now: float, size: int = 0, *, hold: bool = False, at_once: bool = False
    ) -> Stream:
        """Take in a request whose line has ``size`` bytes; its state tells whether it may run at once.

        ``hold``: let it wait although a slot is free. ``at_once``: run it although none is.

        :raises BridgeError: ``duplicate_id``, or ``overloaded`` when neither a slot nor a place in the
            queue is free.
        """
        if request.id in self._streams:
            raise duplicate_id(request.id)
        stream = Stream(request, self.format, now, size)
        if at_once or (self.running < self._max_inflight and not self.queued and not hold):
            self._run(stream)
        else:
            self._enqueue(stream)
        self._streams[stream.id] = stream
        return stream

    def promote(self) -> Stream | None:
        """The next request that may run now, oldest first; None when no slot or no request is there."""
        while self._waiting and self.running < self._max_inflight:
            stream = self._waiting.popleft()
            if stream.state == State.QUEUED:
                self._leave_queue(stream)
                self._run(stream)
                return stream
        return None

    def finish(self, stream: Stream, payload: Any, out: bytearray) -> bool:
        """End a request with ``payload`` as its terminal chunk; its id and its slot are free again.

        False, and nothing written, when it had already ended.
        """
        before = stream.state
        if not stream.finish(payload, out):
            return False
        self._remove(stream, before)
        return True

    def release(self, stream: Stream) -> bool:
        """As :meth:`finish`, for a request whose terminal chunk somebody else has written."""
        if stream.done:
            return False
        before = stream.state
        stream.abandon()
        self._remove(stream, before)
        return True

    def requeue(self, stream: Stream) -> None:
        """Have a running request wait for its slot again, before all others."""
        stream.state = State.QUEUED
        self.running -= 1
        self.queued += 1
        self.queued_bytes += stream.weight
        self._waiting.appendleft(stream)

    def _remove(self, stream: Stream, before: State) -> None:
        del self._streams[stream.id]
        if before == State.RUNNING:
            self.running -= 1
        else:
            self._leave_queue(stream)
            if len(self._waiting) > 2 * self.queued + 64:  # of those that ended in the queue
                self._waiting = deque(item for item in self._waiting if not item.done)

    def _run(self, stream: Stream) -> None:
        stream.state = State.RUNNING
        self.running += 1

    def _enqueue(self, stream: Stream) -> None:
        # Those that wait although slots are free take these, not the queue's places.
        if self.queued >= self._max_queued + max(0, self._max_inflight - self.running):
            raise overloaded(f"{self.queued} requests are waiting already", "max_queued", self._max_queued)
        if self.queued_bytes + stream.weight > self._max_queued_bytes:
            waiting = f"{self.queued_bytes} bytes of args are waiting already"
            raise overloaded(waiting, "max_queued_bytes", self._max_queued_bytes)
        self.queued += 1
        self.queued_bytes += stream.weight
        self._waiting.append(stream)

    def _leave_queue(self, stream: Stream) -> None:
        self.queued -= 1
        self.queued_bytes -= stream.weight


def overloaded(state: str, limit: str, maximum: int) -> BridgeError:
    """The error for a request that finds no place."""
    message = f"The worker is overloaded: {state} ({limit} is {maximum}). Try again later or elsewhere."
    return BridgeError(message, code=Code.OVERLOADED, details={"limit": limit, "max": maximum})


def duplicate_id(request_id: object) -> BridgeError:
    """The error for an id that is still in flight."""
    message = "A request with this id is still in flight; wait for its chunk with done or use another id."
    return BridgeError(message, code=Code.DUPLICATE_ID, details={"target": request_id})
