"""``stream_chain_of_thought`` through a real worker over real pipes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

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
    of,
    plain,
    steps,
)
from tests.support.worker import Worker, types

COMMAND = "stream_chain_of_thought"
STARTED = {"type": "thinking", "status": "started"}
ANSWERING = {"type": "thinking", "status": "answering"}

each_adapter = pytest.mark.parametrize("adapter", ADAPTERS)
each_provider = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Provider() as provider, Worker() as worker:
        yield Rig(worker, provider)


@pytest.mark.parametrize("size", [0, 1, 3])
@each_adapter
def test_steps_then_the_answer(rig: Rig, adapter: str, size: int) -> None:
    rig.provider.replies(Reply(tokens=cut(answer(adapter, QA), size)))
    chunks = [plain(chunk) for chunk in rig.run(COMMAND, adapter=adapter)]
    first, second = (
        {"type": "reasoning_step", "step": number, "content": line}
        for number, line in enumerate(QA["reasoning"].split("\n"), 1)
    )
    last = {"type": "final_answer", "answer": QA["answer"], "output": QA, "full_reasoning": QA["reasoning"]}
    assert chunks == [STARTED, first, second, ANSWERING, {**last, "usage": USAGE}]


@each_provider
@each_adapter
def test_a_step_is_sent_before_the_model_has_begun_the_next(rig: Rig, adapter: str, name: str) -> None:
    text = answer(adapter, QA)
    at = text.index("Second step.")
    gate = threading.Event()
    rig.provider.replies(Reply(tokens=[*cut(text[:at], 4), text[at:]], gate_after=-(-at // 4), gate=gate))
    request = rig.start(COMMAND, name, adapter=adapter)
    step = rig.worker.type("reasoning_step", request)
    assert plain(step) == {"type": "reasoning_step", "step": 1, "content": "First step."}
    assert rig.provider.at_once == 1, "the model is still at it"
    gate.set()
    *chunks, last = rig.worker.collect(request)
    assert steps(chunks) == ["First step.", "Second step."]
    assert (last["answer"], last["full_reasoning"]) == (QA["answer"], QA["reasoning"])


@each_provider
@each_adapter
def test_a_step_waits_for_its_line_to_end(rig: Rig, adapter: str, name: str) -> None:
    text = answer(adapter, QA)
    at = text.index("First step.") + len("First step.")
    gate = threading.Event()
    rig.provider.replies(Reply(tokens=[text[:at], text[at:]], gate_after=1, gate=gate))
    request = rig.start(COMMAND, name, adapter=adapter, tokens=True)
    token = rig.worker.type("token", request)
    assert (token["field"], token["delta"]) == ("reasoning", "First step.")
    rig.worker.sync()  # a step would have been sent with the token, and so before the pong
    assert not of(rig.worker.received, "reasoning_step")
    gate.set()
    assert steps(rig.worker.collect(request)) == ["First step.", "Second step."]


@each_adapter
def test_the_last_step_is_sent_when_the_answer_begins(rig: Rig, adapter: str) -> None:
    text = answer(adapter, QA)
    at = text.index("Forty-two") + 5
    gate = threading.Event()
    rig.provider.replies(Reply(tokens=[text[:at], text[at:]], gate_after=1, gate=gate))
    request = rig.start(COMMAND, adapter=adapter)
    assert rig.worker.type("reasoning_step", request)["content"] == "First step."
    assert rig.worker.type("reasoning_step", request)["content"] == "Second step."
    assert plain(rig.worker.next()) == ANSWERING
    gate.set()
    assert rig.worker.collect(request)[-1]["answer"] == QA["answer"]


@each_provider
@each_adapter
def test_tokens_on_request(rig: Rig, adapter: str, name: str) -> None:
    rig.provider.replies(Reply(tokens=cut(answer(adapter, {"reasoning": QA["reasoning"], **VALUES}), 3)))
    *chunks, last = rig.run(COMMAND, name, signature=KINDS, adapter=adapter, tokens=True)
    assert last["output"] == {"reasoning": QA["reasoning"], **VALUES}
    agree(joined(chunks), last["output"])
    assert steps(chunks) == ["First step.", "Second step."]
    assert len(of(chunks, "token")) > 15
    turn = types(chunks).index("thinking", 1)
    assert {chunk.get("field") for chunk in chunks[:turn]} <= {"reasoning", None}
    assert {chunk["field"] for chunk in chunks[turn + 1 :]} == {*VALUES}


@pytest.mark.parametrize(
    ("reasoning", "lines"),
    [
        ("One.", ["One."]),
        ("", []),
        ("\n\nOne.\n\n \n  Two.  \n\t\n", ["One.", "Two."]),
        ("- Straße\n* 日本語 😀\n\n1. ﷽ é\u0301", ["- Straße", "* 日本語 😀", "1. ﷽ é\u0301"]),
        ("a\r\nb\r\n\r\nc", ["a", "b", "c"]),
        ("if x < 3 && y > 2:\n  [[ no ]] {}", ["if x < 3 && y > 2:", "[[ no ]] {}"]),
        ("\n".join(f"Line {n}." for n in range(1, 201)), [f"Line {n}." for n in range(1, 201)]),
        ("x" * 100_000, ["x" * 100_000]),
    ],
    ids=["one", "none", "blanks", "unicode", "crlf", "code", "many", "long"],
)
@pytest.mark.parametrize("size", [0, 1])
@each_adapter
def test_every_line_is_a_step(rig: Rig, adapter: str, size: int, reasoning: str, lines: list[str]) -> None:
    if len(reasoning) > 10_000:
        size = 100 if size else 30_000
    values = {"reasoning": reasoning, "answer": "42"}
    rig.provider.replies(Reply(tokens=cut(answer(adapter, values), size)))
    *chunks, last = rig.run(COMMAND, adapter=adapter)
    assert steps(chunks) == lines
    assert last["full_reasoning"] == last["output"]["reasoning"]
    assert [line.strip() for line in last["full_reasoning"].split("\n") if line.strip()] == lines
    assert [plain(chunk) for chunk in of(chunks, "thinking")] == [STARTED, ANSWERING]


@each_adapter
def test_a_signature_that_reasons_by_itself(rig: Rig, adapter: str) -> None:
    signature = "question -> verdict: bool, reasoning, score: float"
    values = {"verdict": True, "reasoning": "One.\nTwo.", "score": 0.5}
    rig.provider.replies(Reply(answer(adapter, values)))
    *chunks, last = rig.run(COMMAND, signature=signature, adapter=adapter)
    assert steps(chunks) == ["One.", "Two."]
    assert (last["answer"], last["output"], last["full_reasoning"]) == (True, values, "One.\nTwo.")
    assert asked(rig.provider.requests[-1])[2] == ("verdict", "reasoning", "score")


@pytest.mark.parametrize("kind", ["list[str]", "dict[str, str]", "int"])
@each_adapter
def test_reasoning_that_is_no_text(rig: Rig, adapter: str, kind: str) -> None:
    reasoning = {"list[str]": ["One.", "Two."], "dict[str, str]": {"first": "One."}, "int": 7}[kind]
    rig.provider.replies(lambda request: Reply(fit(request, {"reasoning": reasoning, "answer": "x"})))
    signature = f"question -> reasoning: {kind}, answer"
    *chunks, last = rig.run(COMMAND, signature=signature, adapter=adapter, tokens=True)
    assert last["output"] == {"reasoning": reasoning, "answer": "x"}
    agree(joined(chunks), last["output"])
    assert steps(chunks) == [joined(chunks)["reasoning"]] == [last["full_reasoning"]]


@each_adapter
def test_the_answer_is_the_first_output(rig: Rig, adapter: str) -> None:
    rig.provider.replies(lambda request: Reply(fit(request, {"reasoning": "So.", **VALUES})))
    for first in VALUES:
        outputs = {first: KINDS["outputs"][first]} | KINDS["outputs"]  # type: ignore[index,operator]  # a dict
        last = rig.run(COMMAND, signature={**KINDS, "outputs": outputs}, adapter=adapter)[-1]
        assert last["answer"] == VALUES[first]
        assert last["output"] == {"reasoning": "So.", **VALUES}


@pytest.mark.parametrize("how", ["lm", "config"])
@each_adapter
def test_native_thoughts_are_the_reasoning(rig: Rig, adapter: str, how: str) -> None:
    thoughts = "Six times seven\n\nis forty-two."
    rig.provider.replies(Reply(answer(adapter, {"answer": "42"}), reasoning=thoughts))
    effort = {"reasoning_effort": "low"}
    *chunks, last = (
        rig.run(COMMAND, "anthropic", lm=effort, adapter=adapter, tokens=True)
        if how == "lm"
        else rig.run(COMMAND, "anthropic", config=effort, adapter=adapter, tokens=True)
    )
    assert steps(chunks) == ["Six times seven", "is forty-two."]
    assert last["output"] == joined(chunks) == {"reasoning": thoughts, "answer": "42"}
    assert (last["answer"], last["full_reasoning"]) == ("42", thoughts)
    request = rig.provider.requests[-1]
    assert request.body["thinking"]
    assert asked(request)[2] == ("answer",)
    schema = request.body.get("output_config", {}).get("format", {}).get("schema", {})
    assert "reasoning" not in schema.get("required", []), "it would have to be written once more"


@each_adapter
def test_native_thoughts_stream(rig: Rig, adapter: str) -> None:
    gate = threading.Event()
    text = answer(adapter, {"answer": "42"})
    rig.provider.replies(Reply(text, reasoning="One.\nTwo.", gate_after=0, gate=gate))
    request = rig.start(COMMAND, "anthropic", lm={"reasoning_effort": "low"}, adapter=adapter)
    assert rig.worker.type("reasoning_step", request)["content"] == "One."
    gate.set()
    *chunks, last = rig.worker.collect(request)
    assert steps(chunks) == ["One.", "Two."]
    assert [plain(chunk) for chunk in of(chunks, "thinking")] == [STARTED, ANSWERING]
    assert last["full_reasoning"] == "One.\nTwo."


@pytest.mark.parametrize("effort", [None, "low"])
@each_provider
@each_adapter
def test_a_model_that_thinks_beside_its_reasoning(
    rig: Rig, adapter: str, name: str, effort: str | None
) -> None:
    """Thoughts nobody asked for are steps of their own; with an effort they are the reasoning if told."""

    def reply(request: Recorded) -> Reply:
        return Reply(fit(request, QA), reasoning="Hm.\nWait.")

    rig.provider.replies(reply)
    *chunks, last = rig.run(COMMAND, name, lm={"reasoning_effort": effort} if effort else {}, adapter=adapter)
    native = "reasoning" not in asked(rig.provider.requests[-1])[2]
    assert native == (effort is not None and name == "anthropic")
    if native:
        assert steps(chunks) == ["Hm.", "Wait."]
        assert last["full_reasoning"] == last["output"]["reasoning"] == "Hm.\nWait."
    else:
        assert steps(chunks) == ["Hm.", "Wait.", "First step.", "Second step."]
        assert last["full_reasoning"] == "Hm.\nWait.\n\nFirst step.\nSecond step."
        assert last["output"] == QA
    assert [plain(chunk) for chunk in of(chunks, "thinking")] == [STARTED, ANSWERING]


def test_thoughts_beside_the_reasoning_stream(rig: Rig) -> None:
    gate = threading.Event()
    rig.provider.replies(Reply(answer("chat", QA), reasoning="Hm.\nWait.", gate_after=0, gate=gate))
    request = rig.start(COMMAND, "ollama_chat")
    assert rig.worker.type("reasoning_step", request)["content"] == "Hm."
    gate.set()
    assert len(steps(rig.worker.collect(request))) == 4


@each_adapter
def test_a_reasoner_that_was_asked_and_says_nothing(rig: Rig, adapter: str) -> None:
    """Anthropic's models may skip their thinking."""
    rig.provider.replies(Reply(answer(adapter, {"answer": "42"})))
    *chunks, last = rig.run(COMMAND, "anthropic", lm={"reasoning_effort": "low"}, adapter=adapter)
    assert last["type"] == "final_answer", last
    assert (last["answer"], last["full_reasoning"]) == ("42", "")
    assert not of(chunks, "reasoning_step")


