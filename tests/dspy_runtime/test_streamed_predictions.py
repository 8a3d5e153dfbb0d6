"""The whole way: whatever a model says, cut anyhow, the deltas joined are the prediction's fields."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import dspy
import pytest
from dspy import lm15
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.dspy_runtime import adapters, loader
from bridge.dspy_runtime.answer_writer import write_answer
from bridge.dspy_runtime.streaming import FieldStream, value_text
from bridge.options import ServeOptions
from tests.dspy_runtime.test_field_readers import CHAT_END, PLACES, VALUE, XML_END, Told, cut

FIELDS = {"reasoning": "str", "answer": "str", "note": "Optional[str]", "count": "int", "tags": "list[str]"}


class Saying:
    """An engine that says the same pieces in every call."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def complete(self, request: Any) -> Any:
        raise AssertionError("it streams")

    def events(self, model: str) -> Iterator[Any]:
        yield lm15.StreamStartEvent(id=None, model=model)
        for piece in self.pieces:
            yield lm15.StreamDeltaEvent(delta=lm15.TextDelta(text=piece, part_index=0))
        yield lm15.StreamEndEvent(
            finish_reason="stop", usage=lm15.Usage(input_tokens=1, output_tokens=len(self.pieces))
        )


class AsyncSaying:
    def __init__(self, engine: Saying) -> None:
        self._engine = engine

    async def complete(self, request: Any) -> Any:
        raise AssertionError("it streams")

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        for event in self._engine.events(request.model):
            yield event

    async def aclose(self) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    loader.load(ServeOptions())


def predict(adapter: str, pieces: list[str]) -> tuple[Told, Any]:
    """What a listener is told, and the prediction; None if there is none."""
    engine = Saying(pieces)
    lm = dspy.LM("said", engine=engine, async_engine=AsyncSaying(engine), cache=False, num_retries=0)
    program = dspy.Predict("question -> " + ", ".join(f"{name}: {kind}" for name, kind in FIELDS.items()))
    told = Told()

    async def run() -> Any:
        stream = FieldStream({program: told})
        with dspy.context(lm=lm, adapter=adapters.adapter(adapter), send_stream=stream, stream_listeners=[]):
            try:
                return await program.acall(question="?")
            except (dspy.AdapterParseError, dspy.LMError):
                return None

    return told, asyncio.run(run())


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["chat", "json", "xml"]),
    st.lists(VALUE, min_size=3, max_size=3),
    st.sampled_from(["written", "raw"]),
    PLACES,
)
def test_deltas_joined_are_the_prediction(
    adapter: Any, texts: list[str], how: str, places: list[int]
) -> None:
    reasoning, answer, note = texts
    if how == "written":
        fields = {"reasoning": reasoning, "answer": answer, "note": note, "count": 7, "tags": ["a"]}
        text = write_answer(adapter, fields)
    elif adapter == "chat":
        text = f"[[ ## reasoning ## ]]{reasoning}\n[[ ## answer ## ]]\n{answer}\n"
        text += f"[[ ## note ## ]]{note}{CHAT_END}"
    elif adapter == "xml":
        text = f"<reasoning>{reasoning}</reasoning>{note}<answer>{answer}</answer>"
        text += f"<note>{note}</note>{XML_END}"
    else:
        text = f'{note}{{"reasoning": {json.dumps(reasoning)}, "answer": "{answer}", "note": null, "count": 7'
        text += ', "tags": []}'
    told, prediction = predict(adapter, [piece for piece in cut(text, places) if piece])
    if prediction is not None:
        assert {name: told.fields.get(name, "") for name in FIELDS} == {
            name: value_text(prediction[name]) for name in FIELDS
        }
        assert sorted(told.done) == sorted(FIELDS)
    if how == "written" and adapter == "json":
        assert prediction is not None
        assert not told.restarts
