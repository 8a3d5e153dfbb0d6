"""However an answer is cut, the joined deltas of a field are the value that DSPy's adapter finds in it."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Literal, Optional

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.dspy_runtime import adapters
from bridge.dspy_runtime.field_readers import ChatReader, Event, Kind, Reader, XmlReader
from bridge.dspy_runtime.json_reader import JsonReader
from bridge.dspy_runtime.streaming import _Call, value_text

FIELDS: dict[str, Any] = {
    "reasoning": str,
    "answer": str,
    "note": Optional[str],  # noqa: UP045 - what a signature's text becomes
    "count": int,
    "tags": list[str],
    "mood": Literal["good", "bad"],
}
SIGNATURE = dspy.Signature(
    {"question": (str, dspy.InputField())}
    | {name: (kind, dspy.OutputField()) for name, kind in FIELDS.items()},
    "Answer.",
)
TEXTS = ("reasoning", "answer", "note")

LINES = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\v", "\x1c", "\x85", "\u2028", " \n", "\t"])
WORDS = st.sampled_from(
    [
        *("word", " two words ", "[[", "[[ ## ", "[[ ## x", "[[ ## answer ## ]", "]]", '"', "\\", "\\u00e9"),
        *("é😀", "{", "}", "[1, 2]", "<", "&lt;", "<b>", "</answer>", "null", "42", "- item", "…", "'"),
        *(",", ":", "\x1f"),
    ]
)
VALUE = st.lists(st.one_of(WORDS, LINES, st.text(max_size=4)), max_size=8).map("".join)


def cut(text: str, places: list[int]) -> list[str]:
    """``text`` in pieces; each place is taken modulo its length."""
    at = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[low:high] for low, high in pairwise(at)]


class Told:
    """A listener that keeps what it is told, as a host does."""

    prose = False

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.done: list[str] = []
        self.thoughts = ""
        self.sent: dict[str, int] = {}
        self.restarts = 0

    async def started(self) -> None:
        pass

    async def event(self, kind: Kind, field: str, text: str) -> None:
        assert field not in self.done
        if kind is Kind.DELTA:
            assert text
            self.fields[field] = self.fields.get(field, "") + text
        elif kind is Kind.DONE:
            self.done.append(field)
        elif kind is Kind.THOUGHT:
            self.thoughts += text

    async def restart(self) -> None:
        self.restarts += 1
        self.fields, self.done = {}, []

    async def answered(self, values: Any) -> None:
        self.values = values


def tell(adapter: str, pieces: list[str], signature: Any = SIGNATURE) -> tuple[Told, dict[str, Any]]:
    """What a listener is told of an answer that comes in ``pieces``, and what DSPy makes of it."""
    told, chosen = Told(), adapters.adapter(adapter)
    values = chosen.parse(signature, "".join(pieces))

    async def run() -> None:
        call = _Call(told, chosen, signature)
        for piece in pieces:
            delta = SimpleNamespace(content=piece, reasoning_content=None)
            await call.take(SimpleNamespace(choices=[SimpleNamespace(delta=delta)]))
        await call._settle(values)

    asyncio.run(run())
    return told, values


def check(adapter: str, text: str, places: list[int], *, restarts: bool) -> None:
    try:
        told, values = tell(adapter, cut(text, places))
    except (AdapterParseError, ValueError, RecursionError):
        return  # no prediction, nothing to compare
    assert {name: told.fields.get(name, "") for name in FIELDS} == {
        name: value_text(values[name]) for name in FIELDS
    }
    assert sorted(told.done) == sorted(FIELDS)
    assert restarts or not told.restarts


PLACES = st.lists(st.integers(0, 10_000), max_size=30)
CHAT_END = (
    "\n\n[[ ## count ## ]]\n7\n[[ ## tags ## ]]\n['a']\n\n[[ ## mood ## ]]\ngood\n[[ ## completed ## ]]"
)


@settings(max_examples=400)
@given(VALUE, VALUE, VALUE, VALUE, PLACES)
def test_chat(first: str, reasoning: str, answer: str, note: str, places: list[int]) -> None:
    text = f"{first}[[ ## reasoning ## ]]{reasoning}\n[[ ## answer ## ]]\n{answer}\n[[ ## note ## ]]\n{note}"
    check("chat", text + CHAT_END, places, restarts=False)


@settings(max_examples=300)
@given(st.text("\n\r [#]aswern:x", max_size=60), PLACES)
def test_chat_of_nothing_but_headers_and_spaces(text: str, places: list[int]) -> None:
    body = (
        f"[[ ## answer ## ]] {text}\n[[ ## reasoning ## ]]\n{text}\n[[ ## note ## ]]\n  [[ ## answer ## ]] x"
    )
    check("chat", body + CHAT_END, places, restarts=False)


@settings(max_examples=400)
@given(
    st.fixed_dictionaries({name: st.one_of(VALUE, st.text(max_size=8)) for name in TEXTS}),
    st.one_of(st.none(), st.integers(), st.booleans(), st.lists(st.text())),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.sampled_from(["", "```json\n", "Here it is: "]),
    PLACES,
)
def test_json(
    texts: dict[str, str],
    odd: Any,
    indent: int | None,
    ascii_only: bool,
    before: str,
    places: list[int],
) -> None:
    values = {"extra": odd, **texts, "count": 7, "tags": ["a", "b]"], "mood": "good"}
    text = before + json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    if before.startswith("`"):
        text += "\n```"
    # Wrapped in other text it is json_repair that reads it, with some rules of its own.
    check("json", text, places, restarts=bool(before))


@settings(max_examples=300)
@given(st.lists(st.one_of(WORDS, LINES, st.text(max_size=3)), max_size=30).map("".join), PLACES)
def test_json_that_needs_repair(text: str, places: list[int]) -> None:
    body = '{"reasoning": "' + text + '", "answer": ' + text + ', "note": "", "count": 7, "tags": [], '
    check("json", body + '"mood": "good"}', places, restarts=True)


@pytest.mark.parametrize("value", [5, 1.5, True, None, ["x"], {"a": 1}])
def test_json_values_of_other_types_in_a_text_field(value: Any) -> None:
    text = json.dumps({"reasoning": value, "answer": "", "note": None, "count": 1, "tags": [], "mood": "bad"})
    check("json", text, list(range(len(text))), restarts=False)


def test_json_surrogates_cut_anywhere() -> None:
    rest = '", "note": null, "count": 1, "tags": [], "mood": "bad", "reasoning": ""}'
    for escaped in (
        "\\ud83d\\ude00",
        "\\ud83d",
        "\\ude00x",
        "\\ud83d\\ud83d\\ude00",
        "\\ud83d\\n",
        "a\\u0041",
    ):
        text = '{"answer": "' + escaped + rest
        for place in range(len(text)):
            check("json", text, [place], restarts=False)
        check("json", text, list(range(len(text))), restarts=False)


XML_END = "<count>7</count><tags><item>a</item></tags>\n<mood>good</mood>"
XML_VALUE = st.lists(
    st.one_of(
        st.sampled_from(
            ["word", " two words ", "\n", "\r\n", "&lt;", "&amp;", "&#233;", "&quot;", "<![CDATA[<x>]]>"]
        ),
        st.sampled_from(["<!-- no -->", "]]", "é😀", "'", '"', "\t", " "]),
        st.text(st.characters(exclude_characters="<&", exclude_categories=("Cs", "Cc")), max_size=4),
    ),
    max_size=10,
).map("".join)


@settings(max_examples=400)
@given(XML_VALUE, XML_VALUE, XML_VALUE, PLACES)
def test_xml(reasoning: str, answer: str, note: str, places: list[int]) -> None:
    body = f"Sure.\n<reasoning>{reasoning}</reasoning>\n<answer>\n{answer}\n</answer>"
    text = f"{body}<note>{note}</note>{XML_END}"
    check("xml", text, places, restarts=False)


@settings(max_examples=300)
@given(VALUE, XML_VALUE, PLACES)
def test_xml_with_anything_inside(answer: str, note: str, places: list[int]) -> None:
    body = f"<reasoning>{note}<b>x</b>\n</reasoning><answer>{answer}</answer><note>{note}</note>"
    check("xml", body + XML_END, places, restarts=True)


def events(reader: Reader, pieces: list[str]) -> list[list[Event]]:
    return [*(reader.feed(piece) for piece in pieces), reader.finish()]


def whole(field: str, written: str) -> str | None:
    return written


def test_a_header_cut_at_any_byte_shows_nothing_of_itself() -> None:
    text = "[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]\n"
    for place in range(len(text) + 1):
        found = [
            e
            for turn in events(ChatReader(["answer"], ["answer"], whole), [text[:place], text[place:]])
            for e in turn
        ]
        deltas = [piece for kind, _, piece in found if kind is Kind.DELTA]
        assert "".join(deltas) == "Paris"
        assert found[-1] == (Kind.DONE, "answer", "")


@pytest.mark.parametrize(
    ("reader", "before", "line", "after"),
    [
        (ChatReader, "[[ ## r ## ]]\n", "Step one.\n", "Step two."),
        (ChatReader, "[[ ## r ## ]] ", "Step one. \r\n", "Step two."),
        (XmlReader, "<r>\n", "Step one.\n", "Step two."),
        (JsonReader, '{"r": "', "Step one.\\n", "Step two."),
    ],
)
def test_a_line_is_known_to_be_complete_before_the_next_one_begins(
    reader: type[Reader], before: str, line: str, after: str
) -> None:
    turns = events(reader(["r"], ["r"], whole), [before, line, after])
    text = "".join(piece for kind, _, piece in turns[1] if kind is Kind.DELTA)
    told = any(kind is Kind.LINE for kind, _, _ in turns[1])
    assert text == ("Step one.\n" if reader is JsonReader else "Step one.")
    assert told or text.endswith("\n")
    assert not any(kind is Kind.LINE for kind, _, _ in turns[2])


def test_deltas_are_not_held_back() -> None:
    for reader, start in ((ChatReader, "[[ ## r ## ]]\n"), (XmlReader, "<r>"), (JsonReader, '{"r": "')):
        turns = events(reader(["r"], ["r"], whole), [start, *(f"w{n} " for n in range(5))])
        assert [len(turn) for turn in turns[1:6]] == [1] * 5


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_hostile_answers_take_no_quadratic_time(adapter: str) -> None:
    start = {"chat": "[[ ## answer ## ]]\nx", "json": '{"answer": "', "xml": "<answer>x"}[adapter]
    for piece in (" ", "\n", "[", "\\u00e9" if adapter == "json" else "é", "<" if adapter == "chat" else "-"):
        call = _Call(Told(), adapters.adapter(adapter), SIGNATURE)
        reader = call._reader
        reader.feed(start)
        for _ in range(30_000):
            reader.feed(piece)
        reader.finish()
    for start in ("[[ ## ", '{"', "<", "\n"):
        reader = _Call(Told(), adapters.adapter(adapter), SIGNATURE)._reader
        reader.feed(start)
        for _ in range(30_000):
            reader.feed("a")
        reader.finish()
