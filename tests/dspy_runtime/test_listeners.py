"""What the streaming commands make of a call's events, and values as texts."""

from __future__ import annotations

import asyncio
import datetime
import decimal
from collections.abc import Callable
from typing import Any, Literal

import dspy
import pydantic
import pytest

from bridge.dspy_runtime.field_readers import Kind
from bridge.dspy_runtime.listeners import Lines, ThoughtListener, TokenListener
from bridge.dspy_runtime.streaming import is_text, value_text
from tests.support.streams import cut


def heard(listener: Callable[[Any], TokenListener], *events: tuple[Kind, str, str]) -> list[dict[str, Any]]:
    """What a listener of the commands sends of one call's events."""
    sent: list[dict[str, Any]] = []

    async def emit(chunk: dict[str, Any]) -> None:
        sent.append(chunk)

    async def main() -> None:
        hearing = listener(emit)
        await hearing.started()
        for event in events:
            await hearing.event(*event)

    asyncio.run(main())
    return sent


@pytest.mark.parametrize("tokens", [True, False])
def test_a_token_listener_tells_deltas_only(tokens: bool) -> None:
    events = [(Kind.THOUGHT, "", "x"), (Kind.DELTA, "a", "b"), (Kind.LINE, "a", ""), (Kind.DONE, "a", "")]
    sent = heard(lambda emit: TokenListener(emit, tokens=tokens), *events)
    assert sent == [{"type": "token", "field": "a", "delta": "b"}] * tokens


def test_an_answer_before_the_reasoning() -> None:
    events = [(Kind.DELTA, "answer", "4"), (Kind.DONE, "answer", "")]
    events += [
        (Kind.DELTA, "reasoning", "Two\nand "),
        (Kind.DELTA, "reasoning", "two."),
        (Kind.DONE, "reasoning", ""),
    ]
    sent = heard(lambda emit: ThoughtListener(emit, tokens=False), *events)
    assert [chunk.get("status") or chunk["content"] for chunk in sent] == [
        "started",
        "answering",
        "Two",
        "and two.",
    ]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", []), ("\n\n", []), ("a", ["a"]), ("a\n", ["a"]), (" a \r\n\n\tb\n c", ["a", "b", "c"])],
)
def test_lines(text: str, wanted: list[str], size: int) -> None:
    lines = Lines()
    found = [line for piece in cut(text, size) for line in lines.add(piece)]
    assert found + lines.end() == wanted
    assert lines.end() == []


class Place(pydantic.BaseModel):
    name: str
    seen: datetime.date | None = None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("", ""),
        (' "a"\n', ' "a"\n'),
        (7, "7"),
        (10**30, "1" + "0" * 30),
        (0.5, "0.5"),
        (float("nan"), ""),
        (True, "true"),
        ([], "[]"),
        (["ü", 1, None], '["ü",1,null]'),
        ({"a": {"b": 1}}, '{"a":{"b":1}}'),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (decimal.Decimal("1.50"), "1.50"),
        (Place(name="x"), '{"name":"x","seen":null}'),
        ([Place(name="x", seen=datetime.date(2026, 1, 2))], '[{"name":"x","seen":"2026-01-02"}]'),
        (dspy.Reasoning(content="So.\nYes."), "So.\nYes."),
    ],
)
def test_values_as_texts(value: Any, text: str) -> None:
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (str, True),
        (str | None, True),
        (dspy.Reasoning, True),
        (int, False),
        (Literal["a"], False),
        (str | int, False),
        (int | None, False),
        (list[str], False),
        (Any, False),
    ],
)
def test_what_is_streamed_as_text(annotation: Any, text: bool) -> None:
    assert is_text(annotation) is text