@each_adapter
def test_a_reasoner_that_writes_its_reasoning_instead(rig: Rig, adapter: str) -> None:
    """Whatever becomes of it: nothing is asked for again, so that there is nothing to take back."""
    rig.provider.replies(Reply(answer(adapter, QA)))
    *chunks, last = rig.run(COMMAND, "anthropic", lm={"reasoning_effort": "low"}, adapter=adapter)
    assert last["answer"] == QA["answer"]
    assert not of(chunks, "restart")
    assert "\n".join(steps(chunks)) == last["full_reasoning"]


@each_adapter
def test_an_answer_that_can_not_be_read(rig: Rig, adapter: str) -> None:
    rig.provider.replies(Reply("I would rather not."))
    *chunks, last = rig.run(COMMAND, adapter=adapter)
    assert (last["type"], last["code"], last["done"]) == ("error", "lm_output_invalid", True)
    assert last["details"]["raw"] == "I would rather not."
    assert [plain(chunk) for chunk in chunks] == [STARTED] if adapter == "json" else chunks
    calls = 1 if adapter == "json" else 2
    assert last["usage"] == {name: count * calls for name, count in USAGE.items()}


@pytest.mark.parametrize("reasoning", [None, "Hm.\nWait."])
def test_scripted_thoughts(rig: Rig, reasoning: str | None) -> None:
    entry: dict[str, Any] = {"outputs": QA, **({"reasoning": reasoning} if reasoning else {})}
    rig.worker.forget()
    *chunks, last = rig.worker.stream(COMMAND, {"question": "?", "lm": scripted(entry)})
    assert steps(chunks) == ([*reasoning.split("\n")] if reasoning else []) + ["First step.", "Second step."]
    assert last["answer"] == QA["answer"]
    assert last["scripted"] is True


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ({}, "$.args.inputs"),
        ({"question": "a", "inputs": {}}, "$.args.question"),
        ({"inputs": {"question": 5}}, "$.args.inputs.question"),
        ({"inputs": {"q": "a"}}, "$.args.inputs.question"),
        ({"question": "a", "signature": "question -> reasoning"}, "$.args.signature"),
        ({"inputs": {"reasoning": "a"}, "signature": "reasoning -> b"}, "$.args.signature"),
        ({"question": "a", "module": "predict"}, "$.args.module"),
    ],
)
def test_args_that_are_wrong(rig: Rig, args: dict[str, Any], path: str) -> None:
    rig.worker.forget()
    (last,) = rig.worker.stream(COMMAND, {"lm": scripted(), **args})
    assert (last["code"], last["details"]["path"]) == ("invalid_args", path)
