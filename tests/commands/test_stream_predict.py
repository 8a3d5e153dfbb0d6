"""``stream_predict`` through a real worker over real pipes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Spawn
from tests.support.handlers import scripted
from tests.support.provider import MODELS, Provider, Recorded, Reply
from tests.support.streams import (
    ADAPTERS,
    KINDS,
    QA,
    USAGE,
    VALUES,
    Rig,
    agree,
    answer,
    asked,
    cut,
    fit,
    joined,
    model,
    of,
    plain,
)
from tests.support.worker import Worker, types

COMMAND = "stream_predict"

each_adapter = pytest.mark.parametrize("adapter", ADAPTERS)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Provider() as provider, Worker() as worker:
        yield Rig(worker, provider)


@pytest.mark.parametrize("size", [0, 1, 2, 7])
@each_adapter
def test_the_deltas_of_a_field_joined_are_its_value(rig: Rig, adapter: str, size: int) -> None:
    rig.provider.replies(Reply(tokens=cut(answer(adapter, VALUES), size)))
    *tokens, last = rig.run(COMMAND, signature=KINDS, adapter=adapter)
    assert plain(last) == {"type": "prediction", "output": VALUES, "usage": USAGE}
    assert set(types(tokens)) == {"token"}
    assert set(tokens[0]) == {"id", "seq", "type", "field", "delta"}
    agree(joined(tokens), VALUES)
    if size == 1:
        assert len([token for token in tokens if token["field"] == "answer"]) > 30


@each_adapter
def test_values_that_are_no_texts_come_whole(rig: Rig, adapter: str) -> None:
    rig.provider.replies(Reply(tokens=cut(answer(adapter, VALUES), 1)))
    tokens = of(rig.run(COMMAND, signature=KINDS, adapter=adapter), "token")
    whole = {token["field"]: token["delta"] for token in tokens if token["field"] not in ("answer", "note")}
    assert whole == {"count": "-7", "tags": '["a","b\\"]","ç"]', "mood": "bad", "place": whole["place"]}
    assert len([token for token in tokens if token["field"] in whole]) == 4


TEXTS = [*((adapter, answer(adapter, VALUES)) for adapter in ADAPTERS), ("json", json.dumps(VALUES))]


@pytest.mark.parametrize(("adapter", "text"), TEXTS, ids=[*ADAPTERS, "json with escapes"])
def test_however_the_provider_cuts_the_text(rig: Rig, adapter: str, text: str) -> None:
    worker, provider = rig

    def reply(request: Recorded) -> Reply:
        at = int(asked(request)[1]["question"])
        return Reply(tokens=[piece for piece in (text[:at], text[at:]) if piece])

    provider.replies(reply)
    worker.forget()
    args = {"lm": model(provider), "signature": KINDS, "adapter": adapter}
    requests = [worker.request("stream_predict", {**args, "question": str(at)}) for at in range(len(text))]
    for at, request in enumerate(requests):
        *tokens, last = worker.collect(request)
        assert last.get("output") == VALUES, (at, last)
        assert set(types(tokens)) == {"token"}, at
        agree(joined(tokens), VALUES)


@pytest.mark.parametrize("name", MODELS)
def test_an_answer_in_one_long_event(rig: Rig, name: str) -> None:
    """More than 64 KiB on a line: what gateways that do not stream send, and Gemini for a tool call."""
    rig.provider.replies(Reply(tokens=[answer("chat", {"answer": "x" * 100_000})]))
    *tokens, last = rig.run(COMMAND, name)
    assert last.get("output") == joined(tokens) == {"answer": "x" * 100_000}, last


@each_adapter
def test_a_character_that_comes_in_two_halves(rig: Rig, adapter: str) -> None:
    """Gateways that cut texts by UTF-16 units send each half of a pair as an escape of its own."""
    before, after = answer(adapter, {"answer": "x@y"}).split("@")
    rig.provider.replies(Reply(tokens=[before, "\ud83d", "\ude00", after]))
    *tokens, last = rig.run(COMMAND, adapter=adapter)
    assert last.get("output") == {"answer": "x😀y"}, last
    assert joined(tokens) == {"answer": "x😀y"}


@pytest.mark.parametrize("space", ["  ", "\n", " \n\n ", "\t\n"])
@each_adapter
def test_white_space_around_values(rig: Rig, adapter: str, space: str) -> None:
    text = answer(adapter, {"first": f"{space}a{space}b{space}", "second": space})
    rig.provider.replies(Reply(tokens=cut(text, 1)))
    *tokens, last = rig.run(COMMAND, signature="question -> first, second", adapter=adapter)
    agree(joined(tokens), last["output"])
    assert last["output"]["first"].strip() == f"a{space}b"
    assert not of(tokens, "restart")


@each_adapter
def test_nothing_in_an_optional_field(rig: Rig, adapter: str) -> None:
    text = answer(adapter, {"answer": "x", "note": "" if adapter == "chat" else None})
    rig.provider.replies(Reply(text))
    signature = {"inputs": ["question"], "outputs": {"answer": "str", "note": "Optional[str]"}}
    *tokens, last = rig.run(COMMAND, signature=signature, adapter=adapter)
    assert last["output"]["note"] in (None, "")
    assert joined(tokens) == {"answer": "x"}


@each_adapter
def test_fields_in_another_order_and_twice(rig: Rig, adapter: str) -> None:
    text = {
        "chat": "[[ ## b ## ]]\n2\n\n[[ ## a ## ]]\none\n\n[[ ## x ## ]]\nno\n\n[[ ## completed ## ]]",
        "json": '{"b": 2, "x": {"a": "no"}, "a": "one"}',
        "xml": "<b>2</b><x><a>no</a></x><a>one</a>",
    }[adapter]
    rig.provider.replies(Reply(tokens=cut(text, 1)))
    *tokens, last = rig.run(COMMAND, signature="question -> a, b: int", adapter=adapter)
    assert last["output"] == {"a": "one", "b": 2}
    assert joined(tokens) == {"a": "one", "b": "2"}


@each_adapter
def test_tokens_come_while_the_model_is_generating(rig: Rig, adapter: str) -> None:
    text = answer(adapter, {"first": "one two three", "second": "four"})
    gate, at = threading.Event(), text.index(" three")
    rig.provider.replies(Reply(tokens=[text[:at], text[at:]], gate_after=1, gate=gate))
    worker = rig.worker
    worker.forget()
    args = {"signature": "question -> first, second", "question": "?", "lm": model(rig.provider)}
    request = worker.request("stream_predict", {**args, "adapter": adapter})
    first = worker.type("token", request)
    assert (first["field"], first["delta"]) == ("first", "one two")
    gate.set()
    *tokens, last = worker.collect(request)
    assert last["output"] == joined(tokens) == {"first": "one two three", "second": "four"}


def test_without_tokens_there_is_the_prediction_only(rig: Rig) -> None:
    rig.provider.replies(lambda request: Reply(fit(request, QA)))
    (last,) = rig.run(COMMAND, tokens=False)
    assert plain(last) == {"type": "prediction", "output": {"answer": QA["answer"]}, "usage": USAGE}
    rig.provider.replies(
        lambda request: Reply(fit(request, QA) if asked(request)[0] == "json" else "[[ ## answer ## ]]")
    )
    (last,) = rig.run(COMMAND, signature="question -> answer", tokens=False)
    assert last["type"] == "prediction"


@each_adapter
def test_a_chain_of_thought_streams_its_reasoning_too(rig: Rig, adapter: str) -> None:
    rig.provider.replies(lambda request: Reply(fit(request, QA)))
    *tokens, last = rig.run(COMMAND, module="chain_of_thought", adapter=adapter)
    assert last["output"] == joined(tokens) == QA
    assert list(dict.fromkeys(token["field"] for token in tokens)) == ["reasoning", "answer"]
    assert len(tokens) >= 4


def test_the_signature_is_question_to_answer_unless_given(rig: Rig) -> None:
    rig.provider.replies(lambda request: Reply(fit(request, QA)))
    for args in ({"question": "Why?"}, {"inputs": {"question": "Why?"}}):
        assert rig.run(COMMAND, **args)[-1]["output"] == {"answer": QA["answer"]}
        assert asked(rig.provider.requests[-1])[1:] == ({"question": "Why?"}, ("answer",))
    rig.run(
        COMMAND, signature="question, context: list[int] -> answer", inputs={"question": "a", "context": [1]}
    )
    assert asked(rig.provider.requests[-1])[1] == {"question": "a", "context": "[1]"}


def test_settings_reach_the_provider(rig: Rig) -> None:
    rig.provider.replies(lambda request: Reply(fit(request, QA)))
    rig.run(COMMAND, config={"temperature": 0.25, "max_tokens": 99, "stop": ["END"]})
    request = rig.provider.requests[-1]
    assert request.streamed
    assert (request.body["temperature"], request.body["stop"]) == (0.25, ["END"])
    assert 99 in request.body.values()
    rig.run(COMMAND)
    assert rig.provider.requests[-1].body.get("temperature") != 0.25


def test_settings_of_streams_at_the_same_time_do_not_mix(rig: Rig) -> None:
    worker, provider = rig
    gate = threading.Event()
    provider.replies(lambda request: Reply(fit(request, QA), gate=gate))
    before = len(provider.requests)
    worker.forget()
    temperatures = [None, *(number / 20 for number in range(1, 20))]
    requests = []
    for number, temperature in enumerate(temperatures):
        args = {
            "question": str(temperature),
            "lm": model(provider),
            "module": ("predict", *COT.values())[number % 2],
        }
        if temperature is not None:
            args["config"] = {"temperature": temperature}
        requests.append(worker.request(COMMAND, args))
    provider.wait_for(lambda p: len(p.requests) == before + 20)
    gate.set()
    for number, request in enumerate(requests):
        wanted = QA if number % 2 else {"answer": QA["answer"]}
        assert worker.collect(request)[-1]["output"] == wanted
    for recorded in provider.requests[before:]:
        assert str(recorded.body.get("temperature")) == asked(recorded)[1]["question"]


def test_the_configured_lm_and_adapter(rig: Rig) -> None:
    rig.provider.replies(lambda request: Reply(fit(request, QA)))
    rig.worker.call("configure", {"lm": model(rig.provider), "name": "named", "adapter": "xml"})
    assert rig.run(COMMAND, lm="named")[-1]["output"] == {"answer": QA["answer"]}
    assert asked(rig.provider.requests[-1])[0] == "xml"
    rig.run(COMMAND, lm="named", adapter="json")
    assert asked(rig.provider.requests[-1])[0] == "json"


def test_scripted_answers_say_so(rig: Rig) -> None:
    lm = scripted({"outputs": {"answer": "one two three"}})
    *tokens, last = rig.run(COMMAND, lm=lm)
    assert [token["delta"] for token in tokens] == ["one", " two", " three"]
    assert last["scripted"] is True
    assert rig.run(COMMAND, lm=lm, inputs={})[-1]["scripted"] is True


COT = {"module": "chain_of_thought"}
OBJECT = {"inputs": {"text": "str", "size": "int"}, "outputs": ["answer"]}


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ({}, "$.args.inputs"),
        ({"question": "a", "inputs": {"question": "a"}}, "$.args.question"),
        ({"question": 5}, "$.args.question"),
        ({"question": None}, "$.args.question"),
        ({"inputs": "a"}, "$.args.inputs"),
        ({"inputs": None}, "$.args.inputs"),
        ({"inputs": [{}]}, "$.args.inputs"),
        ({"inputs": {}}, "$.args.inputs.question"),
        ({"inputs": {"question": 5}}, "$.args.inputs.question"),
        ({"inputs": {"question": None}}, "$.args.inputs.question"),
        ({"inputs": {"question": "a", "more": 1}}, "$.args.inputs.more"),
        ({"question": "a", "signature": "question, size: int -> answer"}, "$.args."),
        ({"inputs": {"text": "a"}, "signature": OBJECT}, "$.args.inputs.size"),
        ({"inputs": {"text": "a", "size": "many"}, "signature": OBJECT}, "$.args.inputs.size"),
        ({"question": "a", "signature": "nonsense"}, "$.args.signature"),
        ({"question": "a", "signature": "question -> answer: os.path"}, "$.args.signature"),
        ({"question": "a", "signature": {"inputs": ["question"]}}, "$.args.signature.outputs"),
        ({"question": "a", "module": "react"}, "$.args.module"),
        ({"question": "a", "tokens": 1}, "$.args.tokens"),
        ({"question": "a", "adapter": "yaml"}, "$.args.adapter"),
        ({"question": "a", "config": {"temperature": -1}}, "$.args.config.temperature"),
        ({"question": "a", "streaming": True}, "$.args.streaming"),
        ({"question": "a", "signature": "question -> reasoning", **COT}, "$.args.signature"),
        ({"inputs": {"reasoning": "a"}, "signature": "reasoning -> b", **COT}, "$.args.signature"),
    ],
)
def test_args_that_are_wrong(rig: Rig, args: dict[str, Any], path: str) -> None:
    before = len(rig.provider.requests)
    rig.worker.forget()
    (last,) = rig.worker.stream(COMMAND, {"lm": model(rig.provider), **args})
    assert last["code"] == "invalid_args"
    assert last["retryable"] is False
    found = last["details"]["path"]
    assert found.startswith(path) if path.endswith(".") else found == path
    assert len(rig.provider.requests) == before


def test_inputs_are_coerced(rig: Rig) -> None:
    rig.provider.replies(lambda request: Reply(fit(request, QA)))
    last = rig.run(COMMAND, signature=OBJECT, inputs={"text": "a", "size": "12"})[-1]
    assert last["output"] == {"answer": QA["answer"]}
    assert asked(rig.provider.requests[-1])[1] == {"text": "a", "size": "12"}


def test_names_that_nobody_has(rig: Rig) -> None:
    assert rig.run(COMMAND, program="gone")[-1]["code"] == "unknown_program"
    assert rig.run(COMMAND, lm="gone")[-1]["code"] == "unknown_lm"


def test_without_an_lm_it_says_how_to_get_one(spawn: Spawn) -> None:
    worker = spawn()
    for command in ("stream_predict", "stream_chain_of_thought"):
        (last,) = worker.stream(command, {"question": "?"})
        assert last["code"] == "lm_not_configured"
        assert "DSPY_BRIDGE_MODEL" in last["error"]


def test_describe_knows_the_chunks(rig: Rig) -> None:
    about = rig.worker.call("describe")["commands"]["stream_predict"]
    kinds = [kind for chunk in about["chunks"] for kind in chunk["properties"]["type"]["enum"]]
    assert kinds == ["token", "restart", "prediction"]
