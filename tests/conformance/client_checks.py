"""What holds for every line that a client writes, whatever the case is about."""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]
_CONTROLS = ("cancel", "credit", "tool_result", "shutdown")
_MOST = 2**31


class Mismatch(Exception):
    """The client wrote something else than it should have."""


class Request:
    """One request of the client, as far as its controls must fit it."""

    def __init__(self, credit: int | None) -> None:
        self.credit = credit
        self.seq = 0
        self.granted = 0
        self.cancelled = False
        self.calls: dict[str, int] = {}

    def may_send(self) -> bool:
        """Whether there is credit for one more chunk."""
        return self.credit is None or self.seq < self.credit + self.granted


class Checker:
    """Reads what a client writes and knows what was written to it.

    Ids are integers and never used twice; controls name a request there is; none follows the request's
    ``cancel``; grants are of half a window or more, and never for more than was sent; a tool call is not
    answered more often than it was asked, with exactly one of ``value`` and ``error``.
    """

    def __init__(self) -> None:
        self.requests: dict[int, Request] = {}
        self.shutdown = False

    def wrote(self, chunk: dict[str, Any]) -> None:
        """A chunk goes out to the client."""
        request = self.requests.get(chunk["id"]) if isinstance(chunk["id"], int) else None
        if request is None:
            return
        request.seq = chunk["seq"] + 1 if isinstance(chunk.get("seq"), int) else request.seq
        if chunk.get("type") == "tool_call" and chunk.get("host"):
            call_id = chunk["call_id"]
            request.calls[call_id] = request.calls.get(call_id, 0) + 1

    def read(self, text: bytes) -> Message | None:
        """The message in a line of the client's; None for a blank one.

        :raises Mismatch: for what no client may write.
        """
        if not text.strip():
            return None
        try:
            message = json.loads(text.decode())
        except ValueError as error:
            raise Mismatch(f"the client wrote no JSON ({error}): {text[:200]!r}") from error
        if not isinstance(message, dict) or not isinstance(message.get("command"), str):
            raise Mismatch(f"the client wrote no request: {text[:200]!r}")
        args = message.get("args", {})
        _hold(isinstance(args, dict), "args are an object", message)
        if message["command"] in _CONTROLS:
            getattr(self, f"_{message['command']}")(message, args)
        else:
            self._request(message)
        return message

    def _request(self, message: Message) -> None:
        request_id = message.get("id")
        _hold(type(request_id) is int, "an id is an integer", message)
        assert isinstance(request_id, int)
        _hold(0 <= request_id <= 2**53, "an id counts up from 0 or 1", message)
        _hold(request_id not in self.requests, "an id is not used again", message)
        for name in ("timeout_ms", "credit"):
            value = message.get(name, 1)
            _hold(type(value) is int and 1 <= value <= _MOST, f"{name} is 1 to 2^31, or absent", message)
        self.requests[request_id] = Request(message.get("credit"))

    def _target(self, message: Message, args: dict[str, Any]) -> Request:
        target = args.get("target")
        request = self.requests.get(target) if type(target) is int else None
        _hold(request is not None, "a control's target is a request that was sent", message)
        assert request is not None
        _hold(not request.cancelled, "nothing about a request follows its cancel", message)
        return request

    def _cancel(self, message: Message, args: dict[str, Any]) -> None:
        self._target(message, args).cancelled = True

    def _credit(self, message: Message, args: dict[str, Any]) -> None:
        request, n = self._target(message, args), args.get("n")
        _hold(type(n) is int, "a grant is an integer", message)
        assert isinstance(n, int)
        _hold(request.credit is not None, "a request without credit needs no grants", message)
        assert request.credit is not None
        least = max(1, request.credit // 2)
        _hold(n >= least, f"a grant is half a window ({least}) or more", message)
        request.granted += n
        fits = request.granted <= request.seq
        _hold(fits, f"grants are for what was taken ({request.granted} of {request.seq} sent)", message)

    def _tool_result(self, message: Message, args: dict[str, Any]) -> None:
        request, call_id = self._target(message, args), args.get("call_id")
        _hold(call_id in request.calls, "a tool_result's call_id was asked for", message)
        assert isinstance(call_id, str)
        _hold(("value" in args) is not ("error" in args), "a tool_result is a value or an error", message)
        _hold(isinstance(args.get("error", ""), str), "a tool_result's error is text", message)
        request.calls[call_id] -= 1
        _hold(request.calls[call_id] >= 0, "a tool call is answered once", message)

    def _shutdown(self, message: Message, args: dict[str, Any]) -> None:
        _hold(args.get("mode", "drain") in ("drain", "abort"), "the mode is drain or abort", message)
        grace = args.get("grace_ms", 1)
        _hold(type(grace) is int and 0 <= grace <= _MOST, "grace_ms is an integer", message)
        self.shutdown = True


def _hold(truth: bool, promise: str, message: Message) -> None:
    if not truth:
        raise Mismatch(f"{promise}: {json.dumps(message)[:300]}")
