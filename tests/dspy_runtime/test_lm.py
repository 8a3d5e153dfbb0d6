"""Language models: interned, named, closed when dropped."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from typing import Any

import pytest

from bridge.dspy_runtime import lm as lm_module
from bridge.dspy_runtime import lm_build, loader
from bridge.dspy_runtime.lm import InternedLm, LmStore
from bridge.errors import BridgeError, Code
from bridge.options import ServeOptions
from bridge.redact import redact
from tests.support.handlers import KEY, Harness, native, scripted, spec
from tests.support.provider import Provider, Reply

ITEM = [{"text": "hello"}]


@pytest.fixture
def store() -> LmStore:
    loader.load(ServeOptions())
    return LmStore(ServeOptions())


async def held(store: LmStore, *args: Any) -> InternedLm:
    with store.lease(*args) as lease:
        return lease.interned


def test_equal_configurations_share_one_lm(store: LmStore) -> None:
    async def run() -> None:
        one = await held(store, spec(native("http://127.0.0.1:9/v1")))
        store.configure("a", spec(native("http://127.0.0.1:9/v1")), None)
        assert await held(store, "a") is one
        assert await held(store, spec(native("http://127.0.0.1:9/v1", temperature=0.5))) is not one
        assert (
            await held(store, spec(native("http://127.0.0.1:9/v1", api_key="sk-another-key-000"))) is not one
        )

    asyncio.run(run())


def test_idle_inline_lms_are_bounded(store: LmStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_module, "MAX_IDLE_INLINE", 3)
    closed: list[float | None] = []

    async def aclose(self: InternedLm) -> None:
        closed.append(self.spec.temperature)

    monkeypatch.setattr(InternedLm, "aclose", aclose)

    async def run() -> None:
        def inline(number: int) -> Any:
            return spec(scripted(temperature=float(number)))

        with store.lease(inline(0)):
            for number in (1, 2, 3, 1, 4, 5):
                await held(store, inline(number))
            await asyncio.sleep(0)
            assert closed == [2.0, 3.0]
        await asyncio.sleep(0)
        assert closed == [2.0, 3.0, 1.0]

    asyncio.run(run())


def test_a_replaced_lm_is_closed_after_its_last_request(
    store: LmStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[InternedLm] = []

    async def aclose(self: InternedLm) -> None:
        closed.append(self)

    monkeypatch.setattr(InternedLm, "aclose", aclose)

    async def run() -> None:
        store.configure("default", spec(scripted(temperature=0.1)), None)
        with store.lease(None) as first, store.lease("default") as second:
            assert first.interned is second.interned
            store.configure("default", spec(scripted(temperature=0.2)), None)
            with store.lease(None) as now:
                assert now.interned is not first.interned
            await asyncio.sleep(0)
            assert closed == []
        await asyncio.sleep(0)
        assert closed == [first.interned]

    asyncio.run(run())


def test_an_lm_with_another_name_stays(store: LmStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def aclose(self: InternedLm) -> None:
        raise AssertionError("closed")

    monkeypatch.setattr(InternedLm, "aclose", aclose)

    async def run() -> None:
        store.configure("a", spec(scripted()), None)
        store.configure("b", spec(scripted()), None)
        store.configure("a", spec(scripted(temperature=1.0)), None)
        await asyncio.sleep(0)
        assert (await held(store, "b")).names == {"b"}

    asyncio.run(run())


def test_nothing_leaks_over_200_reconfigurations() -> None:
    harness = Harness()

    async def run() -> None:
        counts = []
        for number in range(200):
            temperature = number / 1000
            await harness.chunks("configure", {"lm": native(provider.url, temperature=temperature)})
            args = {"signature": "text -> completion", "items": ITEM}
            assert (await harness.chunks("stream_predict_batch", args))[-1]["succeeded"] == 1
            if number >= 20:
                counts.append(len(os.listdir("/proc/self/fd")))
        assert max(counts) - min(counts) <= 4, counts
        assert len(harness.runtime.lms._interned) == 1

    with Provider() as provider:
        harness.run(run)
        provider.wait_for(lambda p: p.open_connections == 0)
        assert provider.connections == 200


def test_concurrency_beyond_one_pool_uses_more_connections() -> None:
    with Provider() as provider:
        provider.replies(lambda request: Reply("[[ ## completion ## ]]\nx", delay_s=4.0))
        *_, last = Harness().batch(ITEM * 250, lm=native(provider.url), concurrency=250)
        assert last["succeeded"] == 250
        assert provider.most_at_once > 100, "what one pool has"


def test_the_workers_model_is_the_default() -> None:
    harness = Harness(model="scripted/demo", adapter="json")
    chunks = harness.batch(ITEM)
    assert chunks[-1]["succeeded"] == 1
    assert harness.labels == {"scripted": True}


def test_the_workers_model_goes_to_its_api_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Provider() as provider:
        assert Harness(model="openai/gpt-4o-mini", api_base=provider.url).batch(ITEM)[-1]["succeeded"] == 1
        assert provider.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_no_lm() -> None:
    for args in ({}, {"lm": "default"}):
        with pytest.raises(BridgeError, match=r"configure command.*DSPY_BRIDGE_MODEL") as caught:
            Harness().batch(ITEM, **args)
        assert caught.value.code is Code.LM_NOT_CONFIGURED


def test_an_unknown_name_comes_with_near_ones() -> None:
    harness = Harness()

    async def run() -> None:
        await harness.chunks("configure", {"lm": scripted(), "name": "quick"})
        with pytest.raises(BridgeError, match="Unknown LM: quikc") as caught:
            await harness.chunks("stream_predict_batch", {"signature": "a -> b", "items": [], "lm": "quikc"})
        assert caught.value.code is Code.UNKNOWN_LM
        assert caught.value.details == {"did_you_mean": ["quick"]}
        with pytest.raises(BridgeError) as caught:
            await harness.chunks("stream_predict_batch", {"signature": "a -> b", "items": [], "lm": "zzz"})
        assert caught.value.details is None

    harness.run(run)


@pytest.mark.parametrize(
    ("lm", "message"),
    [
        ({"model": "openai/"}, "no model id"),
        ({"model": "openai/gpt-5", "max_tokens": 5}, "reasoning models"),
        ({"model": "openai/gpt-4o", "script": []}, '"script" is for'),
        ({"model": "openai/gpt-4o", "tokens_per_s": 5}, '"tokens_per_s" is for'),
        (scripted({"text": "a", "error": {"status": 500}}), "exclude each other"),
    ],
)
def test_settings_that_can_not_be(lm: dict[str, Any], message: str, store: LmStore) -> None:
    with pytest.raises(BridgeError, match=message) as caught:
        lm_build.build(spec(lm), ServeOptions())
    assert caught.value.code is Code.INVALID_ARGS
    assert caught.value.details is not None
    assert caught.value.details["path"].startswith("$.args.lm")


def test_a_litellm_model_without_litellm_says_what_to_install(
    store: LmStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "litellm" else found(name, *more)
    )
    with pytest.raises(BridgeError, match="pip install litellm") as caught:
        lm_build.build(spec({"model": "mistral/mistral-small"}), ServeOptions())
    assert caught.value.code is Code.LM_NOT_CONFIGURED
    assert caught.value.details == {"model": "mistral/mistral-small", "provider": "mistral"}


def test_a_litellm_model_with_litellm_is_made_without_importing_it(store: LmStore) -> None:
    made = lm_build.build(spec({"model": "mistral/mistral-small"}), ServeOptions())
    assert not lm_build.is_plain(made)
    assert lm_build.is_plain(lm_build.build(spec({"model": "gemini/gemini-2.5-flash"}), ServeOptions()))


def test_a_native_lm_never_falls_back_to_litellm(store: LmStore) -> None:
    assert lm_build.build(spec({"model": "openai/gpt-4o"}), ServeOptions()).engine == "lm15"
    assert lm_build.build(spec({"model": "mistral/mistral-small"}), ServeOptions()).engine == "auto"


def test_defaults_fit_a_server(store: LmStore) -> None:
    made = lm_build.build(spec({"model": "openai/gpt-4o"}), ServeOptions())
    assert (made.cache, made.num_retries, made.kwargs["timeout"]) == (False, 2, 300.0)
    assert lm_build.build(spec({"model": "openai/gpt-4o"}), ServeOptions(cache_dir="/x")).cache is True
    settings = {
        "model": "openai/gpt-4o",
        "cache": False,
        "num_retries": 0,
        "timeout_s": 1,
        "top_p": 0.5,
        "seed": 3,
    }
    made = lm_build.build(spec(settings), ServeOptions(cache_dir="/x"))
    assert (made.cache, made.num_retries, made.kwargs["timeout"], made.kwargs["top_p"]) == (
        False,
        0,
        1.0,
        0.5,
    )


def test_secrets_of_a_spec_are_redacted() -> None:
    settings = {
        "model": "openai/x",
        "api_key": "walrus-key-0001",
        "api_base": "http://u:octopus%20pw@127.0.0.1:9/v1",
    }
    lm_build.checked(spec(settings))
    assert redact("walrus-key-0001 octopus%20pw octopus pw") == "[redacted] [redacted] [redacted]"


def test_the_snapshot_holds_no_secrets() -> None:
    harness = Harness()

    async def run() -> None:
        lm = native("http://user:hunter22@127.0.0.1:9/v1")
        await harness.chunks("configure", {"lm": lm, "name": "a", "adapter": "xml"})
        await harness.chunks("configure", {"lm": scripted()})
        snapshot = loader.snapshot()
        assert snapshot["loaded"] is True
        assert snapshot["lms"] == {
            "a": {"model": "openai/gpt-4o-mini", "provider": "openai", "adapter": "xml", "in_use": 0},
            "default": {
                "model": "scripted",
                "provider": "scripted",
                "adapter": "chat",
                "in_use": 0,
                "scripted": True,
            },
        }
        assert KEY not in str(snapshot)
        assert "hunter22" not in str(snapshot)

    harness.run(run)
