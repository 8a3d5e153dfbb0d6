"""Writing chunks: whatever a handler yields becomes one framed line in a byte buffer.

This is the hot path. A chunk is encoded once, by orjson, behind a head made once per request; the
object's opening brace is overwritten by the comma that joins the two. (orjson's result is copied at
once: kept, it would hold 4 KB for a small object.)
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import orjson

from bridge.errors import BridgeError, Code
from bridge.wire.codec import encode_plain, escape_separators, exceeds_depth, unbound_chunk
from bridge.wire.fallback import convert, key_text, plain, struct_fields, struct_plan
from bridge.wire.framing import packet
from bridge.wire.messages import Final_, RequestId

RESERVED: Final = frozenset({"id", "seq", "done"})
COMMA: Final = ord(",")
_DONE: Final = b',"done":true}\n'
#: Room for ``seq``'s digits and ``done``, beyond the head and the payload.
_AROUND: Final = 32
LINE_OPTIONS: Final = (
    orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_APPEND_NEWLINE
)
_dumps = orjson.dumps


class ChunkFormat:
    """How chunks are written on one connection: framing and limits."""

    __slots__ = ("_max_bytes", "_max_depth", "packet4", "small")

    def __init__(self, *, framing: str, max_line_bytes: int, max_depth: int) -> None:
        self.packet4 = framing == "packet4"
        self._max_bytes = max_line_bytes
        self._max_depth = max_depth
        # A chunk of fewer bytes can be neither too deep (a level takes two brackets) nor, with every
        # separator escaped (three bytes become six), too long.
        self.small = min(2 * max_depth, max_line_bytes // 2)

    def head(self, request_id: RequestId) -> bytes:
        """The start of every chunk of a request, up to ``seq``'s digits."""
        return b'{"id":' + _dumps(request_id) + b',"seq":'

    def append(self, out: bytearray, start: bytes, payload: Any, done: bool = False) -> None:
        """Append one chunk, framed, to ``out``. Never fails, whatever ``payload`` is.

        ``start`` is the request's :meth:`head` with ``seq`` behind it.
        """
        self.place(out, start, self.encode(payload, len(start)), done)

    def encode(self, payload: Any, head_size: int) -> bytes:
        """The payload as a JSON object and LF, within the limits; ``head_size`` is what comes before it."""
        if (
            payload.__class__ is not dict
            or payload.get("type").__class__ is not str
            or "id" in payload
            or "seq" in payload
            or "done" in payload
        ):
            payload = self.mapping(payload)
        try:
            encoded = _dumps(payload, convert, LINE_OPTIONS)
        except (orjson.JSONEncodeError, RecursionError):
            encoded = self._rebuilt(payload)
        return self.checked(encoded, head_size, payload) if len(encoded) > self.small else encoded

    def place(self, out: bytearray, start: bytes, encoded: bytes, done: bool = False) -> None:
        """Append an encoded payload behind its head, framed."""
        if self.packet4:
            end = _DONE[:-1] if done else b"}"
            out += packet(escape_separators(start + b"," + encoded[1:-2] + end))
            return
        out += start
        join = len(out)
        out += encoded
        out[join] = COMMA
        if done:
            out[-2:] = _DONE

    def append_unbound(self, out: bytearray, payload: Mapping[str, Any]) -> None:
        """Append a chunk that belongs to no request (``"id":null``, no ``seq``, no ``done``)."""
        out += unbound_chunk(plain(payload, self._max_depth), packet4=self.packet4)

    def mapping(self, payload: Any) -> dict[str, Any]:
        """A handler's value as a chunk's fields: with a ``type``, without reserved keys."""
        if isinstance(payload, Final_):
            payload = payload.payload
        if isinstance(payload, msgspec.Struct):
            if (plan := chunk_plan(type(payload))) is not None:
                tag, names, get = plan
                values = get(payload)
                if msgspec.UnsetType not in map(type, values):
                    return dict(zip(names, (tag, *values), strict=True))
            fields = struct_fields(payload)
        elif isinstance(payload, Mapping):
            fields = {key_text(key): value for key, value in payload.items()}
        else:
            return {"type": "chunk", "value": payload}
        for name in RESERVED & fields.keys():
            del fields[name]
        kind = fields.get("type")
        if kind.__class__ is str:
            return fields
        if isinstance(kind, str):
            return {**fields, "type": str(kind)}
        return {"type": "chunk", **{key: value for key, value in fields.items() if key != "type"}}

    def _rebuilt(self, payload: Any) -> bytes:
        """The payload by the slow way; keys that only now are strings may not shadow the worker's."""
        return encode_plain(self.mapping(plain(payload, self._max_depth))) + b"\n"

    def checked(self, encoded: bytes, head_size: int, payload: Any) -> bytes:
        """A payload that is not small, or what stands in for it when it breaks a limit."""
        if exceeds_depth(encoded, self._max_depth):
            encoded = self._rebuilt(payload)
        around = head_size + _AROUND
        if (len(encoded) + around) * 2 > self._max_bytes:
            size = len(escape_separators(encoded)) + around
            if size > self._max_bytes:
                return encode_plain(_too_long(payload, size, self._max_bytes)) + b"\n"
        return encoded


@functools.cache
def chunk_plan(
    kind: type[msgspec.Struct],
) -> tuple[str, tuple[str, ...], Callable[[msgspec.Struct], tuple[Any, ...]]] | None:
    """How nearly all typed chunks become a mapping: the type, the names of all fields, the type's first, and
    what gets their values. None for those whose fields need a look at each."""
    fixed, fields = struct_plan(kind)
    names = ("type", *(encoded for _, encoded in fields))
    if list(fixed) != ["type"] or type(fixed["type"]) is not str or len(fields) < 2:
        return None  # (of one field, attrgetter gives no tuple)
    if RESERVED & {*names}:
        return None
    return fixed["type"], names, operator.attrgetter(*(name for name, _ in fields))


def _too_long(payload: Any, size: int, maximum: int) -> dict[str, Any]:
    message = f"A chunk of {size} bytes is over the limit for a line ({maximum} bytes) and was not sent."
    details = {"limit": "max_line_bytes", "max": maximum, "size": size}
    error = BridgeError(message, code=Code.LIMIT_EXCEEDED, details=details).to_chunk()
    index = payload.get("index")
    return {**error, "index": index} if isinstance(index, int) else error
