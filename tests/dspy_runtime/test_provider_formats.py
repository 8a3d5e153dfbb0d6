"""The test provider as DSPy's own engine sees it: every provider's format, whole and streamed."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dspy
import pytest
from dspy import lm15

from bridge.dspy_runtime import loader
from bridge.dspy_runtime.usage import CallUsage
from bridge.options import ServeOptions
from tests.support.handlers import KEY
from tests.support.provider import (
    CONTEXT_LENGTH,
    MODELS,
    NOT_FOUND,
    SERVER_ERROR,
    UNAUTHORIZED,
    Provider,
    Recorded,
    Reply,
    failure,
    rate_limit,
)
from tests.support.provider_client import Sink, run

RATE_LIMIT = rate_limit("3")
ANSWER = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
KEY_HEADERS = {"anthropic": "x-api-key", "gemini": "x-goog-api-key"}

each = pytest.mark.parametrize("name", MODELS)
whole_and_streamed = pytest.mark.parametrize("streamed", [False, True])
THOUGHTFUL = "question -> thought: dspy.Reasoning, answer"
CHOICE = "question, tools: list[dspy.Tool] -> tool_calls: dspy.ToolCalls"


@pytest.fixture
def provider() -> Iterator[Provider]:
    loader.load(ServeOptions())
    with Provider() as running:
        yield running


def ask(provider: Provider, name: str, sink: Sink | None = None, **lm: Any) -> tuple[str, str]:
    """The text and the reasoning for a system and a user message."""

    async def call(model: Any) -> tuple[str, str]:
        message = lm15.Message.user("Six times seven?")
        answer = await model.acall(lm15.Request(model=model.model, system="Be brief.", messages=(message,)))
        texts = {part.type: part.text for part in answer.message.parts}
        return texts["text"], texts.get("thinking", "")

    found: tuple[str, str] = run(provider, name, call, sink, **lm)
    return found


def lookup(city: str) -> str:
    """Look up the weather."""
    return f"sunny in {city}"


@whole_and_streamed
@each
def test_completes(provider: Provider, name: str, streamed: bool) -> None:
    provider.replies(Reply("It is forty-two.", usage=(123, 45)))
    usage = CallUsage()
    with dspy.context(usage_tracker=usage):
        assert ask(provider, name, Sink() if streamed else None) == ("It is forty-two.", "")
    assert usage.take() == {"calls": 1, "input_tokens": 123, "output_tokens": 45, "total_tokens": 168}
    (request,) = provider.requests
    assert (request.system, request.user) == ("Be brief.", "Six times seven?")
    assert request.messages_text == "Be brief.\nSix times seven?"
    assert (request.model, request.tools, request.streamed) == (MODELS[name].partition("/")[2], [], streamed)
    assert KEY in request.headers[KEY_HEADERS.get(name, "authorization")]


@each
def test_streams_the_tokens_as_they_are_given(provider: Provider, name: str) -> None:
    tokens = ["It", " is\n\n", "forty", "-two", " é", "🙂."]
    provider.replies(Reply(tokens=tokens, reasoning="Six times seven", usage=(20, 30)))
    sink, usage = Sink(), CallUsage()
    with dspy.context(usage_tracker=usage):
        output = ask(provider, name, sink)
    assert output == ("".join(tokens), "Six times seven")
    assert (sink.text, sink.reasoning) == (tokens, ["Six", " times", " seven"])
    assert sink.finish == ["stop"]
    assert usage.take() == {"calls": 1, "input_tokens": 20, "output_tokens": 30, "total_tokens": 50}


@whole_and_streamed
@pytest.mark.parametrize(
    ("name", "model"),
    [("openai", "openai/o4-mini"), ("anthropic", MODELS["anthropic"]), ("gemini", MODELS["gemini"])],
)
def test_reasoning_becomes_the_reasoning_field(
    provider: Provider, name: str, model: str, streamed: bool
) -> None:
    provider.replies(Reply(ANSWER, reasoning="Six times seven"))

    def think(_: Any) -> Any:
        return dspy.Predict(THOUGHTFUL).acall(question="6 * 7")

    sink = Sink()
    found = run(provider, name, think, sink if streamed else None, model=model)
    assert (found.thought, found.answer) == ("Six times seven", "42")
    assert sink.reasoning == (["Six", " times", " seven"] if streamed else [])


@whole_and_streamed
@each
def test_calls_tools_natively(provider: Provider, name: str, streamed: bool) -> None:
    calls = [("lookup", {"city": "Paris"}), ("lookup", {"city": "São Paulo"})]
    provider.replies(Reply("Let me see.", reasoning="Weather", tool_calls=calls))

    def choose(_: Any) -> Any:
        return dspy.Predict(CHOICE).acall(question="Weather?", tools=[dspy.Tool(lookup)])

    sink = Sink()
    found = run(provider, name, choose, sink if streamed else None)
    assert [(call.name, call.args) for call in found.tool_calls.tool_calls] == calls
    assert len({call.id for call in found.tool_calls.tool_calls}) == 2
    assert provider.requests[0].tools == ["lookup"]
    if streamed:
        assert (sink.reasoning, sink.text) == (["Weather"], ["Let", " me", " see."])
        for index, (tool, args) in enumerate(calls):
            pieces = [call["function"] for call in sink.calls if call["index"] == index]
            assert [piece["name"] for piece in pieces if "name" in piece] == [tool]
            assert json.loads("".join(piece["arguments"] for piece in pieces)) == args


@whole_and_streamed
@each
def test_react_calls_a_tool_and_submits(provider: Provider, name: str, streamed: bool) -> None:
    def answer(request: Recorded) -> Reply:
        if "sunny in Paris" not in request.messages_text:
            return Reply(tool_calls=[("lookup", {"city": "Paris"})], reasoning="Weather.")
        return Reply(tool_calls=[("submit", {"answer": "Sunny."})])

    provider.replies(answer)

    def react(_: Any) -> Any:
        return dspy.ReActV2("question -> answer", tools=[lookup]).acall(question="How is Paris?")

    found = run(provider, name, react, Sink() if streamed else None)
    assert (found.answer, found.termination_reason) == ("Sunny.", "submit")
    first, second = provider.requests
    assert first.tools == second.tools == ["lookup", "submit"]
    assert "How is Paris?" in first.user
    assert "sunny in Paris" not in second.user, "the results of tools are no user message"


@whole_and_streamed
@pytest.mark.parametrize(
    ("reply", "kind", "codes"),
    [
        (UNAUTHORIZED, "LMAuthError", "invalid_api_key authentication_error UNAUTHENTICATED api_error"),
        (RATE_LIMIT, "LMRateLimitError", "rate_limit_exceeded rate_limit_error RESOURCE_EXHAUSTED api_error"),
        (SERVER_ERROR, "LMServerError", "server_error api_error INTERNAL api_error"),
        (failure(529, "Busy."), "LMServerError", "server_error overloaded_error UNKNOWN api_error"),
        (NOT_FOUND, "LMUnsupportedModelError", "model_not_found not_found_error NOT_FOUND not_found_error"),
    ],
)
@each
def test_fails_as_the_provider_does(
    provider: Provider, name: str, reply: Reply, kind: str, codes: str, streamed: bool
) -> None:
    provider.replies(reply)
    with pytest.raises(getattr(dspy, kind)) as caught:
        ask(provider, name, Sink() if streamed else None)
    error: Any = caught.value
    assert reply.error is not None
    assert reply.error["message"] in str(error)
    assert (error.status, error.provider_code) == (reply.status, codes.split()[list(MODELS).index(name)])
    assert error.retry_after == (3.0 if reply.status == 429 else None)


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_a_prompt_that_is_too_long(provider: Provider, name: str) -> None:
    provider.replies(CONTEXT_LENGTH)
    with pytest.raises(dspy.ContextWindowExceededError):
        ask(provider, name)


@each
def test_a_gate_holds_the_rest_back(provider: Provider, name: str) -> None:
    gate, sink = threading.Event(), Sink()
    provider.replies(Reply(tokens=list("abcd"), reasoning="Hm.", gate_after=2, gate=gate))

    async def call(model: Any) -> Any:
        other = asyncio.create_task(model.acall("Quick."))
        held = asyncio.create_task(model.acall("Slow."))
        await sink.until(4)
        await asyncio.sleep(0.03)
        assert sorted(sink.text) == ["a", "a", "b", "b"]
        gate.set()
        return (await held)[0], (await other)[0]

    held, other = run(provider, name, call, sink)
    assert held == other == {"text": "abcd", "reasoning_content": "Hm."}


@each
def test_a_gate_holds_a_whole_answer_back(provider: Provider, name: str) -> None:
    gate = threading.Event()
    provider.replies(Reply("Yes.", gate=gate))

    async def call(model: Any) -> Any:
        task = asyncio.create_task(model.acall("Open?"))
        await asyncio.sleep(0.05)
        assert not task.done()
        gate.set()
        return await task

    assert run(provider, name, call, None) == ["Yes."]


@each
def test_hangs_after_some_tokens_until_the_client_goes(provider: Provider, name: str) -> None:
    provider.replies(Reply("one two three four", hang_after_tokens=2))
    sink = Sink()

    async def call(model: Any) -> None:
        task = asyncio.create_task(model.acall("Count."))
        await sink.until(2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(provider, name, call, sink)
    assert sink.text == ["one", " two"]
    provider.wait_for(lambda p: p.open_connections == 0)


@whole_and_streamed
@each
def test_dies_in_the_middle(provider: Provider, name: str, streamed: bool) -> None:
    provider.replies(Reply("one two three four", cut_after=100))
    with pytest.raises(dspy.LMTransportError, match="closed"):
        ask(provider, name, Sink() if streamed else None)


@each
def test_streams_share_a_connection(provider: Provider, name: str) -> None:
    async def call(model: Any) -> None:
        for _ in range(3):
            await model.acall("Again.")

    run(provider, name, call, Sink())
    assert (len(provider.requests), provider.connections) == (3, 1)


@each
def test_many_streams_keep_the_pace(provider: Provider, name: str) -> None:
    provider.replies(Reply(tokens=["x "] * 20, token_delay_s=0.01))
    sinks = [Sink() for _ in range(20)]

    async def call(model: Any) -> None:
        async def one(sink: Sink) -> None:
            with dspy.context(send_stream=sink, stream_listeners=[]):
                await model.acall("Count.")

        await asyncio.gather(*map(one, sinks))

    start = time.monotonic()
    run(provider, name, call, None)
    assert time.monotonic() - start < 5
    for sink in sinks:
        assert len(sink.text) == 20
        assert sink.times[-1] - start >= 20 * 0.01


def test_addresses(provider: Provider) -> None:
    provider.replies(Reply("Yes."))
    assert ask(provider, "ollama", model="ollama/llama3.1") == ("Yes.", "")
    assert provider.requests[0].path == "/ollama/v1/chat/completions"
    assert provider.url == provider.address("openai") == f"http://127.0.0.1:{provider.port}/v1"
    with pytest.raises(ValueError, match="nobody"):
        provider.address("nobody")


def streamed_body(provider: Provider, path: str, reply: Reply, body: dict[str, Any]) -> str:
    """What the server sends to a plain HTTP client."""
    provider.replies(reply)
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{provider.port}{path}", data, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        return str(answer.read().decode())


def test_the_events_are_the_providers(provider: Provider) -> None:
    reply = Reply("a b", reasoning="hm", tool_calls=[("f", {"x": 1})])
    events = streamed_body(provider, "/v1/messages", reply, {"stream": True})
    names = [line.removeprefix("event: ") for line in events.splitlines() if line.startswith("event")]
    text = ["content_block_start", *["content_block_delta"] * 2, "content_block_stop"]
    call = ["content_block_start", *["content_block_delta"] * 3, "content_block_stop"]
    assert names == ["message_start", *text, "ping", *text, *call, "message_delta", "message_stop"]
    assert '"type":"signature_delta"' in events

    path = "/v1beta/models/m:streamGenerateContent?alt=sse"
    events = streamed_body(provider, path, reply, {"contents": []})
    *chunks, end = events.split("\r\n\r\n")
    assert (len(chunks), end) == (5, "")
    assert all(chunk.startswith('data: {"candidates":') and "usageMetadata" in chunk for chunk in chunks)

    for path, field in (("/v1", "reasoning_content"), ("/ollama/v1", "reasoning")):
        for usage in (True, False):
            asked = {"stream": True, "stream_options": {"include_usage": usage}}
            *chunks, done, end = streamed_body(provider, f"{path}/chat/completions", reply, asked).split(
                "\n\n"
            )
            assert (done, end) == ("data: [DONE]", "")
            assert f'"{field}":"hm"' in "".join(chunks)
            assert ("total_tokens" in chunks[-1]) is usage


def test_text_is_found_in_every_kind_of_content() -> None:
    anthropic = {
        "system": [{"type": "text", "text": "S"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "U"}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "H"}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "content": [{"type": "text", "text": "R"}]}],
            },
        ],
    }
    request = Recorded(0, "POST", "/v1/messages", {}, anthropic)
    assert (request.system, request.user, request.messages_text) == ("S", "U", "S\nU\nH\nR")
    plain = [{"role": "developer", "content": "S"}, {"role": "user", "content": "U"}]
    request = replace(request, body={"messages": [*plain, {"role": "assistant", "content": None}]})
    assert (request.system, request.user, request.messages_text) == ("S", "U", "S\nU\n")
    assert Recorded(0, "GET", "/", {}, b"no JSON").user == ""
