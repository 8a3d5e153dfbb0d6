"""The supervisor's scheduler: the same admission, deadlines and ends, and workers instead of handlers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from bridge.errors import BridgeError, Code
from bridge.family.child import Child
from bridge.family.crew import Crew
from bridge.family.inflow import Kind, Route, key_of
from bridge.registry import Command
from bridge.registry import Kind as CommandKind
from bridge.telemetry import Stats
from bridge.wire.codec import decode_request
from bridge.wire.framing import Frame
from bridge.wire.messages import CancelArgs, CreditArgs, Envelope, RequestId, ToolResultArgs
from bridge.wire.session import Stream
from bridge.worker.controls import CANCELLED_BY_CLIENT, Controls
from bridge.worker.runners import Runner
from bridge.worker.scheduler import CANCELLED_BY_SHUTDOWN, Scheduler

#: How long a worker may take to end a request that was cancelled or is past its deadline; then the host is
#: told without it.
LATE_S: Final = 0.8
#: How often a request may be begun with ``--retry-died``: one that kills its worker is not to kill them all.
MAX_RUNS: Final = 2
#: A request that waited no longer than this keeps the time it came with, in seconds.
AT_ONCE_S: Final = 0.001


class Terminal(msgspec.Struct):
    """What must be known of a terminal chunk; all else in it is skipped, whatever it is."""

    type: str
    code: msgspec.Raw = msgspec.Raw(b'""')

    def counted(self) -> dict[str, str]:
        """As the counters want it."""
        return {"type": self.type, "code": bytes(self.code).decode().strip('"')}


_decode_terminal: Final = msgspec.json.Decoder(Terminal).decode


class RemoteCommand(Command):
    """A command that runs in the workers."""

    def __init__(self, name: str, *, state: bool) -> None:
        self.name = name
        self.kind = CommandKind.ASYNC_CALL
        self.inline = False
        self.state = name if state else None


class Relay:
    """A request that runs in a worker. Credit and tool results are passed on as lines, not by these calls."""

    def __init__(self, scheduler: FamilyScheduler, command: Command, stream: Stream) -> None:
        self._scheduler = scheduler
        self.stream = stream
        self.sets_state = command.state is not None
        self.child: Child | None = None
        self.route = Route(stream.id, Kind.HOST, self)
        self.runs = 1

    def start(self) -> None:
        """Give it to a worker."""
        crew = self._scheduler.crew
        self.child = child = crew.choose(self.route.key)
        if child is None:
            message = "Every worker is still busy ending an earlier request with this id. Use another one."
            self._scheduler.failed(self.stream, BridgeError(message, code=Code.OVERLOADED))
            return
        child.inflow.add(self.route)
        child.send(self._line())
        crew.took(child)
        if self.sets_state:
            crew.setting = True

    def _line(self) -> bytes:
        """The request as the worker is to see it: what is left of its time, and its credit by now."""
        stream = self.stream
        line: bytes = stream.args
        if b"\n" in line:  # white space in a frame of --framing packet4
            line = line.replace(b"\n", b" ")
        more = b""
        if stream.deadline is not None:
            now = time.monotonic()
            if now - self._scheduler.began(stream) > AT_ONCE_S:
                more = b',"timeout_ms":%d' % max(1, round((stream.deadline - now) * 1000))
        if stream.credit is not None:  # there may have been grants meanwhile
            more += b',"credit":%d' % stream.credit
        # Of a key that stands there twice the last one counts.
        return line.rstrip()[:-1] + more + b"}" if more else line

    def again(self) -> None:
        """It is to run once more, from the start, in another worker."""
        self.runs += 1
        self.child = None
        self.route = Route(self.stream.id, Kind.HOST, self)

    def give_up(self) -> None:
        """The host is told without the worker: what that still says is dropped."""
        crew = self._scheduler.crew
        if self.child is None:
            return
        self.route.kind = Kind.GHOST
        self.stream.resume_at(self.route.chunks)
        crew.let_go(self.child)
        if self.sets_state:
            crew.setting = False
            crew.retire(self.child)  # it may be set there yet, and nowhere else

    def grant(self, count: int | None) -> None:
        """Workers are told by themselves."""

    def end(self, finish: Callable[[], None]) -> None:
        """End it from here."""
        self.give_up()
        finish()

    def answer(self, call_id: str, outcome: Any) -> None:
        """Workers are told by themselves."""

    def close_calls(self, error: BridgeError) -> None:
        """Workers are told by themselves."""


class FamilyScheduler(Scheduler):
    """Owns every request; those for remote commands run as relays."""

    crew: Crew
    frame: Frame = b""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        #: Requests that wait for their second run.
        self._again: dict[RequestId, Relay] = {}

    def receive(self, frames: list[Frame]) -> None:
        super().receive(frames)
        self.crew.flush()

    def _receive_one(self, frame: Frame) -> None:
        self.frame = frame
        super()._receive_one(frame)

    def make_controls(self, stats: Stats, on_shutdown: Callable[[str, float | None], None]) -> Controls:
        return FamilyControls(self, stats, on_shutdown)

    def take_in(self, command: Command, request: Envelope, size: int) -> Stream:
        if isinstance(command, RemoteCommand):
            request.args = self.frame  # type: ignore[assignment]  # the worker gets the whole line
            return super().take_in(command, request, size)
        # What tells how the family is must not wait for it.
        return self.sessions.admit(request, time.monotonic(), size, at_once=True)

    def make_runner(self, command: Command, stream: Stream) -> Runner:
        if not isinstance(command, RemoteCommand):
            return super().make_runner(command, stream)
        return self._again.pop(stream.id, None) or Relay(self, command, stream)

    def promote(self) -> None:
        super().promote()
        self.crew.flush()

    def held(self) -> bool:
        return super().held() or not self.crew.open()

    def began(self, stream: Stream) -> float:
        """When a request was admitted, in seconds of ``time.monotonic()``."""
        return self._began[stream.id]

    # ---- what workers say ----------------------------------------------------------------------

    def relayed(self, route: Route, line: bytes) -> None:
        """A terminal chunk has passed through."""
        relay = route.owner
        if not isinstance(relay, Relay):
            return  # a control's acknowledgement
        last = _decode_terminal(line)
        child, stream = relay.child, relay.stream
        assert child is not None  # it has written
        if relay.sets_state:
            self.crew.setting = False
            if last.type not in ("error", "cancelled"):
                self.crew.was_set(stream.command, _args_of(stream.args), child)
        self.sessions.release(stream)
        stream.resume_at(route.chunks)
        self.crew.let_go(child)
        self.ended(stream, last.counted())

    def orphaned(self, route: Route, error: BridgeError) -> None:
        """The worker that ran it is dead."""
        relay = route.owner
        if not isinstance(relay, Relay):
            self.reply_ok(relay)  # a control whose target has ended, like all that were there
            return
        if relay.sets_state:
            self.crew.setting = False
        stream = relay.stream
        if self.view.options.retry_died and not route.chunks and relay.runs < MAX_RUNS:
            relay.again()
            del self.runners[stream.id]
            self._again[stream.id] = relay
            self.sessions.requeue(stream)
        else:
            stream.resume_at(route.chunks)
            self.failed(stream, error)
        self.promote()

    def ended(self, stream: Stream, payload: Any) -> None:
        self._again.pop(stream.id, None)  # it may have ended while it waited
        super().ended(stream, payload)

    # ---- ends ----------------------------------------------------------------------------------

    def end(self, stream: Stream, payload: dict[str, Any]) -> None:
        relay = self.runners.get(stream.id)
        if isinstance(relay, Relay) and payload is not CANCELLED_BY_SHUTDOWN:
            # The worker does it, and says so; but the host shall not wait for one that is stuck.
            self.loop.call_later(LATE_S, self._overdue, relay, payload)
        else:
            super().end(stream, payload)

    def _overdue(self, relay: Relay, payload: dict[str, Any]) -> None:
        if self.runners.get(relay.stream.id) is relay:
            relay.end(lambda: self._finish_at_once(relay.stream, payload))

    def input_ended(self) -> None:
        self.crew.host_ended()
        super().input_ended()


class FamilyControls(Controls):
    """Passes controls on to the worker that has their target; the others it carries out."""

    _scheduler: FamilyScheduler

    def handle(self, request: Envelope) -> None:
        self._request = request
        super().handle(request)

    def _cancel(self, args: CancelArgs, answered: bool) -> bool | None:
        stream = self.target(args.target)
        passed = self._pass_on(stream, answered)
        if passed is not None and stream is not None:
            self._scheduler.end(stream, CANCELLED_BY_CLIENT)
            return passed
        return super()._cancel(args, answered)

    def _credit(self, args: CreditArgs, answered: bool) -> bool | None:
        passed = self._pass_on(self.target(args.target), answered)
        return super()._credit(args, answered) if passed is None else passed

    def _tool_result(self, args: ToolResultArgs, answered: bool) -> bool | None:
        passed = self._pass_on(self.target(args.target), answered)
        return super()._tool_result(args, answered) if passed is None else passed

    def _pass_on(self, stream: Stream | None, answered: bool) -> bool | None:
        """Send the control after its target; whether the worker answers it, None if no worker got it."""
        relay = None if stream is None else self._scheduler.runners.get(stream.id)
        if not isinstance(relay, Relay) or relay.child is None:
            return None
        child = relay.child
        line = self._scheduler.frame
        assert isinstance(line, bytes)  # it was decoded
        if answered:
            request_id: Any = self._request.id  # the codec has checked it
            if key_of(request_id) in child.inflow.routes:
                return None
            child.inflow.add(Route(request_id, Kind.HOST, self._request))
        child.send(line.replace(b"\n", b" "))
        self._scheduler.crew.touch(child)
        return answered


def _args_of(line: bytes) -> dict[str, Any]:
    args: Any = decode_request(line, max_depth=1 << 30).args
    if isinstance(args, msgspec.Raw):
        args = msgspec.json.decode(args)
    return dict(args)
