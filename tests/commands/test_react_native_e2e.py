"""``stream_react_steps`` with an agent that uses its model's own tool calls, in each provider's format."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from bridge.dspy_runtime.answer_writer import write_answer
from bridge.dspy_runtime.prompt_reader import Format
from tests.support.agents import (
    COMMAND,
    drive,
    echo,
    in_turn,
    observed,
    of,
    respond,
    results,
    run,
    shape,
    steps,
    tool,
    turn,
)
from tests.support.handlers import native
from tests.support.provider import MODELS, Provider, Recorded, Reply
from tests.support.worker import Worker

ADAPTERS: tuple[Format, ...] = ("chat", "json", "xml")
CALLS: list[tuple[str, dict[str, Any]]] = [("look", {"q": "a"}), ("look", {"q": "ü"})]
SUBMIT = Reply(tool_calls=[("submit", {"answer": "42"})], usage=(5, 3))
#: A whole run with two tool calls at once.
RUN = ["thought 1", "tool_call 1", "tool_call 1", "observation 1", "observation 1", "final_answer"]


def lm_of(provider: Provider, name: str) -> dict[str, Any]:
    return native(provider.address(name), model=MODELS[name])


def two_calls(request: Recorded) -> Reply:
    """What a model says that looks twice, then answers with what it was told."""
    if not results(request):
        return Reply("I look.", tool_calls=CALLS)
    return SUBMIT


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", MODELS)
def test_several_calls_at_once_in_every_providers_format(worker: Worker, name: str, adapter: Format) -> None:
    with Provider(two_calls) as provider:
        request = worker.request(
            COMMAND,
            {
                "question": "Q?",
                "tools": [tool(desc="Look it up.")],
                "lm": lm_of(provider, name),
                "agent": "native",
                "adapter": adapter,
            },
        )
        first, second = worker.type("tool_call", request), worker.type("tool_call", request)
        assert [first["args"], second["args"]] == [{"q": "a"}, {"q": "ü"}]
        respond(worker, second, value="of the second")
        respond(worker, first, value={"of": ["the", "first"]})
        chunks = worker.collect(request)
        assert shape(chunks) == RUN
        assert {chunk["call_id"]: chunk["content"] for chunk in of(chunks, "observation")} == {
            first["call_id"]: {"of": ["the", "first"]},
            second["call_id"]: "of the second",
        }
        last = chunks[-1]
        assert (last["answer"], last["output"]) == ("42", {"answer": "42"})
        assert [step["thought"] for step in last["trajectory"]] == ["I look.", ""]
        assert last["full_reasoning"] == "I look."
        assert last["usage"] == {"calls": 2, "input_tokens": 16, "output_tokens": 10, "total_tokens": 26}
        asked, told = provider.requests
        assert asked.tools == ["look", "submit"]
        assert asked.streamed
        assert results(told) == 2
        text = told.messages_text
        assert text.index("the") < text.index("of the second")


@pytest.mark.parametrize("name", MODELS)
def test_native_thinking_is_the_thought(worker: Worker, name: str) -> None:
    first = Reply(reasoning="I must look.", tool_calls=CALLS)
    with Provider(in_turn(first, SUBMIT)) as provider:
        chunks = run(worker, lm=lm_of(provider, name), agent="native", tokens=True)
        assert [chunk["content"] for chunk in of(chunks, "thought")] == ["I must look."]
        assert "".join(chunk["delta"] for chunk in of(chunks, "token")) == "I must look."
        assert {chunk["field"] for chunk in of(chunks, "token")} == {"thought"}
        assert chunks[-1]["answer"] == "42"


THOUGHTS = {
    "text": Reply("I must look.", tool_calls=CALLS),
    "thinking": Reply(reasoning="I must look.", tool_calls=CALLS),
    "field": Reply(write_answer("chat", {"next_thought": "I must look."}), tool_calls=CALLS),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", THOUGHTS)
def test_a_thought_is_told_while_the_arguments_are_still_written(
    worker: Worker, name: str, kind: str
) -> None:
    gate = threading.Event()
    first = Reply(**{**vars(THOUGHTS[kind]), "gate": gate})
    first.gate_after = len(first.text_tokens)
    with Provider(in_turn(first, SUBMIT)) as provider:
        args = {"question": "Q?", "tools": [tool()], "lm": lm_of(provider, name), "agent": "native"}
        request = worker.request(COMMAND, {**args, "tokens": True})
        try:
            token = worker.type("token", request, timeout=3)
            assert (token["field"], token["step"]) == ("thought", 1)
        finally:
            gate.set()
        chunks = drive(worker, [request], echo)[request]
        assert "I must look." in [chunk["content"] for chunk in of(chunks, "thought")]


def test_a_thought_without_tokens_is_told_before_the_arguments_are_there(worker: Worker) -> None:
    gate = threading.Event()
    first = Reply("I must look.", tool_calls=CALLS, gate=gate, gate_after=3)
    with Provider(in_turn(first, SUBMIT)) as provider:
        args = {"question": "Q?", "tools": [tool()], "lm": lm_of(provider, "openai"), "agent": "native"}
        request = worker.request(COMMAND, args)
        try:
            assert worker.type("thought", request, timeout=3)["content"] == "I must look."
        finally:
            gate.set()
        drive(worker, [request], echo)


# ---- models without tools of their own -------------------------------------------------------------


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_model_without_native_tools_writes_its_calls(worker: Worker, adapter: Format) -> None:
    lm = steps(turn("I look.", *CALLS), turn("So.", ("submit", {"answer": "42"})))
    chunks = run(worker, lm=lm, agent="native", adapter=adapter, tokens=True)
    assert shape(chunk for chunk in chunks if chunk["type"] != "token") == [*RUN[:-1], "thought 2", RUN[-1]]
    assert observed(chunks) == [({"q": "a"}, False), ({"q": "ü"}, False)]
    assert chunks[-1]["full_reasoning"] == "I look.\nSo."
    assert "".join(chunk["delta"] for chunk in of(chunks, "token")) == "I look.So."


def test_a_model_may_call_without_a_thought(worker: Worker) -> None:
    lm = steps(turn("", *CALLS[:1]), turn("So.", ("submit", {"answer": "42"})))
    chunks = run(worker, lm=lm, agent="native")
    assert shape(chunks) == ["tool_call 1", "observation 1", "thought 2", "final_answer"]
    assert chunks[-1]["full_reasoning"] == "So."


def test_a_malformed_step_is_taken_back_and_asked_for_again(worker: Worker) -> None:
    malformed = "[[ ## next_thought ## ]]\nHm.\n\n[[ ## tool_calls ## ]]\nlook it up\n\n"
    again = write_answer("json", turn("So then.", *CALLS[:1]))
    lm = steps(malformed, again, turn("So.", ("submit", {"answer": "42"})))
    chunks = run(worker, lm=lm, agent="native")
    assert shape(chunks) == [
        "thought 1",
        "restart 1",
        "thought 1",
        "tool_call 1",
        "observation 1",
        "thought 2",
        "final_answer",
    ]
    assert chunks[-1]["full_reasoning"] == "So then.\nSo."


# ---- calls ----------------------------------------------------------------------------------------


def test_submitting_what_does_not_fit_is_no_tool_call_either(worker: Worker) -> None:
    replies = [
        Reply(tool_calls=[("submit", {})]),
        Reply(tool_calls=[("submit", {"answer": "many"})]),
        Reply(tool_calls=[("submit", {"answer": 5, "needless": "x"})]),
    ]
    with Provider(in_turn(*replies)) as provider:
        args = {"lm": lm_of(provider, "openai"), "agent": "native", "signature": "question -> answer: int"}
        chunks = run(worker, **args)
        assert shape(chunks) == ["final_answer"]
        assert chunks[-1]["answer"] == 5
        assert [step["calls"] for step in chunks[-1]["trajectory"]] == [[]] * 3
        told = [request.messages_text for request in provider.requests[1:]]
        assert "answer" in told[0]
        assert "integer" in told[1]
        assert not [text for text in told if "Traceback" in text or ".py" in text]


def test_submit_beside_other_calls_waits_for_them(worker: Worker) -> None:
    first = Reply(tool_calls=[("look", {"q": "a"}), ("submit", {"answer": "42"})])
    with Provider(in_turn(first)) as provider:
        chunks = run(worker, lm=lm_of(provider, "openai"), agent="native")
        assert shape(chunks) == ["tool_call 1", "observation 1", "final_answer"]
        assert len(provider.requests) == 1


@pytest.mark.parametrize("name", MODELS)
def test_calls_that_can_not_be_made_are_told_to_the_model(worker: Worker, name: str) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [("look", {"q": 5}), ("none_such", {}), ("look", {"q": "a"})]
    with Provider(in_turn(Reply(tool_calls=calls), SUBMIT)) as provider:
        chunks = run(worker, lm=lm_of(provider, name), agent="native")
        assert len(of(chunks, "tool_call")) == 1
        (wrong, _), (unknown, _), (right, _) = sorted(observed(chunks), key=lambda seen: str(seen[0]))
        by_id = {chunk["call_id"]: chunk for chunk in of(chunks, "observation")}
        assert [by_id[f"c{n}"]["is_error"] for n in (1, 2, 3)] == [True, True, False]
        assert "'q' does not fit" in by_id["c1"]["content"]
        assert "Unknown tool: none_such. There are: look" in by_id["c2"]["content"]
        assert {str(wrong), str(unknown), str(right)} == {str(c["content"]) for c in by_id.values()}
        assert results(provider.requests[1]) == 3
        assert chunks[-1]["answer"] == "42"


def test_the_same_call_twice_is_two_calls(worker: Worker) -> None:
    with Provider(in_turn(Reply(tool_calls=[CALLS[0]] * 2), SUBMIT)) as provider:
        chunks = run(worker, lm=lm_of(provider, "openai"), agent="native")
        assert [chunk["call_id"] for chunk in of(chunks, "tool_call")] == ["c1", "c2"]
        assert len(of(chunks, "observation")) == 2


def test_optional_arguments_are_offered_as_such(worker: Worker) -> None:
    offered = tool(args={"q": {"type": "string"}, "n": {"type": "integer", "nullable": True}}, required=["q"])
    with Provider(in_turn(SUBMIT)) as provider:
        run(worker, lm=lm_of(provider, "openai"), agent="native", tools=[offered])
        function = provider.requests[0].body["tools"][0]["function"]
        assert function["parameters"]["required"] == ["q"]
        assert function["parameters"]["properties"]["n"] == {"type": ["integer", "null"]}


# ---- the end ---------------------------------------------------------------------------------------


def test_steps_are_bounded_and_then_an_answer_is_demanded(worker: Worker) -> None:
    def answer(request: Recorded) -> Reply:
        return SUBMIT if request.body.get("tool_choice") else Reply("Hm.", tool_calls=CALLS[:1])

    with Provider(answer) as provider:
        chunks = run(worker, lm=lm_of(provider, "openai"), agent="native", max_iters=2)
        assert len(of(chunks, "tool_call")) == 2
        assert chunks[-1]["answer"] == "42"
        assert provider.requests[-1].body["tool_choice"]["function"] == {"name": "submit"}


@pytest.mark.parametrize(
    "last",
    [
        Reply("I will not."),
        Reply(""),
        Reply(tool_calls=CALLS),
        Reply(tool_calls=[("submit", {})]),
        Reply(tool_calls=[("submit", {"needless": "x"})]),
    ],
    ids=["text", "nothing", "other calls", "too little", "something else"],
)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_model_that_gives_no_answer_has_failed(
    worker: Worker, name: str, adapter: Format, last: Reply
) -> None:
    with Provider(in_turn(Reply(tool_calls=CALLS), last)) as provider:
        chunks = run(worker, lm=lm_of(provider, name), agent="native", max_iters=1, adapter=adapter)
        assert (chunks[-1]["type"], chunks[-1]["code"]) == ("error", "lm_output_invalid")
        assert chunks[-1]["details"]["model"] == MODELS[name]
        assert chunks[-1]["usage"]["calls"] == len(provider.requests)
        assert "Traceback" not in str(chunks[-1])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_only_talks_is_asked_for_its_answer(worker: Worker, name: str) -> None:
    with Provider(in_turn(Reply("It is 42."), SUBMIT)) as provider:
        chunks = run(worker, lm=lm_of(provider, name), agent="native")
        assert [chunk["content"] for chunk in of(chunks, "thought")] == ["It is 42."]
        assert chunks[-1]["answer"] == "42"
        assert len(provider.requests) == 2
