"""What a request can fail with. Codes are the protocol's, and the few that only a host can know."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

#: Codes that clients give themselves, beside those of the wire.
WORKER_DIED: Final = "worker_died"
START_FAILED: Final = "start_failed"
PROTOCOL_ERROR: Final = "protocol_error"
CLOSED: Final = "closed"
CANCELLED: Final = "cancelled"
DEADLINE_EXCEEDED: Final = "deadline_exceeded"
LINE_TOO_LONG: Final = "line_too_long"
SHUTTING_DOWN: Final = "shutting_down"


class RequestError(Exception):
    """A request ended badly.

    ``code`` says why (a newer worker may send codes not listed anywhere here), ``retryable`` whether the
    same request may succeed later, ``retry_after_ms`` when, ``details`` more, as JSON values.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        retryable: bool = False,
        retry_after_ms: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable
        self.retry_after_ms = retry_after_ms
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"

    def again(self) -> RequestError:
        """The same error for one more caller: an exception that is raised twice grows its traceback."""
        return type(self)(**self._arguments())

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **self._arguments()), ()

    def _arguments(self) -> dict[str, Any]:
        return {
            "message": self.message,
            "code": self.code,
            "retryable": self.retryable,
            "retry_after_ms": self.retry_after_ms,
            "details": self.details,
        }


class _Local(RequestError):
    """An error that the client found itself."""

    CODE: str
    RETRYABLE = False

    def __init__(
        self, message: str, *, retryable: bool | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        retryable = self.RETRYABLE if retryable is None else retryable
        super().__init__(message, code=self.CODE, retryable=retryable, details=details)

    def _arguments(self) -> dict[str, Any]:
        return {"message": self.message, "retryable": self.retryable, "details": self.details}


class WorkerDied(_Local):
    """The worker ended before it had answered. ``details``: ``exit_code`` or ``signal``, where known."""

    CODE = WORKER_DIED
    RETRYABLE = True


class StartFailed(_Local):
    """No worker became ready: it could not be started, ended, or wrote something else than ``ready``."""

    CODE = START_FAILED


class ProtocolError(_Local):
    """The worker wrote what is no protocol. Some of its output is lost, so all its requests fail."""

    CODE = PROTOCOL_ERROR


class ClientClosed(_Local):
    """The client was closed, or never started."""

    CODE = CLOSED


def from_chunk(chunk: Mapping[str, Any]) -> RequestError:
    """The error that a terminal ``error`` or ``cancelled`` chunk tells."""
    if chunk["type"] == CANCELLED:
        reason = chunk.get("reason")
        by_whom = "the worker was shut down" if reason == "shutdown" else "its host asked for it"
        return RequestError(
            f"The request was cancelled: {by_whom}.",
            code=CANCELLED,
            retryable=reason == "shutdown",
            details={"reason": reason},
        )
    details = chunk.get("details")
    return RequestError(
        str(chunk.get("error", "The worker gave no reason.")),
        code=str(chunk.get("code", "internal")),
        retryable=chunk.get("retryable") is True,
        retry_after_ms=chunk.get("retry_after_ms"),
        details=details if isinstance(details, dict) else None,
    )
