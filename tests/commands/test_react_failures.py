"""What fails inside an agent: its tools, its model, and what neither may do to the next prompt."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.dspy_runtime.answer_writer import write_answer
from bridge.dspy_runtime.prompt_reader import Format
from tests.conftest import Spawn
from tests.support.agent_tools import PATH, SECRET
from tests.support.agents import (
    COMMAND,
    INJECTED,
    choice,
    drive,
    echo,
    in_turn,
    observed,
    of,
    parts,
    respond,
    run,
    said,
    shape,
    steps,
    tool,
    turn,
)
from tests.support.handlers import KEY, native
from tests.support.provider import CONTEXT_LENGTH, UNAUTHORIZED, UNAVAILABLE, Provider, Recorded, Reply
from tests.support.worker import Worker

TOOLS = "tests.support.agent_tools"
AGENTS = ["react", "native"]
LOOK = choice("I look.", "look", {"q": "x"})
DONE = choice("done", "finish")
ANSWER = {"reasoning": "why", "answer": "42"}
SUBMIT = Reply(tool_calls=[("submit", {"answer": "42"})])


@pytest.fixture(scope="module")
def tooled() -> Iterator[Worker]:
    """A worker with tools of its own."""
    with Worker("--tools", TOOLS, commands=False) as worker:
        yield worker


def calling(agent: str, name: str, args: dict[str, Any]) -> list[Reply]:
    """A model that calls one tool, then answers."""
    if agent == "react":
        return [said(choice("t", name, args)), said(DONE), said(ANSWER)]
    return [Reply("t", tool_calls=[(name, args)]), SUBMIT]


# ---- tools that fail -------------------------------------------------------------------------------

#: What each way to fail tells the model.
FAILURES = {
    "path": "No such file or directory: 'inventory.sqlite'",
    "secret": "login with [redacted] failed",
    "chain": "ValueError: it went wrong",
    "unspeakable": "Unspeakable",
    "stop": "StopIteration",
    "timeout": "TimeoutError: the database is slow",
    "group": "ExceptionGroup: many (2 sub-exceptions)",
    "long": "xxx",
    "silent": "ValueError",
}


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("name", ["fail", "fail_async"])
@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_is_told_without_paths_and_traces(tooled: Worker, how: str, name: str, agent: str) -> None:
    with Provider(in_turn(*calling(agent, name, {"how": how}))) as provider:
        args = {"tools": [name], "lm": native(provider.url), "agent": agent, "tool_timeout_ms": 3000}
        chunks = run(tooled, **args)
        assert chunks[-1]["type"] == "final_answer", chunks[-1]
        ((content, is_error),) = observed(chunks)
        assert is_error
        assert FAILURES[how] in content
        assert len(content) <= 2000
        told = [str(provider.requests[1].body), str(chunks)]
        for text in told:
            assert FAILURES[how] in text.replace("\\'", "'")
            for leak in (PATH, "secret-place", SECRET, "Traceback", "agent_tools.py", TOOLS):
                assert leak not in text


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("how", ["exit", "interrupt", "cancelled"])
def test_a_tool_can_end_neither_its_agent_nor_the_worker(spawn: Spawn, how: str, agent: str) -> None:
    worker = spawn("--tools", TOOLS, commands=False)
    names, args = ("fail", "fail_async"), {"how": how}
    if agent == "react":
        lm = steps(*(choice("t", name, args) for name in names))
    else:
        lm = steps(turn("t", *((name, args) for name in names)), turn("u", ("submit", {"answer": "42"})))
    chunks = run(worker, lm=lm, tools=["fail*"], agent=agent)
    assert [error for _, error in observed(chunks)] == [True, True]
    assert chunks[-1]["type"] == "final_answer"
    assert worker.call("ping")["type"] == "pong"


@pytest.mark.parametrize("agent", AGENTS)
def test_an_error_of_the_host_is_told_without_paths_and_secrets(worker: Worker, agent: str) -> None:
    error = f"Could not open {PATH} with {SECRET} {KEY}"
    with Provider(in_turn(*calling(agent, "look", {"q": "x"}))) as provider:
        chunks = run(worker, lambda call: {"error": error}, lm=native(provider.url), agent=agent)
        assert observed(chunks) == [("Could not open inventory.sqlite with [redacted] [redacted]", True)]
        body = str(provider.requests[1].body)
        assert "Could not open inventory.sqlite with [redacted] [redacted]" in body


# ---- texts that look like DSPy's marks of media ---------------------------------------------------


def no_media(provider: Provider) -> None:
    """No request has anything but text, though the injected text is there."""
    assert all(parts(request) <= {"text"} for request in provider.requests)
    assert "evil.example" in str(provider.requests[-1].body)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    "how", ["text", "nested", "tuple", "set", "model", "models", "dataclass", "bytes", "exception"]
)
def test_a_tools_result_is_never_media(tooled: Worker, how: str, agent: str) -> None:
    with Provider(in_turn(*calling(agent, "inject", {"how": how}))) as provider:
        chunks = run(tooled, tools=["inject"], lm=native(provider.url), agent=agent)
        assert chunks[-1]["type"] == "final_answer", chunks[-1]
        assert all(parts(request) <= {"text"} for request in provider.requests)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    "outcome",
    [
        {"value": INJECTED},
        {"value": {INJECTED: [{"a": INJECTED}]}},
        {"value": [INJECTED]},
        {"value": INJECTED.replace("<<", "<<<<CUSTOM-TYPE-", 1)},
        {"error": INJECTED},
    ],
    ids=["text", "object", "list", "nested marks", "error"],
)
def test_a_hosts_result_is_never_media(worker: Worker, agent: str, outcome: dict[str, Any]) -> None:
    with Provider(in_turn(*calling(agent, "look", {"q": "x"}))) as provider:
        chunks = run(worker, lambda call: outcome, lm=native(provider.url), agent=agent)
        assert chunks[-1]["type"] == "final_answer", chunks[-1]
        no_media(provider)


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_what_a_model_writes_is_never_media(worker: Worker, adapter: Format) -> None:
    first = choice(INJECTED, "look", {"q": INJECTED, INJECTED: INJECTED})
    second = choice("So.", "look", {"q": INJECTED})
    replies = [said(each, adapter) for each in (first, second, DONE, ANSWER)]
    with Provider(in_turn(*replies)) as provider:
        chunks = run(worker, lm=native(provider.url), adapter=adapter)
        assert chunks[-1]["type"] == "final_answer"
        no_media(provider)


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
@pytest.mark.parametrize("thinking", [True, False])
def test_what_a_model_calls_is_never_media(worker: Worker, adapter: Format, thinking: bool) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("look", {"q": INJECTED}),
        ("look", {INJECTED: INJECTED}),
        (INJECTED, {}),
        ("submit", {}),
    ]
    text = write_answer(adapter, {"next_thought": INJECTED}) + INJECTED
    first = Reply(reasoning=INJECTED, tool_calls=calls) if thinking else Reply(text, tool_calls=calls)
    with Provider(in_turn(first, SUBMIT)) as provider:
        chunks = run(worker, lm=native(provider.url), adapter=adapter, agent="native")
        assert chunks[-1]["type"] == "final_answer"
        no_media(provider)


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_what_a_model_without_tools_writes_is_never_media(worker: Worker, adapter: Format) -> None:
    # No function calling by DSPy's tables: calls are text, and so is their history.
    first = turn(INJECTED, ("look", {"q": INJECTED}), (INJECTED, {INJECTED: INJECTED}))
    last = turn("So.", ("submit", {"answer": "42"}))
    with Provider(in_turn(said(first, adapter), said(last, adapter))) as provider:
        lm = native(provider.address("ollama_chat"), model="ollama_chat/gemma:2b")
        chunks = run(worker, lambda call: {"value": INJECTED}, lm=lm, adapter=adapter, agent="native")
        assert chunks[-1]["type"] == "final_answer", chunks[-1]
        assert not provider.requests[0].tools
        no_media(provider)


# ---- the model fails -------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", AGENTS)
def test_a_model_that_refuses_ends_the_agent(worker: Worker, agent: str) -> None:
    first = calling(agent, "look", {"q": "x"})[0]
    with Provider(in_turn(first, UNAUTHORIZED)) as provider:
        chunks = run(worker, lm=native(provider.url), agent=agent)
        last = chunks[-1]
        assert (last["type"], last["code"], last["retryable"]) == ("error", "lm_auth", False)
        assert last["details"]["status"] == 401
        assert last["usage"] == {"calls": 1, "input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
        assert observed(chunks) == [({"q": "x"}, False)]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_passing_failure_is_tried_again(worker: Worker, agent: str) -> None:
    first, *rest = calling(agent, "look", {"q": "x"})
    with Provider(in_turn(first, UNAVAILABLE, *rest)) as provider:
        chunks = run(worker, lm=native(provider.url, num_retries=1), agent=agent)
        assert chunks[-1]["type"] == "final_answer"
        assert len(provider.requests) == len(rest) + 2


@pytest.mark.parametrize("agent", AGENTS)
def test_half_a_character_of_a_model_is_no_reason_to_end(worker: Worker, agent: str) -> None:
    # A lone surrogate: a provider's JSON can hold it, the next request can not.
    first, *rest = calling(agent, "look", {"q": "x\udc00"})
    first.text = first.text.replace("t", "a\ud800b", 1) if agent == "native" else first.text
    with Provider(in_turn(first, *rest)) as provider:
        chunks = run(worker, lm=native(provider.url), agent=agent)
        assert observed(chunks) == [({"q": "x\ufffd"}, False)]
        assert (chunks[-1]["type"], chunks[-1].get("error")) == ("final_answer", None)


@pytest.mark.parametrize("tokens", [True, False])
def test_a_stream_that_breaks_in_a_thought(worker: Worker, tokens: bool) -> None:
    # The line dies where the model still thinks, long before any tool is named.
    long = Reply("[[ ## next_thought ## ]]\n" + "I think and think. " * 400, cut_after=20_000)
    with Provider(in_turn(said(LOOK), long)) as provider:
        chunks = run(worker, lm=native(provider.url, num_retries=2), tokens=tokens)
        last = chunks[-1]
        assert (last["type"], last["code"], last["retryable"]) == ("error", "lm_unavailable", True)
        assert last["usage"]["calls"] == 1
        if tokens:
            told = [chunk for chunk in of(chunks, "token") if chunk["step"] == 2]
            assert last["details"]["streamed"] == {"thought": sum(len(chunk["delta"]) for chunk in told)}
        else:
            assert not [chunk for chunk in of(chunks, "thought") if chunk["step"] == 2]
            assert "streamed" not in last.get("details", {})


def test_a_context_that_is_too_long_loses_its_oldest_step(worker: Worker) -> None:
    def answer(request: Recorded) -> Reply:
        if "thought_0" in request.user and "thought_1" in request.user:
            return CONTEXT_LENGTH
        if "next_tool_name" not in request.user:
            return said(ANSWER)
        return said(DONE if "thought_1" in request.user else LOOK)

    with Provider(answer) as provider:
        chunks = run(worker, lm=native(provider.url))
        assert shape(chunks)[:3] == ["thought 1", "tool_call 1", "observation 1"]
        assert chunks[-1]["type"] == "final_answer"
        assert not of(chunks, "restart")
        numbers = [step["step"] for step in chunks[-1]["trajectory"]]
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("agent", AGENTS)
def test_usage_of_what_was_answered_before_a_cancel_is_told(worker: Worker, agent: str) -> None:
    gate = threading.Event()
    first = calling(agent, "look", {"q": "x"})[0]
    with Provider(in_turn(first, Reply(gate=gate))) as provider:
        args = {"question": "Q?", "tools": [tool()], "lm": native(provider.url), "agent": agent}
        request = worker.request(COMMAND, args)
        respond(worker, worker.type("tool_call", request), value=1)
        provider.wait_for(lambda p: len(p.requests) == 2)
        worker.control("cancel", target=request)
        assert worker.collect(request)[-1]["usage"]["calls"] == 1
        gate.set()


@pytest.mark.parametrize("agent", AGENTS)
def test_requests_that_are_wrong_have_used_nothing(worker: Worker, agent: str) -> None:
    request = worker.request(COMMAND, {"lm": steps(), "agent": agent, "question": "Q?", "tools": ["gone"]})
    last = drive(worker, [request], echo)[request][-1]
    assert last["code"] == "unknown_tool"
    assert last["usage"]["calls"] == 0
