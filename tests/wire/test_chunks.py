"""Encoding: whatever a handler yields becomes one valid line that keeps PROTOCOL's rules for any value."""

from __future__ import annotations

import base64
import json
import math
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import Chunk, FinalChunk, final
from bridge.wire.chunks import ChunkFormat
from tests.support import odd_values
from tests.support.odd_values import Faulty, Model, Plain, Point, Record, nested
from tests.support.wirecheck import Checker, Cutter

DEPTH = 16
LIMIT = 4096
FORMATS = {
    name: ChunkFormat(framing=name, max_line_bytes=LIMIT, max_depth=DEPTH) for name in ("lines", "packet4")
}


def written(payload: Any, framing: str = "lines", *, seq: int = 0, done: bool = False) -> bytes:
    """One chunk's JSON text. Line framing's separators are escaped by the writer, as they are here."""
    from bridge.wire.codec import escape_separators

    out = bytearray()
    chunk_format = FORMATS[framing]
    chunk_format.append(out, chunk_format.head("r%1") + b"%d" % seq, payload, done)
    texts = Cutter(framing).feed(bytes(escape_separators(bytes(out)) if framing == "lines" else out))
    assert len(texts) == 1
    return texts[0]


def chunk(payload: Any, framing: str = "lines", *, seq: int = 0, done: bool = False) -> dict[str, Any]:
    checker = Checker()
    checker.parse(b'{"id":null,"type":"ready"}')
    text = written(payload, framing, seq=seq, done=done)
    if seq == 0:
        checker.parse(text)
    keys = list(json.loads(text))
    assert keys[:2] == ["id", "seq"]
    if done:
        assert keys[-1] == "done"
    return json.loads(text)  # type: ignore[no-any-return]  # json.loads gives Any


def sent(value: Any) -> Any:
    """What a host reads where a handler wrote ``value``, the same in both framings."""
    found = chunk({"type": "v", "value": value})["value"]
    assert chunk({"type": "v", "value": value}, "packet4")["value"] == found
    return found


KEYS = st.text(max_size=5) | st.integers() | st.floats() | st.booleans() | st.none()
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.text(st.characters(categories=["Cs", "Ll"]), max_size=4)
    | st.binary(max_size=8)
    | st.decimals(allow_nan=True)
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.times(timezones=st.none() | st.timezones())
    | st.timedeltas()
    | st.uuids()
    | st.complex_numbers()
    | st.builds(Plain)
    | st.builds(Faulty)
    | st.builds(object)
    | st.sampled_from([*odd_values.Colour, *odd_values.Level, int, print, ..., json]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS | st.tuples(st.integers()) | st.builds(Faulty), inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.builds(Point, st.integers(), inner)
        | st.builds(Record, st.integers(), inner)
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=4)
    ),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(ANYTHING, st.booleans(), st.sampled_from(["lines", "packet4"]))
def test_any_value_is_one_valid_line(value: Any, done: bool, framing: str) -> None:
    for payload in (
        value,
        {"value": value},
        {"type": "t", "value": value, "z": [value]},
        final({"v": value}),
    ):
        found = chunk(payload, framing, done=done)
        assert found["id"] == "r%1"
        assert ("done" in found) is done
        assert depth_of(found) <= DEPTH + 1  # a marker for what is too deep is an object itself


@given(st.dictionaries(KEYS | st.sampled_from(["id", "seq", "done", "type"]), ANYTHING, max_size=8))
def test_a_payload_never_shadows_the_workers_keys(payload: dict[Any, Any]) -> None:
    text = written(payload, seq=7, done=True)
    names = [name for name, _ in json.loads(text, object_pairs_hook=list)]
    assert names[:2] == ["id", "seq"]
    assert names[-1] == "done"
    assert {name: names.count(name) for name in ("id", "seq", "done", "type")} == dict.fromkeys(
        ("id", "seq", "done", "type"), 1
    )


class Sly:
    """A key that only its text shows to be one of the worker's."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class SlyText(str):
    """A string that does not compare as one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return 1


@pytest.mark.parametrize("sly", [Sly, SlyText])
@pytest.mark.parametrize("name", ["id", "seq", "done"])
def test_a_key_in_disguise_shadows_nothing(sly: Any, name: str) -> None:
    pairs = json.loads(written({"type": "t", sly(name): "mine", "n": 1}, seq=7), object_pairs_hook=list)
    assert [key for key, _ in pairs].count(name) == (name != "done")
    assert "mine" not in [value for _, value in pairs]


class Shadow(Chunk):
    id: str
    done: bool = False


def test_a_typed_chunk_shadows_nothing_either() -> None:
    assert chunk(Shadow(id="other", done=True)) == {"id": "r%1", "seq": 0, "type": "shadow"}


