"""Decoding: any bytes give a request or one error; encoding keeps what JSON can hold."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import BridgeError, Code
from bridge.wire.codec import LineError, decode_args, decode_request, escape_separators, exceeds_depth
from bridge.wire.messages import Envelope

DEPTH = 12
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)
TRICKY = st.text(alphabet='[]{}"\\ab:,0 \n', max_size=60)
VALID_IDS = (
    st.text(min_size=1, max_size=40).filter(lambda text: len(text.encode()) <= 128)
    | st.integers(-(2**53), 2**53)
    | st.sampled_from(["1", 1, 0, -1, "\x00", "é" * 64, "x" * 128, "\u2028", "%s%d%", '"\\', 2**53, -(2**53)])
)
INVALID_IDS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.sampled_from(["", "x" * 129, "é" * 65, 2**53 + 1, -(2**53) - 1, 2**70, 1.0, [], {}, [1], {"a": 1}])
)


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def refused(line: bytes, depth: int = DEPTH) -> LineError:
    with pytest.raises(LineError) as caught:
        decode_request(line, depth)
    return caught.value


@given(st.binary(max_size=200) | JSON.map(dump) | TRICKY.map(str.encode))
@example(b'{"id":"a","command":"x","args":{"a":"\\ud800"}}')
@example(b'{"id":"\\ud800","command":"x"}')
@example(b'{"id":"a","command":"\xff"}')
@example(b'{"id":"a","command":"x","zz":"\xff"}')
@example(b'{"id":"a","command":"x","zz":1e999}')
@example(b'{"id":"a","command":"x"}trailing')
@example(b'{"id":"a","command":"x","args":{"a":NaN}}')
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'{"id":"a","command":"x","args":{"n":' + b"9" * 5000 + b"}}")
@example(b'{"id":' + b"9" * 5000 + b',"command":"x"}')
def test_any_bytes_give_a_request_or_one_error(line: bytes) -> None:
    try:
        request = decode_request(line, DEPTH)
    except LineError as error:
        refusal: BridgeError | None = error.error
    else:
        assert isinstance(request.command, str)
        refusal = args_refusal(request)
    if refusal is not None:
        known = (Code.PARSE_ERROR, Code.INVALID_REQUEST, Code.INVALID_ARGS, Code.LIMIT_EXCEEDED)
        assert refusal.code in known
        assert refusal.message
        json.dumps(refusal.to_chunk())


def args_refusal(request: Envelope) -> BridgeError | None:
    try:
        assert isinstance(decode_args(request.args, dict), dict)
    except BridgeError as error:
        return error
    return None


@given(VALID_IDS, st.dictionaries(st.text(max_size=6), SCALARS, max_size=4))
def test_a_good_line_gives_back_what_was_written(request_id: str | int, args: dict[str, Any]) -> None:
    line = dump(
        {"id": request_id, "command": "x", "args": args, "timeout_ms": 5, "credit": 2**31, "new": [1]}
    )
    request = decode_request(line, DEPTH)
    assert (request.id, type(request.id)) == (request_id, type(request_id))
    assert (request.timeout_ms, request.credit) == (5, 2**31)
    assert decode_args(request.args, dict) == args


@given(INVALID_IDS)
def test_what_is_no_id_is_an_invalid_request_with_the_id_null(request_id: Any) -> None:
    error = refused(dump({"id": request_id, "command": "x"}))
    assert error.request_id is None
    assert error.error.code == Code.INVALID_REQUEST
    assert error.error.details is not None
    assert error.error.details["path"] == "$.id"


@given(VALID_IDS, st.integers() | st.none() | st.booleans() | st.lists(st.integers(), max_size=2))
def test_of_a_bad_envelope_the_id_is_read(request_id: str | int, command: Any) -> None:
    error = refused(dump({"command": command, "id": request_id}))
    assert (error.request_id, type(error.request_id)) == (request_id, type(request_id))
    assert error.error.code == Code.INVALID_REQUEST
    assert error.error.details == {"path": "$.command"}


@pytest.mark.parametrize("name", ["timeout_ms", "credit"])
@pytest.mark.parametrize("value", [0, -1, 2**31 + 1, 2**70, 1.5, "5", True, [], {}])
def test_counts_are_between_1_and_2_to_the_31(name: str, value: Any) -> None:
    error = refused(dump({"id": "a", "command": "x", name: value}))
    assert error.request_id == "a"
    assert error.error.code == Code.INVALID_REQUEST
    assert error.error.details == {"path": f"$.{name}"}


@pytest.mark.parametrize("args", [[], "x", 5, True, 1.5])
def test_args_that_are_no_object_are_invalid_args(args: Any) -> None:
    request = decode_request(dump({"id": "a", "command": "x", "args": args}), DEPTH)
    with pytest.raises(BridgeError) as caught:
        decode_args(request.args, dict)
    assert caught.value.code == Code.INVALID_ARGS
    assert caught.value.details == {"path": "$.args"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"id":"a","id":"b","command":"x"}', "b"),
        (b'{"id":[1],"id":"b","command":"x"}', "b"),
        (b'{"command":5,"id":"b","command":"x"}', "b"),
        (b'{"id":"b","command":"x","timeout_ms":"no","timeout_ms":5}', "b"),
        (b'{"id":{"deep":[[]]},"id":7,"command":"x"}', 7),
    ],
)
def test_of_duplicate_keys_the_last_wins(line: bytes, expected: str | int) -> None:
    request = decode_request(line, DEPTH)
    assert request.id == expected
    assert request.command == "x"


def test_the_last_of_duplicate_args_wins() -> None:
    request = decode_request(b'{"id":"b","command":"x","args":[1],"args":{"a":1,"a":2}}', DEPTH)
    assert decode_args(request.args, dict) == {"a": 2}


@pytest.mark.parametrize(
    "line",
    [
        b"nope", b"{", b"}", b'{"id":1', b'{"id":1}}', b"\x00", b"\xff\xfe", b"{'id':1}", b'{"id":01}',
        b"// x",
        b'{"id":"a","command":"\xff"}', b'{"id":"a","command":"\xc3"}', b'{"id":"a","command":"x",}',
        b'{"id":"a","command":"\\x"}', b'{"id":"a","command":"tab\t"}', b'{"id":"a"}{"id":"b"}',
    ],
)  # fmt: skip
def test_what_is_no_json_is_a_parse_error(line: bytes) -> None:
    error = refused(line)
    assert error.error.code == Code.PARSE_ERROR
    assert error.request_id is None


@pytest.mark.parametrize("line", [b"[]", b"1", b"1.5", b'"x"', b"null", b"true", b"[{}]"])
def test_json_that_is_no_object_is_an_invalid_request(line: bytes) -> None:
    error = refused(line)
    assert error.error.code == Code.INVALID_REQUEST
    assert error.error.details == {"path": "$"}


def depth_of(value: Any) -> int:
    """Levels of nesting, the value's own included."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(JSON, st.integers(1, 8), st.booleans())
