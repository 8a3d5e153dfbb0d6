"""Ends of agents that wait for their host's tools: cancel, deadline, shutdown, EOF, credit, crowds."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import pytest

from tests.conftest import Spawn
from tests.support.agents import (
    COMMAND,
    choice,
    drive,
    echo,
    in_turn,
    observed,
    of,
    respond,
    results,
    said,
    shape,
    steps,
    tool,
    turn,
)
from tests.support.handlers import native
from tests.support.provider import Provider, Recorded, Reply
from tests.support.wirecheck import Chunk
from tests.support.worker import Worker, types

LOOK = choice("I look.", "look", {"q": "x"})
CALLS = [("look", {"q": "a"}), ("look", {"q": "b"})]
AGENTS = ["react", "native"]


def args_of(agent: str, **more: Any) -> dict[str, Any]:
    """An agent whose first step calls tools of the host's."""
    answer = turn("", ("submit", {"answer": "42"}))
    lm = steps(LOOK) if agent == "react" else steps(turn("I look.", *CALLS), answer)
    return {"question": "Q?", "tools": [tool()], "lm": lm, "agent": agent, **more}


def calls_of(agent: str) -> int:
    return 1 if agent == "react" else len(CALLS)


def waiting(worker: Worker, agent: str, **envelope: Any) -> tuple[str | int, list[Chunk]]:
    """A request that waits for its tools, and the calls."""
    request = worker.request(COMMAND, args_of(agent), **envelope)
    return request, [worker.type("tool_call", request) for _ in range(calls_of(agent))]


@pytest.mark.parametrize("agent", AGENTS)
def test_cancel_ends_an_agent_that_waits_for_a_tool(worker: Worker, agent: str) -> None:
    late = worker.call("stats")["late_tool_results"]
    request, calls = waiting(worker, agent)
    started = time.monotonic()
    worker.control("cancel", target=request)
    last = worker.collect(request)[-1]
    assert time.monotonic() - started < 1
    assert (last["type"], last["reason"]) == ("cancelled", "client")
    assert last["usage"]["calls"] == 1
    for call in calls:
        respond(worker, call, value="too late")
    answer = {"target": request, "call_id": calls[0]["call_id"], "error": "too late"}
    assert worker.call("tool_result", answer)["type"] == "ok"
    assert worker.call("stats")["late_tool_results"] == late + len(calls) + 1


@pytest.mark.parametrize("agent", AGENTS)
def test_a_deadline_ends_an_agent_that_waits_for_a_tool(worker: Worker, agent: str) -> None:
    started = time.monotonic()
    request, calls = waiting(worker, agent, timeout_ms=700)
    last = worker.collect(request)[-1]
    assert time.monotonic() - started < 1.7
    assert (last["type"], last["code"]) == ("error", "deadline_exceeded")
    assert last["usage"]["calls"] == 1
    for call in calls:
        respond(worker, call, value="too late")
    worker.sync()


