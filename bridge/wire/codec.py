"""Lines to requests, payloads to lines. Pure functions over bytes.

Decoding is msgspec's (a typed envelope, ``args`` left raw for the command's own Struct, integers of any
size exact). Encoding is orjson's: beside msgspec it is equal at 80 bytes and three times as fast at
10 KB, and it refuses what the wire's rules treat otherwise (keys that are no strings, integers beyond
64 bits, lone surrogates), which then takes the slow path.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Hashable
from typing import Any, Final, TypeVar, cast

import msgspec

from bridge.errors import BridgeError, Code, invalid_args
from bridge.wire.framing import packet
from bridge.wire.messages import MAX_COUNT, MAX_ID_BYTES, MAX_ID_INTEGER, Envelope, RequestId

T = TypeVar("T")
B = TypeVar("B", bytes, bytearray)

_decode_envelope: Final = msgspec.json.Decoder(Envelope).decode
_decode_any: Final = msgspec.json.Decoder().decode

_SEPARATORS: Final = (("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\x85", b"\\u0085"))
_encode_plain: Final = msgspec.json.Encoder(decimal_format="number").encode

# Patterns are compiled where they are first used (`re` keeps them): no start waits for that.
# Possessive quantifiers keep this linear on hostile input; an unterminated string matches to the end.
_STRING: Final = rb'(?s)"(?:[^"\\]++|\\.)*+"?'
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_UNKNOWN_FIELD: Final = r"(?s)unknown field `(.*)`$"
#: A name in an error message may come from a hostile line.
_MAX_NAME_CHARS: Final = 200
_OUT_OF_RANGE: Final = "Integer value out of range"
_MISSING_FIELD: Final = "missing required field `(.*?)`"


class LineError(Exception):
    """A line that is no request: what to tell the host, and the id if it could be read."""

    def __init__(self, error: BridgeError, request_id: RequestId | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.request_id = request_id


def decode_request(line: bytes, max_depth: int) -> Envelope:
    """The request a line holds.

    :raises LineError: ``parse_error`` for what is no JSON, ``invalid_request`` for a wrong envelope,
        ``limit_exceeded`` for nesting deeper than ``max_depth``.
    """
    try:
        request = _decode_envelope(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        request = _decode_carefully(line, max_depth)
    if not line.isascii():
        _check_utf8(line, request)
    if len(line) > 2 * max_depth and exceeds_depth(line, max_depth):
        raise LineError(_too_deep(max_depth), _lenient_id(request.id))
    _check_envelope(request)
    return request


def _decode_carefully(line: bytes, max_depth: int) -> Envelope:
    """The way for lines the typed decoder refused: what is sound is read all the same."""
    from bridge.wire import exact  # json is imported where a line needs it

    if exceeds_depth(line, max_depth):
        raise LineError(_too_deep(max_depth), _lenient_id(exact.leading_id(line)))
    try:
        value = exact.loads(line)
    except UnicodeDecodeError as error:
        raise LineError(_parse_error(f"invalid UTF-8 at byte {error.start}")) from None
    except (ValueError, RecursionError) as error:
        raise LineError(_parse_error(_reason(line, error))) from None
    if not isinstance(value, dict):
        message = f"A request is a JSON object, not {json_type(value)}."
        raise LineError(_invalid(message, "$"))
    request_id = _lenient_id(value.get("id"))
    args = value.pop("args", {})
    if not isinstance(value.get("traceparent"), str):
        value.pop("traceparent", None)
    try:  # a duplicate key's first value may be of the wrong type: only the last one counts
        request = msgspec.convert(value, Envelope, strict=True)
    except msgspec.ValidationError as error:
        message, path = _explain(error, "$")
        raise LineError(_invalid(message, path), request_id) from None
    request.args = args
    return request


def _reason(line: bytes, error: Exception) -> str:
    """Why a line is no JSON, with the place, in the fast decoder's words if it has some."""
    try:
        _decode_any(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as known:
        return str(known)
    except RecursionError:
        return "it is nested too deeply"
    return str(error)


def _check_utf8(line: bytes, request: Envelope) -> None:
    """Look into the fields that the typed decoder skips."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        reason = f"invalid UTF-8 at byte {error.start}"
        raise LineError(_parse_error(reason), _lenient_id(request.id)) from None


def _check_envelope(request: Envelope) -> None:
    if request.id is not None and not is_valid_id(request.id):
        message = (
            f"id must be a non-empty string of at most {MAX_ID_BYTES} bytes or an integer within ±2^53, "
            f"not {json_type(request.id)}."
        )
        if isinstance(request.id, (str, int)) and not isinstance(request.id, bool):
            message = message.replace(f", not {json_type(request.id)}", "")
        raise LineError(_invalid(message, "$.id"))
    for name in ("timeout_ms", "credit"):
        count = getattr(request, name)
        if count is not None and not 1 <= count <= MAX_COUNT:
            message = f"{name} must be between 1 and 2^31."
            raise LineError(_invalid(message, f"$.{name}"), _lenient_id(request.id))


def is_valid_id(value: object) -> bool:
    """Whether ``value`` can be a request's id. A boolean or a float (``1.0``) is none."""
    if isinstance(value, str):
        return bool(value) and (len(value) <= MAX_ID_BYTES // 4 or len(value.encode()) <= MAX_ID_BYTES)
    if isinstance(value, int) and not isinstance(value, bool):
        return -MAX_ID_INTEGER <= value <= MAX_ID_INTEGER
    return False


def _lenient_id(value: Any) -> RequestId | None:
    return value if is_valid_id(value) else None


def decode_args(raw: Any, args_type: type[T]) -> T:
    """``args`` (still raw, or read already by the careful way) as an ``args_type``: a Struct or ``dict``.

    :raises BridgeError: ``invalid_args`` with ``details.path``.
    """
    try:
        if not isinstance(raw, msgspec.Raw):
            return _convert_args(raw, args_type)
        decoder, unknown_allowed = args_decoder(cast(Hashable, args_type))
        args = decoder.decode(raw)
        if unknown_allowed:
            _refuse_unknown(msgspec.json.decode(raw, type=dict[str, msgspec.Raw]), args_type)
    except msgspec.ValidationError as error:
        if str(error).startswith(_OUT_OF_RANGE) and isinstance(raw, msgspec.Raw):
            return decode_args(_read_exactly(raw), args_type)
        message, path = _explain(error, "$.args")
        raise invalid_args(message, path) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return decode_args(_read_exactly(raw), args_type)
    return args  # type: ignore[no-any-return]  # Decoder[T] loses T in the cache


def _read_exactly(raw: msgspec.Raw) -> Any:
    from bridge.wire import exact

    try:
        return exact.loads(bytes(raw))
    except (ValueError, RecursionError) as error:
        raise _parse_error(str(error)) from None


def _convert_args(value: Any, args_type: type[T]) -> T:
    target: Any = dict[str, Any] if args_type is dict else args_type
    args: T = msgspec.convert(value, target, strict=True)
    if hasattr(args_type, "__struct_config__"):
        _refuse_unknown(value, args_type)
    return args


@functools.cache
def args_decoder(args_type: Hashable) -> tuple[msgspec.json.Decoder[Any], bool]:
    """The decoder for a type, and whether unknown keys must be looked for afterwards."""
    config = getattr(args_type, "__struct_config__", None)
    unknown_allowed = config is not None and not config.forbid_unknown_fields
    target: Any = dict[str, Any] if args_type is dict else args_type
    return msgspec.json.Decoder(target), unknown_allowed


def _refuse_unknown(value: dict[str, Any], args_type: type) -> None:
    known = set(args_type.__struct_encode_fields__)  # type: ignore[attr-defined]  # it is a Struct
    if unknown := [key for key in value if key not in known]:
        raise msgspec.ValidationError(f"Object contains unknown field `{unknown[0]}`")


def _explain(error: msgspec.ValidationError, root: str) -> tuple[str, str]:
    """A sentence and a path (``$.args.items[0].text``) from msgspec's message, which is about ``root``."""
    message, separator, path = str(error).rpartition(" - at `")
    if not separator:
        message, path = path, "$"
    path = path.rstrip("`").removeprefix("key in `")
    path = root + path[:_MAX_NAME_CHARS].removeprefix("$")
    if unknown := re.search(_UNKNOWN_FIELD, message):
        name = unknown[1][:_MAX_NAME_CHARS]
        return f"Unknown field {name!r}.", f"{path}.{name}"
    if missing := re.search(_MISSING_FIELD, message):
        return f"The field {missing[1]!r} is missing.", f"{path}.{missing[1]}"
    return f"{message.replace('`', '')[:1000]} at {path}.", path


def _parse_error(reason: str) -> BridgeError:
    reason = reason.removeprefix("JSON is malformed: ")
    return BridgeError(f"The line is no valid JSON: {reason}.", code=Code.PARSE_ERROR)


def _invalid(message: str, path: str) -> BridgeError:
    return BridgeError(message, code=Code.INVALID_REQUEST, details={"path": path})


def _too_deep(max_depth: int) -> BridgeError:
    details = {"limit": "max_depth", "max": max_depth}
    message = f"The line is nested deeper than {max_depth} levels."
    return BridgeError(message, code=Code.LIMIT_EXCEEDED, details=details)


def json_type(value: object) -> str:
    """The JSON name of a decoded value's type, with its article, for error messages."""
    for kind, name in _JSON_TYPES:
        if isinstance(value, kind):
            return name
    return "null" if value is None else f"a {type(value).__name__}"


_JSON_TYPES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a number with a fraction"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)


def exceeds_depth(text: bytes, limit: int) -> bool:
    """Whether JSON ``text`` nests deeper than ``limit`` levels (``{"a": 1}`` is one level).

    Nearly every text has no more opening brackets than ``limit``. Deleting up to one more than that of
    each kind counts them (bytes.replace searches with memchr, fifteen times as fast as bytes.count). The
    exact way takes one pass a level over what is left when all but the brackets outside strings is gone.
    """
    kept = len(text.replace(b"{", b"", limit + 1)) + len(text.replace(b"[", b"", limit + 1))
    if 2 * len(text) - kept <= limit:
        return False
    brackets = re.sub(_STRING, b"", text).translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(limit):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def encode_plain(value: Any) -> bytes:
    """What :func:`bridge.wire.fallback.plain` made as JSON: exact for integers of every size."""
    return _encode_plain(value)


def unbound_chunk(payload: Any, *, packet4: bool) -> bytes:
    """A chunk, framed, that belongs to no request: ``"id":null``, no ``seq``, no ``done``.

    ``payload`` is a mapping that :func:`bridge.wire.fallback.plain` could have made.
    """
    line = escape_separators(b'{"id":null,' + _encode_plain(payload)[1:])
    return packet(line) if packet4 else line + b"\n"


def escape_separators(text: B) -> B:
    """``text`` with U+2028, U+2029 and U+0085 written as escapes; itself when it has none.

    Outside strings JSON is ASCII, so replacing bytes is safe. Searching for one byte runs at memory speed,
    for two at a hundredth of it: first look whether the bytes the three consist of are there at all, then
    for the characters in the decoded text.
    """
    if text.isascii() or not (
        (0xE2 in text and (0xA8 in text or 0xA9 in text)) or (0xC2 in text and 0x85 in text)
    ):
        return text
    characters = text.decode()
    for character, escape in _SEPARATORS:
        if character in characters:
            text = text.replace(character.encode(), escape)
    return text
