"""``stream_react_steps`` with an agent that writes its tool calls as text, through a real worker."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from bridge.dspy_runtime.answer_writer import write_answer
from bridge.dspy_runtime.prompt_reader import Format
from tests.support.agents import (
    COMMAND,
    choice,
    drive,
    echo,
    in_turn,
    observed,
    of,
    respond,
    run,
    said,
    shape,
    steps,
    tool,
    turn,
)
from tests.support.handlers import native
from tests.support.provider import Provider, Reply
from tests.support.provider_replies import split
from tests.support.worker import Worker

ADAPTERS: tuple[Format, ...] = ("chat", "json", "xml")
LOOK = choice("I look.", "look", {"q": "x"})
DONE = choice("done", "finish")
ANSWER = {"reasoning": "why", "answer": "42"}
#: What no adapter can read as a step, though the thought in it is told.
MALFORMED = "[[ ## next_thought ## ]]\nHm.\n\n[[ ## next_tool_name ## ]]\nnone such\n\n"
#: The first step as it is asked for again.
AGAIN = write_answer("json", choice("So then.", "look", {"q": "x"}))


def test_a_run_from_the_first_thought_to_the_answer(worker: Worker) -> None:
    chunks = run(worker, lm=steps(LOOK), tokens=True)
    assert [{name: chunk[name] for name in chunk if name not in ("id", "seq")} for chunk in chunks] == [
        {"type": "token", "field": "thought", "delta": "I", "step": 1},
        {"type": "token", "field": "thought", "delta": " look.", "step": 1},
        {"type": "thought", "step": 1, "content": "I look."},
        {"type": "tool_call", "step": 1, "call_id": "c1", "name": "look", "args": {"q": "x"}, "host": True},
        {
            "type": "observation",
            "step": 1,
            "call_id": "c1",
            "name": "look",
            "content": {"q": "x"},
            "is_error": False,
        },
        {"type": "token", "field": "thought", "delta": "done", "step": 2},
        {"type": "thought", "step": 2, "content": "done"},
        {"type": "token", "field": "reasoning", "delta": "why", "step": 3},
        {"type": "token", "field": "answer", "delta": "42", "step": 3},
        {
            "type": "final_answer",
            "answer": "42",
            "output": {"answer": "42"},
            "full_reasoning": "I look.\ndone\nwhy",
            "trajectory": [
                {
                    "step": 1,
                    "thought": "I look.",
                    "calls": [
                        {
                            "call_id": "c1",
                            "name": "look",
                            "args": {"q": "x"},
                            "content": {"q": "x"},
                            "is_error": False,
                        }
                    ],
                },
                {"step": 2, "thought": "done", "calls": []},
            ],
            "usage": chunks[-1]["usage"],
            "scripted": True,
            "done": True,
        },
    ]
    assert chunks[-1]["usage"]["calls"] == 3


def test_an_agent_without_tools_just_answers(worker: Worker) -> None:
    assert shape(run(worker, lm=steps(), tools=[])) == ["thought 1", "final_answer"]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_tells_the_same(worker: Worker, adapter: Format) -> None:
    with Provider(in_turn(*(said(each, adapter) for each in (LOOK, DONE, ANSWER)))) as provider:
        chunks = run(worker, lm=native(provider.url), adapter=adapter, tokens=True)
        assert shape(of(chunks, "thought")) == ["thought 1", "thought 2"]
        assert shape(chunk for chunk in chunks if chunk["type"] not in ("token", "thought")) == [
            "tool_call 1",
            "observation 1",
            "final_answer",
        ]
        told: dict[tuple[int, str], str] = {}
        for chunk in of(chunks, "token"):
            key = chunk["step"], chunk["field"]
            told[key] = told.get(key, "") + chunk["delta"]
        assert told == {
            (1, "thought"): "I look.",
            (2, "thought"): "done",
            (3, "reasoning"): "why",
            (3, "answer"): "42",
        }
        assert chunks[-1]["usage"] == {
            "calls": 3,
            "input_tokens": 33,
            "output_tokens": 21,
            "total_tokens": 54,
        }
        assert len(provider.requests) == 3
        assert all(request.streamed and not request.tools for request in provider.requests)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_thought_is_told_while_the_arguments_are_still_written(worker: Worker, adapter: Format) -> None:
    gate = threading.Event()
    text = write_answer(adapter, LOOK)
    before, mark, after = text.partition("next_tool_args")
    tokens = split(before), split(mark + after)
    first = Reply(tokens=[*tokens[0], *tokens[1]], gate_after=len(tokens[0]), gate=gate)
    with Provider(in_turn(first, said(DONE, adapter), said(ANSWER, adapter))) as provider:
        args = {"question": "Q?", "tools": [tool()], "lm": native(provider.url), "adapter": adapter}
        request = worker.request(COMMAND, args)
        assert worker.type("thought", request)["content"] == "I look."
        assert provider.at_once == 1
        gate.set()
        assert drive(worker, [request], echo)[request][-1]["type"] == "final_answer"


# ---- malformed output ------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [False, True])
def test_a_malformed_step_is_taken_back_and_asked_for_again(worker: Worker, tokens: bool) -> None:
    chunks = run(worker, lm=steps(MALFORMED, AGAIN), tokens=tokens)
    assert [kind for kind in shape(chunks) if not kind.startswith("token")] == [
        "thought 1",
        "restart 1",
        "thought 1",
        "tool_call 1",
        "observation 1",
        "thought 2",
        "final_answer",
    ]
    assert [step["thought"] for step in chunks[-1]["trajectory"]] == ["So then.", "done"]
    assert chunks[-1]["full_reasoning"] == "So then.\ndone\nwhy"
    assert chunks[-1]["usage"]["calls"] == 4


def test_what_was_never_told_is_not_taken_back(worker: Worker) -> None:
    chunks = run(worker, lm=steps("Nothing that anyone asked for.", AGAIN))
    assert shape(chunks)[:2] == ["thought 1", "tool_call 1"]
    assert not of(chunks, "restart")


@pytest.mark.parametrize("tokens", [False, True])
def test_a_malformed_answer_is_asked_for_again(worker: Worker, tokens: bool) -> None:
    broken = "[[ ## reasoning ## ]]\nwhy\n\n[[ ## answer ## ]]\nmany\n\n[[ ## completed ## ]]"
    lm = steps(DONE, broken, '{"reasoning": "so", "answer": 5}')
    chunks = run(worker, lm=lm, signature="question -> answer: int", tokens=tokens)
    assert chunks[-1]["answer"] == 5
    assert chunks[-1]["full_reasoning"] == "done\nso"
    assert shape(of(chunks, "restart")) == (["restart 2"] if tokens else [])


@pytest.mark.parametrize("outputs", [(LOOK, MALFORMED, "nothing"), (DONE, "nothing", "and nothing")])
def test_malformed_twice_is_the_models_fault(worker: Worker, outputs: tuple[Any, ...]) -> None:
    last = run(worker, lm=steps(*outputs))[-1]
    assert (last["type"], last["code"], last["retryable"]) == ("error", "lm_output_invalid", False)
    assert last["details"]["model"] == "scripted"
    assert last["usage"]["calls"] == 3


# ---- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [{}, {"answer": "42"}, {"a": 1, "self": 2, "arguments": {}}])
def test_finishing_is_no_tool_call(worker: Worker, args: dict[str, Any]) -> None:
    replies = [said(choice("done", "finish", args)), said(ANSWER)]
    with Provider(in_turn(*replies)) as provider:
        chunks = run(worker, lm=native(provider.url))
        assert shape(chunks) == ["thought 1", "final_answer"]
        assert chunks[-1]["trajectory"] == [{"step": 1, "thought": "done", "calls": []}]
        assert "Traceback" not in provider.requests[-1].messages_text
        assert "Completed." in provider.requests[-1].user


def test_steps_are_bounded_and_then_the_answer_is_made_of_what_there_is(worker: Worker) -> None:
    chunks = run(worker, lm=steps(LOOK, LOOK, ANSWER), max_iters=2)
    assert shape(chunks) == [
        *("thought 1", "tool_call 1", "observation 1"),
        *("thought 2", "tool_call 2", "observation 2"),
        "final_answer",
    ]
    assert chunks[-1]["answer"] == "42"


def test_outputs_are_typed_and_the_first_is_the_answer(worker: Worker) -> None:
    outputs = {"reasoning": "r", "years": [1, 2], "why": "because"}
    args = {"signature": "person, place -> years: list[int], why", "lm": steps(DONE, outputs)}
    request = worker.request(COMMAND, {**args, "inputs": {"person": "P", "place": "L"}})
    last = worker.collect(request)[-1]
    assert last["answer"] == [1, 2]
    assert last["output"] == {"years": [1, 2], "why": "because"}


# ---- tools of the host -----------------------------------------------------------------------------

VALUES: list[Any] = [
    "text",
    "",
    "ü \u2028 \U0001f600 \x00",
    "a\nb «quoted»",
    None,
    True,
    0,
    -1.5,
    2**70,
    [],
    {},
    ["a", "b"],
    ["a\nb", "«c»"],
    [1, 2],
    [1, None, "x", {"a": []}],
    [[1], ["a"]],
    [{"a": 1}],
    {"a": [1, None], "b": {"ü": "ö"}},
]


@pytest.mark.parametrize("agent", ["react", "native"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_tool_may_give_any_json(worker: Worker, agent: str, value: Any) -> None:
    calls = [("look", {"q": "x"})]
    replies = [said(LOOK), said(DONE), said(ANSWER)]
    if agent == "native":
        replies = [Reply(tool_calls=calls), Reply(tool_calls=[("submit", {"answer": "42"})])]
    with Provider(in_turn(*replies)) as provider:
        chunks = run(worker, lambda call: {"value": value}, lm=native(provider.url), agent=agent)
        assert observed(chunks) == [(value, False)]
        assert (chunks[-1]["type"], chunks[-1].get("error")) == ("final_answer", None)
        if value and isinstance(value, str):
            assert value in provider.requests[1].messages_text


@pytest.mark.parametrize("agent", ["react", "native"])
def test_half_a_character_is_no_reason_to_end(worker: Worker, agent: str) -> None:
    # A lone surrogate: JSON can write it, UTF-8 can not, and providers refuse it.
    lm = steps(LOOK if agent == "react" else turn("", ("look", {"q": "x"}), ("submit", {"answer": "42"})))
    request = worker.request(COMMAND, {"question": "Q?", "tools": [tool()], "lm": lm, "agent": agent})
    call = worker.type("tool_call", request)
    worker.line(
        b'{"command":"tool_result","args":{"target":"%s","call_id":"%s","value":"a\\ud800b"}}'
        % (str(request).encode(), call["call_id"].encode())
    )
    chunks = worker.collect(request)
    assert observed(chunks) == [("a\ufffdb", False)]
    assert (chunks[-1]["type"], chunks[-1].get("error")) == ("final_answer", None)


def test_the_host_may_say_that_a_tool_failed(worker: Worker) -> None:
    with Provider(in_turn(said(LOOK), said(DONE), said(ANSWER))) as provider:
        chunks = run(worker, lambda call: {"error": "The library is shut."}, lm=native(provider.url))
        assert observed(chunks) == [("The library is shut.", True)]
        assert chunks[-1]["trajectory"][0]["calls"][0]["is_error"] is True
        assert "Execution error in look: The library is shut." in provider.requests[1].user


@pytest.mark.parametrize("agent", ["react", "native"])
def test_a_tool_that_never_answers_is_an_error_for_the_model(worker: Worker, agent: str) -> None:
    lm = steps(LOOK if agent == "react" else turn("", ("look", {"q": "x"}), ("submit", {"answer": "42"})))
    chunks = run(worker, lambda call: None, lm=lm, agent=agent, tool_timeout_ms=50)
    assert chunks[-1]["type"] == "final_answer"
    ((content, is_error),) = observed(chunks)
    assert is_error
    assert "0.05 s" in content


def test_late_doubled_and_unknown_answers(worker: Worker) -> None:
    late = worker.call("stats")["late_tool_results"]
    request = worker.request(
        COMMAND, {"question": "Q?", "tools": [tool()], "lm": steps(LOOK, LOOK), "tool_timeout_ms": 100}
    )
    call = worker.type("tool_call", request)
    assert worker.type("observation", request)["is_error"]
    respond(worker, call, value="too late")
    assert _answer(worker, request, call["call_id"])["type"] == "ok"
    chunks = worker.collect(request)
    assert chunks[-1]["type"] == "final_answer"
    assert all(error for _, error in observed(chunks))
    assert worker.call("stats")["late_tool_results"] == late + 2

    request = worker.request(COMMAND, {"question": "Q?", "tools": [tool()], "lm": steps(LOOK, LOOK)})
    first = worker.type("tool_call", request)
    unknown = _answer(worker, request, "c99")
    assert (unknown["code"], unknown["details"]["path"]) == ("invalid_args", "$.args.call_id")
    both = _answer(worker, request, first["call_id"], error="no")
    assert both["code"] == "invalid_args"
    respond(worker, first, value="first")
    second = worker.type("tool_call", request)
    respond(worker, first, value="again")
    respond(worker, second, value="second")
    chunks = worker.collect(request)
    assert observed(chunks) == [("first", False), ("second", False)]
    assert worker.call("stats")["late_tool_results"] == late + 3


def _answer(worker: Worker, request: str | int, call_id: str, **more: Any) -> dict[str, Any]:
    args = {"target": request, "call_id": call_id, "value": "v", **more}
    return worker.call("tool_result", args)