def test_depth_is_exact(value: Any, limit: int, spaced: bool) -> None:
    text = json.dumps(value, indent=1 if spaced else None).encode()
    assert exceeds_depth(text, limit) == (depth_of(value) > limit)


@given(TRICKY, st.integers(1, 6))
def test_brackets_in_strings_are_no_depth(text: str, limit: int) -> None:
    line = json.dumps({"list": [text], "key " + text: text}).encode()
    assert exceeds_depth(line, limit) == (limit < 2)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("limit", [8, 128, 900])
def test_the_lines_own_object_is_depth_1(extra: int, opening: str, limit: int) -> None:
    levels = limit - 2 + extra  # the line's own object and args are two
    closing = "]" if opening == "[" else "}"
    inner = opening * levels + ("" if opening == "[" else "1") + closing * levels
    line = f'{{"id":"deep","command":"x","args":{{"a":{inner}}}}}'.encode()
    if not extra:
        assert decode_request(line, limit).id == "deep"
        return
    error = refused(line, limit)
    assert error.error.code == Code.LIMIT_EXCEEDED
    assert error.error.details == {"limit": "max_depth", "max": limit}
    assert error.request_id == "deep"


def test_hostile_nesting_and_strings_take_no_time() -> None:
    for line in (b"[" * 2_000_000, b'{"a":"' + b"\\" * 2_000_000, b'["' * 1_000_000, b'{"a":' * 400_000):
        assert refused(line, 128).error.code in (Code.LIMIT_EXCEEDED, Code.PARSE_ERROR)


@given(st.integers())
@example(2**64)
@example(-(2**63) - 1)
@example(10**400)
def test_integers_of_any_size_are_read_exactly(number: int) -> None:
    request = decode_request(b'{"id":"a","command":"x","args":{"n":%d,"l":[%d]}}' % (number, number), DEPTH)
    assert decode_args(request.args, dict) == {"n": number, "l": [number]}


class Inner(msgspec.Struct):
    text: str


class Outer(msgspec.Struct):
    items: list[Inner]
    n: int = 1


@pytest.mark.parametrize(
    ("args", "path", "named"),
    [
        ({"items": [{"text": "a"}, {"text": 5}]}, "$.args.items[1].text", "text"),
        ({"items": [], "zz": 1}, "$.args.zz", "zz"),
        ({}, "$.args.items", "items"),
        ({"items": [{}]}, "$.args.items[0].text", "text"),
        ({"items": 5}, "$.args.items", "items"),
        ({"items": [], "n": "x"}, "$.args.n", "n"),
    ],
)
def test_wrong_args_name_the_place(args: Any, path: str, named: str) -> None:
    with pytest.raises(BridgeError) as caught:
        decode_args(msgspec.Raw(dump(args)), Outer)
    assert caught.value.code == Code.INVALID_ARGS
    assert caught.value.details == {"path": path}
    assert named in caught.value.message


@given(st.text())
def test_escaping_separators_keeps_the_value(text: str) -> None:
    text = text.encode(errors="replace").decode() + "\u2028\u2029\x85"
    line = json.dumps({text: text}, ensure_ascii=False).encode()
    escaped = bytes(escape_separators(line))
    assert json.loads(escaped) == {text: text}
    assert not any(separator in escaped for separator in (b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85"))


def test_an_envelope_without_args_has_empty_ones() -> None:
    assert decode_args(Envelope(command="x").args, dict) == {}
