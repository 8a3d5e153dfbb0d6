"""Tools that ask much of the worker: they never end, ask models themselves, or hide what they are."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Spawn
from tests.support.agents import (
    COMMAND,
    choice,
    echo,
    in_turn,
    observed,
    of,
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
from tests.support.worker import Worker

TOOLS = "tests.support.hard_tools"
SERVER = Path(__file__).parent.parent / "support" / "mcp_server.py"


@pytest.fixture
def hard(spawn: Spawn) -> Worker:
    return spawn("--tools", TOOLS, commands=False)


def test_tools_that_never_end_hold_up_no_other(hard: Worker) -> None:
    args = {"question": "Q?", "tools": ["stuck"], "lm": steps(choice("t", "stuck"))}
    requests = [hard.request(COMMAND, args) for _ in range(40)]
    for request in requests:
        hard.type("tool_call", request)
        hard.control("cancel", target=request)
        assert hard.collect(request)[-1]["type"] == "cancelled"
    assert refusal(hard, "stuck", {}, tool_timeout_ms=50) == "The tool did not answer within 0.05 s."
    assert result(hard, "quick", {"n": 1}) == 2
    assert hard.call("stats")["abandoned_threads"] == 41


@pytest.mark.parametrize("name", ["ask", "ask_async"])
def test_a_tool_may_ask_a_model_itself(hard: Worker, name: str) -> None:
    replies = [said(choice("t", name, {"q": "Who?"})), Reply("[[ ## answer ## ]]\nShe.")]
    replies += [said(choice("done", "finish")), said({"reasoning": "r", "answer": "42"})]
    with Provider(in_turn(*replies)) as provider:
        chunks = run(hard, lm=native(provider.url), tools=[name], tokens=True)
        assert observed(chunks) == [("She.", False)]
        assert "She." not in "".join(chunk["delta"] for chunk in of(chunks, "token"))
        assert chunks[-1]["usage"]["calls"] == 4
        assert [request.streamed for request in provider.requests] == [True, False, True, True]


def test_a_coroutine_in_disguise_is_awaited(hard: Worker) -> None:
    assert result(hard, "wrapped", {"n": 4}) == 8


def test_constraints_of_annotations_hold(hard: Worker) -> None:
    assert result(hard, "at_least_three", {"n": 3}) == 3
    assert "'n' does not fit" in refusal(hard, "at_least_three", {"n": 2})


def test_a_stack_trace_in_a_text_is_cut_out(hard: Worker) -> None:
    assert refusal(hard, "trace", {}) == "RuntimeError: It broke. KeyError: 'inner'"


TRACES = {
    "python": 'Boom\nTraceback (most recent call last):\n  File "a.py", line 3, in f\n    g()\nIOError: no',
    "node": "Error: no\n    at f (/srv/app/a.js:3:5)\n    at node:internal/main:28:49",
    "elixir": "** (RuntimeError) no\n    (app 0.1.0) lib/a.ex:3: A.f/1\n    lib/b.exs:9: (file)",
    "ruby": "no (RuntimeError)\n\tfrom /srv/a.rb:3:in `f'",
}


@pytest.mark.parametrize("language", TRACES)
def test_a_stack_trace_of_the_host_is_cut_out(hard: Worker, language: str) -> None:
    lm = steps(choice("t", "look", {"q": "x"}))
    chunks = run(hard, lambda call: {"error": TRACES[language]}, lm=lm, tools=[tool()])
    ((content, is_error),) = observed(chunks)
    assert is_error
    assert "no" in content
    for leak in ("Traceback", "line 3", "a.py", "a.js", "a.ex", "a.rb", "b.exs", "internal"):
        assert leak not in content


def test_words_that_only_look_like_a_stack_trace_stay(hard: Worker) -> None:
    said = "at 10:30 the server was down\nfrom x:5:in y"
    chunks = run(
        hard, lambda call: {"error": said}, lm=steps(choice("t", "look", {"q": "x"})), tools=[tool()]
    )
    assert observed(chunks) == [(said, True)]


def test_a_pattern_can_not_keep_the_worker_busy(hard: Worker) -> None:
    inner = {"type": "object", "patternProperties": {"(b+)+$": {}}, "additionalProperties": False}
    declared = tool(args={"q": {"type": "string", "pattern": "(a+)+$"}, "r": inner})
    given = {"q": "a" * 40 + "!", "r": {"b" * 40 + "!": 1}}
    started = time.monotonic()
    chunks = run(hard, echo, lm=steps(choice("t", "look", given)), tools=[declared])
    assert time.monotonic() - started < 5
    assert observed(chunks) == [(given, False)]


@pytest.mark.parametrize("raw", ['{"q": "x"', "[1]", "null", '"x"'])
def test_native_arguments_that_are_no_object_are_called_so(hard: Worker, raw: str) -> None:
    function = {"name": "look", "arguments": raw}
    calls = [{"index": 0, "id": "c", "type": "function", "function": function}]
    event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}

    def sent(delta: dict[str, Any], finish: str | None) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return f"data: {json.dumps({**event, 'choices': choices})}\n\n"

    body = sent({"tool_calls": calls}, None) + sent({}, "tool_calls") + "data: [DONE]\n\n"
    first = Reply(raw=body.encode(), headers={"Content-Type": "text/event-stream"})
    with Provider(in_turn(first, Reply(tool_calls=[("submit", {"answer": "42"})]))) as provider:
        chunks = run(hard, lm=native(provider.url), tools=[tool()], agent="native")
        assert chunks[-1]["type"] == "final_answer", chunks[-1]
        ((content, is_error),) = observed(chunks)
        assert is_error
        assert content == "The arguments are not a JSON object." or "'q' is missing" in content


def test_a_tool_may_have_arguments_called_like_that(hard: Worker) -> None:
    declared = tool(args={"value": {"type": "integer"}})
    lm = steps(turn("t", ("look", {"value": 1})), turn("u", ("submit", {"answer": "42"})))
    chunks = run(hard, echo, lm=lm, tools=[declared], agent="native")
    assert observed(chunks) == [({"value": 1}, False)]


@pytest.mark.parametrize("pause_s", [0.0, 0.1, 0.4])
def test_a_second_sigterm_leaves_no_mcp_server_behind(spawn: Spawn, pause_s: float) -> None:
    worker = spawn("--mcp", f"s={sys.executable} {SERVER} stubborn", commands=False)
    used(worker, ("s__pid", {}), tools=["s__pid"])
    (server,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.read_text().rpartition(")")[2].split()[1] == str(worker.pid)
    )
    try:
        worker.terminate()
        time.sleep(pause_s)  # the worker may be anywhere in its end
        worker.terminate()
        assert worker.process.wait(10) == 0
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and _lives(server):
            time.sleep(0.01)
        assert not _lives(server)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
