"""What a handler knows of its request and can ask of its worker."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import logging

    from bridge.options import ServeOptions
    from bridge.registry import Registry
    from bridge.wire.session import Stream

_TRACEPARENT = r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"


class Host(Protocol):
    """A request's way to its host, as the scheduler gives it."""

    async def emit(self, chunk: Any) -> None: ...

    async def ask(self, chunk: Mapping[str, Any], timeout_s: float | None) -> Any: ...


class WorkerView(Protocol):
    """What a command may see of the worker it runs in."""

    @property
    def options(self) -> ServeOptions: ...

    @property
    def registry(self) -> Registry: ...

    def stats(self) -> dict[str, Any]: ...


class Context:
    """One request, seen from its handler."""

    __slots__ = ("_host", "_logger", "_stream", "worker")

    def __init__(self, stream: Stream, worker: WorkerView, host: Host) -> None:
        self._stream = stream
        self._host = host
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None
        self.worker = worker

    @property
    def id(self) -> str | int:
        """The request's id, as the host gave it."""
        return self._stream.id

    @property
    def command(self) -> str:
        """The command's name."""
        return self._stream.command

    @property
    def options(self) -> ServeOptions:
        """The worker's settings."""
        return self.worker.options

    @property
    def deadline(self) -> float | None:
        """When the request ends with ``deadline_exceeded``, in seconds of ``time.monotonic()``."""
        return self._stream.deadline

    def remaining(self) -> float | None:
        """Seconds until the deadline, never negative; None without one."""
        deadline = self._stream.deadline
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether the request has ended already (cancel, deadline, abort): whatever is yielded is dropped."""
        return self._stream.done

    @property
    def traceparent(self) -> str | None:
        """The request's W3C trace context; None when it had none or an invalid one."""
        value = self._stream.traceparent
        return value if isinstance(value, str) and re.fullmatch(_TRACEPARENT, value) else None

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the request's id and command."""
        if self._logger is None:
            import logging  # not before `ready`: every worker's start would pay for it

            logger = logging.getLogger("bridge.command")
            self._logger = logging.LoggerAdapter(logger, {"request_id": self.id, "command": self.command})
        return self._logger

    def label(self, name: str, value: Any) -> None:
        """Have the request's terminal chunk, whichever it will be, carry ``name``."""
        self._stream.labels[name] = value

    def emit(self, chunk: Any) -> Awaitable[None]:
        """Send a chunk now, from inside a callback; awaiting it waits for credit and for a host that reads.

        For asynchronous handlers; others just yield.
        """
        return self._host.emit(chunk)

    def new_call_id(self) -> str:
        """A ``call_id`` for something that the host need not answer; if it does, that counts as late."""
        call_id = self._stream.calls.issue()
        self._stream.calls.drop(call_id)
        return call_id

    async def ask(self, chunk: Mapping[str, Any], *, timeout_s: float | None = None) -> Any:
        """Send ``chunk`` with a ``call_id`` and wait for the host's ``tool_result``.

        A ``call_id`` from :meth:`new_call_id` that is in ``chunk`` is used, otherwise there is a new one.

        :returns: the result's ``value``.
        :raises BridgeError: ``tool_error`` when the host answered with an error or can not answer any
            more, ``tool_timeout`` when it did not answer within ``timeout_s`` seconds.
        """
        return await self._host.ask(chunk, timeout_s)
