"""``configure``, its handler driven directly."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from bridge.commands.configure import ConfigureArgs
from bridge.errors import BridgeError, Code
from tests.support.handlers import KEY, Harness, native, scripted

URL = "http://127.0.0.1:9/v1"


def configure(harness: Harness, **args: Any) -> dict[str, Any]:
    (result,) = harness.collect("configure", args)
    return result


def test_the_result_tells_what_the_name_stands_for() -> None:
    result = configure(Harness(), lm=native(URL), name="fast", adapter="json")
    assert result == {
        "type": "result",
        "name": "fast",
        "model": "openai/gpt-4o-mini",
        "provider": "openai",
        "adapter": "json",
    }
    assert KEY not in str(result)


def test_the_default_name_and_the_workers_adapter() -> None:
    result = configure(Harness(adapter="xml"), lm=native(URL))
    assert (result["name"], result["adapter"]) == ("default", "xml")


def test_a_scripted_lm_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert configure(Harness(), lm=scripted())["scripted"] is True
    assert "canned" in caplog.text


def test_a_configuration_that_can_not_work_changes_nothing() -> None:
    harness = Harness()

    async def run() -> None:
        await harness.chunks("configure", {"lm": scripted({"outputs": {"b": "old"}}), "adapter": "json"})
        with pytest.raises(BridgeError):
            await harness.chunks(
                "configure", {"lm": {"model": "openai/gpt-5", "max_tokens": 1}, "adapter": "xml"}
            )
        chunks = await harness.chunks("stream_predict_batch", {"signature": "a -> b", "items": [{"a": "x"}]})
        assert chunks[0]["output"] == {"b": "old"}
        assert harness.runtime.lms.snapshot()["lms"]["default"]["adapter"] == "json"

    harness.run(run)


def test_the_adapter_alone_can_be_changed() -> None:
    harness = Harness()

    async def run() -> None:
        await harness.chunks("configure", {"lm": scripted()})
        (result,) = await harness.chunks("configure", {"adapter": "xml"})
        assert (result["model"], result["adapter"]) == ("scripted", "xml")
        (result,) = await harness.chunks("configure", {"lm": scripted(temperature=1.0)})
        assert result["adapter"] == "xml"

    harness.run(run)


def test_nothing_to_configure() -> None:
    with pytest.raises(BridgeError) as nothing:
        configure(Harness())
    assert nothing.value.code is Code.INVALID_ARGS
    with pytest.raises(BridgeError) as unnamed:
        configure(Harness(), adapter="json")
    assert unnamed.value.code is Code.LM_NOT_CONFIGURED


@pytest.mark.parametrize("args", [{}, {"adapter": "json"}])
def test_a_name_that_nothing_has(args: dict[str, Any]) -> None:
    with pytest.raises(BridgeError) as caught:
        configure(Harness(), name="gone", **args)
    assert caught.value.code is Code.UNKNOWN_LM


@pytest.mark.parametrize("address", ["", "host/v1", "ftp://host/v1", "http://", "http://a b/", "http://h:x/"])
def test_addresses_that_can_not_be(address: str) -> None:
    with pytest.raises(BridgeError) as caught:
        configure(Harness(), lm=native(address))
    assert caught.value.details == {"path": "$.args.lm.api_base"}


@pytest.mark.parametrize("key", ["", " \n", "sk-one\nsk-two", "sk-\u00e9\u00e9\u00e9"])
def test_keys_that_can_not_be(key: str) -> None:
    with pytest.raises(BridgeError) as caught:
        configure(Harness(), lm=native(URL, api_key=key))
    assert caught.value.details == {"path": "$.args.lm.api_key"}
    assert "sk-" not in caught.value.message


def test_a_key_in_the_models_place_is_not_told() -> None:
    told = str(configure(Harness(), lm={"model": f"{KEY}/x", "api_key": KEY, "api_base": URL}))
    assert KEY not in told


def test_each_configure_starts_a_script_anew() -> None:
    harness = Harness()
    lm = scripted({"outputs": {"b": "once"}, "times": 1}, {"outputs": {"b": "then"}})
    batch = {"signature": "a -> b", "items": [{"a": "x"}, {"a": "x"}], "concurrency": 1}

    async def run() -> None:
        for _ in range(2):
            await harness.chunks("configure", {"lm": lm})
            for args in (batch, {**batch, "lm": lm}, {**batch, "lm": lm}):
                *chunks, _ = await harness.chunks("stream_predict_batch", args)
                assert [chunk["output"]["b"] for chunk in chunks] == ["once", "then"]

    harness.run(run)


@pytest.mark.parametrize(
    "args",
    [
        {"lm": {}},
        {"lm": {"model": ""}},
        {"lm": {"model": "m", "engine": "litellm"}},
        {"lm": "openai/gpt-4o"},
        {"lm": {"model": "m", "headers": {}}},
        {"lm": {"model": "m", "callbacks": []}},
        {"lm": {"model": "m", "temperature": -1}},
        {"lm": {"model": "m", "max_tokens": 0}},
        {"lm": {"model": "m", "num_retries": 1000}},
        {"lm": {"model": "m", "timeout_s": 0}},
        {"lm": {"model": "m", "cache": "yes"}},
        {"lm": {"model": "m"}, "adapter": "baml"},
        {"lm": {"model": "m"}, "name": ""},
        {"lm": {"model": "scripted", "script": [{"match": 1}]}},
        {"lm": {"model": "m", "model_type": "embedding"}},
        {"nmae": "x"},
    ],
)
def test_args_that_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(args, ConfigureArgs)
