"""What reaches a provider is, byte for byte, what DSPy as it comes sends; and so is what comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest

from tests.support.handlers import KEY
from tests.support.provider import MODELS, Provider, Recorded, Reply
from tests.support.same_cases import CASES, Case
from tests.support.streams import ADAPTERS, fit
from tests.support.worker import ROOT, Worker, environment

#: A chain of thought's own field.
REASONING = {"reasoning": "First this.\nThen “that”."}
MODULES = ("predict", "chain_of_thought")
COMMANDS = {
    "stream_predict_batch": MODULES,
    "stream_predict": MODULES,
    "stream_chain_of_thought": ("chain_of_thought",),
}


class Plain:
    """The process of DSPy as it comes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.plain_dspy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(LITELLM_LOCAL_MODEL_COST_MAP="True"),  # or it looks for prices in the internet
        )

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe(self._process.stdin).close()
        self._process.wait(20)
        self._pipe(self._process.stdout).close()

    def run(self, **job: Any) -> list[Any]:
        """The outputs of a job."""
        stdin = self._pipe(self._process.stdin)
        stdin.write(json.dumps(job) + "\n")
        stdin.flush()
        found: list[Any] = json.loads(self._pipe(self._process.stdout).readline())
        return found

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


class Worlds:
    """A provider, a worker, and DSPy without it."""

    def __init__(self, provider: Provider, worker: Worker, plain: Plain) -> None:
        self._provider, self._worker, self._plain = provider, worker, plain

    def both(
        self,
        command: str,
        name: str,
        adapter: str,
        module: str,
        answer: Callable[[Recorded], Reply],
        provider: str = "openai",
    ) -> tuple[list[Any], list[Any]]:
        """The outputs of a case here and there; the requests must have been the same."""
        self._provider.replies(answer)
        address = self._provider.address(provider)
        lm = {"model": MODELS[provider], "api_base": address, "api_key": KEY, "num_retries": 0}
        outputs, requests = [], []
        for run in (self._here, self._there):
            before = len(self._provider.requests)
            outputs.append(run(command, name, adapter, module, lm))
            requests.append(sorted(map(sent, self._provider.requests[before:])))
        here, there = requests
        assert here
        assert here == there
        return outputs[0], outputs[1]

    def _here(self, command: str, name: str, adapter: str, module: str, lm: dict[str, Any]) -> list[Any]:
        case = CASES[name]
        args: dict[str, Any] = {"signature": case.sent, "adapter": adapter, "lm": {**lm, **case.lm}}
        if case.config:
            args["config"] = case.config
        if command != "stream_chain_of_thought":
            args["module"] = module
        self._worker.forget()
        if command == "stream_predict_batch":
            chunks = self._worker.stream(command, {**args, "items": case.items})[:-1]
        else:
            chunks = [self._worker.stream(command, {**args, "inputs": item})[-1] for item in case.items]
        return [chunk.get("output", chunk.get("code")) for chunk in chunks]

    def _there(self, command: str, name: str, adapter: str, module: str, lm: dict[str, Any]) -> list[Any]:
        streamed = command != "stream_predict_batch"
        return self._plain.run(case=name, adapter=adapter, module=module, lm=lm, streamed=streamed)


def sent(request: Recorded) -> tuple[bytes, str, str, list[tuple[str, str]]]:
    """All of a request that was on the wire, its headers in their order."""
    return request.raw, request.method, request.path, list(request.headers.items())


def says(case: Case) -> Callable[[Recorded], Reply]:
    """A model that answers in the format that is asked for."""
    return lambda request: Reply(fit(request, {**REASONING, **case.outputs}))


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    with Provider() as provider, Worker() as worker, Plain() as plain:
        yield Worlds(provider, worker, plain)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("command", "module"), [(command, module) for command, modules in COMMANDS.items() for module in modules]
)
@pytest.mark.parametrize("name", CASES)
def test_requests_and_outputs(worlds: Worlds, name: str, command: str, module: str, adapter: str) -> None:
    here, there = worlds.both(command, name, adapter, module, says(CASES[name]))
    assert here == there
    reasoning = REASONING if module == "chain_of_thought" else {}
    assert here == [{**reasoning, **CASES[name].outputs}] * len(CASES[name].items)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("provider", [name for name in MODELS if name != "openai"])
@pytest.mark.parametrize("name", ["described", "config"])
def test_every_provider(worlds: Worlds, name: str, provider: str, command: str, adapter: str) -> None:
    case = CASES[name]
    here, there = worlds.both(command, name, adapter, "chain_of_thought", says(case), provider)
    assert here == there == [{**REASONING, **case.outputs}] * len(case.items)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", ["text", "types", "nested"])
def test_an_answer_in_no_format_is_asked_for_again(worlds: Worlds, name: str, adapter: str) -> None:
    here, there = worlds.both(
        "stream_predict_batch", name, adapter, "predict", lambda request: Reply("Nonsense.")
    )
    count = len(CASES[name].items)
    assert here == ["lm_output_invalid"] * count
    assert there == ["AdapterParseError"] * count
