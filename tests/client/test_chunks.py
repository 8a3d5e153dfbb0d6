"""Chunks: dicts with names."""

from __future__ import annotations

import pytest

from bridge.client.chunks import KINDS, Chunk, Complete, Failure, Prediction
from bridge.client.errors import from_chunk


def test_fields_are_attributes_and_all_are_kept() -> None:
    chunk = Prediction({"id": 1, "seq": 0, "type": "prediction", "output": {"a": 1}, "new": [1]})
    assert chunk.output == chunk["output"] == {"a": 1}
    assert chunk["new"] == chunk.new == [1]
    assert dict(chunk) == {"id": 1, "seq": 0, "type": "prediction", "output": {"a": 1}, "new": [1]}
    assert repr(chunk).startswith("Prediction({'id': 1")


def test_absent_fields_have_their_default() -> None:
    chunk = Prediction({"type": "prediction"})
    assert (chunk.index, chunk.done, chunk.scripted) == (None, False, False)
    assert Prediction({"index": 3}).index == 3
    assert Complete({}).stopped is False
    assert Complete({"stopped": True, "done": True}).done is True
    with pytest.raises(AttributeError, match="the 'error' chunk has no field 'outptu'"):
        _ = Failure({"type": "error"}).outptu


def test_chunks_match_patterns() -> None:
    chunk: Chunk = Prediction({"type": "prediction", "index": 2, "output": {"a": 1}})
    match chunk:
        case Failure():
            found = "failure"
        case Prediction(index=2, output={"a": a}):
            found = f"a is {a}"
        case _:
            found = "nothing"
    assert found == "a is 1"


def test_no_default_hides_a_field() -> None:
    kinds: list[type[Chunk]] = [*KINDS.values(), Chunk]
    for kind in kinds:
        for name in kind.__annotations__:
            assert getattr(kind({name: "there"}), name) == "there" or name.startswith("_")


@pytest.mark.parametrize(
    ("chunk", "code", "retryable"),
    [
        ({"type": "error", "error": "x", "code": "lm_timeout", "retryable": True}, "lm_timeout", True),
        ({"type": "error", "error": "x", "code": "of tomorrow", "retryable": "yes"}, "of tomorrow", False),
        ({"type": "error"}, "internal", False),
        ({"type": "error", "details": [1], "code": None}, "None", False),
        ({"type": "cancelled", "reason": "client"}, "cancelled", False),
        ({"type": "cancelled", "reason": "shutdown"}, "cancelled", True),
        ({"type": "cancelled"}, "cancelled", False),
    ],
)
def test_bad_ends_as_errors(chunk: dict[str, object], code: str, retryable: bool) -> None:
    error = from_chunk(chunk)
    assert (error.code, error.retryable) == (code, retryable)
    assert error.message
