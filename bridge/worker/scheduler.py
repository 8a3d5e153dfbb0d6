"""From frames to running handlers: admission, controls, deadlines, and the ends of requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from bridge.context import Context, WorkerView
from bridge.errors import BridgeError, Code, debug_details, from_exception
from bridge.registry import Command, Registry
from bridge.telemetry import Stats
from bridge.wire.codec import LineError, decode_request
from bridge.wire.framing import Frame, Oversized, Truncated
from bridge.wire.messages import (
    CONTROLS,
    Envelope,
    RequestId,
)
from bridge.wire.session import State, Stream
from bridge.wire.sessions import Sessions, duplicate_id
from bridge.worker.controls import Controls
from bridge.worker.outbox import Outbox
from bridge.worker.runners import NO_HOST, Runner, make_runner, result_payload
from bridge.worker.threads import HandlerThreads

log = logging.getLogger("bridge.worker")

CANCELLED_BY_SHUTDOWN = {"type": "cancelled", "reason": "shutdown"}


class Scheduler:
    """Owns every request between its line and its ``done``. Loop thread only.

    ``on_shutdown(mode, grace_s)`` is called for the ``shutdown`` control, ``on_accepted`` and
    ``on_ended`` after each request's beginning and end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        outbox: Outbox,
        sessions: Sessions,
        registry: Registry,
        view: WorkerView,
        stats: Stats,
        *,
        max_depth: int,
        debug: bool,
        input_waits: Callable[[], bool],
        on_shutdown: Callable[[str, float | None], None],
        on_accepted: Callable[[], None],
        on_ended: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.outbox = outbox
        self.threads = HandlerThreads()
        self.view = view
        self.input_waits = input_waits
        self.sessions = sessions
        self.draining = False
        #: Nothing is read any more: ``bye`` is out.
        self.closed = False
        self._registry = registry
        self._stats = stats
        self._max_depth = max_depth
        self._debug = debug
        self._on_accepted = on_accepted
        self._on_ended = on_ended
        self.runners: dict[RequestId, Runner] = {}
        self._deadlines: dict[RequestId, asyncio.TimerHandle] = {}
        self._began: dict[RequestId, float] = {}
        self._no_answers: BridgeError | None = None
        self._promoting = False
        self._waiting_for_room = False
        self._input_ended = False
        self._controls = self.make_controls(stats, on_shutdown)

    def make_controls(self, stats: Stats, on_shutdown: Callable[[str, float | None], None]) -> Controls:
        """What carries out control commands."""
        return Controls(self, stats, on_shutdown)

    # ---- lines in ------------------------------------------------------------------------------

    def receive(self, frames: list[Frame]) -> None:
        """Handle frames in their order; short answers go out with one write at the end."""
        for frame in frames:
            if self.closed:
                break
            self._receive_one(frame)
        self.outbox.flush()

    def _receive_one(self, frame: Frame) -> None:
        request: Envelope | None = None
        try:
            if isinstance(frame, Oversized):
                raise LineError(self._unreadable(frame))
            request = decode_request(frame, self._max_depth)
            self._dispatch(request, len(frame))
        except LineError as error:
            self._stats.bad_lines += 1
            self.refuse(error.request_id, error.error)
        except Exception as error:
            log.error("a line could not be handled", exc_info=error)
            request_id: Any = None if request is None else request.id
            self.refuse(request_id, from_exception(error))

    def _unreadable(self, frame: Oversized) -> BridgeError:
        maximum = self.view.options.max_line_bytes
        if isinstance(frame, Truncated):
            return BridgeError("The input ended in the middle of a frame.", code=Code.PARSE_ERROR)
        message = f"A line of {frame.size} bytes is over the limit of {maximum} bytes and was discarded."
        details = {"limit": "max_line_bytes", "max": maximum, "size": frame.size}
        return BridgeError(message, code=Code.LINE_TOO_LONG, details=details)

    def _dispatch(self, request: Envelope, size: int) -> None:
        if request.command in CONTROLS:
            self._controls.handle(request)
            return
        if request.id is None:
            message = "The request has no id, so nothing could be answered to it."
            raise LineError(BridgeError(message, code=Code.INVALID_REQUEST, details={"path": "$.id"}))
        request_id: Any = request.id  # the codec has checked it
        try:
            self.check_free(request_id)
            self._check_open()
            command = self._registry.get(request.command)
            if command.inline:
                self._answer_inline(command, request)
            else:
                self._admit(command, request, size)
        except BridgeError as error:
            self._stats.rejected += 1
            self._stats.errors[str(error.code)] += 1
            self.refuse(request_id, error)

    def check_free(self, request_id: Any) -> None:
        if self.sessions.get(request_id) is not None:
            raise duplicate_id(request_id)

    def _check_open(self) -> None:
        if self.draining:
            message = "The worker is shutting down and takes no new requests."
            raise BridgeError(message, code=Code.SHUTTING_DOWN)

    # ---- requests ------------------------------------------------------------------------------

    def _admit(self, command: Command, request: Envelope, size: int) -> None:
        # Before a host that does not read nothing is begun: its results would only fill the memory.
        stream = self.take_in(command, request, size)
        self._wait_for_room()
        self._stats.accepted += 1
        self._began[stream.id] = time.monotonic()
        if self._input_ended:
            stream.credit = None
        if stream.deadline is not None:
            delay = stream.deadline - time.monotonic()
            self._deadlines[stream.id] = self.loop.call_later(delay, self._expire, stream)
        if stream.state is State.RUNNING:
            self._start(command, stream)
        self._on_accepted()

    def take_in(self, command: Command, request: Envelope, size: int) -> Stream:
        """Give a request its place, see :meth:`Sessions.admit`."""
        return self.sessions.admit(request, time.monotonic(), size, hold=self.held())

    def _answer_inline(self, command: Command, request: Envelope) -> None:
        stream = Stream(request, self.sessions.format, 0.0)
        try:
            args: Any = stream.take_args(command.args_type)
            payload = result_payload(command.call(args, Context(stream, self.view, NO_HOST)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the host is told
            payload = self._error_payload(stream, error)
        self._stats.accepted += 1
        self._stats.ended(command.name, payload, 1, 0.0)
        self.reply(stream, payload)
        self._on_accepted()

    def _start(self, command: Command, stream: Stream) -> None:
        runner = self.make_runner(command, stream)
        self.runners[stream.id] = runner
        if self._no_answers is not None:
            runner.close_calls(self._no_answers)
        runner.start()

    def make_runner(self, command: Command, stream: Stream) -> Runner:
        """What runs a request."""
        return make_runner(self, command, stream)

    def held(self) -> bool:
        """Whether requests must wait although a slot is free."""
        return self.outbox.full

    def _wait_for_room(self) -> None:
        if self.outbox.full and self.sessions.queued and not self._waiting_for_room:
            self._waiting_for_room = True
            self.outbox.when_room(self._room_again)

    def _room_again(self) -> None:
        self._waiting_for_room = False
        self.promote()

    def promote(self) -> None:
        """Give free slots to those who wait. Not re-entrant: a start may end its request at once."""
        if self._promoting:
            return
        self._promoting = True
        try:
            while not self.held() and (stream := self.sessions.promote()) is not None:
                self._start(self._registry.get(stream.command), stream)
            self._wait_for_room()
        finally:
            self._promoting = False

    def finish(self, stream: Stream, payload: Any) -> None:
        """End a request with its terminal payload; nothing if it has ended."""
        if self.sessions.finish(stream, payload, self.outbox.buffer):
            self.outbox.touch()
            self.ended(stream, payload)

    def ended(self, stream: Stream, payload: Any) -> None:
        """A request has ended, its terminal chunk is in the outbox: free what it had and count it."""
        self.runners.pop(stream.id, None)
        if (timer := self._deadlines.pop(stream.id, None)) is not None:
            timer.cancel()
        elapsed = time.monotonic() - self._began.pop(stream.id)
        self._stats.ended(stream.command, payload, stream.seq, elapsed)
        self.promote()
        self._on_ended()

    def failed(self, stream: Stream, error: BaseException) -> None:
        """End a request with the error its handler raised."""
        if self.sessions.get(stream.id) is stream:
            self.finish(stream, self._error_payload(stream, error))

    def abandoned(self, change: int) -> None:
        """Count threads that go on after their request has ended."""
        self._stats.abandoned_threads += change

    def _error_payload(self, stream: Stream, error: BaseException) -> dict[str, Any]:
        if not isinstance(error, BridgeError):
            extra = {"request_id": stream.id, "command": stream.command}
            log.error("a handler failed", exc_info=error, extra=extra)
        payload = from_exception(error).to_chunk()
        if self._debug:
            payload["details"] = {**payload.get("details", {}), **debug_details(error)}
        return payload

    def end(self, stream: Stream, payload: dict[str, Any]) -> None:
        """End a request from outside, whatever its handler is doing."""
        runner = self.runners.get(stream.id)
        if runner is None:  # still in the queue
            self._finish_at_once(stream, payload)
        else:
            runner.end(lambda: self._finish_at_once(stream, payload))

    def _finish_at_once(self, stream: Stream, payload: dict[str, Any]) -> None:
        """As :meth:`finish`, for chunks that wait for no room: they count as short replies."""
        before = len(self.outbox.buffer)
        self.finish(stream, payload)
        self.outbox.reply(max(0, len(self.outbox.buffer) - before))

    def _expire(self, stream: Stream) -> None:
        message = "The request was not done within its timeout_ms."
        self.end(stream, BridgeError(message, code=Code.DEADLINE_EXCEEDED).to_chunk())

    def end_all(self) -> None:
        """Cancel everything in flight (``reason`` ``shutdown``)."""
        for stream in self.sessions.in_flight():
            self.end(stream, CANCELLED_BY_SHUTDOWN)

    def input_ended(self) -> None:
        """The host can send nothing more: credit has no bound any more, open calls have no answer."""
        self._input_ended = True
        error = BridgeError("The host's end of the input is closed: it can not answer.", code=Code.TOOL_ERROR)
        self._no_answers = error
        for stream in self.sessions.in_flight():
            runner = self.runners.get(stream.id)
            if runner is None:
                stream.credit = None
            else:
                runner.grant(None)
                runner.close_calls(error)

    # ---- short replies -------------------------------------------------------------------------

    def refuse(self, request_id: RequestId | None, error: BridgeError) -> None:
        """Answer a line that starts nothing. One whose id is in flight must not look ended by it."""
        payload = error.to_chunk()
        if request_id is None or self.sessions.get(request_id) is not None:
            if request_id is not None:
                payload["details"] = {"target": request_id, **payload.get("details", {})}
            before = len(self.outbox.buffer)
            self.sessions.format.append_unbound(self.outbox.buffer, payload)
            self.outbox.reply(len(self.outbox.buffer) - before)
            return
        self.reply(Stream(Envelope(command="", id=request_id), self.sessions.format, 0.0), payload)

    def reply(self, stream: Stream, payload: Any) -> None:
        """Send the one chunk of something that never was in flight."""
        before = len(self.outbox.buffer)
        stream.finish(payload, self.outbox.buffer)
        self.outbox.reply(len(self.outbox.buffer) - before)

    def reply_ok(self, control: Envelope) -> None:
        """Acknowledge a control command that has an id."""
        stream = Stream(control, self.sessions.format, 0.0)
        self.reply(stream, {"type": "ok", "command": control.command})

    def announce(self, payload: dict[str, Any]) -> None:
        """Send a chunk that belongs to no request (``ready``, ``bye``)."""
        self.sessions.format.append_unbound(self.outbox.buffer, payload)
        self.outbox.flush()
