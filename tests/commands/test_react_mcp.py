"""Agents with tools of MCP servers, each a process of its own that the worker starts."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Spawn
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
    refusal,
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
from tests.support.worker import Worker, alive, wait_gone

SERVER = Path(__file__).parents[1] / "support" / "mcp_server.py"
SUBMIT = ("submit", {"answer": "42"})


def mcp(*hows: str) -> list[str]:
    """The flags for servers of those kinds, named like them."""
    return [f"--mcp={how}={shlex.join([sys.executable, str(SERVER), how])}" for how in hows]


@pytest.fixture(scope="module")
def served() -> Iterator[Worker]:
    """A worker with servers, and tools of its own."""
    flags = ["--tools", "tests.support.agent_tools", *mcp("sdk", "plain")]
    with Worker(*flags, commands=False) as worker:
        yield worker


def test_a_tool_of_a_server_is_called_by_the_worker(served: Worker) -> None:
    chunks = used(served, ("sdk__add", {"a": 1, "b": 2}), tools=["sdk__add"])
    (call,) = of(chunks, "tool_call")
    assert (call["name"], call["host"], call["args"]) == ("sdk__add", False, {"a": 1, "b": 2})
    assert observed(chunks) == [("3", False)]
    assert chunks[-1]["type"] == "final_answer"


def test_what_a_server_raises_is_an_observation(served: Worker) -> None:
    replies = [said(choice("t", "sdk__fail")), said(choice("t", "plain__error"))]
    replies += [said(choice("done", "finish")), said({"reasoning": "r", "answer": "42"})]
    with Provider(in_turn(*replies)) as provider:
        chunks = run(served, tools=["*"], lm=native(provider.url))
        first, second = observed(chunks)
        assert ("Error executing tool fail" in first[0], first[1]) == (True, True)
        assert ("no such argument" in second[0], second[1]) == (True, True)
        assert chunks[-1]["type"] == "final_answer"
        for text in (str(chunks), *(request.messages_text for request in provider.requests)):
            assert "Traceback" not in text
            assert ".py" not in text


def test_arguments_are_held_against_the_servers_schema(served: Worker) -> None:
    assert result(served, "sdk__note", {"text": None}) == "[null, null]"
    assert result(served, "sdk__note", {"text": "a", "tags": ["b"]}) == '["a", ["b"]]'
    assert "'text' is missing" in refusal(served, "sdk__note", {})
    assert "'a' does not fit" in refusal(served, "sdk__add", {"a": "1", "b": 2})
    assert "Unknown argument 'c'" in refusal(served, "sdk__add", {"a": 1, "b": 2, "c": 3})
    assert "'value' does not fit" in refusal(served, "plain__echo", {"value": "x"})
    assert "'point.x' does not fit" in refusal(served, "plain__shapes", {"point": {"x": "1"}})


def test_a_server_that_dies_in_a_call_is_started_again(served: Worker) -> None:
    calls: list[tuple[str, Any]] = [("plain__pid", {}), ("plain__die", {}), ("plain__pid", {})]
    chunks = used(served, *calls, tools=["plain__*"])
    before, died, after = observed(chunks)
    assert [before[1], died[1], after[1]] == [False, True, False]
    assert "MCP server 'plain'" in died[0]
    assert before[0] != after[0]
    assert alive(int(after[0]))
    assert not alive(int(before[0]))
    assert chunks[-1]["type"] == "final_answer"


def test_calls_beside_one_that_kills_the_server_end_too(served: Worker) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [("plain__hang", {}), ("plain__die", {}), ("add", {"a": 1})]
    lm = steps(turn("t", *calls), turn("u", ("plain__pid", {})), turn("v", SUBMIT))
    chunks = run(served, tools=["plain__*", "add"], lm=lm, agent="native")
    errors = {chunk["name"]: chunk["is_error"] for chunk in of(chunks, "observation")}
    assert errors == {"plain__hang": True, "plain__die": True, "add": False, "plain__pid": False}
    assert chunks[-1]["answer"] == "42"


def test_a_server_that_never_answers_is_waited_for_no_longer_than_told(served: Worker) -> None:
    words = refusal(served, "plain__hang", {}, tools=["plain__hang"], tool_timeout_ms=100)
    assert "0.1 s" in words
    assert result(served, "plain__pid", {}, tools=["plain__pid"])


def test_cancel_while_a_server_works(served: Worker) -> None:
    lm = steps(choice("t", "plain__hang"))
    request = served.request(COMMAND, {"question": "Q?", "tools": ["plain__hang"], "lm": lm})
    served.type("tool_call", request)
    started = time.monotonic()
    served.control("cancel", target=request)
    assert served.collect(request)[-1]["type"] == "cancelled"
    assert time.monotonic() - started < 1
    assert result(served, "plain__pid", {}, tools=["plain__pid"])


def offered(worker: Worker, *tools: Any) -> set[str]:
    with Provider(in_turn(Reply(tool_calls=[SUBMIT]))) as provider:
        run(worker, tools=list(tools), lm=native(provider.url), agent="native")
        return set(provider.requests[0].tools) - {"submit"}


def test_patterns_choose_among_servers_and_tools(served: Worker) -> None:
    sdk = {"sdk__add", "sdk__fail", "sdk__slow", "sdk__die", "sdk__note", "sdk__say", "sdk__variables"}
    assert offered(served, "sdk__*") == sdk
    assert offered(served, "*__pid") == {"plain__pid"}
    assert offered(served, "*__die") == {"plain__die", "sdk__die"}
    assert offered(served, "plain__p??", "get_one", tool()) == {"plain__pid", "get_one", "look"}
    assert offered(served, "s*__add", "sdk__add") == {"sdk__add"}
    assert sdk | {"add", "plain__echo"} <= offered(served, "*")


@pytest.mark.parametrize("name", ["plain__gone", "gone__pid", "plain__", "plain", "pid"])
def test_tools_that_are_not_there(served: Worker, name: str) -> None:
    (last,) = served.stream(COMMAND, {"question": "Q?", "tools": [name], "lm": steps()})
    assert (last["type"], last["code"]) == ("error", "unknown_tool")
    assert repr(name) in last["error"]


def test_a_host_may_not_take_a_servers_name(served: Worker) -> None:
    tools = ["plain__*", tool("plain__pid")]
    (last,) = served.stream(COMMAND, {"question": "Q?", "tools": tools, "lm": steps()})
    assert (last["code"], last["details"]["path"]) == ("invalid_args", "$.args.tools[1]")


def test_several_agents_share_a_server(served: Worker) -> None:
    answers = turn("u", SUBMIT)
    requests = {}
    for number in range(10):
        calls = [("sdk__add", {"a": number, "b": part}) for part in range(3)]
        lm = steps(turn("t", *calls), answers)
        args = {"question": "Q?", "tools": ["sdk__*"], "lm": lm, "agent": "native"}
        requests[served.request(COMMAND, args)] = number
    for request, chunks in drive(served, requests, echo).items():
        by_id = {chunk["call_id"]: chunk["content"] for chunk in of(chunks, "observation")}
        for call in of(chunks, "tool_call"):
            assert by_id[call["call_id"]] == str(requests[request] + call["args"]["b"])
        assert chunks[-1]["answer"] == "42"


@pytest.mark.parametrize("agent", ["react", "native"])
def test_what_a_server_answers_is_never_media(served: Worker, agent: str) -> None:
    args = {"text": INJECTED}
    replies = [said(choice("t", "sdk__note", args)), said(choice("done", "finish"))]
    replies.append(said({"reasoning": "r", "answer": "42"}))
    if agent == "native":
        replies = [Reply(tool_calls=[("sdk__note", args)]), Reply(tool_calls=[SUBMIT])]
    with Provider(in_turn(*replies)) as provider:
        chunks = run(served, tools=["sdk__note"], lm=native(provider.url), agent=agent)
        assert chunks[-1]["type"] == "final_answer"
        assert all(parts(request) <= {"text"} for request in provider.requests)
        assert "evil.example" in str(provider.requests[-1].body)


def test_servers_that_can_not_start_end_only_those_requests_that_need_them(spawn: Spawn) -> None:
    worker = spawn(*mcp("exits", "refusing", "plain"), commands=False)
    for how in ("exits", "refusing"):
        for wanted in (f"{how}__*", f"{how}__pid", "*"):
            (last,) = worker.stream(COMMAND, {"question": "Q?", "tools": [wanted], "lm": steps()})
            assert (last["type"], last["code"]) == ("error", "tool_error")
            assert "MCP server" in last["error"]
            assert ".py" not in last["error"]
    assert result(worker, "plain__pid", {}, tools=["plain__pid"])


def test_servers_end_with_their_worker(spawn: Spawn) -> None:
    worker = spawn(*mcp("plain", "stubborn"), commands=False)
    pids = [int(result(worker, f"{how}__pid", {}, tools=[f"{how}__pid"])) for how in ("plain", "stubborn")]
    _, code = worker.end()
    assert code == 0
    for pid in pids:
        wait_gone(pid, 1)


def test_names_are_told_before_any_server_runs(spawn: Spawn) -> None:
    worker = spawn(*mcp("plain"), commands=False)
    chunks = used(worker, tools=[])
    assert chunks[-1]["type"] == "final_answer"
    assert worker.call("stats")["dspy"]["mcp"]["plain"]["starts"] == 0
    assert result(worker, "plain__pid", {}, tools=["plain__*"])
    assert worker.call("stats")["dspy"]["mcp"]["plain"] == {"running": True, "tools": 8, "starts": 1}
