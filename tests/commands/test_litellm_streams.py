"""Streams of a model that DSPy reaches through LiteLLM: the same chunks, from LiteLLM's own events."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import Spawn
from tests.support.handlers import KEY
from tests.support.provider import Provider, Recorded, Reply

ANSWER = "[[ ## reasoning ## ]]\nFirst.\nSecond.\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
JSON = json.dumps({"reasoning": "Again.\nAnd so.", "answer": "43"})


def reply(request: Recorded) -> Reply:
    """What the question asks for."""
    if "JSON object" in request.user:
        return Reply(JSON)
    if "malformed" in request.user:
        return Reply("[[ ## reasoning ## ]]\nNo more than this.")
    if "cut" in request.user:
        return Reply(ANSWER, cut_after=2500)
    return Reply(ANSWER, reasoning="It thinks." if "thinking" in request.user else None)


def test_streams_through_litellm(spawn: Spawn) -> None:
    # One worker for all: importing LiteLLM takes seconds.
    with Provider(reply) as provider:
        worker = spawn("--debug")
        lm = {"model": "lm_studio/a-model", "api_base": provider.url, "api_key": KEY, "num_retries": 0}
        worker.call("configure", {"lm": lm})

        def ask(question: str, **args: Any) -> list[dict[str, Any]]:
            return worker.stream("stream_chain_of_thought", {"question": question, **args})

        chunks = ask("plain", tokens=True)
        told = {
            name: "".join(c["delta"] for c in chunks if c.get("field") == name)
            for name in ("reasoning", "answer")
        }
        assert told == {"reasoning": "First.\nSecond.", "answer": "42"}
        assert sum(chunk["type"] == "token" for chunk in chunks) > 2
        assert [chunk["content"] for chunk in chunks if chunk["type"] == "reasoning_step"] == [
            "First.",
            "Second.",
        ]
        last = chunks[-1]
        assert last["output"] == told
        assert last["usage"] == {"calls": 1, "input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
        assert provider.requests[-1].streamed

        chunks = ask("thinking")
        steps = [chunk["content"] for chunk in chunks if chunk["type"] == "reasoning_step"]
        assert steps == ["It thinks.", "First.", "Second."]
        assert chunks[-1]["output"]["reasoning"] == "First.\nSecond."
        assert chunks[-1]["full_reasoning"] == "It thinks.\n\nFirst.\nSecond."

        chunks = ask("malformed", tokens=True)
        types = [chunk["type"] for chunk in chunks]
        assert types.count("restart") == 1
        after = chunks[types.index("restart") :]
        assert "".join(c["delta"] for c in after if c.get("field") == "answer") == "43"
        assert chunks[-1]["usage"]["calls"] == 2

        last = ask("cut", tokens=True)[-1]
        assert (last["type"], last["code"], last["retryable"]) == ("error", "lm_unavailable", True)
        assert last["details"]["streamed"]["reasoning"] > 0
