"""Every client with our own worker: tools that the host runs, and an agent that calls them."""

from __future__ import annotations

import time
from typing import Any

from tests.support.drivers import Start
from tests.support.handlers import scripted

TOOLS = ["add", "echo", "fail", "hang", "late"]


def ask(name: str, args: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Args of ``kit.tool``."""
    return {"name": name, "args": args or {}, **fields}


def test_tools_answer_with_their_value(start: Start) -> None:
    driver = start()
    assert driver.call("kit.tool", ask("add", {"a": 2, "b": 0.5}), tools=TOOLS)["value"] == 2.5
    values: list[Any] = [None, [], {}, "", False, "é\u2028😀\0", [None, {"": 1}], "x" * 500_000]
    for value in values:
        chunk = driver.call("kit.tool", ask("echo", {"value": value}), tools=TOOLS)
        assert "error" not in chunk
        assert chunk["value"] == value


def test_a_tool_that_fails_tells_why(start: Start) -> None:
    driver = start()
    chunk = driver.call("kit.tool", ask("fail"), tools=TOOLS)
    assert chunk["code"] == "tool_error"
    assert "the tool failed" in chunk["error"]
    assert "\n" not in chunk["error"]


def test_a_tool_that_nobody_has(start: Start) -> None:
    driver = start()
    for tools in (["add"], []):
        event = driver.ask("call", command="kit.tool", args=ask("nothing", timeout_s=5.0), tools=tools)
        assert driver.expect("result", event)["chunk"]["code"] == "tool_error"


def test_args_that_do_not_fit_a_tool_are_its_error(start: Start) -> None:
    driver = start()
    chunk = driver.call("kit.tool", ask("late", {"ms": "soon"}, timeout_s=5.0), tools=TOOLS)
    assert chunk.get("code") in (None, "tool_error")
    assert driver.call("kit.tool", ask("add", {"a": 1, "b": 0.5}), tools=TOOLS)["value"] == 1.5


def test_a_tool_that_hangs_is_given_up_by_the_worker(start: Start) -> None:
    driver = start()
    chunk = driver.call("kit.tool", ask("hang", timeout_s=0.2), tools=TOOLS)
    assert chunk["code"] == "tool_timeout"
    assert driver.call("kit.tool", ask("add", {"a": 1, "b": 0.5}), tools=TOOLS)["value"] == 1.5


def test_a_tool_that_hangs_is_left_with_its_request(start: Start) -> None:
    driver = start()
    ref = driver.stream("kit.tool", ask("hang"), tools=TOOLS, report="chunks")
    assert driver.event(ref)["chunk"]["name"] == "hang"
    driver.do("cancel", ref)
    driver.expect("left", driver.event(ref))
    event = driver.ask("call", command="kit.tool", args=ask("hang"), tools=TOOLS, timeout_ms=200)
    assert (event["event"], event["code"]) == ("failed", "deadline_exceeded")
    assert driver.call("stats")["running"] == 1


def test_a_tool_that_answers_late(start: Start) -> None:
    driver = start()
    assert driver.call("kit.tool", ask("late", {"ms": 150}), tools=TOOLS)["value"] == "late"
    chunk = driver.call("kit.tool", ask("late", {"ms": 300}, timeout_s=0.1), tools=TOOLS)
    assert chunk["code"] == "tool_timeout"
    assert driver.call("kit.tool", ask("late", {"ms": 300}), tools=TOOLS)["value"] == "late"
    assert driver.call("stats")["bad_lines"] == 0


def test_twenty_tools_at_once(start: Start) -> None:
    driver = start()
    begin = time.monotonic()
    refs = [
        driver.do("call", command="kit.tool", args=ask("late", {"ms": 300}), tools=TOOLS) for _ in range(20)
    ]
    assert [driver.expect("result", driver.event(ref))["chunk"]["value"] for ref in refs] == ["late"] * 20
    assert time.monotonic() - begin < 20 * 0.3 / 2


def test_configure_outlives_a_worker_and_an_agent_uses_the_hosts_tools(start: Start) -> None:
    driver = start(workers=1)
    match = {"match": {"question": "2.5 + 1?"}}
    steps = [
        {"next_thought": "Add.", "next_tool_name": "add", "next_tool_args": {"a": 2.5, "b": 1}},
        {"next_thought": "Done.", "next_tool_name": "finish", "next_tool_args": {}},
    ]
    script = [{**match, "times": 1, "outputs": outputs} for outputs in steps]
    script.append({**match, "outputs": {"reasoning": "It was added.", "answer": "3.5"}})
    driver.call("configure", {"lm": scripted(*script)}, timeout=60)
    [pid] = driver.pids()
    driver.kill_worker(pid)
    assert driver.call("ping", retries=1, timeout=60)["type"] == "pong"
    ref = driver.stream("stream_react_steps", {"question": "2.5 + 1?"}, tools=["add"], report="chunks")
    chunks = []
    while (event := driver.event(ref, 60))["event"] == "chunk":
        chunks.append(event["chunk"])
    driver.expect("ended", event)
    assert [chunk["type"] for chunk in chunks] == [
        "thought",
        "tool_call",
        "observation",
        "thought",
        "final_answer",
    ]
    assert chunks[2]["content"] == 3.5
    assert chunks[-1]["answer"] == "3.5"
