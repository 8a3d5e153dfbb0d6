"""Writing an answer as an adapter wants to read it, with values for the fields nobody scripted."""

from __future__ import annotations

import json
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from bridge.dspy_runtime.prompt_reader import Format

MAX_DEPTH = 24
_OF_FORMAT = {
    "date-time": "2000-01-01T00:00:00",
    "date": "2000-01-01",
    "time": "00:00:00",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "someone@example.org",
    "uri": "https://example.org/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}


def write_answer(shape: Format, values: dict[str, Any]) -> str:
    """``values`` by output field, in the chat, JSON or XML adapter's format."""
    if shape == "json":
        return json.dumps(values, ensure_ascii=False)
    if shape == "xml":
        return "\n\n".join(f"<{name}>\n{_xml(value)}\n</{name}>" for name, value in values.items())
    sections = [f"[[ ## {name} ## ]]\n{_text(value)}" for name, value in values.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


def example(
    schema: dict[str, Any], text: str, definitions: dict[str, Any] | None = None, depth: int = 0
) -> Any:
    """A value that satisfies a JSON Schema; ``text`` wherever any string will do."""
    definitions = {**(definitions or {}), **schema.get("$defs", {})}
    if depth > MAX_DEPTH:
        return None
    if "$ref" in schema:
        return example(definitions.get(schema["$ref"].rpartition("/")[2], {}), text, definitions, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for combination in ("anyOf", "oneOf", "allOf"):
        if schema.get(combination):
            return example(schema[combination][0], text, definitions, depth + 1)
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, text, definitions, depth)
    if kind == "array":
        return _array(schema, text, definitions, depth)
    if kind in ("integer", "number"):
        return _number(schema)
    if kind in ("boolean", "null"):
        return False if kind == "boolean" else None
    return _string(schema, text)


def _object(schema: dict[str, Any], text: str, definitions: dict[str, Any], depth: int) -> dict[str, Any]:
    required = schema.get("required", ())
    properties = schema.get("properties", {})
    return {
        name: example(part, text, definitions, depth + 1)
        for name, part in properties.items()
        if name in required
    }


def _array(schema: dict[str, Any], text: str, definitions: dict[str, Any], depth: int) -> list[Any]:
    first = [example(part, text, definitions, depth + 1) for part in schema.get("prefixItems", ())]
    wanted = max(schema.get("minItems", 0), len(first))
    if not first and wanted == 0 and schema.get("items"):
        wanted = 1
    items = schema.get("items") or {}
    return first + [example(items, text, definitions, depth + 1) for _ in range(wanted - len(first))]


def _number(schema: dict[str, Any]) -> float:
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value: float = 0
    if low is not None and low >= 0:
        value = -(-low // step) * step
        if value <= schema.get("exclusiveMinimum", value - 1):
            value += step
    elif high is not None and high <= 0:
        value = high // step * step
        if value >= schema.get("exclusiveMaximum", value + 1):
            value -= step
    return value


def _string(schema: dict[str, Any], text: str) -> str:
    if schema.get("format") in _OF_FORMAT:
        return _OF_FORMAT[schema["format"]]
    text = text[: schema["maxLength"]] if "maxLength" in schema else text
    return text.ljust(schema.get("minLength", 0), ".")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _xml(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(_entry(str(key), item) for key, item in value.items())
    if isinstance(value, list):
        return "".join(f"<item>{_xml(item)}</item>" for item in value)
    return "" if value is None else escape(_text(value))


def _entry(key: str, value: Any) -> str:
    if key.isidentifier():
        return f"<{key}>{_xml(value)}</{key}>"
    return f"<entry key={quoteattr(key)}>{_xml(value)}</entry>"
