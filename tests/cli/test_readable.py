"""Chunks as a person reads them."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.cli.readable import Reader
from bridge.cli.schema import definitions_of, fields_of


def read(*chunks: dict[str, Any], progress: bool = True) -> str:
    reader = Reader(progress=progress)
    return "".join(text.text + text.end for chunk in chunks for text in reader.read(chunk))


def prediction(index: int, total: int, **output: object) -> dict[str, Any]:
    share = (index + 1) / total
    return {"type": "prediction", "index": index, "total": total, "output": output, "progress": share}


def test_a_batch() -> None:
    text = read(
        prediction(0, 2, completion="France"),
        {
            "type": "error",
            "index": 1,
            "total": 2,
            "error": "Slow down.",
            "code": "lm_rate_limit",
            "progress": 1.0,
        },
        {"type": "complete", "total": 2, "succeeded": 1, "failed": 1, "elapsed_ms": 812, "done": True},
    )
    assert text.splitlines() == [
        "[1/2] Completed: France",
        "Progress: 50%",
        "[2/2] Failed: Slow down. (lm_rate_limit)",
        "Progress: 100%",
        "Done: 1 of 2 completed, 1 failed, in 0.8 s.",
    ]


def test_several_outputs_stand_below_each_other() -> None:
    text = read(prediction(0, 1, reasoning="first\nsecond", answer=["x", 1]), progress=False)
    assert text == '[1/1] Completed:\n  reasoning: first\n    second\n  answer: ["x", 1]\n'


def test_progress_is_told_once_for_each_percent() -> None:
    lines = read(*(prediction(index, 1000, a="x") for index in range(1000))).splitlines()
    assert sum(line.startswith("Progress") for line in lines) == 101


def test_canned_answers_are_called_canned() -> None:
    end = {"type": "complete", "total": 1, "succeeded": 1, "failed": 0, "scripted": True, "stopped": True}
    assert "canned" in read(end)
    assert "too many errors" in read(end)
    assert "canned" in read({"type": "final_answer", "answer": "x", "scripted": True})


def test_tokens_flow_in_one_line() -> None:
    text = read(
        {"type": "token", "field": "reasoning", "delta": "It "},
        {"type": "token", "field": "reasoning", "delta": "is"},
        {"type": "token", "field": "answer", "delta": "Paris"},
        {"type": "prediction", "output": {"reasoning": "It is", "answer": "Paris"}, "done": True},
    )
    assert text == "reasoning: It is\nanswer: Paris\n"


def test_a_prediction_without_tokens_is_shown() -> None:
    assert read({"type": "prediction", "output": {"answer": "Paris"}, "done": True}) == "Completed: Paris\n"


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        ({"type": "pong", "time": 1.5, "done": True}, "pong\n"),
        ({"type": "pong", "time": 1.5, "data": [1], "done": True}, "pong [1]\n"),
        ({"type": "result", "model": "m", "lms": {"a": 1}, "done": True}, 'model: m\nlms: {"a": 1}\n'),
        ({"type": "chunk", "value": 7}, "chunk: 7\n"),
        ({"type": "row", "a": 1, "b": "x"}, "row:\n  a: 1\n  b: x\n"),
        ({"type": "tick"}, "tick\n"),
        ({"type": "complete", "done": True}, "Done.\n"),
        ({"type": "cancelled", "reason": "client"}, "Cancelled on your request.\n"),
        ({"type": "cancelled", "reason": "shutdown"}, "Cancelled by the worker's shutdown.\n"),
        (
            {
                "type": "error",
                "error": "No.",
                "code": "unknown_command",
                "details": {"did_you_mean": ["ping"]},
            },
            "Error: No. (unknown_command)\nDid you mean ping?\n",
        ),
        ({"type": "thinking", "status": "started"}, "Thinking ...\n"),
        ({"type": "reasoning_step", "step": 1, "content": "So."}, "1. So.\n"),
        ({"type": "tool_call", "name": "f", "args": {"x": 1}}, 'Calls f with {"x": 1}\n'),
        ({"type": "observation", "content": "5"}, "Got: 5\n"),
        ({"type": "observation", "content": "no", "is_error": True}, "Tool failed: no\n"),
        ({"type": "final_answer", "answer": "5", "output": {"answer": "5"}}, "Answer: 5\n"),
        ({}, "chunk\n"),
    ],
)
def test_each_kind_of_chunk(chunk: dict[str, Any], text: str) -> None:
    assert read(chunk) == text


def test_a_model_can_not_drive_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x9b2J\u202etxt.exe\r"
    shown = read(prediction(0, 1, a=evil), {"type": "token", "field": "a", "delta": evil})
    assert not any(character in shown for character in "\x1b\x07\x9b\u202e\r")


def test_schema_in_words() -> None:
    schema = {
        "$ref": "#/$defs/Args",
        "$defs": {
            "Args": {
                "type": "object",
                "required": ["items"],
                "properties": {
                    "items": {"type": "array", "items": {"type": "object"}, "description": "The inputs."},
                    "order": {"enum": ["input", "completion"], "default": "input"},
                    "lm": {
                        "anyOf": [{"type": "string"}, {"$ref": "#/$defs/LM"}, {"type": "null"}],
                        "default": None,
                    },
                    "any": {},
                },
            },
            "LM": {"type": "object", "description": "A model."},
        },
    }
    assert [tuple(field) for field in fields_of(schema)] == [
        ("items", "list of object", True, "", "The inputs."),
        ("order", '"input" or "completion"', False, '"input"', ""),
        ("lm", "string or object or null", False, "null", ""),
        ("any", "any", False, "", ""),
    ]


def test_objects_in_objects_are_explained_once() -> None:
    inner = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 1024}}}
    outer = {
        "type": "object",
        "description": "Two.\n\n    Indented as in the source.",
        "properties": {"one": {"$ref": "#/$defs/Inner"}, "self": {"$ref": "#/$defs/Outer"}},
    }
    schema = {
        "properties": {"list": {"type": "array", "items": {"$ref": "#/$defs/Outer"}}},
        "$defs": {"Inner": inner, "Outer": outer},
    }
    assert [field.type for field in fields_of(schema)] == ["list of Outer"]
    first, second = definitions_of([schema, schema])
    assert (first.name, first.text) == ("Outer", "Two.\n\nIndented as in the source.")
    assert [field.type for field in first.fields] == ["Inner", "Outer"]
    assert [field.type for field in second.fields] == ["integer ≥ 1, ≤ 1,024"]
