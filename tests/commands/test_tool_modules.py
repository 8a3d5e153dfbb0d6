"""``--tools``: the functions of Python modules as tools of agents."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
    refusal,
    respond,
    result,
    run,
    said,
    steps,
    tool,
    turn,
    used,
)
from tests.support.handlers import native
from tests.support.provider import Provider, Reply
from tests.support.worker import Worker

TOOLS = "tests.support.agent_tools"
AGENTS = ["react", "native"]


@pytest.fixture(scope="module")
def tooled() -> Iterator[Worker]:
    """A worker with tools of its own."""
    with Worker("--tools", TOOLS, commands=False) as worker:
        yield worker


def test_a_tool_of_the_worker_is_told_and_not_asked_for(tooled: Worker) -> None:
    chunks = used(tooled, ("add", {"a": 1}))
    (call,) = of(chunks, "tool_call")
    assert (call["host"], call["args"]) == (False, {"a": 1})
    assert observed(chunks) == [(3, False)]


def test_a_host_that_answers_all_the_same_is_ignored(tooled: Worker) -> None:
    late = tooled.call("stats")["late_tool_results"]
    lm = steps(choice("t", "wait", {"gate": "ignored"}))
    request = tooled.request(COMMAND, {"question": "Q?", "tools": ["*"], "lm": lm})
    call = tooled.type("tool_call", request)
    respond(tooled, call, value="from the host")
    answer = {"target": request, "call_id": call["call_id"], "value": "from the host"}
    assert tooled.call("tool_result", answer)["type"] == "ok"
    assert result(tooled, "open_gate", {"gate": "ignored"}) == "open"
    assert observed(tooled.collect(request)) == [("opened", False)]
    assert tooled.call("stats")["late_tool_results"] == late + 2


def test_functions_run_in_threads_and_coroutines_on_the_loop(tooled: Worker) -> None:
    assert result(tooled, "where", {}) == "thread"
    assert result(tooled, "where_async", {}) == "main"


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("name", ["block", "wait"])
def test_a_tool_that_takes_its_time_holds_up_nobody(tooled: Worker, name: str, agent: str) -> None:
    gate = f"{name}-{agent}"
    if agent == "react":
        lm = steps(choice("t", name, {"gate": gate}))
    else:
        calls = [(name, {"gate": gate})] * 3
        lm = steps(turn("t", *calls), turn("u", ("submit", {"answer": "42"})))
    request = tooled.request(COMMAND, {"question": "Q?", "tools": ["*"], "lm": lm, "agent": agent})
    tooled.type("tool_call", request)
    started = time.monotonic()
    assert tooled.call("ping")["type"] == "pong"
    assert time.monotonic() - started < 5
    assert result(tooled, "open_gate", {"gate": gate}) == "open"
    chunks = tooled.collect(request)
    assert set(observed(chunks)) == {("opened", False)}
    assert chunks[-1]["answer"] == "42"


@pytest.mark.parametrize("name", ["block", "wait"])
def test_a_tool_that_takes_too_long_is_an_error(tooled: Worker, name: str) -> None:
    gate = f"{name}-late"
    assert "0.05 s" in refusal(tooled, name, {"gate": gate}, tool_timeout_ms=50)
    result(tooled, "open_gate", {"gate": gate})


def test_cancel_ends_an_agent_whose_tool_goes_on(tooled: Worker) -> None:
    lm = steps(choice("t", "block", {"gate": "cancelled"}))
    request = tooled.request(COMMAND, {"question": "Q?", "tools": ["*"], "lm": lm})
    tooled.type("tool_call", request)
    started = time.monotonic()
    tooled.control("cancel", target=request)
    assert tooled.collect(request)[-1]["type"] == "cancelled"
    assert time.monotonic() - started < 1
    result(tooled, "open_gate", {"gate": "cancelled"})


def test_a_drain_does_not_wait_for_a_tool_that_nobody_wants(spawn: Spawn) -> None:
    worker = spawn("--tools", TOOLS, commands=False)
    lm = steps(choice("t", "block", {"gate": "g"}))
    request = worker.request(COMMAND, {"question": "Q?", "tools": ["block"], "lm": lm})
    worker.type("tool_call", request)
    worker.control("cancel", target=request)
    worker.collect(request)
    started = time.monotonic()
    _, code = worker.end()
    assert code == 0
    assert time.monotonic() - started < 5


# ---- arguments -------------------------------------------------------------------------------------


def test_arguments_become_what_the_annotations_say(tooled: Worker) -> None:
    moved = {"x": 4, "y": 0, "type": "Point"}
    assert result(tooled, "shift", {"point": {"x": 1}, "by": [1, 2]}) == moved
    subtracted = result(tooled, "shift", {"point": {"x": 1, "y": 5}, "by": [], "how": "subtract"})
    assert subtracted == {"x": 1, "y": 5, "type": "Point"}
    assert result(tooled, "maybe", {"text": None}) == "None None"
    assert result(tooled, "maybe", {"text": "a", "when": "2026-01-02"}) == "'a' datetime.date(2026, 1, 2)"
    assert result(tooled, "untyped", {"value": {"b": [None]}, "times": 1}) == [{"b": [None]}]


def test_further_arguments_are_for_those_who_take_them(tooled: Worker) -> None:
    assert result(tooled, "anything", {"first": 1}) == {"first": 1}
    given = {"first": 1, "z": [1], "rest": "x", "ü": None}
    assert result(tooled, "anything", given) == given
    assert "Unknown argument 'c'" in refusal(tooled, "add", {"a": 1, "c": 1})


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("add", {}, "'a' is missing"),
        ("add", {"a": "1"}, "'a' does not fit"),
        ("add", {"a": 1.5}, "'a' does not fit"),
        ("anything", {}, "'first' is missing"),
        ("shift", {"point": {}, "by": []}, "'point' does not fit"),
        ("shift", {"point": {"x": 1}, "by": [1, "2"]}, "'by[1]' does not fit"),
        ("shift", {"point": {"x": 1}, "by": [], "how": "multiply"}, "'how' does not fit"),
        ("maybe", {}, "'text' is missing"),
        ("maybe", {"text": None, "when": "soon"}, "when"),
    ],
)
@pytest.mark.parametrize("agent", AGENTS)
def test_arguments_that_do_not_fit(
    tooled: Worker, agent: str, name: str, given: dict[str, Any], words: str
) -> None:
    if agent == "react":
        lm = steps(choice("t", name, given))
    else:
        lm = steps(turn("t", (name, given)), turn("u", ("submit", {"answer": "42"})))
    chunks = run(tooled, lm=lm, tools=["*"], agent=agent)
    ((content, is_error),) = observed(chunks)
    assert is_error
    assert words in content
    assert ".py" not in content
    assert chunks[-1]["type"] == "final_answer"


def test_what_a_call_keeps_in_its_context_is_gone_with_it(tooled: Worker) -> None:
    assert result(tooled, "remember", {"value": "one"}) == "unset"
    assert result(tooled, "remember", {"value": "two"}) == "unset"


# ---- results ---------------------------------------------------------------------------------------

GIVEN: dict[str, Any] = {
    "model": {"x": 1, "y": 2},
    "models": [{"x": 1, "y": 0}],
    "dataclass": {"name": "a", "when": "2026-01-02"},
    "bytes": "/wD+",
    "none": None,
    "set": [1],
    "tuple": [1, "two"],
    "nan": None,
    "huge": 10**30,
    "keys": {"1": "one", "null": "none"},
    "datetime": "2026-01-02T03:04:05",
    "surrogate": "a\ufffdb",
}


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("what", GIVEN)
def test_results_of_all_kinds(tooled: Worker, what: str, agent: str) -> None:
    args = {"what": what}
    if agent == "react":
        replies = [said(each) for each in (choice("t", "give", args), choice("done", "finish"))]
        replies.append(said({"reasoning": "r", "answer": "42"}))
    else:
        replies = [Reply(tool_calls=[("give", args)]), Reply(tool_calls=[("submit", {"answer": "42"})])]
    with Provider(in_turn(*replies)) as provider:
        chunks = run(tooled, lm=native(provider.url), tools=["give"], agent=agent)
        assert observed(chunks) == [(GIVEN[what], False)]
        assert (chunks[-1]["type"], chunks[-1].get("error")) == ("final_answer", None)
        assert chunks[-1]["trajectory"][0]["calls"][0]["content"] == GIVEN[what]


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("what", ["object", "lambda", "exception", "cyclic", "deep"])
def test_results_that_no_json_can_hold_end_nothing(tooled: Worker, what: str, agent: str) -> None:
    args = {"what": what}
    if agent == "react":
        lm = steps(choice("t", "give", args))
    else:
        lm = steps(turn("t", ("give", args)), turn("u", ("submit", {"answer": "42"})))
    chunks = run(tooled, lm=lm, tools=["give"], agent=agent)
    assert len(observed(chunks)) == 1
    assert (chunks[-1]["type"], chunks[-1].get("error")) == ("final_answer", None)


# ---- which tools there are -------------------------------------------------------------------------


def offered(worker: Worker, *tools: Any) -> list[str]:
    """Names of the tools that a model is told of."""
    with Provider(in_turn(Reply(tool_calls=[("submit", {"answer": "42"})]))) as provider:
        run(worker, tools=list(tools), lm=native(provider.url), agent="native")
        return [name for name in provider.requests[0].tools if name != "submit"]


def test_patterns_choose_among_them(tooled: Worker) -> None:
    assert offered(tooled, "get_*") == ["get_one", "get_two"]
    assert offered(tooled, "get_???") == ["get_one", "get_two"]
    assert offered(tooled, "get_one", "get_*", "get_two", "get_one") == ["get_one", "get_two"]
    everything = offered(tooled, "*")
    assert {"add", "where_async", "untyped"} <= set(everything)
    assert not {"_private", "Point", "Row", "constant", "imported", "asyncio", "SECRET"} & set(everything)


def test_tools_of_the_worker_beside_those_of_the_host(tooled: Worker) -> None:
    calls: list[tuple[str, Any]] = [("theirs", {"q": "x"}), ("add", {"a": 1})]
    lm = steps(turn("t", *calls), turn("u", ("submit", {"answer": "42"})))
    request = tooled.request(
        COMMAND, {"question": "Q?", "tools": [tool("theirs"), "add"], "lm": lm, "agent": "native"}
    )
    chunks = drive(tooled, [request], echo)[request]
    assert {chunk["name"]: chunk["host"] for chunk in of(chunks, "tool_call")} == {
        "theirs": True,
        "add": False,
    }
    by_name = {chunk["name"]: chunk["content"] for chunk in of(chunks, "observation")}
    assert by_name == {"theirs": {"q": "x"}, "add": 3}


@pytest.mark.parametrize("tools", [[tool("look"), "look"], ["look", tool("look")], [tool("look"), "*"]])
def test_one_name_for_two_tools(tooled: Worker, tools: list[Any]) -> None:
    (last,) = tooled.stream(COMMAND, {"question": "Q?", "tools": tools, "lm": steps()})
    assert last["code"] == "invalid_args"
    assert last["details"]["path"] == "$.args.tools[1]"
    assert "'look'" in last["error"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("get_on", ["get_one"]), ("Add", ["add"]), ("nothing like it", None), ("_private", None)],
)
def test_tools_that_are_not_there(tooled: Worker, name: str, near: list[str] | None) -> None:
    (last,) = tooled.stream(COMMAND, {"question": "Q?", "tools": [name], "lm": steps()})
    assert (last["code"], last["retryable"]) == ("unknown_tool", False)
    assert name in last["error"]
    if near:
        assert last["details"]["did_you_mean"][: len(near)] == near