@given(st.integers())
def test_integers_of_any_size_are_written_exactly(number: int) -> None:
    for big in (number, number * 2**64, -(10**40) + number):
        assert sent(big) == big
        assert sent([{"a": big}]) == [{"a": big}]


def test_an_integer_of_thousands_of_digits_is_written_exactly() -> None:
    text = written({"type": "v", "value": 10**4200})  # beyond Python's own limit for str(int) is 4300
    assert b"1" + b"0" * 4200 in text or b"limit_exceeded" in text


def test_an_integer_beyond_pythons_digit_limit_ends_no_stream() -> None:
    big = ChunkFormat(framing="lines", max_line_bytes=100_000, max_depth=DEPTH)
    out = bytearray()
    big.append(out, big.head("a") + b"0", {"type": "v", "value": 10**9000, "n": 1})
    assert out.startswith(b'{"id":"a","seq":0,"type":"v"')
    assert b"1" + b"0" * 9000 in out, "integers of any size exactly"


@given(st.floats())
def test_nan_and_infinities_become_null(number: float) -> None:
    expected = number if math.isfinite(number) else None
    assert sent(number) == expected
    assert sent({"deep": [number, 2**70]}) == {"deep": [expected, 2**70]}


@given(st.text(st.characters(categories=["Cs", "Ll", "Lo", "Zl", "Zp", "Cc"]), max_size=12))
def test_lone_surrogates_become_the_replacement_character(text: str) -> None:
    found = sent([text, {text: 1}])
    expected = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in joined(text))
    assert found == [expected, {expected: 1}]


