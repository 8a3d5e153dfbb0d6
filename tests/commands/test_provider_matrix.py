"""Every streaming command with every adapter and every provider, through a real worker over real pipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.provider import MODELS, NOT_FOUND, UNAUTHORIZED, Provider, Recorded, Reply
from tests.support.provider_replies import failure
from tests.support.streams import ADAPTERS, agree, asked, fit, joined, model, of, plain, steps
from tests.support.wirecheck import Chunk
from tests.support.worker import Worker, types

COMMANDS = ("stream_predict_batch", "stream_predict", "stream_chain_of_thought", "react", "native")
COST = (23, 9)
QUESTION = "How is the weather in São Paulo?"
OUTPUT = {"answer": "It is sunny and rather hot today.", "degrees": 31}
REASONING = "The tool was asked.\nIt said: sunny."
SIGNATURE = "question -> answer, degrees: int"
TOOL = {"name": "look", "desc": "The weather.", "args": {"city": {"type": "string"}}}
CITY = {"city": "São Paulo"}
SEEN = {"sky": "sunny ☀", "degrees": 31}

Check = Callable[[list[Chunk], list[Recorded]], None]


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    """Module-wide, so that all cases of a provider come one after the other."""
    return str(request.param)


@pytest.fixture(scope="module")
def rig(name: str) -> Iterator[tuple[Worker, Provider]]:
    with Provider() as provider, Worker() as worker:
        worker.call("configure", {"lm": model(provider, name)})
        yield worker, provider


def write(request: Recorded) -> Reply:
    """What a model says: agents look once, and then know."""
    looked = "sunny" in request.messages_text
    if request.tools and "tool_calls" not in request.user:
        if looked:
            return Reply("That is all.", tool_calls=[("submit", OUTPUT)], usage=COST)
        return Reply(reasoning="I should have a look.", tool_calls=[("look", CITY)], usage=COST)
    thought, call = ("That is all.", ("finish", {})) if looked else ("I should have a look.", ("look", CITY))
    step = {"next_thought": thought, "next_tool_name": call[0], "next_tool_args": call[1]}
    return Reply(fit(request, {"reasoning": REASONING, **OUTPUT, **step}), usage=COST)


def ask(worker: Worker, command: str, adapter: str, **args: Any) -> list[Chunk]:
    """All chunks of a request; the host answers the tool calls."""
    args |= {"signature": SIGNATURE, "adapter": adapter}
    if command == "stream_predict_batch":
        args["items"] = [{"question": f"{number}. {QUESTION}"} for number in range(3)]
    else:
        args["question"] = QUESTION
    if command in ("react", "native"):
        args |= {"agent": command, "tools": [TOOL], "tokens": True}
        command = "stream_react_steps"
    worker.forget()
    request = worker.request(command, args)
    chunks = [worker.next()]
    while "done" not in chunks[-1]:
        call = chunks[-1]
        if call["type"] == "tool_call":
            worker.control("tool_result", target=request, call_id=call["call_id"], value=SEEN)
        chunks.append(worker.next())
    return chunks


def usage(calls: int) -> dict[str, int]:
    """What so many calls cost."""
    inputs, outputs = COST[0] * calls, COST[1] * calls
    return {
        "calls": calls,
        "input_tokens": inputs,
        "output_tokens": outputs,
        "total_tokens": inputs + outputs,
    }


def check_batch(chunks: list[Chunk], requests: list[Recorded]) -> None:
    *items, last = chunks
    assert [(item["type"], item["output"], item["usage"]) for item in items] == [
        ("prediction", OUTPUT, usage(1))
    ] * 3
    assert (last["type"], last["succeeded"], last["usage"]) == ("complete", 3, usage(3))
    assert not any(request.streamed for request in requests)


def check_predict(chunks: list[Chunk], requests: list[Recorded]) -> None:
    *tokens, last = chunks
    assert plain(last) == {"type": "prediction", "output": OUTPUT, "usage": usage(1)}
    assert types(tokens) == ["token"] * 8
    agree(joined(tokens), OUTPUT)
    assert requests[0].streamed


def check_thoughts(chunks: list[Chunk], requests: list[Recorded]) -> None:
    *steps_and_turns, last = chunks
    assert types(steps_and_turns) == ["thinking", "reasoning_step", "reasoning_step", "thinking"]
    assert steps(chunks) == REASONING.split("\n")
    assert plain(last) == {
        "type": "final_answer",
        "answer": OUTPUT["answer"],
        "output": {"reasoning": REASONING, **OUTPUT},
        "full_reasoning": REASONING,
        "usage": usage(1),
    }
    assert requests[0].streamed


def check_look(chunks: list[Chunk]) -> None:
    """The agent thinks aloud, has the host look, and is told what was seen."""
    (call,) = of(chunks, "tool_call")
    (seen,) = of(chunks, "observation")
    thought = of(chunks, "thought")[0]
    assert (thought["step"], thought["content"]) == (1, "I should have a look.")
    assert (call["step"], call["name"], call["args"], call["host"]) == (1, "look", CITY, True)
    assert (seen["call_id"], seen["content"], seen["is_error"]) == (call["call_id"], SEEN, False)
    assert chunks.index(thought) < chunks.index(call) < chunks.index(seen)
    last = chunks[-1]
    assert (last["type"], last["answer"], last["output"]) == ("final_answer", OUTPUT["answer"], OUTPUT)
    first = last["trajectory"][0]
    assert (first["thought"], first["calls"][0]["content"]) == ("I should have a look.", SEEN)


def check_react(chunks: list[Chunk], requests: list[Recorded]) -> None:
    check_look(chunks)
    assert chunks[-1]["usage"] == usage(3)
    tokens = of(chunks, "token")
    texts = {step: joined(token for token in tokens if token["step"] == step) for step in (1, 2, 3)}
    assert texts[1] == {"thought": "I should have a look."}
    assert texts[2] == {"thought": "That is all."}
    assert len([token for token in tokens if token["step"] == 1]) == 5
    agree(texts[3], {"reasoning": REASONING, **OUTPUT})
    assert all(request.streamed for request in requests)


def check_native(chunks: list[Chunk], requests: list[Recorded]) -> None:
    check_look(chunks)
    assert [chunk["content"] for chunk in of(chunks, "thought")] == ["I should have a look.", "That is all."]
    tokens = of(chunks, "token")
    texts = [joined(token for token in tokens if token["step"] == step) for step in (1, 2)]
    assert texts == [{"thought": "I should have a look."}, {"thought": "That is all."}]
    assert len(tokens) >= 7
    assert chunks[-1]["usage"] == usage(2)
    assert [request.tools for request in requests] == [["look", "submit"]] * 2
    assert all(request.streamed for request in requests)


CHECKS: dict[str, Check] = dict(
    zip(COMMANDS, (check_batch, check_predict, check_thoughts, check_react, check_native), strict=True)
)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_works(rig: tuple[Worker, Provider], command: str, adapter: str) -> None:
    worker, provider = rig
    provider.replies(write)
    before = len(provider.requests)
    chunks = ask(worker, command, adapter)
    requests = provider.requests[before:]
    CHECKS[command](chunks, requests)
    assert chunks[-1]["done"] is True
    if not requests[0].tools:
        assert {asked(request)[0] for request in requests} == {adapter}
    assert {request.model for request in requests} == {requests[0].model}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_output_with_any_keys(rig: tuple[Worker, Provider], adapter: str) -> None:
    """Of such a type no JSON Schema can be sent along that lists all keys."""
    worker, provider = rig
    output = {"answer": "x y z", "found": {"a": 1, "b c": 2}}
    provider.replies(lambda request: Reply(fit(request, output)))
    signature = "question -> answer, found: dict[str, int]"
    args = {"signature": signature, "question": "?", "adapter": adapter}
    *tokens, last = worker.stream("stream_predict", args)
    assert last.get("output") == output, last
    agree(joined(tokens), output)


#: Failures by the code they get.
FAILURES = {
    "lm_auth": UNAUTHORIZED,
    "lm_invalid_request": NOT_FOUND,
    "lm_billing": failure(402, "Pay first."),
    "lm_rate_limit": failure(429, "Slow down.", headers={"Retry-After": "3"}),
    "lm_unavailable": failure(503, "Overloaded."),
}


@pytest.mark.parametrize("code", FAILURES)
@pytest.mark.parametrize("command", COMMANDS)
def test_fails(rig: tuple[Worker, Provider], name: str, command: str, code: str) -> None:
    worker, provider = rig
    provider.replies(FAILURES[code])
    chunks = ask(worker, command, "chat")
    bad = chunks[0] if command == "stream_predict_batch" else chunks[-1]
    assert (bad["type"], bad["code"]) == ("error", code), bad
    assert bad["retryable"] is (code in ("lm_rate_limit", "lm_unavailable"))
    assert bad.get("retry_after_ms") == (3000 if code == "lm_rate_limit" else None)
    about = bad["details"]
    assert (about["model"], about["provider"], about["status"]) == (MODELS[name], name, FAILURES[code].status)
    assert "streamed" not in about
    assert not of(chunks, "token")
