"""Answers that are hardly any, errors of unknown kinds, and media in the streaming commands."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.conftest import Spawn
from tests.support.agents import of
from tests.support.handlers import KEY, native
from tests.support.provider import MODELS, Provider, Reply
from tests.support.worker import Worker

WAV = base64.b64encode(b"RIFF\0\0\0\0WAVEfmt ").decode()
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(8)).decode()


@pytest.fixture
def worker(spawn: Spawn) -> Worker:
    return spawn(commands=False)


def lm_of(provider: Provider, name: str) -> dict[str, Any]:
    return {"model": MODELS[name], "api_base": provider.address(name), "api_key": KEY, "num_retries": 0}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_has_not(worker: Worker, number: str) -> None:
    text = '{"answer": "x", "f": ' + number + "}"
    with Provider(lambda request: Reply(text)) as provider:
        args = {"signature": "question -> answer, f: float", "question": "?", "adapter": "json"}
        *chunks, last = worker.stream("stream_predict", {**args, "lm": native(provider.url)})
        if last["type"] == "prediction":
            assert last["output"] == {"answer": "x", "f": None}
            assert "f" not in [chunk["field"] for chunk in of(chunks, "token")]
        else:
            assert (last["code"], last["details"]["raw"]) == ("lm_output_invalid", text)


def test_thoughts_alone_are_told_as_they_were(worker: Worker) -> None:
    with Provider(lambda request: Reply("", reasoning="Hm.\nSo it's 42.")) as provider:
        args = {"question": "?", "lm": native(provider.url), "adapter": "json"}
        last = worker.stream("stream_predict", args)[-1]
        assert (last["code"], last["details"]["raw"]) == ("lm_output_invalid", "Hm.\nSo it's 42.")
        assert "{" not in last["error"]


@pytest.mark.parametrize("error", [{"type": "api_error"}, {"type": "overloaded", "code": 503}, {}])
def test_unknown_errors_in_mid_stream_are_worth_another_try(worker: Worker, error: dict[str, Any]) -> None:
    frame = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    delta = {"index": 0, "delta": {"content": "[[ ## answer ## ]]\nPar"}, "finish_reason": None}
    events = [{**frame, "choices": [delta]}, {"error": {"message": "It broke.", **error}}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    with Provider(lambda r: Reply(raw=body, headers={"Content-Type": "text/event-stream"})) as provider:
        args = {"question": "?", "lm": native(provider.url, num_retries=2)}
        *chunks, last = worker.stream("stream_predict", args)
        assert [chunk["delta"] for chunk in chunks] == ["Par"]
        assert (last["code"], last["retryable"]) == ("lm_unavailable", True)
        assert last["details"]["streamed"] == {"answer": 3}
        assert len(provider.requests) == 1


def test_a_field_that_dspy_needs_itself_is_refused(worker: Worker) -> None:
    args = {"signature": "completions -> answer", "inputs": {"completions": "x"}, "lm": {"model": "scripted"}}
    last = worker.stream("stream_predict", args)[-1]
    assert (last["code"], last["details"]["field"]) == ("invalid_args", "completions")


def test_a_shorthand_that_does_not_fit_says_what_would(worker: Worker) -> None:
    args = {"signature": "text, n: int -> answer", "question": "x", "lm": {"model": "scripted"}}
    last = worker.stream("stream_predict", args)[-1]
    assert (last["code"], last["details"]["path"]) == ("invalid_args", "$.args.question")
    assert '"inputs" with text, n' in last["error"]


COMMANDS: dict[str, dict[str, Any]] = {
    "stream_predict": {},
    "stream_chain_of_thought": {},
    "stream_react_steps": {"agent": "native"},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("command", COMMANDS)
def test_images_reach_the_model_in_every_command(worker: Worker, command: str, name: str) -> None:
    submit = [("submit", {"answer": "42"})]
    text = "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\n42"
    with Provider(lambda r: Reply(tool_calls=submit) if r.tools else Reply(text)) as provider:
        args = {
            "signature": "photo: dspy.Image, history: dspy.History, question -> answer",
            "inputs": {
                "photo": {"type": "image", "data": PNG},
                "history": [{"question": "before", "answer": "then"}],
                "question": "now",
            },
            **COMMANDS[command],
        }
        if command == "stream_react_steps":  # its own field
            args["signature"] = args["signature"].replace("history:", "talk:")
            args["inputs"]["talk"] = args["inputs"].pop("history")
        last = worker.stream(command, {**args, "lm": lm_of(provider, name)})[-1]
        assert last["done"]
        assert last.get("answer", last.get("output", {}).get("answer")) == "42", last
        body = json.dumps(provider.requests[0].body)
        assert PNG in body
        assert provider.requests[0].messages_text.index("before") < provider.requests[0].messages_text.index(
            "now"
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_sound_for_a_model_that_takes_none_is_refused(worker: Worker, command: str) -> None:
    with Provider(lambda request: Reply("[[ ## answer ## ]]\n42")) as provider:
        args = {
            "signature": "sound: dspy.Audio -> answer",
            "inputs": {"sound": {"type": "audio", "data": WAV}},
        }
        args |= COMMANDS[command] | {"lm": lm_of(provider, "anthropic")}
        last = worker.stream(command, args)[-1]
        assert (last["type"], last["code"]) == ("error", "lm_invalid_request")
        assert not provider.requests
