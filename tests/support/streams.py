"""What tests of the streaming commands share: answers in each adapter's format, and what a host reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from bridge.dspy_runtime.answer_writer import write_answer
from bridge.dspy_runtime.prompt_reader import read_prompt
from tests.support.handlers import native
from tests.support.provider import MODELS, Provider, Recorded, Reply
from tests.support.wirecheck import Chunk
from tests.support.worker import Worker

ADAPTERS = ("chat", "json", "xml")
#: What one call to the test provider costs unless told otherwise.
USAGE = {"calls": 1, "input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
QA = {"reasoning": "First step.\nSecond step.", "answer": "Forty-two, of course."}

#: An output field of each kind, and values for them.
KINDS = {
    "inputs": ["question"],
    "outputs": {
        "answer": "str",
        "note": "Optional[str]",
        "count": "int",
        "tags": "list[str]",
        "mood": "Literal['good', 'bad']",
        "place": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "at": {"type": "array", "items": {"type": "integer"}}},
            "required": ["name", "at"],
        },
    },
}
VALUES: dict[str, Any] = {
    "answer": 'São "Paulo" \\ 😀.\n\nTwo  lines, & no <more>.',
    "note": "A note",
    "count": -7,
    "tags": ["a", 'b"]', "ç"],
    "mood": "bad",
    "place": {"name": "Ω}", "at": [1, 2]},
}


def model(provider: Provider, name: str = "openai", **settings: Any) -> dict[str, Any]:
    """An inline LM of a provider, reached by DSPy's own engine; failures are not tried again."""
    return native(provider.address(name), **{"model": MODELS[name], **settings})


class Rig(NamedTuple):
    """A worker and a provider, for all tests of a module."""

    worker: Worker
    provider: Provider

    def start(self, command: str, name: str = "openai", /, lm: Any = None, **args: Any) -> str | int:
        """A request; ``lm``: settings of the provider's model, or another one. The question is "?" unless
        given."""
        self.worker.forget()
        question = {} if "inputs" in args else {"question": "?"}
        if not isinstance(lm, str) and "model" not in (lm or {}):
            lm = model(self.provider, name, **(lm or {}))
        return self.worker.request(command, {**question, "lm": lm, **args})

    def run(self, command: str, name: str = "openai", /, lm: Any = None, **args: Any) -> list[Chunk]:
        """The same, and all its chunks."""
        return self.worker.collect(self.start(command, name, lm=lm, **args))


def answer(adapter: str, values: dict[str, Any]) -> str:
    """An answer as the adapter wants it."""
    assert adapter in ADAPTERS
    return write_answer(adapter, values)  # type: ignore[arg-type]  # one of its literals


def asked(request: Recorded) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """The format, the inputs and the output fields of a prompt."""
    prompt = read_prompt(request.system, request.user)
    assert prompt is not None, request.user
    return prompt.format, prompt.inputs, prompt.outputs


def fit(request: Recorded, values: dict[str, Any]) -> str:
    """An answer in the format that is asked for, with the fields that are."""
    form, _, names = asked(request)
    return answer(form, {name: values[name] for name in names})


def good(request: Recorded) -> Reply:
    """Two lines of reasoning and an answer, as far as they are asked for."""
    return Reply(fit(request, QA))


def cut(text: str, size: int) -> list[str]:
    """``text`` in pieces of so many characters; 0: as a whole."""
    return [text[at : at + size] for at in range(0, len(text), size)] if size else [text]


def of(chunks: Iterable[Chunk], kind: str) -> list[Chunk]:
    """The chunks of a type."""
    return [chunk for chunk in chunks if chunk["type"] == kind]


def joined(chunks: Iterable[Chunk]) -> dict[str, str]:
    """The deltas of each field, as a host joins them; a ``restart`` voids what came before."""
    fields: dict[str, str] = {}
    for chunk in chunks:
        if chunk["type"] == "restart":
            fields = {}
        elif chunk["type"] == "token":
            assert chunk["delta"], "an empty delta says nothing"
            fields[chunk["field"]] = fields.get(chunk["field"], "") + chunk["delta"]
    return fields


def agree(fields: dict[str, str], output: dict[str, Any]) -> None:
    """The joined deltas are the output: texts as they are, null as nothing, other values as JSON."""
    assert set(fields) <= set(output)
    for name, value in output.items():
        if value is None or isinstance(value, str):
            assert fields.get(name, "") == (value or ""), name
        else:
            assert json.loads(fields[name]) == value, name


def steps(chunks: Iterable[Chunk]) -> list[str]:
    """The reasoning steps, whose numbers must count from 1; a ``restart`` voids what came before."""
    found: list[str] = []
    for chunk in chunks:
        if chunk["type"] == "restart":
            found = []
        elif chunk["type"] == "reasoning_step":
            found.append(chunk["content"])
            assert chunk["step"] == len(found)
    return found


def plain(chunk: Chunk) -> Chunk:
    """A chunk without what all chunks have."""
    return {name: value for name, value in chunk.items() if name not in ("id", "seq", "done")}
