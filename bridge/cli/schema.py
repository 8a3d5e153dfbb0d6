"""JSON Schema, as ``describe`` gives it, in the words of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple


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


def type_text(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A schema in a few words: ``list of object``, ``string or null``, ``"input" or "completion"``."""
    spec = _resolve(spec, definitions)
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
    return {"array": "list"}.get(kind, str(kind))


def _resolve(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """``spec``, or what its ``$ref`` points to."""
    reference = spec.get("$ref")
    if isinstance(reference, str):
        found = definitions.get(reference.rsplit("/", 1)[-1])
        if isinstance(found, Mapping):
            return found
    return spec


def chunk_name(schema: Mapping[str, Any]) -> str:
    """The ``type`` that chunks of this schema carry."""
    spec = _resolve(schema, schema.get("$defs", {})).get("properties", {}).get("type", {})
    names = spec.get("enum") or [spec.get("const", "chunk")]
    return str(names[0])
