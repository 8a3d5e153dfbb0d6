"""Tools that a request declares, and the arguments that models give them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.dspy_runtime.specs import ToolSpec
from bridge.dspy_runtime.tools import Definition, declared
from bridge.errors import BridgeError, Code
from tests.support.agents import COMMAND, choice, in_turn, observed, of, run, said, steps, tool
from tests.support.handlers import native
from tests.support.provider import Provider, Reply
from tests.support.worker import Worker

STRING = {"type": "string"}


def made(args: dict[str, Any], **more: Any) -> Definition:
    """A tool as the wire declares it."""
    return declared(msgspec.convert({"name": "t", "args": args, **more}, ToolSpec), "$.args.tools[0]")


def problem(args: dict[str, Any], given: dict[str, Any], **more: Any) -> str | None:
    return made(args, **more).problem(given)


NULLABLE = {"type": ["string", "null"]}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "tags": {"type": "array", "items": STRING}},
    "required": ["x"],
    "additionalProperties": False,
}

FITTING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({"a": STRING}, {"a": ""}),
    "whole float": ({"a": {"type": "integer"}}, {"a": 1.0}),
    "large": ({"a": {"type": "integer"}}, {"a": 2**80}),
    "number": ({"a": {"type": "number"}}, {"a": 1}),
    "null in a list of types": ({"a": NULLABLE}, {"a": None}),
    "text in a list of types": ({"a": NULLABLE}, {"a": "x"}),
    "nullable": ({"a": {"type": "string", "nullable": True}}, {"a": None}),
    "nullable enum": ({"a": {"type": "string", "enum": ["x"], "nullable": True}}, {"a": None}),
    "nullable inside": (
        {"a": {"type": "array", "items": {"type": "integer", "nullable": True}}},
        {"a": [1, None]},
    ),
    "any of": ({"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}, {"a": None}),
    "enum": ({"a": {"enum": ["x", 5]}}, {"a": 5}),
    "nested": ({"a": POINT}, {"a": {"x": 1, "tags": ["b"]}}),
    "anything": ({"a": {}}, {"a": [{"b": None}]}),
    "no arguments": ({}, {}),
    "a default": ({"a": {"type": "integer", "default": 3}}, {}),
    "reference within": ({"a": STRING, "b": {"$ref": "#/properties/a"}}, {"a": "x", "b": "y"}),
    "names of all kinds": (
        {"a-b": STRING, "": STRING, "ü": STRING, "self": STRING},
        {"a-b": "", "": "", "ü": "", "self": ""},
    ),
    "called nullable": (
        {"a": {"type": "object", "properties": {"nullable": STRING}, "additionalProperties": False}},
        {"a": {"nullable": "x"}},
    ),
    "data that says nullable": ({"a": {"enum": [{"nullable": True}]}}, {"a": {"nullable": True}}),
}


@pytest.mark.parametrize("case", FITTING)
def test_arguments_that_fit(case: str) -> None:
    args, given = FITTING[case]
    assert problem(args, given) is None


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "type": ({"a": STRING}, {"a": 5}, "'a' does not fit"),
    "a truth is no number": ({"a": {"type": "integer"}}, {"a": True}, "'a' does not fit"),
    "a fraction is no integer": ({"a": {"type": "integer"}}, {"a": 1.5}, "'a' does not fit"),
    "null": ({"a": STRING}, {"a": None}, "'a' does not fit"),
    "neither of two": ({"a": NULLABLE}, {"a": 5}, "'a' does not fit"),
    "nullable": ({"a": {"type": "string", "nullable": True}}, {"a": 5}, "'a' does not fit"),
    "not nullable": ({"a": {"type": "string", "nullable": False}}, {"a": None}, "'a' does not fit"),
    "enum": ({"a": {"enum": ["x", "y"]}}, {"a": "z"}, "'a' does not fit"),
    "bound": ({"a": {"type": "integer", "minimum": 5}}, {"a": 4}, "'a' does not fit"),
    "missing": ({"a": STRING, "b": STRING}, {"a": ""}, "'b' is missing"),
    "unknown": ({"a": STRING}, {"a": "", "b": ""}, "Unknown argument 'b'. There are: a."),
    "unknown of none": ({}, {"b": ""}, "It takes none."),
    "nested": ({"a": POINT}, {"a": {"x": "1"}}, "'a.x' does not fit"),
    "missing in nested": ({"a": POINT}, {"a": {}}, "'a' does not fit"),
    "unknown in nested": ({"a": POINT}, {"a": {"x": 1, "y": 2}}, "'a' does not fit"),
    "item": ({"a": POINT}, {"a": {"x": 1, "tags": ["b", 5]}}, "'a.tags[1]' does not fit"),
    "array": ({"a": {"type": "array", "items": STRING}}, {"a": "x"}, "'a' does not fit"),
    "text as an object": ({"a": POINT}, {"a": '{"x": 1}'}, "'a' does not fit"),
    "elsewhere": ({"a": {"$ref": "http://127.0.0.1:9/a.json"}}, {"a": 1}, "could not be checked"),
    "a file": ({"a": {"$ref": "file:///etc/passwd"}}, {"a": 1}, "could not be checked"),
    "defined": ({"a": {"$ref": "#/$defs/P", "$defs": {"P": POINT}}}, {"a": {"x": "1"}}, "'a.x' does not fit"),
    "in itself": (
        {
            "a": {
                "$ref": "#/$defs/N",
                "$defs": {"N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}},
            }
        },
        {"a": {"n": 5}},
        "'a.n' does not fit",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_arguments_that_do_not_fit(case: str) -> None:
    args, given, words = WRONG[case]
    found = problem(args, given)
    assert found is not None
    assert words in found
    assert len(found) < 500
    assert "Traceback" not in found


def test_a_problem_is_told_in_few_words_whatever_was_given() -> None:
    for given in ({"a": "x" * 100_000}, {"x" * 100_000: 1}):
        found = problem({"a": {"type": "integer"}}, given)
        assert found is not None
        assert len(found) < 500


def test_required_arguments_are_those_listed_or_those_without_a_default() -> None:
    args = {"a": STRING, "b": {"type": "string", "default": "x"}, "c": NULLABLE}
    assert made(args).required == ("a", "c")
    assert made(args, required=["b"]).required == ("b",)
    assert made(args, required=[]).required == ()
    assert problem(args, {}, required=[]) is None


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"name": ""}, ".name"),
        ({"name": "a b"}, ".name"),
        ({"name": "ü"}, ".name"),
        ({"name": "a.b"}, ".name"),
        ({"name": "a\n"}, ".name"),
        ({"name": "x" * 65}, ".name"),
        ({"name": "t", "args": {"a": {"type": "strnig"}}}, ".args"),
        ({"name": "t", "args": {"a": {"type": 5}}}, ".args"),
        ({"name": "t", "args": {"a": {"properties": []}}}, ".args"),
        ({"name": "t", "args": {"a": {"enum": 5}}}, ".args"),
        ({"name": "t", "args": {"a": {"required": "x"}}}, ".args"),
        ({"name": "t", "args": {"a": {"items": {"minimum": "x"}}}}, ".args"),
        ({"name": "t", "args": {"a": {"pattern": "("}}}, ".args"),
        ({"name": "t", "args": {"a": {}}, "required": ["b"]}, ".args"),
    ],
)
def test_tools_that_can_not_be(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(BridgeError) as caught:
        declared(msgspec.convert(spec, ToolSpec), "$.args.tools[3]")
    assert caught.value.code == Code.INVALID_ARGS
    assert (caught.value.details or {})["path"] == f"$.args.tools[3]{path}"


@pytest.mark.parametrize("name", ["a", "A-b_9", "x" * 64, "-", "1"])
def test_names_that_can_be(name: str) -> None:
    assert declared(ToolSpec(name=name), "$").name == name


# ---- through a worker ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "code", "path"),
    [
        ([{"name": "a b"}], "invalid_args", "$.args.tools[0].name"),
        ([tool(), {"name": "t", "args": {"a": {"type": "x"}}}], "invalid_args", "$.args.tools[1].args"),
        ([{"name": "t", "args": {"a": {"$ref": "#/nowhere"}}}], "invalid_args", "$.args.tools[0].args"),
        ([{"name": "t", "args": {"a": True}}], "invalid_args", "$.args.tools[0]"),
        ([{"name": "t", "args": []}], "invalid_args", "$.args.tools[0]"),
        ([{"name": "t", "arguments": {}}], "invalid_args", "$.args.tools[0]"),
        ([{"desc": "t"}], "invalid_args", "$.args.tools[0]"),
        ([5], "invalid_args", "$.args.tools[0]"),
        ("look", "invalid_args", "$.args.tools"),
        ([tool(), tool(desc="Another.")], "invalid_args", "$.args.tools[1]"),
        ([tool(), tool()], "invalid_args", "$.args.tools[1]"),
        ([tool(f"t{number}") for number in range(129)], "invalid_args", "$.args.tools"),
        (["gone"], "unknown_tool", None),
        ([tool(), "*"], "unknown_tool", None),
    ],
)
def test_requests_with_tools_that_can_not_be(worker: Worker, tools: Any, code: str, path: str | None) -> None:
    (last,) = worker.stream(COMMAND, {"question": "Q?", "tools": tools, "lm": steps()})
    assert (last["type"], last["code"], last["retryable"]) == ("error", code, False)
    if path:
        assert last["details"]["path"].startswith(path)


@pytest.mark.parametrize(("agent", "name"), [("react", "finish"), ("native", "submit")])
def test_the_agents_own_tool_can_not_be_declared(worker: Worker, agent: str, name: str) -> None:
    request = {"question": "Q?", "tools": [tool(), tool(name)], "lm": steps(), "agent": agent}
    (last,) = worker.stream(COMMAND, request)
    assert last["code"] == "invalid_args"
    assert last["details"]["path"].startswith("$.args.tools")
    assert name in last["error"]


def test_the_name_of_the_other_agents_end_is_free(worker: Worker) -> None:
    chunks = run(worker, lm=steps(choice("t", "submit", {"q": "x"})), tools=[tool("submit")])
    assert observed(chunks) == [({"q": "x"}, False)]


def test_as_many_tools_as_there_may_be(worker: Worker) -> None:
    tools = [tool(f"t{number}") for number in range(128)]
    chunks = run(worker, lm=steps(choice("t", "t127", {"q": "x"})), tools=tools)
    assert observed(chunks) == [({"q": "x"}, False)]


@pytest.mark.parametrize("agent", ["react", "native"])
def test_the_host_never_sees_arguments_that_do_not_fit(worker: Worker, agent: str) -> None:
    given: list[dict[str, Any]] = [{"q": 5}, {}, {"q": "x", "r": 1}, {"q": "x"}]
    if agent == "react":
        replies = [said(choice("t", "look", args)) for args in given]
        replies += [said(choice("done", "finish")), said({"reasoning": "r", "answer": "42"})]
    else:
        replies = [Reply(tool_calls=[("look", args)]) for args in given]
        replies += [Reply(tool_calls=[("submit", {"answer": "42"})])]
    with Provider(in_turn(*replies)) as provider:
        chunks = run(worker, lm=native(provider.url), agent=agent)
        assert [call["args"] for call in of(chunks, "tool_call")] == [{"q": "x"}]
        assert [error for _, error in observed(chunks)] == [True, True, True, False]
        assert [chunk["step"] for chunk in of(chunks, "observation")] == [1, 2, 3, 4]
        assert "'q' does not fit" in provider.requests[1].messages_text
        assert chunks[-1]["type"] == "final_answer"
        calls = [call for step in chunks[-1]["trajectory"] for call in step["calls"]]
        assert [call["args"] for call in calls] == given


def test_a_reference_to_elsewhere_is_never_followed(worker: Worker) -> None:
    with Provider() as provider:
        far = tool(args={"q": {"$ref": f"{provider.url}/schema.json"}})
        chunks = run(worker, lm=steps(choice("t", "look", {"q": "x"})), tools=[far])
        ((content, is_error),) = observed(chunks)
        assert is_error
        assert "could not be checked" in content
        assert chunks[-1]["type"] == "final_answer"
        assert not provider.requests


@pytest.mark.parametrize(
    ("agent", "signature"),
    [
        ("react", "question, trajectory -> answer"),
        ("react", "question -> next_tool_name"),
        ("react", "question -> reasoning, answer"),
        ("native", "question, tools -> answer"),
        ("native", "question -> history"),
    ],
)
def test_fields_that_the_agent_adds_itself(worker: Worker, agent: str, signature: str) -> None:
    fields = [name.strip() for name in signature.partition("->")[0].split(",")]
    request = {"signature": signature, "inputs": dict.fromkeys(fields, "x"), "lm": steps(), "agent": agent}
    (last,) = worker.stream(COMMAND, request)
    assert (last["code"], last["details"]["path"]) == ("invalid_args", "$.args.signature")


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"max_iters": 0}, "$.args.max_iters"),
        ({"tool_timeout_ms": 0}, "$.args.tool_timeout_ms"),
        ({"agent": "other"}, "$.args.agent"),
        ({"inputs": {"question": "Q?"}}, "$.args"),
        ({"nonsense": 1}, "$.args"),
    ],
)
def test_other_args_that_are_wrong(worker: Worker, more: dict[str, Any], path: str) -> None:
    (last,) = worker.stream(COMMAND, {"question": "Q?", "lm": steps(), **more})
    assert last["code"] == "invalid_args"
    assert last["details"]["path"].startswith(path)
