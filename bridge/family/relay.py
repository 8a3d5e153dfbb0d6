"""The supervisor's scheduler: the same admission, deadlines and ends, and workers instead of handlers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from bridge.errors import BridgeError, Code
from bridge.family.child import Child
from bridge.family.crew import Crew
from bridge.family.inflow import Kind, Route, key_of
from bridge.family.pressure import Pressure
from bridge.registry import Command
from bridge.registry import Kind as CommandKind
from bridge.telemetry import Stats
from bridge.wire.codec import decode_request
from bridge.wire.framing import Frame
from bridge.wire.messages import MAX_COUNT, CancelArgs, CreditArgs, Envelope, RequestId, ToolResultArgs
from bridge.wire.session import Stream
from bridge.worker.controls import Controls
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

    @property
    def error_code(self) -> str:
        """The code as text, whatever a handler put there."""
        return bytes(self.code).decode().strip('"')


_decode_terminal: Final = msgspec.json.Decoder(Terminal).decode


class RemoteCommand(Command):
    """A command that runs in the workers."""

    def __init__(self, name: str, *, state: bool) -> None:
        self.name = name
        self.kind = CommandKind.ASYNC_CALL
        self.inline = False
        self.state = name if state else None


class Passed(NamedTuple):
    """A control that the worker of its target is to answer."""

    control: Envelope
    relay: Relay


class Relay:
    """A request that runs in a worker. Credit and tool results are passed on as lines, not by these calls."""

    def __init__(self, scheduler: FamilyScheduler, command: Command, stream: Stream) -> None:
        self._scheduler = scheduler
        self.stream = stream
        self.sets_state = command.state is not None
        self.child: Child | None = None
        self.route = Route(stream.id, Kind.HOST, self)
        self.runs = 1
        #: Controls of this request that the worker has not answered yet.
        self.passed: set[Route] = set()
        #: How it is to end, once it was cancelled or is past its deadline, if the worker does not say so.
        self.ending: dict[str, Any] | None = None

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
        elif not self._scheduler.view.options.retry_died:
            self.stream.args = b""  # nobody needs it again, and it may be large

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
            more += b',"credit":%d' % min(stream.credit, MAX_COUNT)
        # Of a key that stands there twice the last one counts.
        return line.rstrip()[:-1] + more + b"}" if more else line

    def again(self) -> None:
        """It is to run once more, from the start, in another worker."""
        self.runs += 1
        self.child = None
        self.passed.clear()
        self.route = Route(self.stream.id, Kind.HOST, self)

    def acknowledge(self, child: Child) -> None:
        """Answer the controls that ``child`` has not answered: the request is over, and with the last request
        comes ``bye``, after which nothing may be said."""
        for route in self.passed:
            if child.inflow.routes.get(route.key) is route:  # the answer is not in the block being read
                child.inflow.drop(route)
                self._scheduler.reply_ok(route.owner.control)
        self.passed.clear()

    def give_up(self) -> None:
        """The host is told without the worker: what that still says is dropped."""
        if self.child is not None:
            self.child.inflow.drop(self.route)
            self.acknowledge(self.child)
            self.stream.resume_at(self.route.chunks)
            if self.sets_state:
                self._scheduler.crew.setting_interrupted(self.child)
            self._scheduler.crew.let_go(self.child)

    def grant(self, count: int | None) -> None:
        """Workers are told by themselves; a second run begins with what was granted to the first."""
        if count is None:
            self.stream.credit = None
        else:
            self.stream.grant(count)

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
    pressure: Pressure
    frame: Frame = b""
    #: ``ready`` is out, or on its way: before it there is nothing to say, not even ``bye``.
    announced = False

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
        if isinstance(relay, Passed):  # a control's acknowledgement
            relay.relay.passed.discard(route)
            return
        last = _decode_terminal(line)
        child, stream = relay.child, relay.stream
        assert child is not None  # it has written
        if relay.sets_state:
            self.crew.setting = False
            if last.type == "cancelled" or last.error_code == Code.DEADLINE_EXCEEDED:
                self.crew.setting_interrupted(child)
            elif last.type != "error":
                self.crew.was_set(stream.command, _args_of(stream.args), child)
        relay.acknowledge(child)
        self.sessions.release(stream)
        stream.resume_at(route.chunks)
        self.crew.let_go(child)
        self.ended(stream, {"type": last.type, "code": last.error_code})

    def orphaned(self, routes: list[Route], error: BridgeError) -> None:
        """The worker that ran them is dead."""
        relays: list[Relay] = []
        for route in routes:
            if isinstance(route.owner, Relay):
                relays.append(route.owner)
            else:
                self.reply_ok(route.owner.control)  # its target has ended, like all that were there
        if any(relay.sets_state for relay in relays):
            self.crew.setting = False
        again = [relay for relay in relays if self._may_run_again(relay)]
        lost = [relay for relay in relays if relay not in again]
        # Each goes before all others, and none begins before all wait: so they keep their order.
        for relay in reversed(again):
            relay.again()
            del self.runners[relay.stream.id]
            self._again[relay.stream.id] = relay
            self.sessions.requeue(relay.stream)
        for relay in lost:
            relay.stream.resume_at(relay.route.chunks)
            if relay.ending is None:
                self.failed(relay.stream, error)
            else:
                self.finish(relay.stream, relay.ending)
        self.promote()

    def _may_run_again(self, relay: Relay) -> bool:
        if not self.view.options.retry_died or relay.ending is not None:
            return False
        return not relay.route.chunks and relay.runs < MAX_RUNS

    # ---- ends ----------------------------------------------------------------------------------

    def end(self, stream: Stream, payload: dict[str, Any]) -> None:
        relay = self.runners.get(stream.id)
        if isinstance(relay, Relay) and payload is not CANCELLED_BY_SHUTDOWN:
            # The worker does it, and says so; but the host shall not wait for one that is stuck.
            if relay.ending is None:
                relay.ending = payload
                self.loop.call_later(LATE_S, self._overdue, relay, payload)
        else:
            super().end(stream, payload)

    def _overdue(self, relay: Relay, payload: dict[str, Any]) -> None:
        if self.runners.get(relay.stream.id) is relay:
            relay.end(lambda: self._finish_at_once(relay.stream, payload))

    def ended(self, stream: Stream, payload: Any) -> None:
        self._again.pop(stream.id, None)  # it has ended while it waited
        super().ended(stream, payload)

    def announce(self, payload: dict[str, Any]) -> None:
        if self.announced:
            super().announce(payload)

    def input_ended(self) -> None:
        if not self._input_ended:
            self.crew.host_ended()
        super().input_ended()


class FamilyControls(Controls):
    """Passes controls on to the worker that has their target; the others it carries out."""

    _scheduler: FamilyScheduler

    def handle(self, request: Envelope) -> None:
        self._request = request
        super().handle(request)

    def _cancel(self, args: CancelArgs, answered: bool) -> bool | None:
        self._pass_on(self.target(args.target))
        return super()._cancel(args, answered)

    def _credit(self, args: CreditArgs, answered: bool) -> bool | None:
        super()._credit(args, answered)  # looks at the number
        self._pass_on(self.target(args.target))
        return None

    def _tool_result(self, args: ToolResultArgs, answered: bool) -> bool | None:
        passed = self._pass_on(self.target(args.target), answers=answered)
        return super()._tool_result(args, answered) if passed is None else passed

    def _pass_on(self, stream: Stream | None, *, answers: bool = False) -> bool | None:
        """Send the control after its target; whether the worker answers it, None if no worker got it.

        Only what just the worker can know needs an answer of its own: the others are answered here, at once.
        """
        relay = None if stream is None else self._scheduler.runners.get(stream.id)
        if not isinstance(relay, Relay) or relay.child is None:
            return None
        child = relay.child
        line = self._scheduler.frame
        assert isinstance(line, bytes)  # it was decoded
        request_id: Any = self._request.id  # the codec has checked it
        if request_id is not None:
            answers = answers and key_of(request_id) not in child.inflow.routes
            if answers:
                route = Route(request_id, Kind.HOST, Passed(self._request, relay))
                child.inflow.add(route)
                relay.passed.add(route)
            else:
                line = line.rstrip()[:-1] + b',"id":null}'
        child.send(line.replace(b"\n", b" "))
        self._scheduler.crew.touch(child)
        return answers


def _args_of(line: bytes) -> dict[str, Any]:
    args: Any = decode_request(line, max_depth=1 << 30).args
    if isinstance(args, msgspec.Raw):
        args = msgspec.json.decode(args)
    return dict(args)
