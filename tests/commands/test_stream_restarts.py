"""Answers that do not keep their format: what was streamed is void, and the model is asked for JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.provider import MODELS, SERVER_ERROR, Provider, Recorded, Reply
from tests.support.streams import ADAPTERS, QA, USAGE, Rig, asked, fit, good, joined, of, steps
from tests.support.worker import Worker, types

COMMANDS = ("stream_predict", "stream_chain_of_thought")

each_adapter = pytest.mark.parametrize("adapter", ADAPTERS)
each_command = pytest.mark.parametrize("command", COMMANDS)
each_provider = pytest.mark.parametrize("name", MODELS)
falls_back = pytest.mark.parametrize("adapter", ["chat", "xml"])

Script = Callable[[Recorded], Reply]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Provider() as provider, Worker() as worker:
        yield Rig(worker, provider)


def malformed(request: Recorded, *, streams: bool = True) -> str:
    """An answer that misses its last field, after the others or after nothing."""
    form, _, names = asked(request)
    if not streams:
        return "I would rather not."
    text = fit(request, {**QA, names[-1]: "GONE"})
    return text[: text.rindex({"chat": "[[ ## " + names[-1], "xml": f"<{names[-1]}>"}[form])]


def first_malformed(then: Script = good, *, streams: bool = True, **settings: Any) -> Script:
    """A model that keeps JSON only."""

    def reply(request: Recorded) -> Reply:
        if asked(request)[0] == "json":
            return then(request)
        return Reply(malformed(request, streams=streams), **settings)

    return reply


@pytest.mark.parametrize("streams", [True, False])
@each_command
@each_provider
@falls_back
def test_json_is_asked_for_when_the_format_is_not_kept(
    rig: Rig, adapter: str, name: str, command: str, streams: bool
) -> None:
    rig.provider.replies(first_malformed(streams=streams))
    args = {"module": "chain_of_thought"} if command == "stream_predict" else {}
    *chunks, last = rig.run(command, name, tokens=True, adapter=adapter, **args)
    assert last["type"] != "error", last
    assert [asked(request)[0] for request in rig.provider.requests[-2:]] == [adapter, "json"]
    assert len(of(chunks, "restart")) == streams
    if streams:
        at = types(chunks).index("restart")
        assert joined(chunks[:at]) == {"reasoning": QA["reasoning"]}
    assert last["output"] == joined(chunks) == QA
    assert last["usage"] == {kind: 2 * count for kind, count in USAGE.items()}
    if command != "stream_predict":
        assert steps(chunks) == QA["reasoning"].split("\n")
        assert last["full_reasoning"] == QA["reasoning"]
        turns = [chunk["status"] for chunk in of(chunks, "thinking")]
        assert turns[-2:] == ["started", "answering"]
        assert turns.count("started") == 1 + streams


@falls_back
def test_a_value_that_does_not_fit_its_type(rig: Rig, adapter: str) -> None:
    values = {"answer": "one two", "count": 7}

    def reply(request: Recorded) -> Reply:
        return Reply(fit(request, values if asked(request)[0] == "json" else {**values, "count": "seven"}))

    rig.provider.replies(reply)
    *chunks, last = rig.run(
        "stream_predict", tokens=True, signature="question -> answer, count: int", adapter=adapter
    )
    assert last["output"] == values
    at = types(chunks).index("restart")
    assert joined(chunks[:at]) == {"answer": "one two"}
    assert joined(chunks) == {"answer": "one two", "count": "7"}


@pytest.mark.parametrize("sign", ["<", "&", "<br>", "\x01", "]]>"])
@each_command
def test_tags_that_are_none(rig: Rig, command: str, sign: str) -> None:
    """What is no XML begins after the first step was told."""

    def reply(request: Recorded) -> Reply:
        text = fit(request, QA)
        return Reply(text if asked(request)[0] == "json" else text.replace("Second", f"1 {sign} 2. Second"))

    rig.provider.replies(reply)
    args = {"module": "chain_of_thought"} if command == "stream_predict" else {}
    *chunks, last = rig.run(command, tokens=True, adapter="xml", **args)
    assert last["output"] == joined(chunks) == QA
    assert types(chunks).index("token") < types(chunks).index("restart")
    assert len(of(chunks, "restart")) == 1


def test_without_tokens_nothing_is_taken_back(rig: Rig) -> None:
    rig.provider.replies(first_malformed())
    (last,) = rig.run("stream_predict", tokens=False, module="chain_of_thought")
    assert last["output"] == QA


@pytest.mark.parametrize("tokens", [True, False])
@falls_back
def test_steps_are_taken_back_without_tokens_too(rig: Rig, adapter: str, tokens: bool) -> None:
    rig.provider.replies(first_malformed())
    chunks = rig.run("stream_chain_of_thought", adapter=adapter, tokens=tokens)
    assert len(of(chunks, "restart")) == 1
    assert len(of(chunks, "reasoning_step")) == 4
    assert steps(chunks) == QA["reasoning"].split("\n")


@falls_back
def test_thoughts_are_taken_back_as_well(rig: Rig, adapter: str) -> None:
    """They were told as steps, though the answer after them had nothing of the format."""

    def then(request: Recorded) -> Reply:
        return Reply(fit(request, QA), reasoning="Second thoughts.")

    rig.provider.replies(first_malformed(then, streams=False, reasoning="First thoughts."))
    chunks = rig.run("stream_chain_of_thought", "ollama_chat", tokens=True, adapter=adapter)
    assert of(chunks, "reasoning_step")[0]["content"] == "First thoughts."
    assert len(of(chunks, "restart")) == 1
    assert steps(chunks) == ["Second thoughts.", *QA["reasoning"].split("\n")]
    assert chunks[-1]["full_reasoning"] == f"Second thoughts.\n\n{QA['reasoning']}"


@pytest.mark.parametrize("streams", [True, False])
@each_command
@each_adapter
def test_a_second_malformed_answer_ends_the_stream(
    rig: Rig, adapter: str, command: str, streams: bool
) -> None:
    raw = '{"reasoning": "One.\\nTwo."}' if streams else "No."
    rig.provider.replies(first_malformed(lambda request: Reply(raw), streams=streams))
    args = {"module": "chain_of_thought"} if command == "stream_predict" else {}
    *chunks, last = rig.run(command, tokens=True, adapter=adapter, **args)
    assert (last["type"], last["code"], last["retryable"]) == ("error", "lm_output_invalid", False)
    assert last["details"]["raw"] == raw
    assert len(of(chunks, "restart")) == (streams and adapter != "json")
    calls = 1 if adapter == "json" else 2
    assert last["usage"] == {kind: count * calls for kind, count in USAGE.items()}


def test_the_second_answer_is_tried_again_after_a_failure(rig: Rig) -> None:
    replies = iter([SERVER_ERROR, None])

    def then(request: Recorded) -> Reply:
        return next(replies) or good(request)

    rig.provider.replies(first_malformed(then))
    *chunks, last = rig.run("stream_predict", tokens=True, lm={"num_retries": 1}, module="chain_of_thought")
    assert len(of(chunks, "restart")) == 1
    assert last["output"] == joined(chunks) == QA


def test_the_second_answer_fails(rig: Rig) -> None:
    rig.provider.replies(first_malformed(lambda request: SERVER_ERROR))
    *chunks, last = rig.run("stream_predict", tokens=True, module="chain_of_thought")
    assert types(chunks)[-1] == "restart"
    assert last["code"] == "lm_unavailable"
    assert "streamed" not in last["details"]
    rig.provider.replies(first_malformed(lambda request: Reply(fit(request, QA), cut_after=900)))
    *chunks, last = rig.run("stream_predict", tokens=True, module="chain_of_thought")
    assert joined(chunks)
    assert last["details"]["streamed"] == {field: len(text) for field, text in joined(chunks).items()}