def joined(text: str) -> str:
    """A high and a low surrogate side by side are one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if has_pair(text) else text


def has_pair(text: str) -> bool:
    return any("\ud800" <= a <= "\udbff" and "\udc00" <= b <= "\udfff" for a, b in pairwise(text))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (1, "1"), (-5, "-5"), (2**70, str(2**70)), (True, "true"), (False, "false"), (None, "null"),
        (1.5, "1.5"), (1e300, "1e+300"), ((1, 2), "(1, 2)"), ("a\ud800", "a\ufffd"), (float("nan"), "null"),
        (b"x", "b'x'"), (Faulty(), "Faulty"), ("\u2028", "\u2028"),
    ],
)  # fmt: skip
def test_keys_become_their_json_text_others_str(key: Any, text: str) -> None:
    assert list(sent({key: 1})) == [text]
    assert list(sent([{"a": {key: 1}}])[0]["a"]) == [text]
    assert chunk({"type": "t", key: 1})[text] == 1


EXPECTED: dict[str, Any] = {
    "decimal": "1.10",
    "datetime": "2026-01-02T03:04:05+00:00",
    "naive": "2026-01-02T03:04:05.000600",
    "date": "2026-01-02",
    "time": "03:04:05",
    "delta": "P1DT2S",
    "uuid": "00000000-0000-0000-0000-000000000001",
    "set": [1],
    "frozenset": [2],
    "tuple": [1, [2]],
    "deque": [1, 2],
    "bytes": base64.b64encode(b"\x00\xff").decode(),
    "bytearray": "YWI=",
    "memoryview": "YWI=",
    "dataclass": {"x": 1, "y": {"x": 2, "y": None}},
    "model": {"name": "n", "when": "2026-01-02", "inner": {"x": 1, "y": None}},
    "struct": {"a": 1},
    "enum": ["red", [1, 2], 1],
    "mapping": {"a": {"b": 1}},
    "object": {"__repr__": "<Plain thing>"},
    "faulty": [1, {"__repr__": "Faulty"}, 2],
    "cycle": {"n": 1, "self": {"__repr__": "dict"}},
    "ring": [1, [{"__repr__": "list"}]],
    "inf": [None, None],
}


@pytest.mark.parametrize(
    ("name", "value"), odd_values.ODD_VALUES, ids=[name for name, _ in odd_values.ODD_VALUES]
)
def test_any_value_a_handler_yields_is_written(name: str, value: Any) -> None:
    found = sent(value)
    if name in EXPECTED:
        assert found == EXPECTED[name]
    # The same beside something that only the slow way can write.
    assert sent([2**80, value]) == [2**80, found] or "deep" in name


def test_a_whole_payload_may_be_any_mapping_struct_or_model() -> None:
    assert chunk(Record(a=1)) == {"id": "r%1", "seq": 0, "type": "chunk", "a": 1}
    from types import MappingProxyType

    assert chunk(MappingProxyType({"type": "t"})) == {"id": "r%1", "seq": 0, "type": "t"}


@pytest.mark.parametrize("payload", [[1, 2], "text", None, 5, True, 1.5, (1,)])
def test_what_is_no_mapping_is_sent_as_a_value(payload: Any) -> None:
    expected = list(payload) if isinstance(payload, tuple) else payload
    assert chunk(payload) == {"id": "r%1", "seq": 0, "type": "chunk", "value": expected}


@pytest.mark.parametrize("kind", [5, None, ["t"], 1.5])
def test_a_type_that_is_no_string_is_chunk(kind: Any) -> None:
    assert chunk({"type": kind, "n": 1}) == {"id": "r%1", "seq": 0, "type": "chunk", "n": 1}


class Verdict(FinalChunk, tag="verdict"):
    ok: bool
    note: str | msgspec.UnsetType = msgspec.UNSET


class ItemError(Chunk):
    index: int


def test_typed_chunks_carry_their_tag_and_no_absent_fields() -> None:
    assert chunk(Verdict(ok=True), done=True) == {
        "id": "r%1",
        "seq": 0,
        "type": "verdict",
        "ok": True,
        "done": True,
    }
    assert chunk(ItemError(index=1)) == {"id": "r%1", "seq": 0, "type": "item_error", "index": 1}


class Renamed(Chunk, rename="camel"):
    first_name: str
    last_seen: int | None = None
    note: str | msgspec.UnsetType = msgspec.UNSET


class Untagged(msgspec.Struct):
    a: int
    b: int


class Numbered(msgspec.Struct, tag_field="type", tag=3):
    a: int
    b: int


class Elsewhere(msgspec.Struct, tag_field="kind", tag="x"):
    a: int
    type: str


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (Renamed(first_name="A"), {"type": "renamed", "firstName": "A", "lastSeen": None}),
        (
            Renamed(first_name="A", last_seen=1, note="n"),
            {"type": "renamed", "firstName": "A", "lastSeen": 1, "note": "n"},
        ),
        (Untagged(1, 2), {"type": "chunk", "a": 1, "b": 2}),
        (Numbered(1, 2), {"type": "chunk", "a": 1, "b": 2}),
        (Elsewhere(1, "t"), {"type": "t", "kind": "x", "a": 1}),
    ],
)
def test_structs_of_all_kinds_are_chunks(typed: Any, expected: dict[str, Any]) -> None:
    for framing in FORMATS:
        assert chunk(typed, framing) == {"id": "r%1", "seq": 0, **expected}


def test_a_struct_whose_annotations_can_not_be_resolved_is_a_chunk() -> None:
    class Local(Chunk):
        a: Nowhere  # type: ignore[name-defined]  # noqa: F821 - as behind TYPE_CHECKING
        b: int

    assert chunk(Local(a=1, b=2)) == {"id": "r%1", "seq": 0, "type": "local", "a": 1, "b": 2}


# Tuples 5,000 deep are orjson's own trap: 3.12 and 3.13 do not count them and write beyond their buffer.
@pytest.mark.parametrize("extra", [0, 1, 2, 100, 300, 5000])
@pytest.mark.parametrize("kind", ["list", "dict", "tuple"])
def test_what_is_too_deep_becomes_its_type_name_at_that_place(kind: str, extra: int) -> None:
    """The line's own object is depth 1, so a value may have DEPTH - 1 levels."""
    levels = DEPTH - 1 + extra
    value: Any = {"list": [], "dict": {}, "tuple": ()}[kind]
    for _ in range(levels - 1):
        value = {"list": [value], "dict": {"k": value}, "tuple": (value,)}[kind]
    found = sent(value)
    for _ in range(DEPTH - 2):
        assert len(found) == 1
        found = found["k"] if kind == "dict" else found[0]
    if not extra:
        assert found == ({} if kind == "dict" else [])
    else:
        inner = found["k"] if kind == "dict" else found[0]
        assert inner == {"__repr__": kind}


def test_depth_inside_converted_values_counts_as_it_is_written() -> None:
    value = sent(Point(1, Point(2, nested(DEPTH + 5))))
    assert depth_of(value) <= DEPTH + 1


class Looping(Model):
    """A model whose field is itself."""


def test_cycles_through_objects_are_cut() -> None:
    point = Point(1)
    point.y = [point]
    assert sent(point) == {"x": 1, "y": [{"__repr__": "Point"}]}
    looping = Looping.model_construct(name="a", when=None, inner=None)
    looping.inner = {"again": looping}
    assert sent(looping)["inner"] == {"again": {"__repr__": "Looping"}}


def test_the_same_value_twice_is_no_cycle() -> None:
    shared = {"a": [2**70]}
    assert sent([shared, shared, {"x": shared}]) == [shared, shared, {"x": shared}]


