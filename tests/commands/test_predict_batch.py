"""``stream_predict_batch``, its handler driven directly, with the scripted LM and against a provider."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import msgspec
import pytest

from bridge.commands.predict import BatchArgs
from bridge.dspy_runtime.batch import WINDOW
from bridge.errors import BridgeError, Code
from tests.support import provider as fake
from tests.support.handlers import Harness, native, plain, scripted
from tests.support.provider import Provider, Reply, failure

QUICKSTART = ["Paris is the capital of", "The largest planet is", "Water boils at", "The speed of light is"]
ANSWERS = ["France", "Jupiter", "100 degrees Celsius", "299,792,458 meters per second"]
SCRIPT = [
    {"match": {"text": text}, "outputs": {"completion": answer}}
    for text, answer in zip(QUICKSTART, ANSWERS, strict=True)
]
ITEMS = [{"text": text} for text in QUICKSTART]


def kinds(chunks: list[dict[str, Any]]) -> list[str]:
    return [chunk["type"] for chunk in chunks]


def test_the_four_items() -> None:
    harness = Harness()
    chunks = harness.batch(ITEMS, lm=scripted(*SCRIPT))
    assert kinds(chunks) == ["prediction"] * 4 + ["complete"]
    for index, chunk in enumerate(chunks[:4]):
        assert chunk["index"] == index
        assert chunk["total"] == 4
        assert chunk["input"] == ITEMS[index]
        assert chunk["output"] == {"completion": ANSWERS[index]}
        assert chunk["progress"] == (index + 1) / 4
        assert chunk["usage"]["calls"] == 1
    last = chunks[-1]
    assert (last["total"], last["succeeded"], last["failed"]) == (4, 4, 0)
    assert last["elapsed_ms"] >= 0
    assert last["usage"] == {name: sum(c["usage"][name] for c in chunks[:4]) for name in last["usage"]}
    assert "stopped" not in last
    assert harness.labels == {"scripted": True}


def test_no_items() -> None:
    assert Harness().batch([], lm=scripted()) == [
        {
            "type": "complete",
            "total": 0,
            "succeeded": 0,
            "failed": 0,
            "elapsed_ms": pytest.approx(0, abs=5000),
            "usage": {"calls": 0, "input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        }
    ]


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_chain_of_thought_and_adapters(adapter: str) -> None:
    lm = scripted({"outputs": {"reasoning": "Because.", "completion": "France"}})
    chunks = Harness().batch(ITEMS[:1], lm=lm, adapter=adapter, module="chain_of_thought")
    assert chunks[0]["output"] == {"reasoning": "Because.", "completion": "France"}
    with pytest.raises(BridgeError, match="reasoning"):
        Harness().batch([], lm=lm, signature="a -> reasoning", module="chain_of_thought")


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_reasoning_is_told_as_its_text(adapter: str) -> None:
    lm = scripted({"outputs": {"why": "Because.\nSo.", "completion": "France"}})
    signature = "text -> why: dspy.Reasoning, completion"
    if adapter == "json":  # the scripted model answers what the schema asks for
        lm = scripted({"outputs": {"why": {"content": "Because.\nSo."}, "completion": "France"}})
    chunks = Harness().batch(ITEMS[:1], lm=lm, adapter=adapter, signature=signature)
    assert chunks[0]["output"] == {"why": "Because.\nSo.", "completion": "France"}


def test_a_failing_item_stops_nothing_and_names_the_field() -> None:
    items = [
        {"text": "a"},
        {"txt": "a"},
        {"text": 5},
        {"text": "a", "more": 1},
        {},
        {"text": "fails"},
        {"text": "z"},
    ]
    lm = scripted({"match": {"text": "fails"}, "error": {"status": 401, "message": "Wrong key."}})
    chunks = Harness().batch(items, lm=lm)
    assert kinds(chunks) == ["prediction", *["error"] * 5, "prediction", "complete"]
    paths = [chunk["details"].get("path") for chunk in chunks[1:6]]
    assert paths == [
        f"$.args.items[{i}].{name}" for i, name in ((1, "text"), (2, "text"), (3, "more"), (4, "text"))
    ] + [None]
    assert [chunk["index"] for chunk in chunks[:-1]] == list(range(7))
    assert [chunk["progress"] for chunk in chunks[:-1]] == [n / 7 for n in range(1, 8)]
    assert chunks[2]["input"] == {"text": 5}
    assert "'text'" in chunks[2]["error"]
    assert chunks[5] == {
        "type": "error",
        "index": 5,
        "total": 7,
        "input": {"text": "fails"},
        "progress": 6 / 7,
        "usage": {"calls": 0, "input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        "error": "Wrong key.",
        "code": "lm_auth",
        "retryable": False,
        "details": {"model": "scripted", "provider": "scripted", "status": 401},
    }
    assert (chunks[-1]["succeeded"], chunks[-1]["failed"]) == (2, 5)


def test_results_in_input_order_and_as_they_are_completed() -> None:
    lm = scripted({"match": {"text": "0"}, "delay_s": 0.3})
    items = [{"text": str(number)} for number in range(20)]
    assert [c["index"] for c in Harness().batch(items, lm=lm)[:-1]] == list(range(20))
    found = [c["index"] for c in Harness().batch(items, lm=lm, order="completion")[:-1]]
    assert found[-1] == 0
    assert sorted(found) == list(range(20))


def test_a_batch_streams() -> None:
    harness = Harness()

    async def run() -> None:
        with Provider() as provider:
            release = asyncio.Event()
            provider.replies(
                lambda request: Reply(hang=True) if "slow" in request.user else fake.echo(request)
            )
            args = {
                "signature": "text -> completion",
                "items": [{"text": "a"}, {"text": "b"}, {"text": "slow"}],
                "lm": native(provider.url),
            }
            stream = harness.stream("stream_predict_batch", args)
            assert [plain(await anext(stream))["output"]["completion"] for _ in range(2)] == ["a", "b"]
            await stream.aclose()
            release.set()

    harness.run(run)


@pytest.mark.parametrize("order", ["input", "completion"])
def test_max_errors(order: str) -> None:
    with Provider() as provider:
        provider.replies(
            lambda request: (
                Reply(hang=True)
                if "hang" in request.user
                else failure(400)
                if "bad" in request.user
                else fake.echo(request)
            )
        )
        items = [{"text": kind} for kind in ("a", "hang", "bad", "b", "bad", *["hang"] * 50)]
        chunks = Harness().batch(items, lm=native(provider.url), max_errors=2, order=order, concurrency=6)
        assert chunks[-1]["stopped"] is True
        assert chunks[-1]["failed"] == 2
        assert chunks[-1]["total"] == 55
        assert chunks[-1]["succeeded"] == len(chunks) - 3
        assert [c["index"] for c in chunks if c["type"] == "error"] == [2, 4] or order == "completion"
        provider.wait_for(lambda p: p.open_connections == 0)
        assert len(provider.requests) < 20


def test_whole_requests_are_checked_before_any_item() -> None:
    lm = scripted()
    for args, code in (
        ({"lm": lm, "signature": None}, Code.INVALID_ARGS),
        ({"lm": lm, "signature": None, "program": "gone"}, Code.UNKNOWN_PROGRAM),
        ({"lm": lm, "program": "gone"}, Code.INVALID_ARGS),
        ({"lm": lm, "signature": "nonsense"}, Code.INVALID_ARGS),
        ({"lm": "gone"}, Code.UNKNOWN_LM),
        ({}, Code.LM_NOT_CONFIGURED),
    ):
        with pytest.raises(BridgeError) as caught:
            Harness().batch(ITEMS, **args)
        assert caught.value.code is code


@pytest.mark.parametrize(
    "args",
    [
        {"items": "x"},
        {"items": ["x"]},
        {"items": [{}, None]},
        {"items": {}},
        {},
        {"items": [], "concurrency": 0},
        {"items": [], "concurrency": 1025},
        {"items": [], "order": "any"},
        {"items": [], "module": "react"},
        {"items": [], "max_errors": 0},
        {"items": [], "config": {"api_key": "x"}},
        {"items": [], "config": {"api_base": "x"}},
        {"items": [], "config": {"n": 3}},
        {"items": [], "adapter": "x"},
        {"items": [], "itmes": []},
        {"items": [], "signature": {}},
        {"items": [], "lm": 5},
        {"items": [], "lm": ""},
        {"items": [], "signature": {"inputs": [], "outputs": [], "doc": ""}},
    ],
)
def test_args_that_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(args, BatchArgs)


def test_no_more_calls_run_than_asked_for() -> None:
    with Provider() as provider:
        provider.replies(lambda request: Reply("[[ ## completion ## ]]\nx", delay_s=0.02))
        Harness().batch([{"text": str(n)} for n in range(40)], lm=native(provider.url), concurrency=5)
        assert provider.most_at_once == 5
        assert len(provider.requests) == 40


def test_a_host_that_does_not_read_stops_the_calls() -> None:
    harness = Harness()

    async def run() -> None:
        args = {
            "signature": "text -> completion",
            "items": [{"text": "x"}] * 5000,
            "lm": native(provider.url),
            "concurrency": 4,
        }
        stream = harness.stream("stream_predict_batch", args)
        await anext(stream)
        seen = -1
        while seen != len(provider.requests):
            seen = len(provider.requests)
            await asyncio.sleep(0.3)
        assert seen <= 1 + WINDOW + 4
        await stream.aclose()

    with Provider() as provider:
        harness.run(run)


def test_cancelling_closes_the_connections_at_once() -> None:
    harness = Harness()

    async def run() -> float:
        args = {
            "signature": "text -> completion",
            "items": [{"text": "x"}] * 50,
            "lm": native(provider.url),
            "concurrency": 20,
        }
        task = asyncio.ensure_future(harness.chunks("stream_predict_batch", args))
        await asyncio.to_thread(provider.wait_for, lambda p: p.at_once == 20)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(provider.wait_for, lambda p: p.open_connections == 0)
        return time.monotonic() - started

    with Provider(lambda request: Reply(hang=True)) as provider:
        assert harness.run(run) < 1.0


def test_settings_reach_the_provider() -> None:
    with Provider() as provider:
        lm = native(provider.url, temperature=0.1, max_tokens=50, top_p=0.9, seed=1)
        Harness().batch(ITEMS[:1], lm=lm, config={"temperature": 0.7, "stop": ["END"], "rollout_id": 5})
        body = provider.requests[0].body
    assert body["model"] == "gpt-4o-mini"
    assert (body["temperature"], body["top_p"], body["seed"], body["stop"]) == (0.7, 0.9, 1, ["END"])
    assert 50 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    assert "rollout_id" not in body


def test_usage_is_the_providers() -> None:
    with Provider() as provider:
        chunks = Harness().batch(ITEMS, lm=native(provider.url))
    assert chunks[0]["usage"] == {"calls": 1, "input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    assert chunks[-1]["usage"] == {"calls": 4, "input_tokens": 44, "output_tokens": 28, "total_tokens": 72}


def test_answers_from_the_cache_cost_nothing() -> None:
    harness = Harness()
    args = {"signature": "text -> completion", "items": [{"text": "cached?"}], "lm": scripted(cache=True)}

    async def run() -> None:
        await harness.chunks("stream_predict_batch", args)
        again = await harness.chunks("stream_predict_batch", args)
        assert again[0]["output"] == {"completion": "cached?"}
        assert again[-1]["usage"]["calls"] == 0
        fresh = await harness.chunks(
            "stream_predict_batch", {**args, "config": {"rollout_id": 7, "temperature": 1.0}}
        )
        assert fresh[-1]["usage"]["calls"] == 1

    harness.run(run)


@pytest.mark.parametrize(
    ("reply", "code", "retryable", "expected"),
    [
        (fake.UNAUTHORIZED, "lm_auth", False, {"status": 401}),
        (fake.QUOTA, "lm_billing", False, {"status": 429}),
        (failure(402, "Pay."), "lm_billing", False, {"status": 402}),
        (fake.rate_limit("1.2"), "lm_rate_limit", True, {"status": 429}),
        (fake.BAD_REQUEST, "lm_invalid_request", False, {"status": 400}),
        (fake.CONTEXT_LENGTH, "lm_context_window", False, {"status": 400}),
        (fake.NOT_FOUND, "lm_invalid_request", False, {"status": 404}),
        (fake.SERVER_ERROR, "lm_unavailable", True, {"status": 500}),
        (fake.UNAVAILABLE, "lm_unavailable", True, {"status": 503}),
        (failure(504, "Late."), "lm_timeout", True, {"status": 504}),
        (Reply("x" * 500, cut_after=100), "lm_unavailable", True, {}),
        (Reply(hang=True), "lm_timeout", True, {}),
        (Reply("no fields here"), "lm_output_invalid", False, None),
        (Reply(raw=b"<html>not json</html>"), "lm_error", False, {}),
    ],
)
def test_failures_of_the_provider(
    reply: Reply, code: str, retryable: bool, expected: dict[str, Any] | None
) -> None:
    with Provider() as provider:
        provider.replies(reply)
        chunk, last = Harness().batch(
            ITEMS[:1], signature="text -> n: int", lm=native(provider.url, timeout_s=0.3)
        )
    assert (chunk["type"], chunk["code"], chunk["retryable"]) == ("error", code, retryable)
    assert (last["failed"], last["succeeded"]) == (1, 0)
    assert len(chunk["error"]) <= 500
    if expected is not None:
        details = chunk["details"]
        assert {"model": details["model"], **expected}.items() <= details.items()
        assert details["model"].endswith("gpt-4o-mini")
        if "status" in expected:
            assert details["request_id"] == "req-test"
    assert chunk.get("retry_after_ms") == (1200 if code == "lm_rate_limit" else None)


def test_nobody_listening() -> None:
    with Provider() as provider:
        url = provider.url
    chunk, _ = Harness().batch(ITEMS[:1], lm=native(url))
    assert (chunk["code"], chunk["retryable"]) == ("lm_unavailable", True)


def test_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    chunk, _ = Harness().batch(ITEMS[:1], lm={"model": "openai/gpt-4o-mini"})
    assert (chunk["code"], chunk["retryable"]) == ("lm_not_configured", False)
    assert "OPENAI_API_KEY" in chunk["error"] or "api_key" in chunk["error"]


def test_passing_failures_are_retried_as_often_as_asked() -> None:
    with Provider() as provider:
        provider.replies(lambda request: fake.echo(request) if request.number == 2 else fake.rate_limit("0"))
        chunk, _ = Harness().batch(ITEMS[:1], lm=native(provider.url, num_retries=2))
        assert chunk["type"] == "prediction"
        assert len(provider.requests) == 3


def test_typed_signatures_end_to_end() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "no": {"type": "integer"}},
        "required": ["city", "no"],
    }
    signature = {
        "instructions": "Find.",
        "inputs": {"text": "str", "n": "int"},
        "outputs": {"ok": "bool", "address": schema, "tags": "list[str]"},
    }
    outputs = {"ok": True, "address": {"city": "Ulm", "no": 5}, "tags": ["a"]}
    for adapter in ("chat", "json", "xml"):
        chunk, _ = Harness().batch(
            [{"text": "x", "n": "5"}],
            signature=signature,
            lm=scripted({"match": {"n": 5}, "outputs": outputs}),
            adapter=adapter,
        )
        assert chunk["output"]["ok"] is True
        assert chunk["output"]["tags"] == ["a"]
        assert chunk["input"] == {"text": "x", "n": "5"}
        assert chunk["output"]["address"] == outputs["address"]


def test_many_batches_at_once_do_not_mix() -> None:
    harness = Harness()

    async def one(number: int) -> None:
        lm = scripted({"outputs": {"completion": f"answer {number}"}})
        args = {
            "signature": "text -> completion",
            "items": [{"text": str(number)}] * 10,
            "lm": lm,
            "adapter": ("chat", "json", "xml")[number % 3],
        }
        *chunks, last = await harness.chunks("stream_predict_batch", args)
        assert {chunk["output"]["completion"] for chunk in chunks} == {f"answer {number}"}
        assert last["usage"]["calls"] == 10

    async def run() -> None:
        await asyncio.gather(*(one(number) for number in range(30)))

    harness.run(run)


@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
def test_bounds_of_a_field_itself_hold_for_inputs_and_outputs(adapter: str) -> None:
    five = {"type": "integer", "minimum": 5}
    signature = {
        "inputs": {"n": {**five, "default": 6}},
        "outputs": {"m": five, "day": {"type": "string", "format": "date"}},
    }
    good, bad, late = (
        {"m": 5, "day": "2024-02-29"},
        {"m": 4, "day": "2024-02-29"},
        {"m": 5, "day": "2024-02-30"},
    )
    lm = scripted(
        {"match": {"n": 7}, "outputs": bad}, {"match": {"n": 8}, "outputs": late}, {"outputs": good}
    )
    items: list[Any] = [{"n": 5}, {"n": 0}, {"n": 7}, {"n": 8}, {}]
    *chunks, last = Harness().batch(items, signature=signature, lm=lm, adapter=adapter)
    assert [chunk.get("code") for chunk in chunks] == [
        None,
        "invalid_args",
        "lm_output_invalid",
        "lm_output_invalid",
        None,
    ]
    assert chunks[1]["details"] == {"path": "$.args.items[1].n"}
    assert chunks[2]["details"] == {"field": "m", "model": "scripted", "provider": "scripted"}
    assert chunks[2]["usage"]["calls"] == 1
    assert last["usage"] == {name: sum(c["usage"][name] for c in chunks) for name in last["usage"]}
    (echoed, _) = Harness().batch([{"n": 5}], signature=signature, lm=scripted(), adapter=adapter)
    assert echoed["output"] == {"m": 5, "day": "2000-01-01"}


def test_bounds_are_told_to_the_model() -> None:
    with Provider() as provider:
        signature = {"inputs": ["q"], "outputs": {"m": {"type": "integer", "minimum": 5}}}
        Harness().batch([{"q": "x"}], signature=signature, lm=native(provider.url))
        assert "greater than or equal to: 5" in str(provider.requests[0].body)


def test_errors_of_the_lm_name_it_as_configure_does() -> None:
    with Provider() as provider:
        for reply in (Reply("no fields here"), failure(400)):
            provider.replies(reply)
            chunk, _ = Harness().batch(ITEMS[:1], signature="text -> n: int", lm=native(provider.url))
            about = {"model": "openai/gpt-4o-mini", "provider": "openai"}
            assert about.items() <= chunk["details"].items()


def test_debug_adds_the_traceback_to_items_errors() -> None:
    lm = scripted({"error": {"status": 401, "message": "Wrong key."}})
    for debug in (True, False):
        chunk, _ = Harness(debug=debug).batch([{"text": "x"}, {}], lm=lm)[:2]
        assert ("Traceback" in chunk["details"].get("traceback", "")) is debug


def test_what_cancelled_items_had_cost_is_counted() -> None:
    # Its first answer can not be read, so that the adapter asks again and waits when the other item fails.
    asked_again = threading.Event()
    twice = iter([Reply("no fields here")])

    def reply(request: Any) -> Reply:
        if "bad" in request.user:
            return failure(400, gate=asked_again)
        if first := next(twice, None):
            return first
        asked_again.set()
        return Reply(hang=True)

    with Provider() as provider:
        provider.replies(reply)
        items = [{"text": "twice"}, {"text": "bad"}]
        (_, last) = Harness().batch(items, lm=native(provider.url), max_errors=1, concurrency=2)
        assert last["stopped"] is True
        assert last["usage"]["calls"] == 1


def test_max_errors_on_the_last_item_says_so() -> None:
    *_, last = Harness().batch([{"text": "a"}, {}], lm=scripted(), max_errors=1, concurrency=1)
    assert (last["stopped"], last["failed"]) == (True, 1)


def test_progress_is_1_at_the_end_only() -> None:
    items: list[Any] = [{}] * 30_000
    *chunks, _ = Harness().batch(items, lm=scripted(), concurrency=64)
    assert [chunk["progress"] == 1.0 for chunk in chunks] == [False] * 29_999 + [True]


def test_an_inline_scripted_lm_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    Harness().batch([], lm=scripted({"outputs": {"completion": "x"}}))
    assert "canned" in caplog.text
