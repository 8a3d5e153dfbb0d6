"""Streams whose model fails, before its first token or later."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.provider import (
    CONTEXT_LENGTH,
    MODELS,
    SERVER_ERROR,
    UNAVAILABLE,
    Provider,
    Recorded,
    Reply,
    rate_limit,
)
from tests.support.provider_formats import format_of
from tests.support.streams import QA, USAGE, Rig, asked, fit, good, joined, model, of, plain, steps
from tests.support.worker import Worker

COMMANDS = ("stream_predict", "stream_chain_of_thought")
SSE = {"Content-Type": "text/event-stream"}

each_command = pytest.mark.parametrize("command", COMMANDS)
each_provider = pytest.mark.parametrize("name", MODELS)

Script = Callable[[Recorded], Reply]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Provider() as provider, Worker() as worker:
        yield Rig(worker, provider)


def events(request: Recorded, tokens: int, error: dict[str, Any] | None = None) -> Reply:
    """The stream of :func:`good` up to so many tokens of its text, and then an ``error`` or nothing."""
    data, seen = b"", 0
    for kind, event in format_of(request.path).events(request, good(request)):
        if kind == "text":
            if seen == tokens:
                break
            seen += 1
        data += event
    if error is not None:
        name = b"event: error\n" if "anthropic" in request.model or "claude" in request.model else b""
        return Reply(raw=data + name + b"data: " + json.dumps(error).encode() + b"\n\n", headers=SSE)
    return Reply(raw=data, headers=SSE)


def cut_off(request: Recorded, tokens: int) -> Reply:
    """The same, and then the connection dies."""
    body = events(request, tokens).raw
    assert body is not None
    return Reply(fit(request, QA), cut_after=len(body))


def no_answer(request: Recorded) -> Reply:
    raise ConnectionResetError


def failed(request: Recorded, tokens: int) -> Reply:
    """The provider tells a failure in the middle of its stream, each in its own way."""
    if "claude" in request.model:
        error: Any = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    elif "gemini" in request.model:
        error = {"error": {"code": 503, "message": "Overloaded", "status": "UNAVAILABLE"}}
    else:
        error = {"error": {"message": "Overloaded", "type": "server_error", "code": None, "param": None}}
    return events(request, tokens, error)


BEFORE: dict[str, Script] = {
    "500": lambda request: SERVER_ERROR,
    "503": lambda request: UNAVAILABLE,
    "429": lambda request: rate_limit("0.05"),
    "no answer": no_answer,
    "cut": lambda request: Reply(fit(request, QA), cut_after=0),
    "cut before the text": lambda request: cut_off(request, 0),
    "failed before the text": lambda request: failed(request, 0),
}
AFTER: dict[str, Script] = {
    "cut": lambda request: cut_off(request, 8),
    "ended": lambda request: events(request, 8),
    "failed": lambda request: failed(request, 8),
}


@each_command
@each_provider
def test_a_failure_before_the_first_token_is_tried_again(rig: Rig, name: str, command: str) -> None:
    """All at a time: each takes the second that DSPy waits before it tries again."""
    worker, provider = rig
    calls: Counter[str] = Counter()

    def reply(request: Recorded) -> Reply:
        kind = asked(request)[1]["question"]
        calls[kind] += 1
        return BEFORE[kind](request) if calls[kind] == 1 else good(request)

    provider.replies(reply)
    worker.forget()
    args = {"lm": model(provider, name, num_retries=1), "tokens": True, "module": "chain_of_thought"}
    if command != "stream_predict":
        del args["module"]
    requests = {kind: worker.request(command, {**args, "question": kind}) for kind in BEFORE}
    ends = {kind: worker.collect(request) for kind, request in requests.items()}
    assert not {kind: chunks[-1] for kind, chunks in ends.items() if chunks[-1]["type"] == "error"}
    for kind, (*chunks, last) in ends.items():
        assert calls[kind] == 2, kind
        assert last["output"] == joined(chunks) == QA, kind
        assert last["usage"] == USAGE, kind
        assert not of(chunks, "restart"), kind
        if command != "stream_predict":
            assert steps(chunks) == QA["reasoning"].split("\n")
            assert len(of(chunks, "thinking")) == 2


@pytest.mark.parametrize("how", AFTER)
@each_command
@each_provider
def test_a_failure_after_the_first_token_ends_the_stream(rig: Rig, name: str, command: str, how: str) -> None:
    rig.provider.replies(AFTER[how])
    before = len(rig.provider.requests)
    args = {"module": "chain_of_thought"} if command == "stream_predict" else {}
    *chunks, last = rig.run(command, name, tokens=True, lm={"num_retries": 3}, **args)
    assert len(rig.provider.requests) == before + 1, "what was streamed is not asked for again"
    assert (last["type"], last["code"], last["retryable"]) == ("error", "lm_unavailable", True), last
    told = joined(chunks)
    assert told
    assert all(QA[field].startswith(text) for field, text in told.items())
    assert last["details"]["streamed"] == {field: len(text) for field, text in told.items()}
    assert (last["details"]["model"], last["details"]["provider"]) == (MODELS[name], name)
    assert not of(chunks, "restart")


@each_provider
def test_a_stream_that_ends_too_soon(rig: Rig, name: str) -> None:
    """DSPy takes it for an answer that can not be put together, and leaves it to its caller to ask again."""
    rig.provider.replies(lambda request: events(request, 0))
    (last,) = rig.run("stream_predict", name)
    assert (last["code"], last["retryable"]) == ("lm_unavailable", True)
    assert "streamed" not in last["details"]


def test_what_was_not_sent_is_not_said_to_be_void(rig: Rig) -> None:
    rig.provider.replies(AFTER["cut"])
    (last,) = rig.run("stream_predict", tokens=False)
    assert (last["code"], last["retryable"]) == ("lm_unavailable", True)
    assert "streamed" not in last["details"]


@pytest.mark.parametrize("tokens", [True, False])
@each_provider
def test_a_failure_among_thoughts_ends_the_stream(rig: Rig, name: str, tokens: bool) -> None:
    """Thoughts that nobody asked for were told as steps: asking again would tell them twice."""
    rig.provider.replies(lambda request: Reply(fit(request, QA), reasoning="Hm.\nSo.\nYes.", cut_after=700))
    before = len(rig.provider.requests)
    *chunks, last = rig.run("stream_chain_of_thought", name, tokens=tokens, lm={"num_retries": 1})
    assert (last["code"], last["retryable"]) == ("lm_unavailable", True)
    assert 0 < len(steps(chunks)) == len(of(chunks, "reasoning_step")) < 4
    assert last["details"].get("streamed"), "the steps are void"
    assert bool(steps(chunks)) == (len(rig.provider.requests) == before + 1)


@each_command
@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_a_prompt_that_is_too_long(rig: Rig, name: str, command: str) -> None:
    rig.provider.replies(CONTEXT_LENGTH)
    last = rig.run(command, name, tokens=True, lm={"num_retries": 3})[-1]
    assert (last["code"], last["retryable"]) == ("lm_context_window", False)


@pytest.mark.parametrize("after", [None, 0, 8])
@each_command
@each_provider
def test_a_model_that_hangs(rig: Rig, name: str, command: str, after: int | None) -> None:
    rig.provider.replies(lambda request: Reply(fit(request, QA), hang=after is None, hang_after_tokens=after))
    args = {"module": "chain_of_thought"} if command == "stream_predict" else {}
    *chunks, last = rig.run(command, name, tokens=True, lm={"timeout_s": 0.1}, **args)
    assert (last["code"], last["retryable"]) == ("lm_timeout", True), last
    told = {field: len(text) for field, text in joined(chunks).items()}
    assert bool(told) == bool(after)
    assert last["details"].get("streamed", {}) == told
    rig.provider.wait_for(lambda p: p.at_once == 0)


def test_nobody_listens(rig: Rig) -> None:
    lm = {**model(rig.provider), "api_base": "http://127.0.0.1:9/v1"}
    rig.worker.forget()
    for command in COMMANDS:
        last = rig.worker.call(command, {"question": "?", "lm": lm})
        assert (last["code"], last["retryable"]) == ("lm_unavailable", True)
        assert "127.0.0.1" not in plain(last).get("details", {})
