"""Errors as the host sees them: a message for its reader, a code, and whether to try again."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from bridge.redact import redact, redact_secrets, scrub


class Code(StrEnum):
    """Every error code of the wire protocol."""

    PARSE_ERROR = "parse_error"
    LINE_TOO_LONG = "line_too_long"
    INVALID_REQUEST = "invalid_request"
    INVALID_ARGS = "invalid_args"
    UNKNOWN_COMMAND = "unknown_command"
    UNKNOWN_PROGRAM = "unknown_program"
    UNKNOWN_LM = "unknown_lm"
    UNKNOWN_TOOL = "unknown_tool"
    DUPLICATE_ID = "duplicate_id"
    OVERLOADED = "overloaded"
    SHUTTING_DOWN = "shutting_down"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    LM_NOT_CONFIGURED = "lm_not_configured"
    LM_AUTH = "lm_auth"
    LM_BILLING = "lm_billing"
    LM_RATE_LIMIT = "lm_rate_limit"
    LM_TIMEOUT = "lm_timeout"
    LM_UNAVAILABLE = "lm_unavailable"
    LM_INVALID_REQUEST = "lm_invalid_request"
    LM_CONTEXT_WINDOW = "lm_context_window"
    LM_OUTPUT_INVALID = "lm_output_invalid"
    LM_ERROR = "lm_error"
    TOOL_ERROR = "tool_error"
    TOOL_TIMEOUT = "tool_timeout"
    PROGRAM_ERROR = "program_error"
    IO_ERROR = "io_error"
    LIMIT_EXCEEDED = "limit_exceeded"
    WORKER_DIED = "worker_died"
    WORKER_HUNG = "worker_hung"
    INTERNAL = "internal"


#: Codes whose cause is expected to pass: the same request may succeed later.
RETRYABLE = frozenset(
    {
        Code.OVERLOADED,
        Code.SHUTTING_DOWN,
        Code.DEADLINE_EXCEEDED,
        Code.LM_RATE_LIMIT,
        Code.LM_TIMEOUT,
        Code.LM_UNAVAILABLE,
        Code.TOOL_TIMEOUT,
        Code.WORKER_DIED,
        Code.WORKER_HUNG,
    }
)


class BridgeError(Exception):
    """A failure with a place in the protocol's table.

    ``retryable`` defaults to what the code usually means, ``retry_after_ms`` is a hint in
    milliseconds, ``details`` holds JSON values only.
    """

    def __init__(
        self,
        message: str,
        *,
        code: Code = Code.INTERNAL,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = code in RETRYABLE if retryable is None else retryable
        self.retry_after_ms = retry_after_ms
        self.details = details

    def to_chunk(self) -> dict[str, Any]:
        """The error's fields as they stand in an ``error`` chunk, secrets and paths removed."""
        chunk: dict[str, Any] = {
            "type": "error",
            "error": redact(self.message),
            "code": str(self.code),
            "retryable": self.retryable,
        }
        if self.retry_after_ms is not None:
            chunk["retry_after_ms"] = self.retry_after_ms
        if self.details:
            chunk["details"] = scrub(self.details)
        return chunk


def invalid_args(message: str, path: str) -> BridgeError:
    """An ``invalid_args`` error about the value at ``path`` (``$.args.items[2].text``)."""
    return BridgeError(message, code=Code.INVALID_ARGS, details={"path": path})


def debug_details(error: BaseException) -> dict[str, str]:
    """What ``--debug`` adds to an error's details: the traceback, without secrets."""
    import traceback  # not every worker has errors to show

    return {"traceback": redact_secrets("".join(traceback.format_exception(error)))}


def from_exception(error: BaseException) -> BridgeError:
    """The error a host is told when a handler raised ``error``."""
    if isinstance(error, BridgeError):
        return error
    text = str(error).strip()
    name = type(error).__name__
    message = f"The handler failed with {name}: {text}" if text else f"The handler failed with {name}."
    return BridgeError(message[:2000])
