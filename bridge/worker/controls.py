"""The control commands: ``cancel``, ``credit``, ``tool_result`` and ``shutdown``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from bridge.errors import BridgeError, Code, invalid_args
from bridge.telemetry import Stats
from bridge.wire.codec import decode_args, is_valid_id
from bridge.wire.messages import (
    CONTROLS,
    MAX_COUNT,
    CancelArgs,
    CreditArgs,
    Envelope,
    ShutdownArgs,
    ToolResultArgs,
)
from bridge.wire.session import Stream

if TYPE_CHECKING:
    from bridge.worker.scheduler import Scheduler

CANCELLED_BY_CLIENT = {"type": "cancelled", "reason": "client"}


class Controls:
    """Acts on requests in flight; answers a control only when it has an id of its own."""

    def __init__(
        self, scheduler: Scheduler, stats: Stats, on_shutdown: Callable[[str, float | None], None]
    ) -> None:
        self._scheduler = scheduler
        self._stats = stats
        self._on_shutdown = on_shutdown
        # An action that gives true has seen to it that the control is answered.
        self._actions: dict[str, Callable[[Any, bool], bool | None]] = {
            "cancel": self._cancel,
            "credit": self._credit,
            "tool_result": self._tool_result,
            "shutdown": self._shutdown,
        }

    def handle(self, request: Envelope) -> None:
        """Carry out one control. A malformed one is answered with an error, with or without an id."""
        request_id: Any = request.id  # the codec has checked it
        try:
            if request_id is not None:
                self._scheduler.check_free(request_id)
            args: Any = decode_args(request.args, CONTROLS[request.command])
            answered = self._actions[request.command](args, request_id is not None)
        except BridgeError as error:
            self._stats.bad_lines += 1
            self._scheduler.refuse(request_id, error)
            return
        if request_id is not None and not answered:
            self._scheduler.reply_ok(request)

    def _cancel(self, args: CancelArgs, answered: bool) -> bool | None:
        if (stream := self.target(args.target)) is not None:
            self._scheduler.end(stream, CANCELLED_BY_CLIENT)
        return None

    def _credit(self, args: CreditArgs, answered: bool) -> bool | None:
        if not 1 <= args.n <= MAX_COUNT:
            raise invalid_args("n must be between 1 and 2^31.", "$.args.n")
        if (stream := self.target(args.target)) is None:
            return None
        if (runner := self._scheduler.runners.get(stream.id)) is not None:
            runner.grant(args.n)
        else:
            stream.grant(args.n)
        return None

    def _tool_result(self, args: ToolResultArgs, answered: bool) -> bool | None:
        if (args.value is msgspec.UNSET) == (args.error is msgspec.UNSET):
            raise invalid_args("A tool_result has exactly one of value and error.", "$.args")
        stream = self.target(args.target)
        # Only a host that is answered is told of a call that was never made.
        if stream is None or not stream.calls.answer(args.call_id, strict=answered):
            self._stats.late_tool_results += 1
            return None
        outcome: Any = args.value
        if isinstance(args.error, str):
            outcome = BridgeError(args.error, code=Code.TOOL_ERROR, details={"call_id": args.call_id})
        if (runner := self._scheduler.runners.get(stream.id)) is not None:
            runner.answer(args.call_id, outcome)
        return None

    def _shutdown(self, args: ShutdownArgs, answered: bool) -> None:
        if args.mode not in ("drain", "abort"):
            raise invalid_args("mode must be 'drain' or 'abort'.", "$.args.mode")
        if args.grace_ms is not None and not 0 <= args.grace_ms <= MAX_COUNT:
            raise invalid_args("grace_ms must be between 0 and 2^31.", "$.args.grace_ms")
        grace_s = None if args.grace_ms is None else args.grace_ms / 1000
        # The next line is refused already; the end begins after this one's acknowledgement.
        self._scheduler.draining = True
        self._scheduler.loop.call_soon(self._on_shutdown, args.mode, grace_s)

    def target(self, target: object) -> Stream | None:
        """The request in flight that a control names; None when it has ended or never was."""
        if not is_valid_id(target):
            raise invalid_args("target must be a request's id.", "$.args.target")
        return self._scheduler.sessions.get(target)  # type: ignore[arg-type]  # just checked