class Boom:
    """Every attribute fails."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class BadMapping(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("items")


class BadKeys:
    def __str__(self) -> str:
        raise RuntimeError("str")

    __repr__ = __str__


class Endless:
    """Its ``repr`` recurses for ever."""

    def __repr__(self) -> str:
        return repr(self)


class Quitter:
    def __repr__(self) -> str:
        raise SystemExit(3)


@pytest.mark.parametrize("make", [Boom, BadMapping, BadKeys, Endless])
def test_values_that_fail_when_looked_at_end_no_stream(make: Any) -> None:
    assert sent([1, make(), 2])[::2] == [1, 2]
    assert chunk({"type": "t", "v": {"a": make(), 5: 1}})["v"]["5"] == 1


def test_a_repr_that_exits_does_not_leave_half_a_chunk() -> None:
    out = bytearray(b"before\n")
    lines = FORMATS["lines"]
    try:
        lines.append(out, lines.head("a") + b"0", {"type": "t", "v": Quitter()})
    except SystemExit:
        assert out == b"before\n"
    else:
        assert json.loads(out.splitlines()[1])["v"] == {"__repr__": "Quitter"}


@pytest.mark.parametrize("framing", ["lines", "packet4"])
def test_line_separators_are_written_escaped(framing: str) -> None:
    text = written({"type": "t", "\u2028": "\u2029\x85 \u0085", "v": ["\u2028" * 3]}, framing)
    assert not any(separator in text for separator in (b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85"))
    assert json.loads(text)["v"] == ["\u2028" * 3]


@pytest.mark.parametrize("filler", ["x", "é", "\u2028", "\\", "\x00", "😀"])
@pytest.mark.parametrize("framing", ["lines", "packet4"])
@given(size=st.integers(500, LIMIT + 200))
def test_no_line_is_over_the_limit_and_a_replaced_chunk_keeps_its_seq(
    filler: str, framing: str, size: int
) -> None:
    text = written(
        {"type": "t", "index": 3, "v": filler * (size // len(json.dumps(filler)) + 1)}, framing, seq=5
    )
    assert len(text) <= LIMIT
    found = json.loads(text)
    assert found["seq"] == 5
    if found["type"] == "error":
        assert found["code"] == "limit_exceeded"
        assert found["index"] == 3
        assert "done" not in found


def test_a_terminal_chunk_over_the_limit_stays_terminal() -> None:
    found = chunk(final({"type": "complete", "v": "x" * LIMIT}), done=True)
    assert (found["type"], found["code"], found["done"]) == ("error", "limit_exceeded", True)


@given(st.integers(0, LIMIT * 2))
def test_a_chunk_that_fits_is_sent_as_it_is(size: int) -> None:
    found = chunk({"type": "t", "v": "x" * size})
    fits = (
        len(json.dumps({"id": "r%1", "seq": 0, "type": "t", "v": "x" * size}, separators=(",", ":")))
        <= LIMIT - 64
    )
    if fits:
        assert found["v"] == "x" * size


@given(
    st.text(min_size=1, max_size=30).filter(lambda t: t.encode(errors="replace").decode() == t)
    | st.integers()
)
def test_ids_of_every_form_come_back_with_their_type(request_id: str | int) -> None:
    if isinstance(request_id, int):
        request_id %= 2**53
    for chunk_format in FORMATS.values():
        out = bytearray()
        chunk_format.append(out, chunk_format.head(request_id) + b"3", {"type": "t"})
        text = bytes(out[4:] if chunk_format is FORMATS["packet4"] else out)
        found = json.loads(text)
        assert (found["id"], type(found["id"]), found["seq"]) == (request_id, type(request_id), 3)


def test_numpy_scalars_and_arrays_are_their_values() -> None:
    numpy = pytest.importorskip("numpy")
    assert sent([numpy.float32(0.5), numpy.int64(3), numpy.bool_(True)]) == [0.5, 3, True]
    assert sent(numpy.array([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert sent({"a": numpy.array([1.0, float("nan")])}) == {"a": [1.0, None]}


def _as_of_numpy(cls: type) -> type:
    cls.__module__ = "numpy"
    return cls


@_as_of_numpy
class Array:
    """What an object array looks like to the encoder: of numpy, with ``tolist``."""

    def tolist(self) -> list[Any]:
        return [1, [float("nan"), Point(1)]]


def test_what_numpy_gives_as_a_list_is_written_as_one() -> None:
    assert sent(Array()) == [1, [None, {"x": 1, "y": None}]]


def test_a_payload_is_not_changed_by_writing_it() -> None:
    payload = {"type": "t", "id": 1, 5: {"a": (1, 2**70)}}
    before = repr(payload)
    chunk(payload)
    assert repr(payload) == before
