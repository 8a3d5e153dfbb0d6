"""JSON Schema, as ``describe`` gives it, in the words of a table."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


class Field(NamedTuple):
    """One property of an object: ``default`` is JSON text, empty when it is required or has none."""

    name: str
    type: str
    required: bool
    default: str
    text: str


def fields_of(schema: Mapping[str, Any]) -> list[Field]:
    """The properties of an object schema in their order; an empty list for any other schema."""
    definitions = schema.get("$defs", {})
    target = _resolve(schema, definitions)
    required = set(target.get("required", ()))
    return [
        Field(
            name,
            type_text(spec, definitions),
            name in required,
            json.dumps(spec["default"], ensure_ascii=False) if "default" in spec else "",
            str(
                _resolve(spec, definitions).get("description", "")
                if "description" not in spec
                else spec["description"]
            ),
        )
        for name, spec in target.get("properties", {}).items()
    ]


class Definition(NamedTuple):
    """An object that schemas refer to by ``name``."""

    name: str
    text: str
    fields: list[Field]


def definitions_of(schemas: Iterable[Mapping[str, Any]]) -> list[Definition]:
    """The objects that ``schemas`` refer to, each once, those first that are met first."""
    found: dict[str, Definition] = {}
    for schema in schemas:
        definitions = schema.get("$defs", {})
        waiting = _references(_resolve(schema, definitions))
        while waiting:
            name = waiting.pop(0)
            target = definitions.get(name)
            if name in found or not _is_object(target):
                continue
            fields = fields_of({**target, "$defs": definitions})
            found[name] = Definition(name, description_of(target), fields)
            waiting += _references(target)
    return list(found.values())


def description_of(schema: Mapping[str, Any]) -> str:
    """What a schema says of itself, without the indentation of the source it stood in."""
    return inspect.cleandoc(str(schema.get("description", "")))


def _references(value: Any) -> list[str]:
    """The names of the definitions that a schema points to directly."""
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        own = [_name(reference)] if isinstance(reference, str) else []
        return own + [name for key, each in value.items() if key != "$defs" for name in _references(each)]
    if isinstance(value, list):
        return [name for each in value for name in _references(each)]
    return []


def _name(reference: str) -> str:
    return reference.rsplit("/", 1)[-1]


def _is_object(spec: Any) -> bool:
    return isinstance(spec, Mapping) and "properties" in spec


def type_text(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A schema in a few words: ``list of object``, ``string or null``, ``"input" or "completion"``.

    An object with properties of its own is called by its name: ``LmSpec or null``.
    """
    reference = spec.get("$ref")
    spec = _resolve(spec, definitions)
    if isinstance(reference, str) and _is_object(spec):
        return _name(reference)
    if "const" in spec:
        return json.dumps(spec["const"])
    if "enum" in spec:
        return " or ".join(json.dumps(value, ensure_ascii=False) for value in spec["enum"])
    for key in ("anyOf", "oneOf"):
        if key in spec:
            words = [type_text(option, definitions) for option in spec[key]]
            return " or ".join(dict.fromkeys(words))
    kind = spec.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array" and isinstance(spec.get("items"), Mapping):
        return f"list of {type_text(spec['items'], definitions)}"
    return {"array": "list"}.get(kind, str(kind)) + _range(spec)


def _range(spec: Mapping[str, Any]) -> str:
    """The bounds of a number: `` ≥ 1, ≤ 8``."""
    bounds = [f"{sign} {spec[keyword]:,}" for keyword, sign in _BOUNDS.items() if keyword in spec]
    return f" {', '.join(bounds)}" if bounds else ""


def _resolve(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """``spec``, or what its ``$ref`` points to."""
    reference = spec.get("$ref")
    if isinstance(reference, str):
        found = definitions.get(_name(reference))
        if isinstance(found, Mapping):
            return found
    return spec


def chunk_name(schema: Mapping[str, Any]) -> str:
    """The ``type`` that chunks of this schema carry."""
    spec = _resolve(schema, schema.get("$defs", {})).get("properties", {}).get("type", {})
    names = spec.get("enum") or [spec.get("const", "chunk")]
    return str(names[0])