def test_a_cancelled_agent_lets_go_of_its_model(worker: Worker) -> None:
    with Provider(in_turn(said(LOOK), Reply(hang=True))) as provider:
        request = worker.request(COMMAND, {**args_of("react"), "lm": native(provider.url)})
        respond(worker, worker.type("tool_call", request), value=1)
        provider.wait_for(lambda p: len(p.requests) == 2)
        worker.control("cancel", target=request)
        last = worker.collect(request)[-1]
        assert last["type"] == "cancelled"
        assert last["usage"] == {"calls": 1, "input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
        provider.wait_for(lambda p: p.open_connections == 0)


@pytest.mark.parametrize("agent", AGENTS)
def test_an_abort_ends_agents_that_wait_for_a_tool(spawn: Spawn, agent: str) -> None:
    worker = spawn()
    request, calls = waiting(worker, agent)
    worker.control("shutdown", mode="abort")
    for call in calls:
        respond(worker, call, value="too late")
    last = worker.collect(request)[-1]
    assert (last["type"], last["reason"]) == ("cancelled", "shutdown")
    assert last["usage"]["calls"] == 1
    assert types(worker.rest())[-1] == "bye"
    assert worker.wait() == 0


@pytest.mark.parametrize("agent", AGENTS)
def test_a_drain_lets_agents_and_their_tools_finish(spawn: Spawn, agent: str) -> None:
    worker = spawn()
    request, calls = waiting(worker, agent)
    worker.control("shutdown", mode="drain")
    for call in calls:
        respond(worker, call, value="in time")
    chunks = worker.collect(request)
    assert observed(chunks) == [("in time", False)] * len(calls)
    assert chunks[-1]["type"] == "final_answer"
    assert worker.wait() == 0


@pytest.mark.parametrize("agent", AGENTS)
def test_without_stdin_no_tool_of_the_host_answers_any_more(spawn: Spawn, agent: str) -> None:
    worker = spawn()
    # The second step, after EOF, wants the host once more.
    answer = turn("", ("submit", {"answer": "42"}))
    lm = steps(LOOK, LOOK) if agent == "react" else steps(*[turn("", *CALLS)] * 2, answer)
    request = worker.request(COMMAND, args_of(agent, lm=lm), credit=5)
    for _ in range(calls_of(agent)):
        worker.type("tool_call", request)
    worker.close_stdin()
    chunks = worker.collect(request)
    assert [error for _, error in observed(chunks)] == [True] * 2 * calls_of(agent)
    assert chunks[-1]["type"] == "final_answer"
    assert chunks[-1]["answer"] == "42"
    assert types(worker.rest())[-1] == "bye"
    assert worker.wait() == 0


# ---- credit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_waits_for_credit(worker: Worker, agent: str) -> None:
    request = worker.request(COMMAND, args_of(agent), credit=1)
    assert worker.type("thought", request)
    worker.sync()
    assert not [chunk for chunk in worker.received if chunk["id"] == request and chunk["seq"]]
    heard, answered = 1, 0
    chunks: list[Chunk] = []
    while not chunks or "done" not in chunks[-1]:
        worker.control("credit", target=request, n=1)
        chunk = worker.wait_for(lambda chunk: chunk["id"] == request)
        chunks.append(chunk)
        heard += 1
        if chunk["type"] == "tool_call":
            answered += 1
            respond(worker, chunk, value=answered)
    assert answered == calls_of(agent)
    assert [chunk["seq"] for chunk in chunks] == list(range(1, heard))
    assert chunks[-1]["type"] == "final_answer"


def test_the_time_of_a_tool_begins_when_its_call_is_told(worker: Worker) -> None:
    request = worker.request(COMMAND, args_of("react", tool_timeout_ms=1000), credit=1)
    worker.type("thought", request)
    time.sleep(1.2)  # longer than the tool may take
    worker.control("credit", target=request, n=100)
    respond(worker, worker.type("tool_call", request), value="x")
    assert observed(worker.collect(request)) == [("x", False)]


# ---- many at once ---------------------------------------------------------------------------------


def several(request: Recorded) -> Reply:
    """Four calls with the question in them, then what they gave."""
    asked = re.findall(r"Question \d+", request.messages_text)[0]
    if not results(request):
        return Reply(tool_calls=[("look", {"q": f"{asked}, part {part}"}) for part in range(4)])
    found = re.findall(r"found: (Question \d+, part \d)", request.messages_text)
    return Reply(tool_calls=[("submit", {"answer": "; ".join(found)})])


def test_many_agents_with_many_calls_answered_in_any_order(worker: Worker) -> None:
    with Provider(several) as provider:
        lm = native(provider.url)
        requests = {
            worker.request(
                COMMAND,
                {"question": f"Question {number}", "tools": [tool()], "lm": lm, "agent": "native"},
            ): number
            for number in range(20)
        }
        calls = [worker.type("tool_call") for _ in range(80)]
        assert len({(call["id"], call["call_id"]) for call in calls}) == 80
        random.Random(7).shuffle(calls)
        for call in calls:
            respond(worker, call, value=f"found: {call['args']['q']}")
        for request, number in requests.items():
            chunks = worker.collect(request)
            parts = [f"Question {number}, part {part}" for part in range(4)]
            assert chunks[-1]["answer"] == "; ".join(parts)
            by_id = {each["call_id"]: each["content"] for each in of(chunks, "observation")}
            for call in of(chunks, "tool_call"):
                assert by_id[call["call_id"]] == f"found: {call['args']['q']}"
        assert worker.call("stats")["running"] == 1


def one_by_one(request: Recorded) -> Reply:
    """A step with the question in it, the end, then what was found."""
    asked = re.findall(r"Question \d+", request.user)[0]
    if "next_tool_name" not in request.user:
        found = re.findall(r"found: (Question \d+)", request.user)
        return said({"reasoning": "r", "answer": found[0]})
    if "tool_name_0" in request.user:
        return said(choice("done", "finish"))
    return said(choice(f"I look for {asked}.", "look", {"q": asked}))


def test_a_hundred_agents_at_once(worker: Worker) -> None:
    with Provider(one_by_one) as provider:
        lm = native(provider.url)
        numbers = {
            worker.request(
                COMMAND, {"question": f"Question {number}", "tools": [tool()], "lm": lm}, id=f"r{number}"
            ): number
            for number in range(100)
        }
        calls = [worker.type("tool_call") for _ in numbers]
        random.Random(7).shuffle(calls)
        for call in calls:
            respond(worker, call, value=f"found: {call['args']['q']}")
        for request, number in numbers.items():
            chunks = worker.collect(request)
            assert chunks[-1]["answer"] == f"Question {number}"
            assert of(chunks, "thought")[0]["content"] == f"I look for Question {number}."
            assert chunks[-1]["usage"]["calls"] == 3


def test_a_slow_host_of_one_agent_holds_up_no_other(worker: Worker) -> None:
    slow, calls = waiting(worker, "native")
    for _ in range(3):
        request = worker.request(COMMAND, args_of("react"))
        chunks = drive(worker, [request], echo)[request]
        assert shape(chunks)[-1] == "final_answer"
    for call in reversed(calls):
        respond(worker, call, value=call["args"]["q"])
    chunks = worker.collect(slow)
    assert sorted(observed(chunks)) == [("a", False), ("b", False)]
    assert chunks[-1]["answer"] == "42"
