"""A request before it is sent: checked, encoded once, and written with a new id as often as it is tried."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from bridge.client.tools import Tools, by_name

#: How many chunks a worker may be ahead of the consumer unless told otherwise.
DEFAULT_CREDIT: Final = 64
MAX_COUNT: Final = 2**31

_encode: Final = msgspec.json.Encoder().encode


class Request:
    """``args`` as JSON (dataclasses, Structs, dates, UUIDs and the like included); tools declared in it.

    ``context`` is the caller's, for the tools: they run on behalf of whoever asked.

    Raises:
        ValueError: ``args`` can not be written as JSON, or a number is out of range.
    """

    __slots__ = ("_tail", "context", "credit", "retries", "timeout", "tools")

    def __init__(
        self,
        command: str,
        args: Mapping[str, Any] | None,
        *,
        timeout: float | None,
        credit: int,
        tools: Tools | None,
        retries: int,
    ) -> None:
        if not 1 <= credit <= MAX_COUNT:
            raise ValueError("credit is a number of chunks, 1 to 2^31")
        if timeout is not None and not 0 < timeout < math.inf:
            raise ValueError("timeout is a number of seconds above 0")
        if retries < 0:
            raise ValueError("retries is a number from 0 on")
        self.context = contextvars.copy_context()
        self.timeout = timeout
        self.credit = credit
        self.retries = retries
        self.tools = {} if tools is None else by_name(tools)
        args = dict(args or {})
        if self.tools:
            declared = [tool.declaration() for tool in self.tools.values()]
            args["tools"] = [*(args.get("tools") or ()), *declared]
        try:
            text = _encode({"command": command, "args": args, "credit": credit})
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise ValueError(f"the args of {command!r} can not be written as JSON: {error}") from error
        self._tail = text[1:]

    def line(self, request_id: int, timeout_ms: int | None) -> bytes:
        """The request as a line."""
        timeout = b"" if timeout_ms is None else b'"timeout_ms":%d,' % min(timeout_ms, MAX_COUNT)
        return b'{"id":%d,%b%b\n' % (request_id, timeout, self._tail)
