"""The table of requests in flight, with admission by count and by bytes: no I/O, no clock."""

from __future__ import annotations

from collections import deque
from typing import Any

from bridge.errors import BridgeError, Code
from bridge.wire.chunks import ChunkFormat
from bridge.wire.messages import Envelope, RequestId
from bridge.wire.session import State, Stream


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
