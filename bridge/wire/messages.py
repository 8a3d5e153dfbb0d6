"""Typed messages: the request envelope, the control commands' args, and what handlers may yield."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

PROTOCOL_VERSION: Final = 1
MAX_ID_BYTES: Final = 128
MAX_ID_INTEGER: Final = 2**53
MAX_COUNT: Final = 2**31

RequestId = str | int


class Envelope(msgspec.Struct):
    """A request line, its args still undecoded. Unknown fields are ignored (a newer host may send them).

    ``id`` is any JSON scalar here: what makes an id valid is checked by :func:`bridge.wire.codec`.
    """

    command: str
    id: str | int | float | bool | None = None
    args: msgspec.Raw = msgspec.Raw(b"{}")
    timeout_ms: int | None = None
    credit: int | None = None
    traceparent: Any = None


class CancelArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``cancel``: the target ends with ``cancelled``."""

    target: str | int


class CreditArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``credit``: grants ``n`` more chunks to the target."""

    target: str | int
    n: int


class ToolResultArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``tool_result``: answers a ``tool_call`` chunk with exactly one of ``value`` and ``error``."""

    target: str | int
    call_id: str
    value: Any = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class ShutdownArgs(msgspec.Struct, forbid_unknown_fields=True):
    """``shutdown``: drain within ``grace_ms`` milliseconds, or abort at once."""

    mode: str = "drain"
    grace_ms: int | None = None


CONTROLS: Final[dict[str, type[msgspec.Struct]]] = {
    "cancel": CancelArgs,
    "credit": CreditArgs,
    "tool_result": ToolResultArgs,
    "shutdown": ShutdownArgs,
}


def snake_case(name: str) -> str:
    """``ItemError`` -> ``item_error``: a chunk class's default ``type``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class Chunk(msgspec.Struct, tag_field="type", tag=snake_case, kw_only=True):
    """Base of typed chunks; ``type`` is the class's tag (its name in snake case unless given).

    >>> class Row(Chunk, tag="row"):
    ...     n: int
    """


class FinalChunk(Chunk):
    """Base of typed chunks that end their request well."""


class Final_:
    """A plain mapping marked as its request's last chunk; made by :func:`final`."""

    __slots__ = ("payload",)

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self.payload = payload


def is_final(payload: Any) -> bool:
    """Whether a handler marked this as its request's last chunk."""
    return isinstance(payload, (Final_, FinalChunk))


def final(payload: Mapping[str, Any]) -> Final_:
    """Mark ``payload`` as the request's last chunk: ``yield final({"type": "complete", "total": 4})``."""
    return Final_(payload)
