"""Reading an adapter's prompt back: its format, the input values, and the output fields it asks for.

The ``scripted`` LM needs no more than the messages any LM gets. The shapes are those of DSPy 3.4's
ChatAdapter, JSONAdapter and XMLAdapter; tests render prompts with them and read them here.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any, Literal, NamedTuple

Format = Literal["chat", "json", "xml"]

_ASKS: dict[Format, str] = {
    "chat": "Respond with the corresponding output fields, starting with the field ",
    "json": "Respond with a JSON object in the following order of fields: ",
    "xml": "Respond with the corresponding output fields wrapped in XML tags ",
}
_ASKED: dict[Format, re.Pattern[str]] = {
    "chat": re.compile(r"`\[\[ ## (\w+) ## \]\]`"),
    "json": re.compile(r"`(\w+)`"),
    "xml": re.compile(r"`<(\w+)>`"),
}
# Each field is shown once as a header with its own name for a value.
_HEADER = re.compile(r"^\[\[ ## (\w+) ## \]\]\n\{\1\}", re.MULTILINE)
_PLACEHOLDER: dict[Format, re.Pattern[str]] = {
    "chat": _HEADER,
    "json": _HEADER,
    "xml": re.compile(r"^<(\w+)>\n\{\1\}", re.MULTILINE),
}
_NOTE = "        # note: the value you produce "


class Prompt(NamedTuple):
    """What an LM call is about. ``schemas``: JSON Schema by output field, {} where none is stated."""

    format: Format
    inputs: dict[str, str]
    outputs: tuple[str, ...]
    schemas: dict[str, dict[str, Any]]


def read_prompt(system: str, user: str) -> Prompt | None:
    """The prompt in the system message and the last user message; None if no adapter made it."""
    asked = _split_ask(user)
    if asked is None:
        return None
    shape, body, ask = asked
    outputs = _asked_fields(shape, ask)
    names, schemas = _read_system(system, shape, outputs)
    return Prompt(shape, _read_inputs(shape, names, body), outputs, schemas)


def _split_ask(user: str) -> tuple[Format, str, str] | None:
    """The format, and what stands before and after the beginning of the closing request for the outputs."""
    best: tuple[int, Format] | None = None
    for shape, start in _ASKS.items():
        at = user.rfind(start)
        if at >= 0 and (best is None or at > best[0]):
            best = (at, shape)
    return (best[1], user[: best[0]], user[best[0] :]) if best else None


@functools.lru_cache(maxsize=512)
def _asked_fields(shape: Format, ask: str) -> tuple[str, ...]:
    end = ask.find(", and then ending with the marker") if shape == "chat" else -1
    found = _ASKED[shape].findall(ask[:end] if end >= 0 else ask)
    return tuple(dict.fromkeys(found))


@functools.lru_cache(maxsize=256)
def _read_system(
    system: str, shape: Format, outputs: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """The input fields' names and the output fields' schemas, from the system message."""
    shown = dict.fromkeys(_PLACEHOLDER[shape].findall(system))
    notes = _json_notes(system) if shape == "json" else system
    return tuple(name for name in shown if name not in outputs), {
        name: _schema(name, notes) for name in outputs
    }


def _json_notes(system: str) -> str:
    """The JSON adapter's notes, in the shape the chat adapter gives them."""
    _, _, text = system.partition("Outputs will be a JSON object with the following fields.\n\n")
    try:
        fields, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return ""
    return "".join(f"\n{value}\n" for value in fields.values()) if isinstance(fields, dict) else ""


def _schema(name: str, notes: str) -> dict[str, Any]:
    _, found, rest = notes.partition(f"\n{{{name}}}{_NOTE}")
    if not found:
        return {"type": "string"} if f"\n{{{name}}}\n" in notes else {}
    note = rest.partition("\n")[0]
    if note.startswith("must be True or False"):
        return {"type": "boolean"}
    if match := re.match(r"must be a single (int|float) value", note):
        return {"type": "integer" if match.group(1) == "int" else "number"}
    if match := re.match(r"must (?:exactly match \(no extra characters\) one of|be one of): (.*)", note):
        return {"enum": match.group(1).split("; ")}
    _, _, schema = note.partition("must adhere to the JSON schema: ")
    try:
        parsed = json.loads(schema)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _read_inputs(shape: Format, names: tuple[str, ...], body: str) -> dict[str, str]:
    """The values between the headers, read from the end: of a header that a value quotes the last is real."""
    found: dict[str, str] = {}
    end = len(body)
    for name in reversed(names):
        header = f"<{name}>\n" if shape == "xml" else f"[[ ## {name} ## ]]\n"
        at = 0 if body.startswith(header) and name == names[0] else body.rfind("\n\n" + header, 0, end)
        if at < 0:
            at = 0 if body.startswith(header) else -1
        if at < 0:
            continue
        start = body.index(header, at) + len(header)
        text = body[start:end].strip("\n")
        found[name] = text.removesuffix(f"</{name}>").removesuffix("\n") if shape == "xml" else text
        end = at
    return dict(reversed(found.items()))
