"""Signatures as a person writes them for DSPy, each beside what a host sends for the same. Imports DSPy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import dspy
import pydantic

INSTRUCTIONS = """Answer with care.

    - An indented point,
    - and “quotes”, \\ backslashes, {braces}.

Nothing else."""


class Place(pydantic.BaseModel):
    street: str
    number: int
    tags: list[str] = []


class Person(pydantic.BaseModel):
    name: str
    age: int | None = None
    home: Place
    friends: dict[str, Place] = {}
    mood: Literal["good", "bad"] = "good"


class Neighbour(Person):
    pass


class Described(dspy.Signature):  # type: ignore[misc] # DSPy is untyped
    __doc__ = INSTRUCTIONS

    question: str = dspy.InputField(desc="what is asked,\nin two lines")
    context: list[str] = dspy.InputField(desc="known «facts»")
    answer: str = dspy.OutputField(desc="a short answer")
    certainty: float = dspy.OutputField()


class Nested(dspy.Signature):  # type: ignore[misc] # DSPy is untyped
    """Find the neighbour."""

    person: Person = dspy.InputField()
    others: list[Place] = dspy.InputField()
    neighbour: Neighbour = dspy.OutputField(desc="who lives next door")
    places: list[Place] = dspy.OutputField()


@dataclass
class Case:
    """``plain``: DSPy's signature; ``sent``: the same on the wire; ``outputs``: what the model says.

    ``config`` and ``lm``: settings of the calls and of the language model, in both worlds.
    """

    plain: Any
    sent: Any
    items: list[dict[str, Any]]
    outputs: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    lm: dict[str, Any] = field(default_factory=dict)


def _both(text: str, items: list[dict[str, Any]], outputs: dict[str, Any], **settings: Any) -> Case:
    return Case(text, text, items, outputs, **settings)


def _schema(kind: Any) -> dict[str, Any]:
    return pydantic.TypeAdapter(kind).json_schema()


_HOME = {"street": "Große Straße", "number": 7, "tags": ["a", 'b"]', ""]}
_PERSON = {"name": "Zoë 😀", "age": None, "home": _HOME, "friends": {"x y": _HOME}, "mood": "bad"}
_TYPES = "n: int, x: float, ok: bool, rows: list[int], table: dict[str, float]"
_TYPED = {"n": -3, "x": 1e-7, "ok": True, "rows": [1, 2], "table": {"a": 1.5, "b c": -2.0}}
_CHOICES = "mood: Literal['good', \"it's bad\"], n: Optional[int], note: Optional[str], {0}: str | list[str]"
_CHOSEN = {"mood": "it's bad", "n": None, "note": "None of them"}
_ODD = [
    "Größe, déjà vu, Привет, こんにちは, 😀👩‍👩‍👧, e\u0301, שלום",
    "\u2028line\u2029paragraph\u0085next\u00a0space\ufeffmark\x00\x1f\x7f",
    "  padded \t\r\n\n[[ ## completion ## ]]\nfake\n<text>&amp;</text> {'a': \"b\"} «x» ```json\n{}\n```",
]
_SETTINGS = {"temperature": 0.25, "max_tokens": 77, "top_p": 0.9, "stop": ["END", "\n\n\n"]}
_MORE_SETTINGS = {"seed": 7, "presence_penalty": 0.5, "frequency_penalty": -0.5}
_OUTPUT = {"completion": "Frànce"}

CASES: dict[str, Case] = {
    "text": _both("text -> completion", [{"text": f"Item {number}"} for number in range(6)], _OUTPUT),
    "odd text": _both("text -> completion", [{"text": text} for text in _ODD], {"completion": _ODD[0]}),
    "empty text": _both("text, more -> completion", [{"text": "", "more": ""}], {"completion": "-"}),
    "long text": _both("text -> completion", [{"text": "0123456789 äöü\n" * 20_000}], _OUTPUT),
    "types": _both(
        f"{_TYPES} -> {_TYPES.replace(':', '_out:')}",
        [_TYPED, {**_TYPED, "rows": [], "table": {}}],
        {f"{name}_out": value for name, value in _TYPED.items()},
    ),
    "choices": _both(
        f"{_CHOICES.format('many')} -> {_CHOICES.format('many').replace(':', '_out:', 4)}",
        [
            {**_CHOSEN, "many": "one"},
            {**_CHOSEN, "n": 3, "note": None, "many": ["a", "b\nc", "«d»"]},
        ],
        {f"{name}_out": value for name, value in {**_CHOSEN, "many": ["x", "y"]}.items()},
    ),
    "described": Case(
        Described,
        {
            "instructions": INSTRUCTIONS,
            "inputs": {
                "question": {"type": "str", "desc": "what is asked,\nin two lines"},
                "context": {"type": "list[str]", "desc": "known «facts»"},
            },
            "outputs": {"answer": {"type": "str", "desc": "a short answer"}, "certainty": "float"},
        },
        [{"question": "Who?\n", "context": context} for context in ([], ["a"], ["a", "b\nc", "", "«d»"])],
        {"answer": "They.", "certainty": 0.5},
    ),
    "turns": _both(
        "question, history: dspy.History -> answer",
        [{"question": "And now?", "history": {"messages": [{"question": "Who?", "answer": "«They»"}] * 2}}],
        {"answer": "Now."},
    ),
    "nested": Case(
        Nested,
        {
            "instructions": "Find the neighbour.",
            "inputs": {"person": _schema(Person), "others": _schema(list[Place])},
            "outputs": {
                "neighbour": {"type": _schema(Neighbour), "desc": "who lives next door"},
                "places": _schema(list[Place]),
            },
        },
        [{"person": _PERSON, "others": [_HOME, {"street": "", "number": 0, "tags": []}]}],
        {"neighbour": _PERSON, "places": [_HOME]},
    ),
    "config": _both("text -> completion", [{"text": "x"}], _OUTPUT, config={**_SETTINGS, **_MORE_SETTINGS}),
    "settings of the LM": _both(
        "text -> completion", [{"text": "x"}], _OUTPUT, lm={**_SETTINGS, **_MORE_SETTINGS}
    ),
    "config over the LM's": _both(
        "text -> completion", [{"text": "x"}], _OUTPUT, config={"temperature": 0.0}, lm=_SETTINGS
    ),
}
