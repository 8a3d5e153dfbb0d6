"""Programs of several LM calls, and calls that stream nothing: what their listeners are told."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from bridge.dspy_runtime import adapters, loader
from bridge.dspy_runtime.field_readers import Kind
from bridge.dspy_runtime.lm_build import build
from bridge.dspy_runtime.streaming import TURN, FieldStream, Listener
from bridge.options import ServeOptions
from tests.support.handlers import KEY, scripted, spec
from tests.support.provider import MODELS, Provider, Recorded, Reply
from tests.support.provider_replies import split
from tests.support.streams import ADAPTERS, QA, Rig, agree, answer, asked, cut, fit, joined, model, of, steps
from tests.support.worker import Worker

each_adapter = pytest.mark.parametrize("adapter", ADAPTERS)

DRAFT = {"draft": "A first draft.\nOf two lines.", "size": 3}
REVIEW = {"verdict": "Not so bad.", "score": 0.5}


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    loader.load(ServeOptions())


class Told:
    """A listener that keeps all that it is told, under its name."""

    prose = False

    def __init__(self, log: list[tuple[Any, ...]] | None = None, name: str = "") -> None:
        self.log = [] if log is None else log
        self.name = name
        self.sent: dict[str, int] = {}

    async def started(self) -> None:
        self.sent = {}
        self.log.append((self.name, "started"))

    async def event(self, kind: Kind, field: str, text: str) -> None:
        if kind is Kind.DELTA:
            self.sent[field] = self.sent.get(field, 0) + len(text)
        self.log.append((self.name, kind, field, text))

    async def restart(self) -> None:
        if self.sent:
            self.sent = {}
            self.log.append((self.name, "restart"))

    async def answered(self, values: dict[str, Any]) -> None:
        self.log.append((self.name, "answered", dict(values)))

    def calls(self) -> list[dict[str, str]]:
        """The deltas of each call, joined by field."""
        found: list[dict[str, str]] = []
        for _, what, *rest in self.log:
            if what == "started":
                found.append({})
            elif what == "restart":
                found[-1] = {}
            elif what is Kind.DELTA:
                found[-1][rest[0]] = found[-1].get(rest[0], "") + rest[1]
        return found

    def deltas(self) -> int:
        return sum(what is Kind.DELTA for _, what, *_ in self.log)


class Two(dspy.Module):  # type: ignore[misc] # DSPy is untyped
    """A draft and its review."""

    def __init__(self) -> None:
        super().__init__()
        self.write = dspy.Predict("topic -> draft, size: int")
        self.review = dspy.Predict("draft -> verdict, score: float")

    async def aforward(self, topic: str) -> dspy.Prediction:
        draft = await self.write.acall(topic=topic)
        return await self.review.acall(draft=draft.draft)


class Mute(dspy.LM):  # type: ignore[misc] # as above
    """An LM that can not stream."""

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with dspy.context(send_stream=None):
            return await super().acall(*args, **kwargs)


def lm_of(provider: Provider, kind: Any = None) -> dspy.LM:
    """The LM of a provider, or one of a class of its own."""
    if kind is None:
        return build(spec(model(provider)), ServeOptions())
    return kind(MODELS["openai"], api_base=provider.url, api_key=KEY, cache=False, engine="lm15")


def run(
    lm: dspy.LM, adapter: str, listeners: Mapping[dspy.Predict, Listener], program: Callable[[], Any]
) -> Any:
    """``program()`` on a loop of its own, streamed to the listeners."""

    async def main() -> Any:
        stream = FieldStream(listeners)
        context = {"lm": lm, "adapter": adapters.adapter(adapter), "send_stream": stream, "trace": None}
        try:
            with dspy.context(**context, stream_listeners=[], disable_history=True):
                return await program()
        finally:
            await lm.aclose()

    return asyncio.run(main())


def lm_of_script() -> dspy.LM:
    return build(spec(scripted({"outputs": {**DRAFT, **REVIEW}})), ServeOptions())


@each_adapter
def test_each_call_is_told_to_its_predictors_listener(adapter: str) -> None:
    program, log = Two(), []  # type: ignore[var-annotated] # of what Told keeps
    writer, critic = Told(log, "write"), Told(log, "review")
    prediction = run(
        lm_of_script(),
        adapter,
        {program.write: writer, program.review: critic},
        lambda: program.acall(topic="x"),
    )
    assert prediction.toDict() == REVIEW
    names = [name for name, *_ in log]
    assert names == sorted(names, reverse=True), "one call after the other"
    for name, values in (("write", DRAFT), ("review", REVIEW)):
        told = Told([each for each in log if each[0] == name])
        (fields,) = told.calls()
        agree(fields, values)
        assert told.deltas() > 3
        done = [each[2] for each in told.log if each[1] is Kind.DONE]
        assert sorted(done) == sorted(values)
        assert told.log[-1][1:] == ("answered", values)


@each_adapter
def test_one_listener_for_all_calls(adapter: str) -> None:
    program, told = Two(), Told()
    listeners: dict[dspy.Predict, Listener] = {program.write: told, program.review: told}
    run(lm_of_script(), adapter, listeners, lambda: program.acall(topic="x"))
    first, second = told.calls()
    agree(first, DRAFT)
    agree(second, REVIEW)


@each_adapter
def test_calls_that_nobody_listens_to_are_not_streamed(adapter: str) -> None:
    program, told = Two(), Told()
    with Provider(lambda request: Reply(fit(request, {**DRAFT, **REVIEW}))) as provider:
        run(lm_of(provider), adapter, {program.review: told}, lambda: program.acall(topic="x"))
        assert [request.streamed for request in provider.requests] == [False, True]
    (fields,) = told.calls()
    agree(fields, REVIEW)


@each_adapter
def test_calls_at_the_same_time_do_not_mix(adapter: str) -> None:
    predictors = [dspy.Predict("topic -> draft, size: int") for _ in range(10)]
    tellers = [Told() for _ in predictors]

    def reply(request: Recorded) -> Reply:
        topic = asked(request)[1]["topic"]
        values = {"draft": f"{topic} " * 10 + topic, "size": int(topic)}
        return Reply(tokens=cut(fit(request, values), 3), token_delay_s=0.001)

    async def program() -> None:
        calls = (each.acall(topic=str(number)) for number, each in enumerate(predictors))
        await asyncio.gather(*calls)

    with Provider(reply) as provider:
        run(lm_of(provider), adapter, dict(zip(predictors, tellers, strict=True)), program)
    for number, told in enumerate(tellers):
        (fields,) = told.calls()
        assert fields == {"draft": f"{number} " * 10 + str(number), "size": str(number)}


@each_adapter
def test_an_lm_that_streams_nothing(adapter: str) -> None:
    program, told = Two(), Told()
    with Provider(lambda request: Reply(fit(request, {**DRAFT, **REVIEW}))) as provider:
        listeners: dict[dspy.Predict, Listener] = {program.write: told, program.review: told}
        run(lm_of(provider, Mute), adapter, listeners, lambda: program.acall(topic="x"))
    first, second = told.calls()
    agree(first, DRAFT)
    agree(second, REVIEW)
    assert told.deltas() == 4
    assert told.log[-1] == ("", "answered", REVIEW)


@each_adapter
def test_json_is_asked_for_once_by_whoever_needs_it(adapter: str) -> None:
    program, told = Two(), Told()

    def reply(request: Recorded) -> Reply:
        form, _, names = asked(request)
        text = fit(request, {**DRAFT, **REVIEW})
        return Reply(text if form == "json" or "draft" in names else "I would rather not.")

    with Provider(reply) as provider:
        listeners: dict[dspy.Predict, Listener] = {program.write: told, program.review: told}
        if adapter == "json":
            provider.replies(lambda request: Reply("No."))
            with pytest.raises(dspy.AdapterParseError):
                run(lm_of(provider), adapter, listeners, lambda: program.acall(topic="x"))
            assert len(provider.requests) == 1
            return
        run(lm_of(provider), adapter, listeners, lambda: program.acall(topic="x"))
        assert [asked(request)[0] for request in provider.requests] == [adapter, adapter, "json"]
    first, second = told.calls()
    agree(first, DRAFT)
    agree(second, REVIEW)
    assert not [each for each in told.log if each[1] == "restart"], "nothing was told of the malformed one"


def test_an_error_says_what_its_own_call_had_told() -> None:
    program, told = Two(), Told()

    def reply(request: Recorded) -> Reply:
        late = "verdict" in asked(request)[2]
        values = {**DRAFT, "verdict": "word " * 20, "score": 1.0}
        return Reply(fit(request, values), cut_after=2500 if late else None)

    listeners: dict[dspy.Predict, Listener] = {program.write: told, program.review: told}
    with Provider(reply) as provider:
        lm = lm_of(provider)
        with pytest.raises(dspy.LMTransportError) as caught:
            run(lm, "chat", listeners, lambda: program.acall(topic="x"))
    (_, second) = told.calls()
    assert second
    assert caught.value.streamed == {field: len(text) for field, text in second.items()}


def test_settings_that_are_copied_keep_the_stream() -> None:
    stream = FieldStream({})
    assert copy.deepcopy({"send_stream": stream})["send_stream"] is stream


@each_adapter
def test_an_answer_in_one_packet_leaves_the_loop_to_others(adapter: str) -> None:
    predictor, told = dspy.Predict("question -> answer"), Told()
    values = {"answer": "word " * 50 * TURN}
    seen: set[int] = set()

    class Burst(Mute):
        """An LM whose tokens are all there at once."""

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            for piece in split(answer(adapter, values)):
                delta = SimpleNamespace(content=piece, reasoning_content=None)
                await dspy.settings.send_stream.send(SimpleNamespace(choices=[SimpleNamespace(delta=delta)]))
            return await super().acall(*args, **kwargs)

    async def others() -> None:
        while True:
            await asyncio.sleep(0)
            seen.add(len(told.log))

    async def program() -> None:
        task = asyncio.create_task(others())
        await predictor.acall(question="?")
        task.cancel()

    with Provider(lambda request: Reply(answer(adapter, values))) as provider:
        run(lm_of(provider, Burst), adapter, {predictor: told}, program)
    assert told.deltas() >= 50 * TURN
    assert len(seen) > 50


# ---- what comes out of a cache ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Provider() as provider, Worker() as worker:
        yield Rig(worker, provider)


@pytest.mark.parametrize("name", MODELS)
@each_adapter
def test_answers_from_the_cache_are_told_as_well(rig: Rig, adapter: str, name: str) -> None:
    rig.provider.replies(lambda request: Reply(fit(request, {**QA, "size": 3})))
    args: dict[str, Any] = {"lm": {"cache": True}, "adapter": adapter, "tokens": True}
    for command in ("stream_chain_of_thought", "stream_predict"):
        if command == "stream_predict":
            args["module"] = "chain_of_thought"
        args["question"] = f"{adapter} {name} {command}"
        args["signature"] = "question -> answer, size: int"
        *fresh, first = rig.run(command, name, **args)
        before = len(rig.provider.requests)
        *again, second = rig.run(command, name, **args)
        assert len(rig.provider.requests) == before
        assert second["output"] == first["output"] == {**QA, "size": 3}
        assert second["usage"]["calls"] == 0
        assert joined(fresh) == joined(again)
        assert len(of(again, "token")) == 3 < len(of(fresh, "token"))
        assert steps(fresh) == steps(again)
        assert len(steps(again)) == (2 if command == "stream_chain_of_thought" else 0)
        assert [chunk["status"] for chunk in of(fresh, "thinking")] == [
            chunk["status"] for chunk in of(again, "thinking")
        ]
