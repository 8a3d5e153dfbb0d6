"""``configure`` and ``stream_predict_batch`` through a real worker over real pipes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Spawn
from tests.support import provider as fake
from tests.support.handlers import native, scripted
from tests.support.provider import Provider, Reply
from tests.support.worker import Worker

SIGNATURE = "text -> completion"
#: Spellings of one secret in every place a host could put one.
KEY = "sk-live-T0pSecretT0pSecretT0pSecret"
ENV_KEY = "gsk_EnvSecretEnvSecretEnvSecret42"


def batch(items: list[Any], **args: Any) -> dict[str, Any]:
    return {"signature": SIGNATURE, "items": items, **args}


def test_items_stream_out_of_a_real_worker(spawn: Spawn) -> None:
    worker = spawn()
    entries = [{"match": {"text": "Paris is the capital of"}, "outputs": {"completion": "France"}}]
    result = worker.call("configure", {"lm": scripted(*entries)})
    assert result["type"] == "result"
    assert result["scripted"] is True
    chunks = worker.stream(
        "stream_predict_batch", batch([{"text": "Paris is the capital of"}, {"text": "x"}])
    )
    assert [chunk["type"] for chunk in chunks] == ["prediction", "prediction", "complete"]
    assert chunks[0]["output"] == {"completion": "France"}
    assert chunks[-1]["scripted"] is True
    assert "canned" in worker.log()


def test_terminal_errors_of_scripted_requests_say_so_too(spawn: Spawn) -> None:
    worker = spawn()
    worker.call("configure", {"lm": scripted()})
    last = worker.call("stream_predict_batch", batch([], signature="nonsense"))
    assert last["type"] == "error"
    assert last["scripted"] is True


def test_a_script_file(spawn: Spawn, tmp_path: Path) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text('{"match": {"text": "a"}, "outputs": {"completion": "from the file"}}\n')
    worker = spawn("--script", str(script), "--model", "scripted")
    assert (
        worker.stream("stream_predict_batch", batch([{"text": "a"}]))[0]["output"]["completion"]
        == "from the file"
    )


def test_bad_items_do_not_end_the_stream(spawn: Spawn) -> None:
    worker = spawn()
    chunks = worker.stream("stream_predict_batch", batch([{"text": 5}, {"text": "x"}], lm=scripted()))
    assert [chunk["type"] for chunk in chunks] == ["error", "prediction", "complete"]
    assert "done" not in chunks[0]
    assert chunks[0]["details"] == {"path": "$.args.items[0].text"}


@pytest.mark.parametrize(
    ("args", "code", "path"),
    [
        ({"items": [{}, 5], "signature": SIGNATURE}, "invalid_args", "$.args.items[1]"),
        ({"items": [], "signature": "q -> a: os.path"}, "invalid_args", "$.args.signature"),
        ({"items": [], "signature": SIGNATURE, "lm": {"model": "m", "engine": "x"}}, "invalid_args", None),
        ({"items": [], "program": "gone"}, "unknown_program", None),
        ({"items": [], "signature": SIGNATURE, "lm": "gone"}, "unknown_lm", None),
    ],
)
def test_whole_requests_that_are_wrong(spawn: Spawn, args: Any, code: str, path: str | None) -> None:
    worker = spawn()
    worker.call("configure", {"lm": scripted()})
    (last,) = worker.stream("stream_predict_batch", args)
    assert (last["type"], last["code"]) == ("error", code)
    if path:
        assert last["details"]["path"] == path


def test_without_an_lm_it_says_how_to_get_one(spawn: Spawn) -> None:
    (last,) = spawn().stream("stream_predict_batch", batch([{"text": "x"}]))
    assert last["code"] == "lm_not_configured"
    assert "DSPY_BRIDGE_MODEL" in last["error"]


def test_cancel_aborts_calls_in_flight_at_once(spawn: Spawn) -> None:
    with Provider(lambda request: Reply(hang=True)) as provider:
        worker = spawn()
        request = worker.request("stream_predict_batch", batch([{"text": "x"}] * 40, lm=native(provider.url)))
        provider.wait_for(lambda p: p.at_once == 8)
        started = time.monotonic()
        worker.control("cancel", target=request)
        (last,) = worker.collect(request)
        provider.wait_for(lambda p: p.open_connections == 0)
        assert time.monotonic() - started < 1.0
        assert last["type"] == "cancelled"
        assert len(provider.requests) == 8


def test_a_deadline_aborts_calls_in_flight(spawn: Spawn) -> None:
    with Provider(lambda request: Reply(hang=True)) as provider:
        worker = spawn()
        worker.call("configure", {"lm": native(provider.url)})
        last = worker.call("stream_predict_batch", batch([{"text": "x"}]), timeout_ms=400)
        assert last["code"] == "deadline_exceeded"
        provider.wait_for(lambda p: p.open_connections == 0)


def test_a_host_without_credit_stops_the_calls(spawn: Spawn) -> None:
    with Provider() as provider:
        worker = spawn()
        items = [{"text": str(number)} for number in range(400)]
        request = worker.request("stream_predict_batch", batch(items, lm=native(provider.url)), credit=3)
        for _ in range(3):
            worker.type("prediction", request)
        before = -1
        while before != len(provider.requests):
            before = len(provider.requests)
            worker.sync()
            time.sleep(0.25)  # what must not happen has no event to wait for
        assert before < 100
        worker.control("credit", target=request, n=1000)
        chunks = worker.collect(request)
        assert len(chunks) == 401
        assert [chunk["index"] for chunk in chunks[:-1]] == list(range(400))


def test_replacing_an_lm_leaves_running_requests_alone(spawn: Spawn) -> None:
    with Provider() as provider:
        provider.replies(lambda request: Reply("[[ ## completion ## ]]\nold", delay_s=0.3))
        worker = spawn()
        worker.call("configure", {"lm": native(provider.url)})
        request = worker.request("stream_predict_batch", batch([{"text": "x"}] * 3, concurrency=1))
        provider.wait_for(lambda p: len(p.requests) == 1)
        worker.call("configure", {"lm": scripted({"outputs": {"completion": "new"}})})
        assert (
            worker.stream("stream_predict_batch", batch([{"text": "x"}]))[0]["output"]["completion"] == "new"
        )
        chunks = worker.collect(request)
        assert [chunk["output"]["completion"] for chunk in chunks[:-1]] == ["old"] * 3
        provider.wait_for(lambda p: p.open_connections == 0)


def test_rich_outputs_become_json(spawn: Spawn) -> None:
    schema = {"type": "object", "properties": {"by-name": {"type": "integer"}}, "required": ["by-name"]}
    signature = {
        "inputs": ["text"],
        "outputs": {"when": "datetime", "thing": schema, "code": "Code", "s": "set[int]"},
    }
    outputs = {"when": "2026-01-02T03:04:05", "thing": {"by-name": 3}, "code": "x = 1", "s": [1]}
    args = {
        "signature": signature,
        "items": [{"text": "x"}],
        "lm": scripted({"outputs": outputs}),
        "adapter": "json",
    }
    output = spawn().stream("stream_predict_batch", args)[0]["output"]
    assert output["when"] == "2026-01-02T03:04:05"
    assert output["thing"] == {"by-name": 3}
    assert output["s"] == [1]
    assert "x = 1" in json.dumps(output["code"])


def test_no_byte_of_output_holds_a_key(spawn: Spawn) -> None:
    with Provider() as provider:
        worker = spawn(
            "--log-level", "debug", "--debug", env={"OPENAI_API_KEY": ENV_KEY, "GROQ_API_KEY": ENV_KEY}
        )
        _use_keys_everywhere(worker, provider)
        used = {request.headers["authorization"] for request in provider.requests}
        assert used == {f"Bearer {KEY}", f"Bearer {ENV_KEY}"}
        worker.end()
        told = bytes(worker.raw) + worker.final_log().encode()
        assert len(told) > 5000
        assert b"[redacted]" in told
        for secret in (KEY, ENV_KEY, "hunter2hunter2"):
            assert secret.encode() not in told
            assert secret[4:].encode() not in told


def _use_keys_everywhere(worker: Worker, provider: Provider) -> None:
    inline = native(provider.url, api_key=KEY)
    from_env = {"model": "openai/gpt-4o-mini", "api_base": provider.url, "num_retries": 0}
    with_password = native(provider.url.replace("//", "//user:hunter2hunter2@"), api_key=KEY)
    worker.call("configure", {"lm": inline})
    worker.call("configure", {"lm": from_env, "name": "env"})
    worker.call("configure", {"lm": {**inline, "nonsense": KEY}})
    worker.call("configure", {"lm": {"model": KEY, "api_key": KEY}, "name": "odd"})
    leaks = fake.failure(401, f"Incorrect API key provided: {KEY} or {ENV_KEY}.", code="invalid_api_key")
    for answer in (fake.echo, lambda request: leaks, lambda request: Reply(f"garbage {KEY} {ENV_KEY}")):
        provider.replies(answer)
        for lm in (None, "env", inline):
            worker.stream("stream_predict_batch", batch([{"text": "x"}], signature="text -> n: int", lm=lm))
            worker.stream("stream_predict_batch", batch([{"text": "x"}], lm=lm))
    worker.stream("stream_predict_batch", batch([{"text": "x"}], lm=with_password))
    worker.stream("stream_predict_batch", batch([{"text": "x"}], lm=f"gone {KEY}"))
    worker.stream(
        "stream_predict_batch", batch([{"text": "x"}], lm=native("http://127.0.0.1:9/v1", api_key=KEY))
    )
    for command in ("describe", "stats"):
        worker.call(command)
