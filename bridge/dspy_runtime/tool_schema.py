"""JSON Schemas of tools' arguments, each made to stand alone, in JSON Schema's own words."""

from __future__ import annotations

from typing import Any

#: Keywords whose values are data: what looks like a schema in them is none.
_DATA = frozenset({"const", "default", "enum", "examples"})
#: Keywords whose values map names, which are no keywords, to schemas.
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas"})
_DEFINITIONS = frozenset({"$defs", "definitions"})


def expand(schema: Any, root: Any, within: tuple[str, ...] = (), *, strict: bool = False) -> Any:
    """``schema`` with references into ``root`` replaced by what they mean, so that it stands alone.

    Within itself a definition is cut to its ``type``. What refers to elsewhere allows anything, or, if
    ``strict``, is left as it is.

    Raises:
        ValueError: if ``strict``, for a reference into ``root`` that leads nowhere.
    """
    if isinstance(schema, list):
        return [expand(item, root, within, strict=strict) for item in schema]
    if not isinstance(schema, dict):
        return schema
    expanded: dict[str, Any] = {}
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = _target(reference, root)
        if target is None:
            if strict and reference.startswith("#"):
                raise ValueError(f"the reference {reference[:200]!r} leads nowhere")
            expanded |= {"$ref": reference} if strict else {}
        elif reference not in within:
            expanded |= expand(target, root, (*within, reference), strict=strict)
        elif "type" in target:
            expanded["type"] = target["type"]
    for key, value in schema.items():
        if key in _DATA:
            expanded[key] = value
        elif key in _NAMED and isinstance(value, dict):
            expanded[key] = {name: expand(item, root, within, strict=strict) for name, item in value.items()}
        elif key != "$ref" and key not in _DEFINITIONS:
            expanded[key] = expand(value, root, within, strict=strict)
    return expanded


def nullable(schema: Any) -> Any:
    """OpenAPI's ``nullable: true`` as a type, or an enum, with null in it."""
    if isinstance(schema, list):
        return [nullable(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _DATA:
            found[key] = value
        elif key in _NAMED | _DEFINITIONS and isinstance(value, dict):
            found[key] = {name: nullable(each) for name, each in value.items()}
        elif key != "nullable":
            found[key] = nullable(value)
    if schema.get("nullable") is True:
        if isinstance(kind := found.get("type"), str):
            found["type"] = [kind, "null"]
        if isinstance(values := found.get("enum"), list) and None not in values:
            found["enum"] = [*values, None]
    return found


def without_patterns(schemas: dict[str, Any]) -> dict[str, Any]:
    """Schemas by name, without regular expressions at any depth."""
    return {name: _without_patterns(each) for name, each in schemas.items()}


def _without_patterns(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_patterns(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    dropped = {"pattern", "patternProperties"}
    if "patternProperties" in schema:  # without it these would refuse what it allows
        dropped |= {"additionalProperties", "unevaluatedProperties"}
    return {
        key: value
        if key in _DATA
        else without_patterns(value)
        if key in _NAMED and isinstance(value, dict)
        else _without_patterns(value)
        for key, value in schema.items()
        if key not in dropped
    }


def _target(reference: str, root: Any) -> dict[str, Any] | None:
    """What a JSON pointer (``#/$defs/Point``) means in ``root``; None when there is no schema there."""
    if not reference.startswith("#"):
        return None
    found = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or name not in found:
            return None
        found = found[name]
    return found if isinstance(found, dict) else None
